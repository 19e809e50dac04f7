"""What the encoding kernels have in common: how they stop, and how words come out of the cache."""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.chunks import NO_BUCKET, Queue, queued_key
from tokkit.kernels.jit import tuple_splice
from tokkit.kernels.memory import signed
from tokkit.kernels.tokens import Bits, Ids
from tokkit.kernels.wordcache import UNKNOWN, WordCache, append_short, find_short

# Where a kernel stands, by index into its state, and what the one who called it must know.
SENTENCE = 0
POSITION = 1
NUM_TOKENS = 2
DETAIL = 3
STATE_SIZE = 4

# Why it returned.
DONE = 0
UNSEEN_CHARACTER = 1  # whose code point is the detail: the table must be told, then call again
NEEDS_LIBRARY = 2  # the chunk up to the detail must be encoded otherwise, then go on there
LONG_WORD = 3  # of as many bytes as the detail: make room for it, then call again


def new_state(start: int) -> NDArray[np.int64]:
    """Before the first sentence, which begins at byte ``start``."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[POSITION] = start
    return state


@tuple_splice
def append_queued(
    queue: Queue,
    index: int,
    cache: WordCache,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Append the tokens of a queued chunk from the cache.

    Returns:
        How many tokens there are then, or ``UNKNOWN``.
    """
    first, second, bucket = queued_key(queue, index)
    if bucket == NO_BUCKET:
        return UNKNOWN
    slot = find_short(cache.short, signed(bucket), first, second)
    if slot < 0:
        return UNKNOWN
    return append_short(cache, slot, num_tokens, out_ids, out_bits)
