"""Reading documents of a token folder: a unit's own and those that segments are copied from.

A document's number is its place in the whole folder, in any shard and record batch:

    shard-0000000.arrow, record batch 0    documents 0, 1, 2
    shard-0000000.arrow, record batch 1    documents 3, 4
    shard-0000001.arrow, record batch 0    documents 5, 6, 7

Each record batch is mapped when it is read and released afterwards. A mapping that stayed open
would count as memory all that was ever touched of it, and random segments touch everything.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError
from tokkit.kernels.instances.pair_sentences import mark_held_out
from tokkit.kernels.philox import HOLD_OUT, chance_threshold, stream_of
from tokkit.kernels.ragged import take_bit_rows, take_rows
from tokkit.shards.arrow import packed_bits, ragged
from tokkit.shards.reader import BatchRef, ShardFolder
from tokkit.shards.schema import check_ids_below

Int64 = npt.NDArray[np.int64]
_DRAWN = 1 << 24  # documents that are drawn at a time


@dataclass(frozen=True)
class Documents:
    """Whole documents, ragged.

    Attributes:
        numbers: uint64 [num_documents], in the token folder.
        ids: uint16 or uint32 [num_tokens].
        token_offsets: int64 [num_documents + 1], into ``ids``.
        sentence_lengths: int32 [num_sentences], in tokens.
        sentence_offsets: int64 [num_documents + 1], into ``sentence_lengths``.
        word_starts: uint8, a bit per token: whether a word begins there.
        first_bit: which bit is that of the first token.
    """

    numbers: npt.NDArray[np.uint64]
    ids: npt.NDArray[Any]
    token_offsets: Int64
    sentence_lengths: npt.NDArray[np.int32]
    sentence_offsets: Int64
    word_starts: npt.NDArray[np.uint8]
    first_bit: int

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.numbers)

    @property
    def sentences(self) -> tuple[npt.NDArray[np.uint64], Int64, Int64, npt.NDArray[np.int32]]:
        """Where sentences are, as kernels take it."""
        return self.numbers, self.token_offsets, self.sentence_offsets, self.sentence_lengths


@dataclass(frozen=True)
class Split:
    """The documents to train on, or those held out, as a random draw for each decides.

    Attributes:
        held_out: which of the two.
        eval_fraction: share of the documents that is held out.
        seed: random seed.
    """

    held_out: bool
    eval_fraction: float
    seed: np.uint64

    @property
    def eval_threshold(self) -> np.uint64:
        """The draws below it hold a document out."""
        return chance_threshold(self.eval_fraction)

    def select(self, start: int, stop: int) -> Int64:
        """int64, which of the documents ``start`` to ``stop`` are in the split, from ``start``."""
        held_out = np.empty(stop - start, np.bool_)
        stream = stream_of(HOLD_OUT, 0)
        mark_held_out(np.uint64(start), self.seed, stream, self.eval_threshold, held_out)
        return np.flatnonzero(held_out == self.held_out)


@dataclass(frozen=True)
class DocumentReader:
    """Reads documents by their numbers; picklable.

    Attributes:
        folder: the token folder.
        refs: its record batches.
    """

    folder: ShardFolder
    refs: Sequence[BatchRef]
    _checked: set[int] = field(default_factory=set, repr=False)

    @cached_property
    def starts(self) -> Int64:
        """int64, first document of each record batch, and the number of documents."""
        return np.cumsum([0, *(ref.rows for ref in self.refs)], dtype=np.int64)

    @property
    def num_documents(self) -> int:
        """Number of documents in the whole folder."""
        return int(self.starts[-1])

    def ranges_of(self, numbers: Int64) -> "SourceRanges":
        """Return record batches as ranges to draw from; a batch listed twice counts twice."""
        starts = self.starts.astype(np.uint64)
        return SourceRanges(self, starts[numbers], starts[numbers + 1] - starts[numbers])

    def whole_range(self) -> "SourceRanges":
        """Return the whole folder as one range."""
        return SourceRanges(self, np.zeros(1, np.uint64), np.array([self.num_documents], np.uint64))

    def count_before(self, split: Split) -> Int64:
        """int64 [num_batches + 1], number of documents of a split before each record batch."""
        before, total = np.zeros_like(self.starts), 0
        for start in range(0, self.num_documents, _DRAWN):
            stop = min(start + _DRAWN, self.num_documents)
            here = (self.starts > start) & (self.starts <= stop)
            numbers = start + split.select(start, stop)
            before[here] = total + np.searchsorted(numbers, self.starts[here])
            total += len(numbers)
        return before

    @contextmanager
    def map_documents(self, number: int) -> Iterator[Documents]:
        """Map all documents of a record batch inside the block, without a copy.

        Raises:
            TokkitError: its lengths or offsets are damaged, which is checked once in a process; or
                the shard has changed, which is checked before and after the block.
        """
        ref = self.refs[number]
        batch = self.folder.read_batch(ref, check=number not in self._checked, check_ids=False)
        self._checked.add(number)
        ids, token_offsets = ragged(batch.column("input_ids"))
        sentence_lengths, sentence_offsets = ragged(batch.column("sentence_lengths"))
        word_starts, first_bit = packed_bits(batch.column("word_starts"))
        # What kernels index by is copied, since the file may change after any check of it.
        token_offsets, sentence_offsets = token_offsets.copy(), sentence_offsets.copy()
        sentence_lengths = sentence_lengths.copy()
        is_sound = (
            0 <= first_bit <= 8 * len(word_starts) - len(ids)
            and _is_partition(token_offsets, ref.rows, len(ids))
            and _is_partition(sentence_offsets, ref.rows, len(sentence_lengths))
            and _add_up(sentence_lengths, sentence_offsets, token_offsets)
        )
        if not is_sound:
            self.refuse(ref.shard)
        start = int(self.starts[number])
        yield Documents(
            numbers=np.arange(start, start + ref.rows, dtype=np.uint64),
            ids=ids,
            token_offsets=token_offsets,
            sentence_lengths=sentence_lengths,
            sentence_offsets=sentence_offsets,
            word_starts=word_starts,
            first_bit=first_bit,
        )
        self.folder.shards[ref.shard].require_unchanged()

    def refuse(self, shard: str) -> NoReturn:
        """Refuse a shard that was sound when it was opened.

        Raises:
            TokkitError: always.
        """
        self.folder.shards[shard].require_unchanged()
        raise TokkitError(
            f"{self.folder.path / shard}: was damaged while it was read; check the folder with "
            f"tokkit verify"
        )

    def check_ids(self, ids: npt.NDArray[Any], where: str) -> None:
        """Check that ids that were copied out of the folder are in the vocabulary."""
        name = f"{self.folder.path}, {where}: input_ids"
        check_ids_below(ids, self.folder.header.vocab_size, name)

    def read(self, start: int, stop: int, split: Split) -> Documents:
        """Copy the documents of one split out of the record batches ``start`` to ``stop``.

        Args:
            start: the first record batch.
            stop: the one after the last.
            split: of the documents.

        Raises:
            TokkitError: a record batch is damaged, or an id is beyond the vocabulary.
        """
        numbers, num_tokens, num_sentences = [], [], []
        for number in range(start, stop):
            rows = split.select(int(self.starts[number]), int(self.starts[number + 1]))
            with self.map_documents(number) as source:
                numbers.append(source.numbers[rows])
                num_tokens.append(np.diff(source.token_offsets)[rows])
                num_sentences.append(np.diff(source.sentence_offsets)[rows])
        counted = [*zip(num_tokens, num_sentences, strict=True)]
        token_offsets = bounds_of(*num_tokens)
        sentence_offsets = bounds_of(*num_sentences)
        ids = np.empty(token_offsets[-1], self.folder.header.id_dtype)
        sentence_lengths = np.empty(sentence_offsets[-1], np.int32)
        word_starts = np.zeros(len(ids) // 8 + 1, np.uint8)

        token = sentence = 0
        for number, chosen in enumerate(numbers, start):
            rows = chosen.astype(np.int64) - self.starts[number]
            with self.map_documents(number) as source:
                bounds = source.token_offsets, source.sentence_offsets
                again = [np.diff(offsets)[rows] for offsets in bounds]
                if not all(map(np.array_equal, again, counted[number - start])):
                    self.refuse(self.refs[number].shard)
                starts, bits = source.token_offsets, source.word_starts
                take_bit_rows(rows, bits, source.first_bit, starts, token, word_starts)
                token = take_rows(rows, source.ids, starts, token, ids)
                starts, lengths = source.sentence_offsets, source.sentence_lengths
                sentence = take_rows(rows, lengths, starts, sentence, sentence_lengths)
        self.check_ids(ids, f"record batches from {start} on")
        return Documents(
            numbers=np.concatenate(numbers),
            ids=ids,
            token_offsets=token_offsets,
            sentence_lengths=sentence_lengths,
            sentence_offsets=sentence_offsets,
            word_starts=word_starts,
            first_bit=0,
        )


@dataclass(frozen=True)
class SourceRanges:
    """Ranges of documents that random segments are from, each as often as any other.

    Attributes:
        reader: of their folder.
        starts: uint64 [num_ranges], the first document of each.
        sizes: uint64 [num_ranges], number of documents in each.
    """

    reader: DocumentReader
    starts: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]


def _is_partition(offsets: Int64, num_rows: int, num_values: int) -> bool:
    """Return whether offsets cut all values into rows."""
    if len(offsets) != num_rows + 1 or offsets[0] or offsets[-1] != num_values:
        return False
    return bool((offsets[1:] >= offsets[:-1]).all())


def _add_up(
    sentence_lengths: npt.NDArray[np.int32], sentence_offsets: Int64, token_offsets: Int64
) -> bool:
    """Return whether sentences have tokens, and as many as their documents; documents have some."""
    if (sentence_offsets[1:] <= sentence_offsets[:-1]).any() or sentence_lengths.min(initial=1) < 1:
        return False
    ends = np.cumsum(sentence_lengths, dtype=np.int64)
    return np.array_equal(ends[sentence_offsets[1:] - 1], token_offsets[1:])


def bounds_of(*lengths: Int64) -> Int64:
    """Return the offsets of rows that have these lengths."""
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]))
