"""Find places around the ends of sentences where a text can be cut without changing its tokens.

    text     It is so. Is it?) No.         GPT-2's words    It | Ġis | Ġso | . | ĠIs | Ġit | ?) | ĠNo | .
    ends     9, 16, 21
    9        a cut itself, before white space
    16       between "?" and ")", which are one word: the cuts around it are 15 and 17
    21       a cut itself, the end of the text

Whether a text can be cut between two characters follows from their kinds alone; see ``new_rules``.
"""

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Ids, Int32, Int64
from tokkit.kernels.encode.chunks import SPACE
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import decode_character

NUM_KINDS = 8


def new_rules() -> Bools:
    """Return rules that allow no cut.

    Returns:
        bool ``[NUM_KINDS, NUM_KINDS]``: whether a text can be cut after a character of the first
        kind and before one of the second.
    """
    return np.zeros((NUM_KINDS, NUM_KINDS), np.bool_)


@inline
def _can_cut(values: Bytes, position: int, kinds: Bytes, rules: Bools, joiner: int) -> bool:
    """Return whether a text can be cut at a byte that is neither its first nor behind its last."""
    if values[position] & 0xC0 == 0x80:
        return False
    before = position - 1
    while values[before] & 0xC0 == 0x80:
        before -= 1
    left, _ = decode_character(values, before)
    right, _ = decode_character(values, position)
    if left == joiner and kinds[right] != SPACE:
        return False
    return bool(rules[kinds[left], kinds[right]])


@kernel
def find_cuts(
    values: Bytes,
    offsets: Int64,
    ends: Int64,
    kinds: Bytes,
    rules: Bools,
    joiner: int,
    out_before: Int64,
    out_after: Int64,
) -> None:
    """Find the nearest cuts before and after each end; both are the end itself if it is a cut.

    Args:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``; the bounds of texts are cuts.
        ends: int64 ``[num_ends]``, into ``values``, ascending, from ``offsets[0]`` to its last.
        kinds: uint8 ``[0x110000]``, kinds of characters below ``NUM_KINDS``.
        rules: see ``new_rules``.
        joiner: a code point after which only white space is cut off, or -1.
        out_before: int64 ``[num_ends]``.
        out_after: int64 ``[num_ends]``.
    """
    text = 0
    before = after = offsets[0]
    for index in range(ends.size):
        end = ends[index]
        while offsets[text + 1] < end:
            text += 1
            before = after = offsets[text]
        if end >= after:
            lowest, highest = after, offsets[text + 1]
            before = end
            while lowest < before < highest:
                if _can_cut(values, before, kinds, rules, joiner):
                    break
                before -= 1
            after = end
            if before < end:
                after += 1
                while after < highest:
                    if _can_cut(values, after, kinds, rules, joiner):
                        break
                    after += 1
        out_before[index] = before
        out_after[index] = after


@kernel
def count_before(
    ids: Ids,
    token_offsets: Int64,
    bounds: Int64,
    ends: Int64,
    before: Int64,
    num_bytes: Int32,
    out_counts: Int64,
) -> None:
    """Count the tokens between a cut and each end that begin before the end.

    Args:
        ids: token ids of all texts.
        token_offsets: int64 ``[num_cuts + 1]``, into ``ids``.
        bounds: int64 ``[num_cuts + 1]``, bytes at which texts are cut.
        ends: int64 ``[num_ends]``, ascending.
        before: int64 ``[num_ends]``, index in ``bounds`` of the last cut before each end.
        num_bytes: int32 ``[vocab_size]``, bytes of text that each token stands for.
        out_counts: int64 ``[num_ends]``.
    """
    place = token = position = np.int64(-1)
    for index in range(ends.size):
        if before[index] != place:
            place = before[index]
            token = token_offsets[place]
            position = bounds[place]
        while token < token_offsets[place + 1] and position < ends[index]:
            position += num_bytes[ids[token]]
            token += 1
        out_counts[index] = token - token_offsets[place]
