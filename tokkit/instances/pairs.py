"""Pairs of segments: cut from a unit's documents, random segments copied from other documents.

A block of pairs is made in three steps: ``pair_sentences`` decides where segments are, random ones
are copied, record batch by record batch, and pairs that are too long are truncated.
Copying follows the order of the source's documents, not that of the pairs, so that each record batch
is mapped once per block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.instances.document_reader import DocumentReader, Documents, SourceRanges, Split
from tokkit.kernels.arrays import Integer
from tokkit.kernels.instances.assemble_pairs import assemble_pairs, copy_segments, truncate_pairs
from tokkit.kernels.instances.pair_sentences import PAIR_DTYPE, pair_sentences
from tokkit.kernels.philox import (
    FRONT_OF_A,
    FRONT_OF_B,
    HOLD_OUT,
    PAIR,
    chance_threshold,
    stream_of,
)
from tokkit.shards.instances import Instances, new_rows

NUM_SPECIAL = 3  # [CLS], and [SEP] after each segment

# Tokens of a block whose pairs all have the full length. It bounds memory where a unit's documents
# are much shorter than those that segments are copied from.
BLOCK_TOKENS = 32 << 20

Pairs = npt.NDArray[np.void]


@dataclass(frozen=True)
class PairOptions:
    """How pairs are made.

    Attributes:
        max_seq_length: tokens of an instance, special tokens included.
        short_seq_prob: probability that a document has a shorter target length.
        drop_single: documents of one sentence give no pair.
        swap: ALBERT's pairs, of one document and swapped half of the time, rather than BERT's.
        cls_id: id of ``[CLS]``.
        sep_id: id of ``[SEP]``.
    """

    max_seq_length: int
    short_seq_prob: float
    drop_single: bool
    swap: bool
    cls_id: int
    sep_id: int

    @property
    def max_tokens(self) -> int:
        """Most tokens of both segments together."""
        return self.max_seq_length - NUM_SPECIAL


@dataclass(frozen=True)
class PairBlock:
    """Truncated pairs, and where their tokens are.

    Attributes:
        pairs: ``PAIR_DTYPE`` [num_pairs].
        documents: those of every A, and of each B that follows its A.
        copied_ids: those of random segments.
        copied_word_starts: a bit per copied token.
        stop_row: the document after the last of the block.
        num_short: documents with a shorter target length.
        num_alone: tokens of ``documents`` in last sentences without another to pair with.
        num_truncated: tokens of ``documents`` that truncation removed.
    """

    pairs: Pairs
    documents: Documents
    copied_ids: npt.NDArray[Any]
    copied_word_starts: npt.NDArray[np.uint8]
    stop_row: int
    num_short: int
    num_alone: int
    num_truncated: int


def pair_documents(
    documents: Documents, sources: SourceRanges, split: Split, options: PairOptions, number: int
) -> Iterator[PairBlock]:
    """Cut documents into pairs, block by block.

    Args:
        documents: of one split.
        sources: where random segments are copied from.
        split: of the documents and of random segments.
        options: how.
        number: of the pass over the corpus, from 0.
    """
    row = 0
    while row < len(documents):
        capacity = documents.sentence_offsets[-1] - documents.sentence_offsets[row]
        pairs = np.zeros(capacity, PAIR_DTYPE)
        row, num_pairs, num_short, num_alone = pair_sentences(
            *documents.sentences,
            row,
            BLOCK_TOKENS // options.max_seq_length,
            options.max_tokens,
            chance_threshold(options.short_seq_prob),
            options.drop_single,
            options.swap,
            sources.starts,
            sources.sizes,
            split.held_out,
            split.eval_threshold,
            split.seed,
            stream_of(PAIR, number),
            stream_of(HOLD_OUT, 0),
            pairs,
        )
        pairs = pairs[:num_pairs]
        copied_ids, copied_word_starts = _copy_random_segments(
            pairs, sources.reader, options, split.seed, number
        )
        num_whole = _count_own_tokens(pairs)
        truncate_pairs(
            documents.word_starts,
            options.max_tokens,
            split.seed,
            stream_of(FRONT_OF_A, number),
            stream_of(FRONT_OF_B, number),
            pairs,
        )
        yield PairBlock(
            pairs=pairs,
            documents=documents,
            copied_ids=copied_ids,
            copied_word_starts=copied_word_starts,
            stop_row=row,
            num_short=num_short,
            num_alone=num_alone,
            num_truncated=num_whole - _count_own_tokens(pairs),
        )


def _count_own_tokens(pairs: Pairs) -> int:
    """Number of tokens in segments that are not random."""
    return int(pairs["a_length"].sum() + pairs["b_length"][~pairs["is_random"]].sum())


def _copy_random_segments(
    pairs: Pairs, reader: DocumentReader, options: PairOptions, seed: np.uint64, number: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Copy every random segment: their ids, and their bits of ``word_starts``."""
    random_rows = np.flatnonzero(pairs["is_random"])
    rows = random_rows[np.argsort(pairs["source"][random_rows], kind="stable")]
    sources = pairs["source"][rows].astype(np.int64)
    bounds = np.searchsorted(sources, reader.starts)
    # Room for the longest that each may be; pages that are not written to take no memory.
    ids = np.empty(len(rows) * options.max_tokens, reader.folder.header.id_dtype)
    word_starts = np.zeros(len(ids) // 8 + 1, np.uint8)
    position: Integer = 0
    for batch in np.flatnonzero(np.diff(bounds)).tolist():
        chosen = slice(bounds[batch], bounds[batch + 1])
        with reader.map_documents(batch) as source:
            position = copy_segments(
                rows[chosen],
                sources[chosen] - reader.starts[batch],
                source.ids,
                source.token_offsets,
                source.sentence_lengths,
                source.sentence_offsets,
                source.word_starts,
                source.first_bit,
                options.max_tokens,
                seed,
                stream_of(FRONT_OF_B, number),
                position,
                pairs,
                ids,
                word_starts,
            )
    reader.check_ids(ids[:position], "random segments")
    return ids, word_starts


def cut_pairs(block: PairBlock, num_tokens: int) -> Iterator[Pairs]:
    """Cut a block's pairs into runs of about ``num_tokens``, special tokens included."""
    lengths = block.pairs["a_length"] + block.pairs["b_length"] + NUM_SPECIAL
    ends = np.cumsum(lengths)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + num_tokens, side="right")))
        yield block.pairs[start:stop]
        start = stop


def lay_out_pairs(block: PairBlock, pairs: Pairs, options: PairOptions) -> Instances:
    """Lay some of a block's pairs out as instances."""
    num_tokens = int((pairs["a_length"] + pairs["b_length"] + NUM_SPECIAL).sum())
    documents = block.documents
    rows = new_rows(len(pairs), num_tokens, documents.ids.dtype)
    assemble_pairs(
        pairs,
        documents.ids,
        documents.word_starts,
        block.copied_ids,
        block.copied_word_starts,
        options.cls_id,
        options.sep_id,
        *rows.values(),
    )
    return Instances(
        **rows,
        indices=np.ascontiguousarray(
            pairs["index"]
        ),  # as the loader's, so that kernels compile once
        segment_lengths=pairs["a_length"] + 2,
        next_sentence_labels=(pairs["is_random"] | pairs["is_swapped"]).astype(np.int64),
    )
