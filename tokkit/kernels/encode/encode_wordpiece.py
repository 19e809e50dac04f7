"""WordPiece: sentences to ids, as BERT's normalizer, pre-tokenizer and model make them.

    chunk        what stands between white space     "Unaffable,"
    characters   by table, one by one                u n a f f a b l e | ,
    run          WORD and NOTHING characters         unaffable
    model        longest entries from its start      una ##ffa ##ble
    tokens       of the chunk                        una ##ffa ##ble ,

The cache knows most chunks, and most runs of the others.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    NEEDS_LIBRARY,
    NUM_TOKENS,
    POSITION,
    SENTENCE,
    UNSEEN_CHARACTER,
    Queue,
    append_queued,
    queue_words,
    queued_bounds,
)
from tokkit.kernels.encode.tries import CONTINUED, NO_ENTRY, ROOT, Trie, find_edge
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

# Kinds of characters.
UNSEEN = 0  # the table does not know it yet
NOTHING = 1  # as if it were not there
WORD = 2  # joins its neighbours into a word
SPACE = 3
SINGLE = 4  # a word by itself: punctuation, an ideograph
CONTEXT = 5  # what becomes of it depends on its neighbours

SEVERAL = 1 << 31


class Characters(NamedTuple):
    """What the normalizer and the pre-tokenizer make of each code point.

    Attributes:
        kinds: uint8 ``[0x110000]``.
        meanings: uint32 ``[0x110000]``: of ``SINGLE`` its id; of ``WORD`` the code point that it is
            normalized to; if it is to several, ``SEVERAL``, where they stand in ``forms``, times 16,
            and how many they are.
        forms: uint32, code points.
        is_space: bool ``[256]``: bytes that are ``SPACE``, as far as they are below 33.
    """

    kinds: NDArray[np.uint8]
    meanings: NDArray[np.uint32]
    forms: NDArray[np.uint32]
    is_space: NDArray[np.bool_]


class Vocabulary(NamedTuple):
    """WordPiece's model.

    Attributes:
        trie: the entries.
        unknown: the id of words that cannot be made of entries.
        max_word_chars: a word of more characters is unknown.
        word: uint32 ``[max_word_chars]`` at least: room for a word.
    """

    trie: Trie
    unknown: int
    max_word_chars: int
    word: NDArray[np.uint32]


@tuple_splice
def _match_word(
    values: Bytes,
    start: int,
    stop: int,
    characters: Characters,
    vocabulary: Vocabulary,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Append the tokens of a run, character by character; returns how many there are then."""
    word = vocabulary.word
    limit = vocabulary.max_word_chars
    length = 0
    position = start
    while position < stop and length <= limit:
        code, size = decode_character(values, position)
        position += size
        if characters.kinds[code] == WORD:
            meaning = signed(characters.meanings[code])
            if meaning < SEVERAL:
                if length < limit:
                    word[length] = meaning
                length += 1
            else:
                form = (meaning - SEVERAL) >> 4
                for index in range(meaning & 0xF):
                    if length < limit:
                        word[length] = characters.forms[form + index]
                    length += 1
    if length == 0:
        return num_tokens
    append_starts(out_bits, num_tokens, np.uint64(1))
    first = num_tokens
    trie = vocabulary.trie
    is_unknown = length > limit
    node = ROOT
    position = 0
    while position < length and not is_unknown:
        entry = NO_ENTRY
        index = position
        while index < length:
            place, key = find_edge(trie.keys, trie.shift, node, signed(word[index]))
            if trie.keys[place] != key:
                break
            node = signed(trie.children[place])
            index += 1
            if trie.entries[node] != NO_ENTRY:
                entry = trie.entries[node]
                position = index
        is_unknown = entry == NO_ENTRY
        if not is_unknown:
            out_ids[num_tokens] = entry
            num_tokens += 1
            append_starts(out_bits, num_tokens, np.uint64(0))
        node = CONTINUED
    if is_unknown:
        out_ids[first] = vocabulary.unknown
        num_tokens = first + 1
    return num_tokens


@tuple_splice
def _append_run(
    values: Bytes,
    start: int,
    stop: int,
    characters: Characters,
    vocabulary: Vocabulary,
    cache: WordCache,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Append the tokens of a run from the cache, or into it; returns how many there are then."""
    end = append_word(cache, values, start, stop, num_tokens, out_ids, out_bits)
    if end == UNKNOWN:
        end = _match_word(
            values, start, stop, characters, vocabulary, num_tokens, out_ids, out_bits
        )
        put_word(cache, values, start, stop, num_tokens, end, out_ids, out_bits)
    return end


@tuple_splice
def _append_chunk(
    values: Bytes,
    start: int,
    stop: int,
    characters: Characters,
    vocabulary: Vocabulary,
    cache: WordCache,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> tuple[int, int, int]:
    """Append the tokens of a chunk, run by run, and keep them in the cache.

    Returns:
        How many there are then; ``DONE``, or why it stopped; and the detail of that.
    """
    before = num_tokens
    position = start
    run = start
    while True:
        kind = np.uint8(SPACE)
        code, size = 0, 0
        if position < stop:
            code, size = decode_character(values, position)
            kind = characters.kinds[code]
            if kind == WORD or kind == NOTHING:
                position += size
                continue
            if kind == UNSEEN:
                return before, UNSEEN_CHARACTER, code
            if kind == CONTEXT:
                return before, NEEDS_LIBRARY, stop
        if run < position:
            num_tokens = _append_run(
                values,
                run,
                position,
                characters,
                vocabulary,
                cache,
                num_tokens,
                out_ids,
                out_bits,
            )
            if position - run == stop - start:
                return num_tokens, DONE, 0  # as a run it is in the cache already
        if position == stop:
            break
        if kind == SINGLE:
            append_starts(out_bits, num_tokens, np.uint64(1))
            out_ids[num_tokens] = characters.meanings[code]
            num_tokens += 1
        position += size
        run = position
    if stop - start <= SHORT_KEY:
        put_short(cache, values, start, stop, before, num_tokens, out_ids, out_bits)
    return num_tokens, DONE, 0


@tuple_kernel
def encode_wordpiece(
    values: Bytes,
    offsets: NDArray[np.int64],
    characters: Characters,
    vocabulary: Vocabulary,
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
        characters: what becomes of them.
        vocabulary: the model.
        cache: of this tokenizer alone.
        queue: for this call alone.
        state: see ``words``; updated.
        out_ids: as many as the sentences have bytes, and 32 more.
        out_bits: uint64, of where words start; ``tokens`` tells its layout. A bit for each of
            ``out_ids``, and 128 more.
        out_offsets: int64 ``[num_sentences + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE``, or why it stopped before the last sentence, ``UNSEEN_CHARACTER`` or
        ``NEEDS_LIBRARY``; ``state`` is then at the chunk that is to blame.
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
        while start < stop and fault == DONE:
            count, ahead, start = queue_words(
                values, ahead, start, stop, characters.is_space, cache, queue
            )
            for index in range(count):
                end = append_queued(queue, index, cache, num_tokens, out_ids, out_bits)
                if end != UNKNOWN:
                    num_tokens = end
                    num_hits += 1
                    continue
                num_misses += 1
                chunk_start, chunk_stop = queued_bounds(queue, index)
                num_tokens, fault, detail = _append_chunk(
                    values,
                    chunk_start,
                    chunk_stop,
                    characters,
                    vocabulary,
                    cache,
                    num_tokens,
                    out_ids,
                    out_bits,
                )
                if fault != DONE:
                    start = chunk_start
                    state[DETAIL] = detail
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
