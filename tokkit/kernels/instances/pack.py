"""Packing: a stream of documents cut into sequences, whole sentences each or just so many tokens.

Full sentences, with room for 9 tokens and a separator ``|`` between documents. Document 0 has
sentences of 4, 3 and 4 tokens, document 1 of 3 and 20:

    0000 111             7 of 9; sentence 2 does not fit
    2222 | 000           8 of 9; the separator takes one place
    111111111  111111111  11      a sentence longer than the room is cut; what is left goes on

Blocks take the same stream by position, whatever stands there. Blocks of 8, where a separator
follows each document:

    0000 111 2    222 | 000 1    1111…

Either way a sequence may begin in one part of the corpus and end in the next. Who packs a part is
told how far the sequence is filled that was begun before it, goes on with that, and keeps what
begins in its own part; so the sequences do not depend on how the corpus is cut into parts.

Sources: Liu et al., "RoBERTa", 2019, section 4.2 (FULL-SENTENCES, DOC-SENTENCES); Radford et al.,
"Language models are unsupervised multitask learners", 2019 (a stream of documents in blocks).
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.instances.mask_tokens import Ids
from tokkit.kernels.instances.pair_segments import INDEX_SHIFT
from tokkit.kernels.jit import kernel
from tokkit.kernels.memory import copy_values
from tokkit.kernels.ragged import Integer, copy_bits

SEQUENCE_DTYPE = np.dtype(
    [
        ("index", np.uint64),  # document << 24 | number among those that begin in the document
        ("row", np.int64),  # the document in which it begins
        ("start", np.int64),  # its first token; the document's end where a separator comes first
        ("length", np.int64),  # of its tokens and separators
    ],
    align=True,
)


@kernel
def pack_sentences(
    documents: NDArray[np.uint64],
    token_offsets: NDArray[np.int64],
    sentence_offsets: NDArray[np.int64],
    sentence_lengths: NDArray[np.int32],
    num_own_rows: int,
    filled: Integer,
    max_tokens: int,
    cross_documents: bool,  # noqa: FBT001  kernels take arguments by position
    out_sequences: NDArray[np.void],
) -> tuple[int, Integer]:
    """Pack whole sentences, as many as fit.

    Args:
        documents: uint64 [num_rows], their numbers in the token folder.
        token_offsets: int64 [num_rows + 1], where their tokens begin.
        sentence_offsets: int64 [num_rows + 1], into ``sentence_lengths``.
        sentence_lengths: int32, tokens of each sentence, at least 1.
        num_own_rows: sequences that begin in later rows belong to someone else.
        filled: tokens of a sequence that was begun before the first row; 0 where there is none.
        max_tokens: the room of a sequence.
        cross_documents: a sequence goes on with the next document, after a separator.
        out_sequences: ``SEQUENCE_DTYPE``, with room for one a sentence and one a ``max_tokens``.

    Returns:
        How many sequences begin in the own rows, and how far the last one of all is filled.
    """
    num_sequences = 0
    length = np.int64(filled)
    for row in range(len(documents)):
        token = token_offsets[row]
        ordinal = np.uint64(0)
        gap = 1
        if not cross_documents:
            length = np.int64(0)
        for sentence in range(sentence_offsets[row], sentence_offsets[row + 1]):
            part = np.int64(sentence_lengths[sentence])
            if length and length + gap + part <= max_tokens:
                length += gap + part
                token += part
                if num_sequences:
                    out_sequences[num_sequences - 1]["length"] = length
                gap = 0
                continue
            gap = 0
            if row >= num_own_rows:
                return num_sequences, 0
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
    return num_sequences, length


@kernel
def pack_blocks(
    documents: NDArray[np.uint64],
    token_offsets: NDArray[np.int64],
    num_own_rows: int,
    filled: Integer,
    block_tokens: int,
    gap: int,
    out_sequences: NDArray[np.void],
) -> tuple[int, Integer]:
    """Pack blocks of one length.

    Args:
        documents: uint64 [num_rows], their numbers in the token folder.
        token_offsets: int64 [num_rows + 1], where their tokens begin.
        num_own_rows: blocks that begin in later rows belong to someone else.
        filled: places of a block that was begun before the first row; 0 where there is none.
        block_tokens: places of a block.
        gap: separators after each document, 1 or 0.
        out_sequences: ``SEQUENCE_DTYPE``, with room for one in ``block_tokens`` places.

    Returns:
        How many whole blocks begin in the own rows, and how many tokens of a block that begins
        there are left over, since the rows end before it does.
    """
    num_sequences = 0
    place = np.int64((block_tokens - filled) % block_tokens)  # within the row
    for row in range(num_own_rows):
        num_places = token_offsets[row + 1] - token_offsets[row] + gap
        ordinal = np.uint64(0)
        while place < num_places:
            start = token_offsets[row] + place
            num_tokens = token_offsets[-1] - start
            if num_tokens + gap * (len(documents) - row) < block_tokens:
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


@kernel
def assemble_sequences(
    sequences: NDArray[np.void],
    ids: Ids,
    token_offsets: NDArray[np.int64],
    word_starts: NDArray[np.uint8],
    gap: int,
    gap_id: int,
    prefix: Ids,
    suffix: Ids,
    out_offsets: NDArray[np.int64],
    out_ids: Ids,
    out_word_starts: NDArray[np.uint8],
) -> Integer:
    """Lay sequences out one after the other, with control tokens before, between and after.

    Args:
        sequences: ``SEQUENCE_DTYPE``.
        ids: of the documents.
        token_offsets: int64 [num_rows + 1], into ``ids``.
        word_starts: bits, one a token of ``ids``.
        gap: separators between documents, 1 or 0.
        gap_id: the id of the separator.
        prefix: ids that each sequence begins with.
        suffix: ids that each sequence ends with.
        out_offsets: int64 [num_sequences + 1], where each instance begins.
        out_ids: as ``ids``.
        out_word_starts: bits, likewise; zero, and left so at control tokens.

    Returns:
        How many tokens of the documents were laid out.
    """
    position = np.int64(0)
    num_tokens = np.int64(0)
    out_offsets[0] = 0
    for number in range(len(sequences)):
        out_ids[position : position + len(prefix)] = prefix
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
            if left == 0:
                break
            if gap:
                out_ids[position] = gap_id
                position += 1
                left -= 1
                if left == 0:
                    break
            row += 1
            start = token_offsets[row]
        out_ids[position : position + len(suffix)] = suffix
        position += len(suffix)
        out_offsets[number + 1] = position
    return num_tokens
