"""One work unit of ``encode``: a part of a file, or a few small files, becomes a shard.

One batch of documents is in memory at a time:

    read_and_count → split_sentences → Encoder → make_rows → shard

A sentence has the tokens that begin in it. A row is a document without the sentences that have no
tokens:

    documents    "a"                "b"         "c"
    sentences    3 and 2 tokens     0 tokens    0 and 4 tokens
    rows         a: [3, 2]          dropped     c: [4]

What loads kernels is imported within functions: a stage that has nothing to do never needs it.

Of the 1.4 s that 232 MB of English lines take with BERT's vocabulary and no worker, the encoder takes
43%, the start 17%, of which imports are most, reading the text, its SHA-256 and finding documents 17%,
writing and hashing shards 9%, syncing them 6%, the survey 3%. Two workers take 0.2 s more of processor
time, since each fills caches of its own and shares those of the processor. Hashing and syncing in other
threads would win nothing while every core has a worker; the disk is waited for by a thread of its own.
Batches of 1 to 4 MB of text are no faster than those of 8 or 15 MB, and would change the record batches
of shards; other allocators, settings of them, and hashing and writing a shard in pieces of 256 kB
change nothing.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tokkit.corpus.formats import FileType
from tokkit.corpus.sources import STDIN, Source
from tokkit.corpus.units import CorpusUnit, Group
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.text_survey import TextSurvey, find_unknown
from tokkit.engine.accounts import Accounts
from tokkit.engine.copies import load_kernels
from tokkit.engine.files import HashedFile
from tokkit.engine.mirrors import pull
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Int64
from tokkit.shards.arrow import (
    call_compute,
    large_list,
    string_array,
    string_buffers,
    to_arrow,
)
from tokkit.shards.schema import Header, tokens_schema
from tokkit.shards.shard_file import count_tokens, open_writer
from tokkit.tokenizer.encoded import Encoded, TextTooLongError
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokkit.corpus.documents import DocumentBatch
    from tokkit.corpus.sentences import Sentences
    from tokkit.tokenizer.encoder import Encoder
    from tokkit.tokenizer.library_encoder import LibraryEncoder

# Of English, a batch of text has 3.5 million tokens and is a record batch as it is. Smaller ones are
# joined, in new memory, which made a command a tenth slower when all had 8 MB of text.
BATCH_BYTES = 15 << 20
BATCH_TOKENS = 4_000_000
NO_TOKENS = "no tokens"

# In the order of ``tokkit.kernels.encode.word_cache``.
_COUNTERS = ("chunk_hits", "chunk_misses", "word_hits", "word_misses")


@dataclass(frozen=True)
class EncodeContext:
    """What every unit needs; another process loads the tokenizer from the stage's own copy.

    Attributes:
        config: the stage's.
        copy: the folder with the copy of the tokenizer.
        fingerprint: the tokenizer's.
        given: the tokenizer, in the process that planned the stage.
    """

    config: EncodeConfig
    copy: Path
    fingerprint: str
    given: Tokenizer | None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process: no tokenizer, no encoder."""
        kept = ("config", "copy", "fingerprint")
        return {"given": None, **{name: self.__dict__[name] for name in kept}}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded once in a process."""
        if self.given is not None:
            return self.given
        pull(self.copy)
        tokenizer = load_tokenizer(self.copy)
        if tokenizer.fingerprint != self.fingerprint:
            raise TokkitError(
                f"{self.copy}: changed while it was in use; run the same command again"
            )
        return tokenizer

    @cached_property
    def encoder(self) -> "Encoder":
        """The tokenizer's encoder, made once in a process."""
        from tokkit.tokenizer.encoder import Encoder

        return Encoder(self.tokenizer)

    @cached_property
    def encoder_with_special_tokens(self) -> "Encoder":
        """The encoder for texts that may contain the special tokens that are allowed in text."""
        from tokkit.tokenizer.encoder import Encoder

        return Encoder(self.tokenizer.allow_in_text(self.config.allow_special_tokens))

    def choose_encoder(self, texts: pa.LargeStringArray) -> "Encoder":
        """Return the encoder for texts; kernels do not know of special tokens in text."""
        allowed = self.config.allow_special_tokens
        if not allowed:
            return self.encoder
        import pyarrow.compute as pc  # takes 60 ms

        rows = self.tokenizer.definition.get("added_tokens", ())
        # Those that are matched in normalized text may be written differently here.
        if any(row["normalized"] and row["content"] in allowed for row in rows) or any(
            pc.any(pc.match_substring(texts, token)).as_py() for token in allowed
        ):
            return self.encoder_with_special_tokens
        return self.encoder

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of the shards."""
        return tokens_schema(
            Header(
                kind="tokens",
                tokenizer_fingerprint=self.fingerprint,
                vocab_size=self.tokenizer.vocab_size,
                special_ids=self.tokenizer.special_ids,
            )
        )


@dataclass
class EncodeStats:
    """Measurements of this run, without units that were done before.

    Attributes:
        measured: by name: ``bytes`` of text, the ``seconds`` that encoders took for them
            (summed over workers), hits and misses of the cache.
        num_tokens: tokens encoded.
        seconds: from the start to the last unit, reading and writing included.
    """

    measured: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_tokens: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def add(self, result: UnitResult) -> None:
        """Add a finished unit."""
        for name, number in result.measured.items():
            self.measured[name] += number
        self.num_tokens += result.tokens
        self.seconds = time.monotonic() - self._started

    def as_dict(self) -> dict[str, float]:
        """Return the measurements and their rates; empty if nothing was encoded."""
        if not self.num_tokens:
            return {}
        num_bytes = self.measured["bytes"]
        return {
            "bytes": num_bytes,
            "tokens": self.num_tokens,
            "seconds": self.seconds,
            "bytes_per_second": num_bytes / self.seconds,
            "tokens_per_second": self.num_tokens / self.seconds,
            "encoder_bytes_per_second": num_bytes / self.measured["seconds"],
            **{
                f"{kind}_hit_rate": hits / max(hits + self.measured[f"{kind}_misses"], 1)
                for kind in ("chunk", "word")
                for hits in [self.measured[f"{kind}_hits"]]
            },
        }


def load_encoder(context: EncodeContext) -> None:
    """Load what all units need: modules, tables, and the compiled kernel.

    The kernels that read take 1 ms each and are left to the workers, unless they must be compiled.
    """
    import tokkit.corpus.readers
    import tokkit.corpus.sentences  # noqa: F401  only loaded here

    def load() -> None:
        nothing = string_array(np.zeros(0, np.uint8), np.zeros(1, np.int64))
        context.encoder.encode(nothing)

    def compile_all() -> None:
        load()
        text = b"A text.\n\nAnother."
        source = Source(STDIN, STDIN, "", None, 0, 0, FileType("text", None))
        unit = CorpusUnit(source, 0, len(text), len(text), content=text)
        with suppress(TokkitError):
            encode_unit(context, (unit,), HashedFile(BytesIO()), lambda _: None)

    load_kernels(load, compile_all)


def encode_unit(
    context: EncodeContext, group: Group, sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Write the shard of one unit.

    Args:
        context: the stage's.
        group: a part of a file, or a few small files.
        sink: the shard's file.
        report: called with the number of input bytes that are done.
    """
    from tokkit.corpus.readers import read_ahead, read_and_count

    accounts = Accounts()
    measured: defaultdict[str, float] = defaultdict(float)
    digests = []
    survey = TextSurvey(context.tokenizer, context.encoder)
    config = context.config
    is_cut = config.documents == "blank-line" and config.sentences != "none"

    def encode_documents() -> Iterator[pa.RecordBatch]:
        for unit in read_ahead(group):
            digests.append(digest := hashlib.sha256())
            for batch in read_and_count(unit, config, accounts, digest, BATCH_BYTES):
                yield _encode_batch(batch, unit, context, accounts, measured, survey=survey)
                report(batch.bytes_read)
            survey.end_file(is_whole_text=is_cut and unit.is_whole and unit.source.format == "text")

    with open_writer(sink, context.schema, config.compression) as writer:
        for rows in _join_batches(encode_documents()):
            writer.write(rows)
    return UnitResult(
        rows=accounts.kept("documents"),
        tokens=accounts.kept("tokens"),
        accounts=accounts,
        batches=writer.batches,
        input_sha256=tuple(digest.hexdigest() for digest in digests),
        notes=dict(sorted(survey.counts.items())),
        measured=measured,
    )


def _encode_batch(
    batch: "DocumentBatch",
    unit: CorpusUnit,
    context: EncodeContext,
    accounts: Accounts,
    measured: defaultdict[str, float],
    *,
    survey: TextSurvey,
) -> pa.RecordBatch:
    """Split and encode a batch of documents."""
    from tokkit.corpus.sentences import split_sentences
    from tokkit.tokenizer.library_calls import LibraryError

    config, encoder = context.config, context.choose_encoder(batch.texts)
    method = "lines" if batch.in_lines and config.sentences == "auto" else config.sentences
    if method == "lines" and batch.are_lines:
        method = "none"
    sentences = split_sentences(batch.texts, method, config.language, batch.languages)
    before, started = encoder.counters.copy(), time.perf_counter()
    try:
        encoded = encode_sentences(encoder, sentences, config.words)
    except TextTooLongError as error:
        name = batch.names[sentences.find_document(error.text)]
        raise TokkitError(f"{unit.source.name}, document {name}: {error}") from error
    except LibraryError as error:
        raise TokkitError(f"{unit.name}: {error}") from error
    measured["seconds"] += time.perf_counter() - started
    _, offsets = string_buffers(sentences.texts)
    measured["bytes"] += int(offsets[-1] - offsets[0])
    for name, number in zip(_COUNTERS, (encoder.counters - before).tolist(), strict=True):
        measured[name] += number
    num_words = encoded.word_starts.true_count
    unknown_id = context.tokenizer.special_ids.get("unk", -1)
    num_unknown, documents = find_unknown(
        encoded.ids, unknown_id, encoded.offsets[sentences.offsets]
    )
    if encoder.uses_library:
        survey.add_texts(offsets)
    survey.add_documents(batch.texts)
    if num_unknown:
        survey.add_unknown(batch.texts, documents)
    source = unit.source.input
    accounts.count_source(source, "tokens", len(encoded.ids))
    for name, number in (("words", num_words), ("unknown_tokens", num_unknown)):
        accounts.count(name, number)
        accounts.count_source(source, name, number)
    return make_rows(context.schema, batch.names, sentences.offsets, encoded, accounts)


def encode_sentences(
    encoder: "Encoder | LibraryEncoder", sentences: "Sentences", words: str
) -> Encoded:
    """Encode sentences, with words as ``--words`` says.

    The encoder counts the tokens that begin before each end of a word between spaces, as it does for
    sentences. The white space before a word belongs to it, as in ``Ġword``.
    """
    from tokkit.corpus.sentences import find_word_ends

    if words == "tokenizer":
        return encoder.encode(sentences.texts, sentences.ends)
    ends = np.union1d(sentences.ends, find_word_ends(sentences.texts))
    encoded = encoder.encode(sentences.texts, ends)
    starts = np.zeros(len(encoded.ids) + 1, np.bool_)
    starts[encoded.offsets] = True
    rows = np.searchsorted(ends, sentences.ends) + 1
    return Encoded(
        ids=encoded.ids,
        offsets=np.concatenate([[0], encoded.offsets[rows]]),
        word_starts=to_arrow(starts[:-1]),
    )


def make_rows(
    schema: pa.Schema,
    names: pa.StringArray,
    sentence_offsets: Int64,
    encoded: Encoded,
    accounts: Accounts,
) -> pa.RecordBatch:
    """Return the rows of some documents, without those that have no tokens.

    Args:
        schema: of a token shard.
        names: of the documents.
        sentence_offsets: int64 ``[num_documents + 1]``: document ``i`` has the sentences from
            ``sentence_offsets[i]`` to ``sentence_offsets[i + 1]``.
        encoded: the sentences of all documents.
        accounts: gets the documents, sentences and tokens that are kept or dropped, but not the
            documents that came in.
    """
    lengths = np.diff(encoded.offsets)
    full = lengths > 0
    # What is dropped has no tokens, so values stay as they are, and offsets lose duplicates.
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
            names if num_kept == len(kept) else call_compute("filter", names, to_arrow(kept)),
            large_list(encoded.ids, token_offsets[starts]),
            large_list(lengths[full].astype(np.int32), length_offsets[starts]),
            large_list(encoded.word_starts, token_offsets[starts]),
        ],
        schema=schema,
    )


def _join_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join batches until they have ``BATCH_TOKENS`` tokens; one of a quarter of that stays as it is."""
    waiting: list[pa.RecordBatch] = []
    num_tokens = 0
    for batch in batches:
        if not len(batch):  # joined to a long document, it would cost a copy of that
            continue
        size = count_tokens(batch)
        is_large = size >= BATCH_TOKENS // 4
        if not is_large:
            waiting.append(batch)
            num_tokens += size
        if waiting and (is_large or num_tokens >= BATCH_TOKENS):
            yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
            waiting, num_tokens = [], 0
        if is_large:
            yield batch
    if waiting:
        yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
