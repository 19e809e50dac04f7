r"""Byte-level BPE: sentences to ids, as GPT-2's split pattern and the merges make them.

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

    chunk    up to white space, with a space before it    " don't,"
    piece    what the pattern matches                     " don" | "'t" | ","
    tokens   of the pieces, by merges

No match goes from something else over into white space, so a chunk falls into the same pieces
wherever it stands; but for white space of more bytes than one at its end, which belongs together
with what follows. Such chunks are not kept in the cache.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.bpe_lookup import Speller, Spelling, spell_word
from tokkit.kernels.encode.bpe_merges import Merges, Parts, merge_word
from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    LONG_WORD,
    NO_BUCKET,
    NUM_TOKENS,
    POSITION,
    SENTENCE,
    UNSEEN_CHARACTER,
    Queue,
    append_queued,
    queue_spaced_words,
    queued_bounds,
    queued_key,
)
from tokkit.kernels.encode.word_cache import (
    CHUNK_HITS,
    CHUNK_MISSES,
    SHORT_KEY,
    UNKNOWN,
    Bits,
    Ids,
    WordCache,
    append_starts,
    append_word,
    drop_starts,
    put_short,
    put_word,
)
from tokkit.kernels.jit import tuple_kernel, tuple_splice
from tokkit.kernels.memory import Bytes, decode_character, signed

# Classes of characters.
UNSEEN = 0  # the table does not know it yet
LETTER = 1
NUMBER = 2
SPACE = 3
OTHER = 4
DIGIT = 5  # a piece of its own, where the tokenizer splits digits

_BLANK = 32
_APOSTROPHE = 39
_D, _E, _L, _M, _R, _S, _T, _V = (ord(letter) for letter in "delmrstv")


class Classes(NamedTuple):
    """What the split pattern takes each code point for.

    Attributes:
        classes: uint8 ``[0x110000]``.
        is_space: bool ``[256]``: bytes that are ``SPACE``, as far as they are below 33.
    """

    classes: NDArray[np.uint8]
    is_space: NDArray[np.bool_]


@tuple_splice
def _find_contraction(values: Bytes, start: int, stop: int) -> int:
    """Where a contraction ends whose apostrophe is at ``start``, or -1."""
    first = values[start + 1] if start + 1 < stop else 0
    second = values[start + 2] if start + 2 < stop else 0
    if first == _S or first == _T or first == _M or first == _D:
        return start + 2
    if (second == _E and (first == _R or first == _V)) or (second == _L and first == _L):
        return start + 3
    return -1


@tuple_splice
def find_piece(values: Bytes, start: int, stop: int, classes: NDArray[np.uint8]) -> tuple[int, int]:
    """Where the piece ends that begins at ``start``, and its class.

    Args:
        values: the text.
        start: before ``stop``.
        stop: where the sentence ends.
        classes: of ``Classes``.

    Returns:
        The end and the class; or a code point that the table does not know, and ``UNSEEN``.
    """
    code, size = decode_character(values, start)
    kind = classes[code]
    position = start + size
    if code == _APOSTROPHE:
        end = _find_contraction(values, start, stop)
        if end >= 0:
            return end, signed(OTHER)
    if code == _BLANK and position < stop:
        code, size = decode_character(values, position)
        kind = classes[code]
        if kind == DIGIT:
            return position, signed(OTHER)
        if kind != SPACE:
            position += size
    if kind == DIGIT:
        return position, signed(DIGIT)
    last = start
    while kind != UNSEEN and position < stop:
        code, size = decode_character(values, position)
        other = classes[code]
        if other == UNSEEN:
            kind = other
        if other != kind:
            break
        last = position
        position += size
    if kind == UNSEEN:
        return code, UNSEEN
    if kind == SPACE and position < stop and last > start:
        position = last  # the last white space before something else is another piece
    return position, signed(kind)


@tuple_splice
def _append_piece(
    values: Bytes,
    start: int,
    stop: int,
    is_kept: bool,  # noqa: FBT001  kernels take positional arguments
    merges: Merges,
    parts: Parts,
    speller: Speller,
    spelling: Spelling,
    cache: WordCache,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Append the tokens of a piece from the cache, or into it; returns how many there are then."""
    end = UNKNOWN
    if is_kept:
        end = append_word(cache, values, start, stop, num_tokens, out_ids, out_bits)
    if end == UNKNOWN:
        if speller.parts.size:
            end = spell_word(values, start, stop, speller, spelling, num_tokens, out_ids)
        else:
            end = merge_word(values, start, stop, merges, parts, num_tokens, out_ids)
        if end > num_tokens:
            append_starts(out_bits, num_tokens, np.uint64(1))
        for token in range(num_tokens + 1, end + 1, 63):
            append_starts(out_bits, token, np.uint64(0))
        if is_kept:
            put_word(cache, values, start, stop, num_tokens, end, out_ids, out_bits)
    return end


@tuple_splice
def _append_chunk(
    values: Bytes,
    start: int,
    stop: int,
    sentence_stop: int,
    is_kept: bool,  # noqa: FBT001  kernels take positional arguments
    classes: NDArray[np.uint8],
    merges: Merges,
    parts: Parts,
    speller: Speller,
    spelling: Spelling,
    cache: WordCache,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> tuple[int, int, int, int]:
    """Append the tokens of a chunk, piece by piece, and keep them in the cache.

    Returns:
        How many there are then; where the last piece ends, which is beyond the chunk where white
        space goes on; ``DONE``, or why it stopped; and the detail of that.
    """
    before = num_tokens
    position = start
    while position < stop:
        end, kind = find_piece(values, position, sentence_stop, classes)
        if kind == UNSEEN:
            return before, start, UNSEEN_CHARACTER, end
        if end - position > parts.ids.size:
            return before, start, LONG_WORD, end - position
        is_space = kind == SPACE
        is_plain = True
        if is_space:
            for index in range(position, end):
                is_plain &= values[index] < 0x80
        num_tokens = _append_piece(
            values,
            position,
            end,
            is_plain,
            merges,
            parts,
            speller,
            spelling,
            cache,
            num_tokens,
            out_ids,
            out_bits,
        )
        is_kept &= not is_space or (is_plain and end <= stop)
        is_kept &= end - position < stop - start  # else it is in the cache as a piece
        position = end
    if is_kept and stop - start <= SHORT_KEY:
        put_short(cache, values, start, stop, before, num_tokens, out_ids, out_bits)
    return num_tokens, position, DONE, 0


@tuple_kernel
def encode_bpe(
    values: Bytes,
    offsets: NDArray[np.int64],
    classes: Classes,
    merges: Merges,
    parts: Parts,
    speller: Speller,
    spelling: Spelling,
    cache: WordCache,
    queue: Queue,
    state: NDArray[np.int64],
    out_ids: Ids,
    out_bits: Bits,
    out_offsets: NDArray[np.int64],
) -> int:
    """Encode sentences, from where ``state`` stands.

    Args:
        values: uint8, the sentences in valid UTF-8.
        offsets: int64 ``[num_sentences + 1]``, into ``values``.
        classes: of characters.
        merges: the model.
        parts: room for a word, for this call alone.
        speller: the model, where it is of the kind that can be spelled without merging.
        spelling: room for a word, for this call alone.
        cache: of this tokenizer alone.
        queue: for this call alone.
        state: see ``words``; updated.
        out_ids: as many as the sentences have bytes, and 32 more.
        out_bits: uint64, of where words start; ``tokens`` tells its layout. A bit for each of
            ``out_ids``, and 128 more.
        out_offsets: int64 ``[num_sentences + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE``, or why it stopped before the last sentence, ``UNSEEN_CHARACTER`` or
        ``LONG_WORD``; ``state`` is then at the chunk that is to blame.
    """
    sentence = state[SENTENCE]
    start = state[POSITION]
    num_tokens = state[NUM_TOKENS]
    num_hits = 0
    num_misses = 0
    fault = DONE
    drop_starts(out_bits, num_tokens)
    while sentence < offsets.size - 1 and fault == DONE:
        stop = offsets[sentence + 1]
        ahead = start
        body = start
        while start < stop and fault == DONE:
            count, ahead, start, body = queue_spaced_words(
                values, ahead, start, body, stop, classes.is_space, cache, queue
            )
            for index in range(count):
                end = append_queued(queue, index, cache, num_tokens, out_ids, out_bits)
                if end != UNKNOWN:
                    num_tokens = end
                    num_hits += 1
                    continue
                num_misses += 1
                chunk_start, chunk_stop = queued_bounds(queue, index)
                _, _, bucket = queued_key(queue, index)
                num_tokens, reached, fault, detail = _append_chunk(
                    values,
                    chunk_start,
                    chunk_stop,
                    stop,
                    bucket != NO_BUCKET,
                    classes.classes,
                    merges,
                    parts,
                    speller,
                    spelling,
                    cache,
                    num_tokens,
                    out_ids,
                    out_bits,
                )
                if reached != chunk_stop:
                    state[DETAIL] = detail
                    start = ahead = body = reached
                    break
        if fault == DONE:
            sentence += 1
            start = stop
            out_offsets[sentence] = num_tokens
    cache.counters[CHUNK_HITS] += num_hits
    cache.counters[CHUNK_MISSES] += num_misses
    state[SENTENCE] = sentence
    state[POSITION] = start
    state[NUM_TOKENS] = num_tokens
    return fault
