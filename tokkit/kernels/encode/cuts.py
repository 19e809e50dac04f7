"""Find places around the ends of sentences where a text can be cut without changing its tokens.

    text     It is so. Is it?) No.         GPT-2's words    It | Ġis | Ġso | . | ĠIs | Ġit | ?) | ĠNo | .
    ends     9, 16, 21
    9        a cut itself, before white space
    16       between "?" and ")", which are one word: the cuts around it are 15 and 17
    21       a cut itself, the end of the text

Whether a text can be cut between two characters follows from their classes alone; see ``CutRules``.
"""

import numpy as np

from tokkit.kernels.arrays import Bytes, Ids, Int32, Int64
from tokkit.kernels.encode.cut_rules import CutRules, can_cut
from tokkit.kernels.jit import kernel


@kernel
def find_cuts(
    values: Bytes,
    offsets: Int64,
    ends: Int64,
    rules: CutRules,
    out_before: Int64,
    out_after: Int64,
) -> None:
    """Find the nearest cuts before and after each end; both are the end itself if it is a cut.

    Args:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``; the bounds of texts are cuts.
        ends: int64 ``[num_ends]``, into ``values``, ascending, from ``offsets[0]`` to its last.
        rules: where texts can be cut.
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
                if can_cut(values, before, rules):
                    break
                before -= 1
            after = end
            if before < end:
                after += 1
                while after < highest:
                    if can_cut(values, after, rules):
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
        num_bytes: int32 ``[vocab_size]``, bytes of text that each token stands for; 0 for a token
            that stands for texts of several lengths.
        out_counts: int64 ``[num_ends]``; -1 where such a token is before the end.
    """
    place = token = position = np.int64(-1)
    is_known = True
    for index in range(ends.size):
        if before[index] != place:
            place = before[index]
            token = token_offsets[place]
            position = bounds[place]
            is_known = True
        while token < token_offsets[place + 1] and position < ends[index]:
            position += num_bytes[ids[token]]
            is_known &= num_bytes[ids[token]] > 0
            token += 1
        out_counts[index] = token - token_offsets[place] if is_known else -1
