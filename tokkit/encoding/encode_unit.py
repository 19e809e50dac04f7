"""One unit of ``encode``: a part of a file, or a few small files, into a shard.

One batch of text is in memory at a time:

    read_documents → split_sentences → Encoder → rows → ShardWriter

How fast an ``encode`` went, and how often the cache of words knew the answer.

From encoded sentences to the rows of a token shard.

documents         "a"                "b"         "c"
sentences         3 and 2 tokens     0 tokens    0 and 4 tokens
rows              a: [3, 2]          dropped     c: [4]
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.corpus.readers import read_and_count
from tokkit.corpus.units import CorpusUnit, Group
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.shards.arrow import large_list, to_arrow
from tokkit.shards.schema import Header, tokens_schema
from tokkit.shards.writer import ShardWriter
from tokkit.tokenizer.encoded import Encoded, SentenceTooLongError
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokkit.corpus.readers import DocumentBatch
    from tokkit.tokenizer.encoder import Encoder

BYTES = "bytes"
SECONDS = "seconds"
CHUNK_HITS = "chunk_hits"
CHUNK_MISSES = "chunk_misses"
WORD_HITS = "word_hits"
WORD_MISSES = "word_misses"
# In the order of ``tokkit.kernels.encode.word_cache``.
COUNTERS = (CHUNK_HITS, CHUNK_MISSES, WORD_HITS, WORD_MISSES)


@dataclass
class EncodeStats:
    """What was measured in this run; units that were done before do not count.

    Attributes:
        measured: by name: ``bytes`` of sentences and the ``seconds`` that encoders took for them,
            summed over workers; hits and misses of the cache.
        num_tokens: that came of them.
        seconds: from the first to the last, reading and writing included.
    """

    measured: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_tokens: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def add(self, result: UnitResult) -> None:
        """Count a unit."""
        for name, number in result.measured.items():
            self.measured[name] += number
        self.num_tokens += result.tokens
        self.seconds = time.monotonic() - self._started

    def as_dict(self) -> dict[str, float]:
        """The figures, and the rates that follow from them; nothing where nothing was encoded."""
        if not self.num_tokens:
            return {}
        measured = self.measured
        return {
            "bytes": measured[BYTES],
            "tokens": self.num_tokens,
            "seconds": self.seconds,
            "bytes_per_second": measured[BYTES] / self.seconds,
            "tokens_per_second": self.num_tokens / self.seconds,
            "encoder_bytes_per_second": measured[BYTES] / measured[SECONDS],
            "chunk_hit_rate": _share(measured[CHUNK_HITS], measured[CHUNK_MISSES]),
            "word_hit_rate": _share(measured[WORD_HITS], measured[WORD_MISSES]),
        }


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest else 0.0


NO_TOKENS = "no tokens"


def make_rows(
    schema: pa.Schema,
    names: pa.StringArray,
    sentence_offsets: npt.NDArray[np.int64],
    encoded: Encoded,
    accounts: Accounts,
) -> pa.RecordBatch:
    """Put the sentences of some documents into rows, without those that have no tokens.

    Args:
        schema: of a token shard.
        names: of the documents.
        sentence_offsets: int64 ``[num_documents + 1]``: document ``i`` has the sentences from
            ``sentence_offsets[i]`` to ``sentence_offsets[i + 1]``.
        encoded: the sentences of all documents.
        accounts: gets what was kept and dropped of documents, sentences and tokens, but not the
            documents that came in.
    """
    lengths = np.diff(encoded.offsets)
    full = lengths > 0
    # What is dropped is empty, so the values stay as they are, and offsets lose the doubled ones.
    token_offsets = encoded.offsets[sentence_offsets]
    length_offsets = np.concatenate([[0], full.cumsum()])[sentence_offsets]
    kept = np.diff(token_offsets) > 0
    num_kept = int(kept.sum())
    accounts.keep("documents", num_kept)
    accounts.drop("documents", NO_TOKENS, len(kept) - num_kept)
    accounts.add("sentences", len(full))
    accounts.keep("sentences", int(full.sum()))
    accounts.drop("sentences", NO_TOKENS, len(full) - int(full.sum()))
    accounts.add("tokens", len(encoded.ids))
    accounts.keep("tokens", len(encoded.ids))
    starts = np.append(kept, True)
    return pa.RecordBatch.from_arrays(
        [
            names if num_kept == len(kept) else names.filter(to_arrow(kept)),
            large_list(encoded.ids, token_offsets[starts]),
            large_list(lengths[full].astype(np.int32), length_offsets[starts]),
            large_list(encoded.word_starts, token_offsets[starts]),
        ],
        schema=schema,
    )


def count_words(accounts: Accounts, source: str, encoded: Encoded, unknown_id: int | None) -> None:
    """Enter tokens, words and unknown tokens of a source, and of all.

    Args:
        accounts: gets them.
        source: an INPUT as it was named.
        encoded: sentences of it.
        unknown_id: of words that the vocabulary cannot make; None where there are none.
    """
    num_words = encoded.word_starts.true_count
    num_unknown = 0 if unknown_id is None else int(np.count_nonzero(encoded.ids == unknown_id))
    accounts.count("words", num_words)
    accounts.count("unknown_tokens", num_unknown)
    accounts.count_source(source, "tokens", len(encoded.ids))
    accounts.count_source(source, "words", num_words)
    accounts.count_source(source, "unknown_tokens", num_unknown)


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
        from tokkit.tokenizer.encoder import Encoder  # kernels: only where there is something to do

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
            for batch in read_and_count(
                unit, context.config, accounts, digest, language_field=context.config.language_field
            ):
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
