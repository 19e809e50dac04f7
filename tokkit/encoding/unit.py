"""One unit of ``encode``: a part of a file, or a few small files, into a shard.

One batch of text is in memory at a time:

    read_documents → split_sentences → Encoder → rows → ShardWriter
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tokkit.corpus.groups import Group
from tokkit.corpus.units import CorpusUnit
from tokkit.encoding.config import EncodeConfig
from tokkit.encoding.encoded import SentenceTooLongError
from tokkit.encoding.rows import count_words, make_rows
from tokkit.encoding.stats import BYTES, COUNTERS, SECONDS
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.shards.schema import Header, tokens_schema
from tokkit.shards.writer import ShardWriter
from tokkit.vocab.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokkit.corpus.readers import DocumentBatch
    from tokkit.encoding.encoder import Encoder

BATCH_TOKENS = 4_000_000


@dataclass(frozen=True)
class Context:
    """What every unit gets; another process loads the tokenizer from the stage's own copy.

    Attributes:
        config: the stage's.
        copy: the folder with the copy.
        fingerprint: of the tokenizer.
        given: the tokenizer itself, in the process that planned the stage.
    """

    config: EncodeConfig
    copy: Path
    fingerprint: str
    given: Tokenizer | None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: no tokenizer, no encoder."""
        kept = ("config", "copy", "fingerprint")
        return {"given": None, **{name: self.__dict__[name] for name in kept}}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The stage's tokenizer, loaded once in a process."""
        if self.given is not None:
            return self.given
        tokenizer = load_tokenizer(self.copy)
        if tokenizer.fingerprint != self.fingerprint:
            raise TokkitError(
                f"{self.copy}: changed while it was in use; run the same command again"
            )
        return tokenizer

    @cached_property
    def encoder(self) -> "Encoder":
        """Its encoder, likewise."""
        from tokkit.encoding.encoder import Encoder  # kernels: only where there is something to do

        return Encoder(self.tokenizer)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the shards."""
        return tokens_schema(
            Header(
                kind="tokens",
                tokenizer_fingerprint=self.fingerprint,
                vocab_size=self.tokenizer.vocab_size,
                special_ids=self.tokenizer.special_ids,
            )
        )


def load_encoder(context: Context) -> None:
    """Load what units are read and encoded with: modules, tables, and the compiled kernel.

    The kernels that read take 15 ms each and are left to the workers.
    """
    import tokkit.corpus.readers
    import tokkit.corpus.sentences  # noqa: F401  likewise

    nothing = pa.py_buffer(np.zeros(1, np.int64))
    context.encoder.encode(pa.LargeStringArray.from_buffers(0, nothing, pa.py_buffer(b"")))


def encode_unit(
    context: Context, group: Group, sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Write the shard of one unit: a part of a file, or a few small files."""
    accounts = Accounts()
    measured: defaultdict[str, float] = defaultdict(float)
    digests = []
    with ShardWriter(sink, context.schema, context.config.compression) as writer:
        gathered = _Gatherer(writer)
        for unit in group:
            digests.append(digest := hashlib.sha256())
            for batch in _read_batches(unit, context.config, accounts, digest):
                gathered.add(_encode_batch(batch, unit, context, accounts, measured))
                report(batch.bytes_read)
        gathered.flush()
    return UnitResult(
        rows=accounts.kept("documents"),
        tokens=accounts.kept("tokens"),
        accounts=accounts,
        input_sha256=tuple(digest.hexdigest() for digest in digests),
        measured=measured,
    )


def _read_batches(
    unit: CorpusUnit, config: EncodeConfig, accounts: Accounts, digest: "hashlib._Hash"
) -> Iterator["DocumentBatch"]:
    """Read documents, entering them in the ledger."""
    from tokkit.corpus.readers import read_documents

    for batch in read_documents(unit, config, language_field=config.language_field, digest=digest):
        accounts.add("documents", len(batch.texts) + sum(batch.dropped.values()))
        for reason, number in batch.dropped.items():
            accounts.drop("documents", reason, number)
        if batch.replaced:
            accounts.count("replaced_documents", batch.replaced)
        yield batch


def _encode_batch(
    batch: "DocumentBatch",
    unit: CorpusUnit,
    context: Context,
    accounts: Accounts,
    measured: defaultdict[str, float],
) -> pa.RecordBatch:
    """Split and encode a batch of documents."""
    from tokkit.corpus.sentences import split_sentences

    config = context.config
    encoder = context.encoder
    sentences, sentence_offsets = split_sentences(
        batch.texts, config.sentences, config.language, batch.languages
    )
    before, started = encoder.counters.copy(), time.perf_counter()
    try:
        encoded = encoder.encode(sentences)
    except SentenceTooLongError as error:
        document = int(np.searchsorted(sentence_offsets, error.sentence, "right")) - 1
        name = f"{unit.source.name}, document {batch.names[document]}"
        raise TokkitError(f"{name}: {error}") from error
    measured[SECONDS] += time.perf_counter() - started
    measured[BYTES] += _num_bytes(sentences)
    for name, number in zip(COUNTERS, (encoder.counters - before).tolist(), strict=True):
        measured[name] += number
    unknown_id = context.tokenizer.special_ids.get("unk")
    count_words(accounts, unit.source.input, encoded, unknown_id)
    return make_rows(context.schema, batch.names, sentence_offsets, encoded, accounts)


def _num_bytes(texts: pa.LargeStringArray) -> int:
    """How long texts are together."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64)
    return int(offsets[texts.offset + len(texts)] - offsets[texts.offset])


class _Gatherer:
    """Puts batches of rows together until they have enough tokens for a record batch."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._batches: list[pa.RecordBatch] = []
        self._num_tokens = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows."""
        offsets = rows.column("input_ids").offsets
        self._batches.append(rows)
        self._num_tokens += offsets[-1].as_py() - offsets[0].as_py()
        if self._num_tokens >= BATCH_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if self._num_tokens:
            table = pa.Table.from_batches(self._batches).combine_chunks()
            for batch in table.to_batches():
                self._writer.write(batch)
        self._batches = []
        self._num_tokens = 0
