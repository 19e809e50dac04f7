"""Pack a stream of documents into sequences, of whole sentences or of a fixed number of tokens.

Full sentences, with room for 9 tokens and a separator ``|`` between documents. Document 0 has
sentences of 4, 3 and 4 tokens, document 1 of 3 and 20:

    0000 111             7 of 9; sentence 2 does not fit
    2222 | 000           8 of 9; the separator takes one place
    111111111  111111111  11      a sentence longer than the room is cut; the rest goes on

Blocks take the same stream by position. Blocks of 8, with a separator after each document:

    0000 111 2    222 | 000 1    1111…

Each unit of the work begins with an empty sequence, so that no unit depends on what is before it.

Sources: Liu et al., "RoBERTa", 2019, section 4.2 (FULL-SENTENCES, DOC-SENTENCES); Radford et al.,
"Language models are unsupervised multitask learners", 2019 (a stream of documents in blocks).
"""

import numpy as np

from tokkit.kernels.arrays import (
    INDEX_SHIFT,
    Ids,
    Int32,
    Int64,
    Integer,
    PackedBits,
    Records,
    UInt64,
)
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import copy_values
from tokkit.kernels.ragged import copy_bits

SEQUENCE_DTYPE = np.dtype(
    [
        ("index", np.uint64),  # document << 24 | number among those that begin in the document
        ("row", np.int64),  # the document in which it begins
        ("start", np.int64),  # its first token; the document's end if it begins with a separator
        ("length", np.int64),  # number of tokens and separators
    ],
    align=True,
)


@kernel
def pack_sentences(
    documents: UInt64,
    token_offsets: Int64,
    sentence_offsets: Int64,
    sentence_lengths: Int32,
    max_tokens: int,
    cross_documents: bool,
    out_sequences: Records,
) -> int:
    """Pack whole sentences, as many as fit.

    Args:
        documents: uint64 ``[num_rows]``, their numbers in the token folder.
        token_offsets: int64 ``[num_rows + 1]``, where their tokens begin.
        sentence_offsets: int64 ``[num_rows + 1]``, into ``sentence_lengths``.
        sentence_lengths: int32, number of tokens of each sentence, at least 1.
        max_tokens: room of a sequence.
        cross_documents: a sequence continues with the next document, after a separator.
        out_sequences: ``SEQUENCE_DTYPE``, with room for one per sentence and one per
            ``max_tokens``.

    Returns:
        The number of sequences.
    """
    num_sequences = 0
    length = np.int64(0)
    for row in range(len(documents)):
        token = token_offsets[row]
        ordinal = np.uint64(0)
        separators = 1
        if not cross_documents:
            length = np.int64(0)
        for sentence in range(sentence_offsets[row], sentence_offsets[row + 1]):
            part = np.int64(sentence_lengths[sentence])
            if length and length + separators + part <= max_tokens:
                length += separators + part
                token += part
                out_sequences[num_sequences - 1]["length"] = length
                separators = 0
                continue
            separators = 0
            while part > 0:
                length = min(part, np.int64(max_tokens))
                sequence = out_sequences[num_sequences]
                sequence["index"] = documents[row] << INDEX_SHIFT | ordinal
                sequence["row"] = row
                sequence["start"] = token
                sequence["length"] = length
                num_sequences += 1
                ordinal += np.uint64(1)
                token += length
                part -= length
    return num_sequences


@kernel
def pack_blocks(
    documents: UInt64,
    token_offsets: Int64,
    block_tokens: int,
    separators: int,
    out_sequences: Records,
) -> tuple[int, Integer]:
    """Pack blocks of one length.

    Args:
        documents: uint64 ``[num_rows]``, their numbers in the token folder.
        token_offsets: int64 ``[num_rows + 1]``, where their tokens begin.
        block_tokens: places of a block.
        separators: number of separators after each document, 1 or 0.
        out_sequences: ``SEQUENCE_DTYPE``, with room for one per ``block_tokens`` places.

    Returns:
        The number of whole blocks, and the number of tokens left over in one that the rows do not fill.
    """
    num_sequences = 0
    place = np.int64(0)  # within the row
    for row in range(len(documents)):
        num_places = token_offsets[row + 1] - token_offsets[row] + separators
        ordinal = np.uint64(0)
        while place < num_places:
            start = token_offsets[row] + place
            num_tokens = token_offsets[len(documents)] - start
            if num_tokens + separators * (len(documents) - row) < block_tokens:
                return num_sequences, max(np.int64(0), num_tokens)
            sequence = out_sequences[num_sequences]
            sequence["index"] = documents[row] << INDEX_SHIFT | ordinal
            sequence["row"] = row
            sequence["start"] = start
            sequence["length"] = block_tokens
            num_sequences += 1
            ordinal += np.uint64(1)
            place += block_tokens
        place -= num_places
    return num_sequences, 0


@inline
def _write_ids(ids: Ids, out_ids: Ids, position: Integer) -> None:
    """Write ids from ``position`` on."""
    for place in range(len(ids)):
        out_ids[position + place] = ids[place]


@kernel
def assemble_sequences(
    sequences: Records,
    ids: Ids,
    token_offsets: Int64,
    word_starts: PackedBits,
    separators: int,
    separator_id: int,
    prefix: Ids,
    suffix: Ids,
    out_offsets: Int64,
    out_ids: Ids,
    out_word_starts: PackedBits,
) -> Integer:
    """Write the tokens of sequences, with special tokens before, between and after documents.

    Args:
        sequences: ``SEQUENCE_DTYPE``.
        ids: of the documents.
        token_offsets: int64 ``[num_rows + 1]``, into ``ids``.
        word_starts: packed, a bit per token of ``ids``.
        separators: number of separators between documents, 1 or 0.
        separator_id: id of the separator.
        prefix: ids that each sequence begins with.
        suffix: ids that each sequence ends with.
        out_offsets: int64 ``[num_sequences + 1]``, where each instance begins.
        out_ids: same type as ``ids``.
        out_word_starts: packed, a bit per token of ``out_ids``, zeros; stays zero at special
            tokens.

    Returns:
        The number of tokens of the documents that were written.
    """
    position = np.int64(0)
    num_tokens = np.int64(0)
    out_offsets[0] = 0
    for number in range(len(sequences)):
        _write_ids(prefix, out_ids, position)
        position += len(prefix)
        row = sequences[number]["row"]
        start = sequences[number]["start"]
        left = sequences[number]["length"]
        while True:
            taken = min(left, token_offsets[row + 1] - start)
            copy_values(ids, start, out_ids, position, taken)
            copy_bits(word_starts, start, taken, position, out_word_starts)
            position += taken
            num_tokens += taken
            left -= taken
            if left and separators:
                out_ids[position] = separator_id
                position += 1
                left -= 1
            if left == 0:
                break
            row += 1
            start = token_offsets[row]
        _write_ids(suffix, out_ids, position)
        position += len(suffix)
        out_offsets[number + 1] = position
    return num_tokens
