"""Unigram as sentencepiece has it: scores are summed over a whole text, in single precision.

So which of two nearly equal segmentations of a word is chosen depends on all that comes before. The
sum goes on from word to word: it is what the scores of the tokens add up to, since all
segmentations meet before a space. A word in the cache has its *margin*, by how much its best
segmentation is better than any other. Its tokens are right where the margin is larger than what
rounding can change at the size of the sum; else the word is segmented from the sum on.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Float64, Ids, Int64, UInt64
from tokkit.kernels.encode.chunk_queue import (
    WHITE_SPACE,
    Queue,
    Texts,
    find_record_ahead,
    is_short,
    queue_stretches,
)
from tokkit.kernels.encode.chunks import (
    DONE,
    LONG_WORD,
    NUM_TOKENS,
    POSITION,
    TEXT,
    Chunk,
    Progress,
    append_added,
    process_chunks,
)
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.unigram_lattice import (
    LARGEST_SUM,
    UnigramTables,
    add_scores,
    add_single,
    append_path,
    append_unknown,
    find_margin,
    keep_best,
    keep_two,
    search_best,
    take_score,
    take_single,
)
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    SHORT_KEY,
    SPILL,
    UNKNOWN,
    WORD_MISSES,
    TokenBuffer,
    WordCache,
    append_ids,
    append_starts,
    drop_starts,
    find_bucket,
    find_short,
    key_length,
    put_short,
    short_key,
)
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import signed

# A sum of single precision is half a unit of its 24th bit from the exact one.
_ROUNDING = 2.0**-24
# A margin is stored as a multiple of this, in the 23 bits of a value behind the word's start.
_MARGIN_UNIT = 2.0**-16
_MARGIN_MASK = np.uint64((1 << 23) - 1)
_MARGIN_SHIFT = np.uint64(9)
_MARGIN_BITS = _MARGIN_MASK << _MARGIN_SHIFT


class RunningSum(NamedTuple):
    """What sentencepiece adds up.

    Attributes:
        scores: float64 ``[vocab_size]``, by id; NaN for ids that do not tell the score, because text
            of several kinds becomes them.
        largest: the largest score, regardless of its sign.
        total: float64 ``[1]``, the sum up to the current word.
        text: int64 ``[1]``, the number of the text that it is the sum of.
    """

    scores: Float64
    largest: float
    total: Float64
    text: Int64


# The tokenizer, its sum, and the state of ``process_chunks``.
_Model = tuple[UnigramTables, RunningSum, Int64]


@splice
def _read_total(running: RunningSum, state: Int64) -> float:
    """Return the sum up to the current word, which is 0 where a text begins."""
    if running.text[0] != state[TEXT]:
        running.text[0] = state[TEXT]
        running.total[0] = 0.0
    total: float = running.total[0]
    return total


@splice
def _find_error(total: float, largest: float, num_bytes: int) -> float:
    """Return how large a margin must be for a word of some bytes; infinite near the largest sum.

    Each sum on the way is rounded, that of the best segmentation and that of another one.
    """
    size = abs(total) + num_bytes * largest
    if size > LARGEST_SUM:
        return np.inf
    return (2 * num_bytes + 4) * size * _ROUNDING


@splice
def _append_known(
    tables: tuple[_Model, WordCache, TokenBuffer], _values: Bytes, chunk: Chunk, num_tokens: int
) -> int:
    """Append the tokens of a word from the cache, if its margin allows; see ``process_chunks``."""
    (_, running, state), cache, out = tables
    if not is_short(chunk.place):
        return UNKNOWN
    slot = find_short(cache.short, signed(chunk.place), chunk.first, chunk.second)
    if slot < 0:
        return UNKNOWN
    total = _read_total(running, state)
    margin = signed((cache.short[slot + 2] >> _MARGIN_SHIFT) & _MARGIN_MASK)
    if margin * _MARGIN_UNIT <= _find_error(total, running.largest, key_length(chunk.second)):
        return UNKNOWN
    append_starts(out.starts, num_tokens, np.uint64(1))
    last = append_ids(cache.short, slot + 2, cache.short_spill, slot >> 2, num_tokens, out)
    for token in range(num_tokens, last):
        total = add_single(total, running.scores[out.ids[token]])
    running.total[0] = total
    return last


@splice
def _append_chunk(
    tables: tuple[_Model, WordCache, TokenBuffer], values: Bytes, chunk: Chunk, num_tokens: int
) -> Progress:
    """Append the tokens of a word, and cache them; see ``process_chunks``."""
    (model, running, state), cache, out = tables
    start, stop = chunk.start, chunk.stop
    total = _read_total(running, state)
    cache.counters[WORD_MISSES] += 1
    last, origin, unknown = search_best(
        keep_best,
        add_single,
        take_single,
        append_path,
        values,
        start,
        stop,
        total,
        model,
        num_tokens,
        out,
    )
    if last == UNKNOWN:
        return num_tokens, start, LONG_WORD, origin
    last, unknown = append_path(
        values, origin, stop - origin, model, num_tokens, unknown, last, out
    )
    if unknown >= 0:
        last = append_unknown(values, unknown, stop, model, num_tokens, last, out)
    running.total[0] = model.best[stop - origin]
    size = stop - start
    if size <= SHORT_KEY and last - num_tokens <= SPILL:
        _put_word(tables, values, start, stop, total, num_tokens, last)
    return last, stop, DONE, 0


@splice
def _put_word(
    tables: tuple[_Model, WordCache, TokenBuffer],
    values: Bytes,
    start: int,
    stop: int,
    total: float,
    first: int,
    last: int,
) -> None:
    """Cache the tokens of a word if they are right after any sum that is not larger."""
    (model, running, _), cache, out = tables
    for token in range(first, last):
        if np.isnan(running.scores[out.ids[token]]):
            return
    search_best(
        keep_two, add_scores, take_score, append_path, values, start, stop, 0.0, model, first, out
    )
    margin = find_margin(stop - start, model)
    if margin <= _find_error(total, running.largest, stop - start):
        return
    put_short(cache, values, start, stop, CHUNK, first, last, out)
    low, high = short_key(values, start, np.uint64(stop - start))
    slot = find_short(cache.short, find_bucket(low, high, cache.short_shift), low, high)
    units = min(margin / _MARGIN_UNIT, float(_MARGIN_MASK))
    value = cache.short[slot + 2] & ~_MARGIN_BITS
    cache.short[slot + 2] = value | np.uint64(units) << _MARGIN_SHIFT


@kernel
def encode_unigram_text(
    values: Bytes,
    offsets: Int64,
    added: Int64,
    model: UnigramTables,
    running: RunningSum,
    rules: CutRules,
    cache: WordCache,
    queue: Queue,
    state: Int64,
    out_ids: Ids,
    out_starts: UInt64,
    out_offsets: Int64,
) -> int:
    """Encode texts, from where ``state`` stands.

    Args and returns are those of ``encode_unigram``, and ``running``, memory for the sum.
    """
    drop_starts(out_starts, state[NUM_TOKENS])
    if state[POSITION] == offsets[state[TEXT]]:
        running.text[0] = -1  # forgets the sum of the last call
    texts = Texts(values, offsets, added, rules, WHITE_SPACE, has_marks=False, longest=SHORT_KEY)
    tables = ((model, running, state), cache, TokenBuffer(out_ids, out_starts))
    return process_chunks(
        queue_stretches,
        _append_known,
        _append_chunk,
        append_added,
        find_record_ahead,
        texts,
        tables,
        queue,
        state,
        out_offsets,
    )
