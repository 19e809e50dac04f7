"""The stage ``encode``: text in, shards of token ids out.

A work unit of the corpus becomes a shard, a document a row, in record batches of about four
million tokens. One batch of text is in memory at a time:

    read_documents → split_sentences → Encoder → rows → ShardWriter

Sentences without tokens (of control characters alone, say) are dropped and counted, and so are
documents in which nothing is left.
"""

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tokkit.corpus.groups import (
    Group,
    digest_group,
    group_units,
    identify_group,
    name_group,
    stamp_group,
)
from tokkit.corpus.units import CorpusUnit, plan_units
from tokkit.encoding.choice import choose_kernel
from tokkit.encoding.config import EncodeConfig
from tokkit.encoding.encoded import SentenceTooLongError
from tokkit.encoding.rows import count_words, make_rows
from tokkit.encoding.stats import BYTES, COUNTERS, SECONDS, EncodeStats
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.folder import refuse_inputs
from tokkit.engine.journal import Journal
from tokkit.engine.manifest import Manifest
from tokkit.engine.stage import Stage, run_stage
from tokkit.engine.unit import Unit, UnitResult
from tokkit.errors import TokkitError
from tokkit.shards.schema import Header, tokens_schema
from tokkit.shards.writer import ShardWriter
from tokkit.vocab.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokkit.corpus.readers import DocumentBatch
    from tokkit.encoding.encoder import Encoder

log = logging.getLogger(__name__)

BATCH_TOKENS = 4_000_000
TOKENIZER_FOLDER = "tokenizer"

_WITHOUT_EFFECT = ("inputs", "tokenizer", "output", "workers", "overwrite", "progress")


def encode(config: EncodeConfig, stats: EncodeStats | None = None) -> Manifest:
    """Encode a corpus into a token folder, doing only what is not done yet.

    Args:
        config: what is read, and how; the bytes do not depend on ``workers``.
        stats: gets what is measured.

    Returns:
        The folder's manifest.

    Raises:
        TokkitError: a fault in data or environment; the shards that are finished stay.
    """
    refuse_inputs(config.output, [*config.inputs, config.tokenizer])
    tokenizer = load_tokenizer(config.tokenizer)
    stage = plan(config, tokenizer, stats)
    if not config.overwrite:
        _refuse_stdin_twice(stage)
    return run_stage(
        stage, workers=config.workers, overwrite=config.overwrite, progress=config.progress
    )


def plan(config: EncodeConfig, tokenizer: Tokenizer, stats: EncodeStats | None = None) -> Stage:
    """The work units, and all that the engine must know of the stage."""
    groups = group_units(plan_units(config, config.unit_bytes), config.unit_bytes)
    units = [
        Unit(
            name=name_group(group),
            shard=f"shard-{number:05}.arrow",
            identity=identify_group(group),
            stamp=stamp_group(group),
            size=sum(unit.size for unit in group),
            payload=group,
            inputs=[(unit.name, unit.size) for unit in group],
            local=group[0].is_stdin,
        )
        for number, group in enumerate(groups)
    ]

    def refuse_nothing(accounts: Accounts) -> None:
        if not accounts.kept("documents"):
            dropped = accounts.as_dict()["documents"]["dropped"]
            reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
            raise TokkitError(
                f"{', '.join(config.inputs)}: no document is left to encode "
                f"(dropped: {reasons}); see --documents, --text-field and --errors"
            )

    def prepare(folder: Path) -> None:
        tokenizer.save(folder / TOKENIZER_FOLDER)
        if choose_kernel(tokenizer) is None:
            log.info(
                "%s: not a tokenizer of BERT's or GPT-2's making, so its own library encodes, "
                "which is slower",
                config.tokenizer,
            )

    return Stage(
        kind="tokens",
        output=config.output,
        options={k: v for k, v in asdict(config).items() if k not in _WITHOUT_EFFECT},
        tokenizer_fingerprint=tokenizer.fingerprint,
        seed=None,
        units=units,
        function=encode_unit,
        context=Context(config, config.output / TOKENIZER_FOLDER, tokenizer.fingerprint),
        prepare=prepare,
        digest=lambda group: digest_group(group, config, config.language_field),
        finish=refuse_nothing,
        observe=None if stats is None else stats.add,
    )


def _refuse_stdin_twice(stage: Stage) -> None:
    """Refuse to take the shard of one standard input for that of another."""
    lines = Journal.read(stage.output).units
    for unit, key in zip(stage.units, stage.unit_keys(), strict=True):
        if unit.local and lines.get(key, {}).get("rows"):
            raise TokkitError(
                f"{stage.output}: holds another run (standard input cannot be compared with what "
                f"it was made from); choose another folder, or pass --overwrite to make it anew"
            )


@dataclass(frozen=True)
class Context:
    """What every unit gets.

    Attributes:
        config: the stage's.
        tokenizer: the folder with the stage's own copy.
        fingerprint: of that.
    """

    config: EncodeConfig
    tokenizer: Path
    fingerprint: str


def encode_unit(
    context: Context, group: Group, sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Write the shard of one unit: a part of a file, or a few small files."""
    _, schema, _ = _load(context.tokenizer, context.fingerprint)
    accounts = Accounts()
    measured: defaultdict[str, float] = defaultdict(float)
    digests = []
    with ShardWriter(sink, schema, context.config.compression) as writer:
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
    encoder, schema, unknown_id = _load(context.tokenizer, context.fingerprint)
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
    count_words(accounts, unit.source.input, encoded, unknown_id)
    return make_rows(schema, batch.names, sentence_offsets, encoded, accounts)


def _num_bytes(texts: pa.LargeStringArray) -> int:
    """How long texts are together."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64)
    return int(offsets[texts.offset + len(texts)] - offsets[texts.offset])


@lru_cache(maxsize=1)
def _load(folder: Path, fingerprint: str) -> tuple["Encoder", pa.Schema, int | None]:
    """The encoder of the stage's tokenizer, the schema of its shards and the id of ``unk``.

    Once in a process.
    """
    from tokkit.encoding.encoder import Encoder  # kernels: only where there is something to do

    tokenizer = load_tokenizer(folder)
    if tokenizer.fingerprint != fingerprint:
        raise TokkitError(f"{folder}: changed while it was in use; run the same command again")
    header = Header(
        kind="tokens",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
    )
    return Encoder(tokenizer), tokens_schema(header), tokenizer.special_ids.get("unk")


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
