"""Where the tokens of a text begin, by the segmentation of ``unigram_lattice``."""

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.encode.unigram_lattice import (
    NUMBER_MASK,
    START_SHIFT,
    UnigramTables,
    add_scores,
    add_single,
    keep_best,
    read_path,
    read_unknown,
    search_best,
    take_score,
    take_single,
)
from tokkit.kernels.encode.word_cache import UNKNOWN
from tokkit.kernels.jit import tuple_kernel, tuple_splice


@tuple_splice
def _note_path(
    values: Bytes,
    origin: int,
    size: int,
    model: UnigramTables,
    word: int,
    unknown: int,
    num_tokens: int,
    out: Int64,
) -> tuple[int, int]:
    """Write where each token begins, instead of the token; see ``append_path``."""
    for index in range(read_path(size, model) - 1, -1, -1):
        link = model.path[index]
        number = link & NUMBER_MASK
        start = origin + (link >> START_SHIFT)
        if number == model.ids.size - 1 or number == model.unknown:
            unknown = start if unknown < 0 else unknown
            continue
        if unknown >= 0:
            num_tokens = _note_unknown(values, unknown, start, model, num_tokens, out)
            unknown = -1
        out[num_tokens] = start
        num_tokens += 1
    return num_tokens, unknown


@tuple_splice
def _note_unknown(
    values: Bytes, start: int, stop: int, model: UnigramTables, num_tokens: int, out: Int64
) -> int:
    """Write where the tokens of unknown text begin, which is where the text begins."""
    count, _ = read_unknown(values, start, stop, model)
    for token in range(num_tokens, num_tokens + count):
        out[token] = start
    return num_tokens + count


@tuple_kernel
def find_token_begins(
    values: Bytes, model: UnigramTables, is_single: bool, out_begins: Int64
) -> int:
    """Find where each token of a text begins.

    Args:
        values: uint8, valid UTF-8.
        model: the tokenizer.
        is_single: whether scores are added in single precision.
        out_begins: int64 ``[values.size]``.

    Returns:
        The number of tokens; or less than 0, for how many bytes there must be room.
    """
    size = values.size
    if is_single:
        count, origin, unknown = search_best(
            keep_best,
            add_single,
            take_single,
            _note_path,
            values,
            0,
            size,
            0.0,
            model,
            0,
            out_begins,
        )
    else:
        count, origin, unknown = search_best(
            keep_best,
            add_scores,
            take_score,
            _note_path,
            values,
            0,
            size,
            0.0,
            model,
            0,
            out_begins,
        )
    if count == UNKNOWN:
        return -origin
    count, unknown = _note_path(values, origin, size - origin, model, 0, unknown, count, out_begins)
    if unknown >= 0:
        count = _note_unknown(values, unknown, size, model, count, out_begins)
    return count
