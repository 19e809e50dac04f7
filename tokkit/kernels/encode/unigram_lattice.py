r"""The segmentation of a text into tokens whose scores add up to most.

    text     " unigram"    a space stands for U+2581
    lattice  " un" -7.1, " uni" -9.5, "i" -4.8, "gram" -8.9, "igram" -12.0, …
    tokens   " uni" "gram"    -18.4

For each byte at which a token can end, the best score up to there is kept, with the token that ends
there and where that begins. Scores are added in the order of the text, so that they round as in the
tokenizer's library; of two segmentations with the same score the one that is found first counts.

Where a long text has a place that no token reaches across, all segmentations meet there: the tokens
up to there are final, and the memory for the text is used again.

A character that no token consists of alone may be unknown, which costs more than any token. Unknown
neighbors are one token, or are spelled with the tokens of their bytes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Float64, Int64
from tokkit.kernels.encode.tries import (
    BASE_SHIFT,
    LABEL_MASK,
    NO_TOKEN,
    TOKEN_MASK,
    TOKEN_SHIFT,
    Cells,
    find_longest,
)
from tokkit.kernels.encode.word_cache import UNKNOWN, TokenBuffer, append_starts
from tokkit.kernels.jit import splice
from tokkit.kernels.memory import signed

# Where all segmentations meet, the tokens before are written if they are this many bytes.
_BLOCK = 1 << 10
_NEVER = -np.inf
# Sentencepiece subtracts a sum beyond this from all that are still needed.
LARGEST_SUM = 100_000.0
START_SHIFT = 32  # of a link: where the token begins, above its number
NUMBER_MASK = (1 << START_SHIFT) - 1


class UnigramTables(NamedTuple):
    """The tables of a unigram tokenizer; tokens are numbered in the order of their bytes.

    Attributes:
        cells: the trie of the tokens.
        scores: float64 ``[num_tokens + 1]``; the last is that of an unknown character.
        ids: int64 ``[num_tokens + 1]``; the last is that of unknown text.
        unknown: number of a token that counts as unknown text where it is found, or ``NO_TOKEN``.
        byte_ids: int64 ``[256]``, of the tokens that unknown text is spelled with, or ``NO_TOKEN``
            for bytes that have none.
        joins_unknown: whether unknown neighbors that are a token together become that token.
        best: float64 ``[n]``, memory for a text: score of the best segmentation up to each byte.
        seconds: float64 ``[SHORT_KEY + 1]``: in a word that is cached, score of the best segmentation
            with another last token.
        links: int64 ``[n]``: where the last token of the best one begins, and its number.
        path: int64 ``[n]``: links of the best segmentation, backwards.
    """

    cells: Cells
    scores: Float64
    ids: Int64
    unknown: int
    byte_ids: Int64
    joins_unknown: bool
    best: Float64
    seconds: Float64
    links: Int64
    path: Int64


# Progress in a text: the new number of tokens, or ``UNKNOWN`` where memory is short; where all
# segmentations met last, or how many bytes there must be room for; and where unknown text begins
# whose tokens are not written yet, or -1.
Search = tuple[int, int, int]


@splice
def keep_best(model: UnigramTables, end: int, score: float, link: int) -> None:
    """Keep a segmentation if it is better than the one before."""
    if score > model.best[end]:
        model.best[end] = score
        model.links[end] = link


@splice
def keep_two(model: UnigramTables, end: int, score: float, link: int) -> None:
    """Keep the best segmentation, and the score of the second."""
    if score > model.best[end]:
        model.seconds[end] = model.best[end]
        model.best[end] = score
        model.links[end] = link
    else:
        model.seconds[end] = max(model.seconds[end], score)


@splice
def add_scores(left: float, right: float) -> float:
    """Add scores in double precision."""
    return left + right


@splice
def take_score(model: UnigramTables, place: int, reach: int) -> float:
    """Return the best score up to a place."""
    score: float = model.best[place]
    return score


@splice
def add_single(left: float, right: float) -> float:
    """Add scores in single precision."""
    return np.float64(np.float32(left + right))


@splice
def take_single(model: UnigramTables, place: int, reach: int) -> float:
    """Return the best score up to a place, as sentencepiece does: a large one is subtracted first."""
    best = model.best
    offset = best[place]
    if abs(offset) > LARGEST_SUM:
        for index in range(place, reach + 1):
            best[index] = add_single(best[index], -offset)
    score: float = best[place]
    return score


@splice
def search_best(
    keep: Callable[[UnigramTables, int, float, int], None],
    add: Callable[[float, float], float],
    take: Callable[[UnigramTables, int, int], float],
    write: Callable[..., tuple[int, int]],
    values: Bytes,
    start: int,
    stop: int,
    total: float,
    model: UnigramTables,
    num_tokens: int,
    out: Any,
) -> Search:
    """Find the best segmentation of a text, and write the tokens that become final.

    Args:
        keep: ``keep_best`` or ``keep_two``.
        add: adds two scores.
        take: ``take(model, place, reach)`` returns the best score up to a place, and may lower all
            those from there to ``reach``.
        write: ``append_path``, or what does the same.
        values: uint8, valid UTF-8.
        start: where the text begins.
        stop: where it ends.
        total: sum of the scores before the text.
        model: the tokenizer.
        num_tokens: number of tokens before the text.
        out: for ``write``.

    Returns:
        See ``Search``.
    """
    cells, best = model.cells, model.best
    root = cells[0] >> BASE_SHIFT
    last = model.scores.size - 1
    word = num_tokens
    unknown = -1
    origin = start
    reach = signed(0)  # furthest end of a token so far, from ``origin``
    best[0] = total
    position = start
    while position < stop:
        place = position - origin
        if place == reach and place >= _BLOCK:
            num_tokens, unknown = write(
                values, origin, place, model, word, unknown, num_tokens, out
            )
            best[0] = best[place]
            origin = position
            place = reach = signed(0)
        score = take(model, place, reach)
        first = values[position]
        size = 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
        if place + size >= best.size:
            return UNKNOWN, place + size, unknown
        is_known = False
        base = root
        index = position
        while index < stop:
            byte = np.uint64(values[index])
            cell = cells[base ^ byte]
            if cell & LABEL_MASK != byte + np.uint64(1):
                break
            index += 1
            base = cell >> BASE_SHIFT
            token = (cell >> TOKEN_SHIFT) & TOKEN_MASK
            if token == 0:
                continue
            number = signed(token) - 1
            end = index - origin
            if end >= best.size:
                return UNKNOWN, end, unknown
            while reach < end:
                reach += 1
                best[reach] = _NEVER
            is_known |= index - position == size
            keep(model, end, add(score, model.scores[number]), place << START_SHIFT | number)
        if not is_known:
            end = place + size
            while reach < end:
                reach += 1
                best[reach] = _NEVER
            keep(model, end, add(score, model.scores[last]), place << START_SHIFT | last)
        position += size
    return num_tokens, origin, unknown


@splice
def find_margin(size: int, model: UnigramTables) -> float:
    """Return by how much the best segmentation of ``size`` bytes is better than any other.

    Returns:
        The least difference to another token at the end of one of its tokens, after ``search_best``
        with ``keep_two``.
    """
    margin: float = np.inf
    place = size
    while place > 0:
        margin = min(margin, model.best[place] - model.seconds[place])
        place = model.links[place] >> START_SHIFT
    return margin


@splice
def append_path(
    values: Bytes,
    origin: int,
    size: int,
    model: UnigramTables,
    word: int,
    unknown: int,
    num_tokens: int,
    out: TokenBuffer,
) -> tuple[int, int]:
    """Append the tokens of the best segmentation of some bytes.

    Args:
        values: uint8, the text.
        origin: where the bytes begin.
        size: their number.
        model: the tokenizer.
        word: number of tokens before the word, whose first token starts it.
        unknown: where unknown text before ``origin`` begins, or -1.
        num_tokens: number of tokens before ``origin``.
        out: where to write tokens.

    Returns:
        The new number of tokens, and where unknown text at the end begins, or -1.
    """
    for index in range(read_path(size, model) - 1, -1, -1):
        link = model.path[index]
        number = link & NUMBER_MASK
        start = origin + (link >> START_SHIFT)
        if number == model.ids.size - 1 or number == model.unknown:
            unknown = start if unknown < 0 else unknown
            continue
        if unknown >= 0:
            num_tokens = append_unknown(values, unknown, start, model, word, num_tokens, out)
            unknown = -1
        num_tokens = _append_one(model.ids[number], num_tokens, num_tokens == word, out)
    return num_tokens, unknown


@splice
def read_path(size: int, model: UnigramTables) -> int:
    """Write the links of the best segmentation of some bytes to ``path``; return their number."""
    count = 0
    place = size
    while place > 0:
        model.path[count] = model.links[place]
        place = model.links[place] >> START_SHIFT
        count += 1
    return count


@splice
def append_unknown(
    values: Bytes,
    start: int,
    stop: int,
    model: UnigramTables,
    word: int,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of unknown text; returns the new number of tokens."""
    count, token_id = read_unknown(values, start, stop, model)
    if count == 1:
        return _append_one(token_id, num_tokens, num_tokens == word, out)
    for position in range(start, stop):
        token_id = model.byte_ids[values[position]]
        num_tokens = _append_one(token_id, num_tokens, num_tokens == word, out)
    return num_tokens


@splice
def read_unknown(values: Bytes, start: int, stop: int, model: UnigramTables) -> tuple[int, int]:
    """Return the number of tokens of unknown text: one or as many as it has bytes; and the first.

    Scores above zero can make the characters of a token unknown one by one.
    """
    token, end = find_longest(model.cells, values, start, stop)
    if model.joins_unknown and token != NO_TOKEN and end == stop:
        return 1, model.ids[token]
    for position in range(start, stop):
        if model.byte_ids[values[position]] == NO_TOKEN:
            return 1, model.ids[model.ids.size - 1]
    return stop - start, model.byte_ids[values[start]]


@splice
def _append_one(token_id: int, num_tokens: int, starts_word: bool, out: TokenBuffer) -> int:
    """Append a token; returns the new number of tokens."""
    out.ids[num_tokens] = token_id
    append_starts(out.starts, num_tokens, np.uint64(starts_word))
    return num_tokens + 1
