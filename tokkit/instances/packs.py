"""Packed sequences: the instances of objectives without pairs, cut from a stream of documents.

    mlm                [CLS] whole sentences [SEP] of the next document [SEP]     RoBERTa
    clm                a block, <|endoftext|> after each document                 GPT
    span-corruption    a block without it, of which spans become targets          T5
    plm                a block, <eod> after each document, then [SEP] [CLS]       XLNet

T5's block is so long that its inputs have just ``max_seq_length`` tokens: for 512 it has 568, of
which 85 in 28 spans are noise; the 483 others, 28 sentinels and the end of text make 512.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.instances.document_reader import Documents
from tokkit.kernels.arrays import Integer
from tokkit.kernels.instances.noise import corrupt_spans, order_targets
from tokkit.kernels.instances.pack import (
    SEQUENCE_DTYPE,
    assemble_sequences,
    pack_blocks,
    pack_sentences,
)
from tokkit.kernels.philox import NOISE, PERMUTATION, stream_of
from tokkit.shards.instances import Instances, Predictions, new_rows

Sequences = npt.NDArray[np.void]


@dataclass(frozen=True)
class SpanNoise:
    """T5's noise in a block.

    Attributes:
        block_tokens: number of tokens of a block before it is corrupted.
        num_noise: number of its tokens that become targets.
        num_spans: number of spans that these are cut into.
        sentinel_ids: uint16 or uint32 [num_spans], which stand for the spans.
        end_id: the last id of inputs and of targets.
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
        max_tokens: tokens of a sequence, separators between documents included.
        separator_id: id of the separator; None joins documents without one.
        prefix: the first ids of each instance.
        suffix: the last ids of each instance.
        noise: T5's, or None.
        predict_every: XLNet's K: about one token in K is predicted; or None.
    """

    packing: str
    max_tokens: int
    separator_id: int | None = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    noise: SpanNoise | None = None
    predict_every: int | None = None

    @property
    def num_separators(self) -> int:
        """Number of separators between two documents, 0 or 1."""
        return int(self.separator_id is not None)


def size_block(
    inputs_length: int, noise_density: float, mean_length: float
) -> tuple[int, int, int]:
    """The size of the block that T5's noise turns into inputs of a given length.

    As ``random_spans_helper`` and ``random_spans_noise_mask`` of text-to-text-transfer-transformer.

    Args:
        inputs_length: tokens of the inputs, sentinels and end of text included.
        noise_density: share of the block that is noise.
        mean_length: average tokens of a span.

    Returns:
        Number of tokens of the block, of noise tokens, and of spans that these are cut into.

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


def pack_documents(documents: Documents, options: PackOptions) -> tuple[Sequences, Integer]:
    """Cut documents into sequences.

    Returns:
        ``SEQUENCE_DTYPE`` [num_sequences], and the number of tokens at the end that do not fill a
        block.
    """
    num_tokens = int(documents.token_offsets[-1])
    if options.packing == "blocks":
        num_places = num_tokens + len(documents) * options.num_separators
        sequences = np.empty(num_places // options.max_tokens + 1, SEQUENCE_DTYPE)
        num_sequences, num_left = pack_blocks(
            documents.numbers,
            documents.token_offsets,
            options.max_tokens,
            options.num_separators,
            sequences,
        )
        return sequences[:num_sequences], num_left
    num_most = len(documents.sentence_lengths) + num_tokens // options.max_tokens
    sequences = np.empty(num_most, SEQUENCE_DTYPE)
    num_sequences = pack_sentences(
        *documents.sentences,
        options.max_tokens,
        options.packing != "doc-sentences",
        sequences,
    )
    return sequences[:num_sequences], 0


def lay_out_sequences(
    sequences: Sequences,
    documents: Documents,
    options: PackOptions,
    *,
    seed: np.uint64,
    number: int,
) -> tuple[Instances, Integer]:
    """Lay sequences out as instances.

    Args:
        sequences: from ``pack_documents``.
        documents: from which they are cut.
        options: how.
        seed: random seed.
        number: of the pass over the corpus, from 0.

    Returns:
        The instances, and the number of tokens of the documents in them.
    """
    dtype = documents.ids.dtype
    prefix, suffix = (np.array(ids, dtype) for ids in (options.prefix, options.suffix))
    size = int(sequences["length"].sum()) + (len(prefix) + len(suffix)) * len(sequences)
    rows = new_rows(len(sequences), size, dtype)
    num_tokens = assemble_sequences(
        sequences,
        documents.ids,
        documents.token_offsets,
        documents.word_starts,
        options.num_separators,
        options.separator_id or 0,
        prefix,
        suffix,
        *rows.values(),
    )
    # Contiguous as in ``lay_out_pairs``.
    instances = Instances(**rows, indices=np.ascontiguousarray(sequences["index"]))
    if options.noise is not None:
        return _corrupt(instances, options.noise, seed, number), num_tokens
    if options.predict_every is not None:
        return _order(instances, options, seed, number), num_tokens
    return instances, num_tokens


def _corrupt(blocks: Instances, noise: SpanNoise, seed: np.uint64, number: int) -> Instances:
    """Turn blocks into inputs and targets."""
    numbers = np.arange(len(blocks) + 1, dtype=np.int64)
    inputs_length = noise.block_tokens - noise.num_noise + noise.num_spans + 1
    targets_length = noise.num_noise + noise.num_spans + 1
    rows = new_rows(len(blocks), len(blocks) * inputs_length, blocks.input_ids.dtype)
    rows["offsets"] = numbers * inputs_length
    targets = np.empty(len(blocks) * targets_length, blocks.input_ids.dtype)
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
        np.empty(noise.num_spans, np.int64),
        np.empty(noise.num_spans, np.int64),
        rows["input_ids"],
        rows["word_starts"],
        targets,
    )
    return Instances(
        **rows,
        indices=blocks.indices,
        predictions=Predictions.of_ids(targets, numbers * targets_length),
    )


def _order(instances: Instances, options: PackOptions, seed: np.uint64, number: int) -> Instances:
    """Choose the positions that are predicted, and their order."""
    positions = np.empty(len(instances.input_ids), np.uint16)
    offsets = np.empty(len(instances) + 1, np.int64)
    special = {options.separator_id or 0, *options.prefix, *options.suffix}
    order_targets(
        instances.input_ids,
        instances.offsets,
        instances.indices,
        np.array(sorted(special), instances.input_ids.dtype),
        options.predict_every or 1,
        seed,
        stream_of(PERMUTATION, number),
        positions,
        offsets,
    )
    predictions = Predictions.of_positions(
        positions[: offsets[-1]], offsets, instances.input_ids, instances.offsets
    )
    # ``[CLS]`` is a segment of its own, as in google's script.
    lengths = instances.segment_lengths - 1
    return replace(instances, segment_lengths=lengths, predictions=predictions)
