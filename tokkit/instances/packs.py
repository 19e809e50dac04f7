"""Packs: the objectives without pairs, whose instances are cut from a stream of documents.

    mlm                [CLS] whole sentences [SEP] of the next document [SEP]     RoBERTa
    clm                a block, <|endoftext|> after each document                 GPT
    span-corruption    a block without it, of which spans become targets          T5
    plm                a block, <eod> after each document, then [SEP] [CLS]       XLNet

T5's block is as long as lets the inputs have just ``max_seq_length`` tokens: with 512 it has 568,
of which 85 in 28 spans are noise; 483 others, 28 sentinels and the end make 512.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.instances.document_reader import DocumentReader, Documents, Split
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.kernels.instances.noise import corrupt_spans, order_targets
from tokkit.kernels.instances.pack import (
    SEQUENCE_DTYPE,
    assemble_sequences,
    pack_blocks,
    pack_sentences,
)
from tokkit.kernels.instances.pair_segments import INDEX_SHIFT
from tokkit.kernels.philox import NOISE, PERMUTATION, stream_of
from tokkit.kernels.ragged import Integer
from tokkit.shards.instances import Instances, Masks, Targets

Sequences = npt.NDArray[np.void]


@dataclass(frozen=True)
class SpanNoise:
    """T5's noise, of a block.

    Attributes:
        block_tokens: of a block before it is corrupted.
        num_noise: its tokens that become targets.
        num_spans: that these are cut into.
        sentinel_ids: uint16 or uint32 [num_spans], the ids that stand for them.
        end_id: the id that inputs and targets end with.
    """

    block_tokens: int
    num_noise: int
    num_spans: int
    sentinel_ids: npt.NDArray[Any]
    end_id: int


@dataclass(frozen=True)
class PackOptions:
    """How a stream of documents becomes instances.

    Attributes:
        packing: ``full-sentences``, ``doc-sentences`` or ``blocks``.
        room: tokens of a sequence, separators between documents among them.
        gap_id: the id of the separator; None puts documents together without one.
        prefix: uint16 or uint32, the ids that each instance begins with.
        suffix: likewise, that it ends with.
        noise: T5's, or None.
        one_in: XLNet's K, or None.
    """

    packing: str
    room: int
    gap_id: int | None
    prefix: npt.NDArray[Any]
    suffix: npt.NDArray[Any]
    noise: SpanNoise | None = None
    one_in: int | None = None

    @property
    def gap(self) -> int:
        """Places that a separator takes."""
        return int(self.gap_id is not None)

    @property
    def crosses_documents(self) -> bool:
        """Whether a sequence may end in another document than it begins in."""
        return self.packing != "doc-sentences"

    @property
    def read_ahead(self) -> int:
        """Tokens of the stream after a unit's own that its last sequence may reach."""
        return self.room if self.crosses_documents else 0


def size_block(
    inputs_length: int, noise_density: float, mean_length: float
) -> tuple[int, int, int]:
    """The block that T5's noise makes inputs of a given length of.

    ``random_spans_helper`` and ``random_spans_noise_mask`` of text-to-text-transfer-transformer.

    Args:
        inputs_length: of the inputs, sentinels and end among them.
        noise_density: share of the block that is noise.
        mean_length: of a span.

    Returns:
        Tokens of the block, those that are noise, and the spans that these are cut into.

    Example:
        >>> size_block(512, 0.15, 3.0)
        (568, 85, 28)
    """

    def cut(length: int) -> tuple[int, int, int]:
        num_noise = min(max(round(length * noise_density), 1), length - 1)
        num_spans = min(max(round(num_noise / mean_length), 1), num_noise, length - num_noise)
        return length, num_noise, num_spans

    def has_room(length: int) -> bool:
        _, num_noise, num_spans = cut(length)
        return length - num_noise + num_spans + 1 <= inputs_length

    length = inputs_length - 1
    while has_room(length + 1):
        length += 1
    return cut(length)


def pack_documents(
    documents: Documents, num_own_rows: int, filled: Integer, options: PackOptions
) -> tuple[Sequences, Integer, Integer]:
    """Cut documents into sequences.

    Args:
        documents: of one split, and as many of those that follow as sequences may reach into.
        num_own_rows: documents that the sequences begin in.
        filled: places of a sequence that was begun before the first document.
        options: how.

    Returns:
        ``SEQUENCE_DTYPE`` [num_sequences]; how far the last sequence is filled when the documents
        end; tokens at the end of the stream that fill no block.
    """
    num_places = len(documents.ids) + len(documents) * options.gap
    if options.packing == "blocks":
        sequences = np.empty(num_places // options.room + 1, SEQUENCE_DTYPE)
        num_sequences, num_left = pack_blocks(
            documents.numbers,
            documents.token_offsets,
            num_own_rows,
            filled,
            options.room,
            options.gap,
            sequences,
        )
        return sequences[:num_sequences], (filled + num_places) % options.room, num_left
    num_most = len(documents.sentence_lengths) + len(documents.ids) // options.room
    sequences = np.empty(num_most, SEQUENCE_DTYPE)
    num_sequences, filled = pack_sentences(
        documents.numbers,
        documents.token_offsets,
        documents.sentence_offsets,
        documents.sentence_lengths,
        num_own_rows,
        filled,
        options.room,
        options.crosses_documents,
        sequences,
    )
    return sequences[:num_sequences], filled, 0


def measure_fillings(
    reader: DocumentReader, split: Split, options: PackOptions
) -> npt.NDArray[np.int64]:
    """How far a sequence is filled when each record batch begins.

    It takes a look at the length of every sentence of the folder: 4 bytes for some 25 tokens.

    Args:
        reader: of the token folder.
        split: whose documents are packed.
        options: how.

    Returns:
        int64 [num_record_batches].
    """
    fillings = np.zeros(len(reader.refs), np.int64)
    if not options.crosses_documents:
        return fillings
    filled: Integer = 0
    for number in range(len(reader.refs)):
        fillings[number] = filled
        documents = reader.outline(number, split)
        _, filled, _ = pack_documents(documents, len(documents), filled, options)
    return fillings


def cut_sequences(sequences: Sequences, size: int) -> Iterator[Sequences]:
    """Cut sequences into runs of ``size``."""
    for start in range(0, len(sequences), size):
        yield sequences[start : start + size]


def lay_out_sequences(
    sequences: Sequences,
    documents: Documents,
    options: PackOptions,
    *,
    seed: np.uint64,
    number: int,
) -> tuple[Instances, Integer]:
    """Make instances of sequences.

    Args:
        sequences: of ``documents``.
        documents: that they are cut from.
        options: how.
        seed: random seed.
        number: of the pass over the corpus, from 0.

    Returns:
        The instances, and how many tokens of the documents are in them.
    """
    num_control = len(options.prefix) + len(options.suffix)
    size = int(sequences["length"].sum()) + num_control * len(sequences)
    ids = np.empty(size, documents.ids.dtype)
    word_starts = np.zeros(size // 8 + 1, np.uint8)
    offsets = np.empty(len(sequences) + 1, np.int64)
    num_tokens = assemble_sequences(
        sequences,
        documents.ids,
        documents.token_offsets,
        documents.word_starts,
        options.gap,
        options.gap_id or 0,
        options.prefix,
        options.suffix,
        offsets,
        ids,
        word_starts,
    )
    instances = Instances(
        input_ids=ids,
        offsets=offsets,
        word_starts=word_starts,
        segment_lengths=np.diff(offsets),
        documents=sequences["index"] >> INDEX_SHIFT,
        next_sentence_labels=np.full(len(sequences), NO_LABEL),
        indices=sequences["index"],
        masks=Masks.none(len(sequences), ids.dtype),
    )
    if options.noise is not None:
        return _corrupt(instances, options.noise, seed, number), num_tokens
    if options.one_in is not None:
        return _order(instances, options, seed, number), num_tokens
    return instances, num_tokens


def _corrupt(blocks: Instances, noise: SpanNoise, seed: np.uint64, number: int) -> Instances:
    """Make inputs and targets of blocks."""
    num_blocks = len(blocks)
    inputs_length = noise.block_tokens - noise.num_noise + noise.num_spans + 1
    targets_length = noise.num_noise + noise.num_spans + 1
    ids = np.empty(num_blocks * inputs_length, blocks.input_ids.dtype)
    word_starts = np.zeros(len(ids) // 8 + 1, np.uint8)
    targets = np.empty(num_blocks * targets_length, blocks.input_ids.dtype)
    corrupt_spans(
        blocks.input_ids,
        blocks.word_starts,
        blocks.indices,
        noise.num_noise,
        noise.num_spans,
        noise.sentinel_ids,
        noise.end_id,
        seed,
        stream_of(NOISE, number),
        ids,
        word_starts,
        targets,
    )
    numbers = np.arange(num_blocks + 1, dtype=np.int64)
    return replace(
        blocks,
        input_ids=ids,
        offsets=numbers * inputs_length,
        word_starts=word_starts,
        segment_lengths=np.full(num_blocks, inputs_length, np.int64),
        targets=Targets("target_ids", targets, numbers * targets_length),
    )


def _order(instances: Instances, options: PackOptions, seed: np.uint64, number: int) -> Instances:
    """Choose what is predicted, and in which order."""
    positions = np.empty(len(instances.input_ids), np.uint16)
    offsets = np.empty(len(instances) + 1, np.int64)
    control = {options.gap_id, *options.prefix.tolist(), *options.suffix.tolist()} - {None}
    order_targets(
        instances.input_ids,
        instances.offsets,
        instances.indices,
        np.array(sorted(control), instances.input_ids.dtype),
        options.one_in or 1,
        seed,
        stream_of(PERMUTATION, number),
        positions,
        offsets,
    )
    targets = Targets("target_positions", positions[: offsets[-1]], offsets)
    return replace(instances, targets=targets)
