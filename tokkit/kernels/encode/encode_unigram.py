"""Unigram: texts to ids, word by word; a word is a space and what follows up to the next one."""

from tokkit.kernels.arrays import Bytes, Ids, Int64, UInt64
from tokkit.kernels.encode.chunk_queue import (
    LONG_CHUNK,
    WHITE_SPACE,
    Queue,
    Texts,
    find_record_ahead,
    queue_stretches,
)
from tokkit.kernels.encode.chunks import (
    DONE,
    LONG_WORD,
    NUM_TOKENS,
    Chunk,
    Progress,
    append_added,
    append_known,
    process_chunks,
)
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.unigram_lattice import (
    NUMBER_MASK,
    START_SHIFT,
    UnigramTables,
    add_scores,
    add_single,
    append_path,
    append_unknown,
    keep_best,
    read_path,
    read_unknown,
    search_best,
    take_score,
    take_single,
)
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    SHORT_KEY,
    UNKNOWN,
    WORD_MISSES,
    TokenBuffer,
    WordCache,
    drop_starts,
    put_word,
)
from tokkit.kernels.encode.word_queue import append_word
from tokkit.kernels.jit import kernel, splice


@splice
def _append_chunk(
    tables: tuple[UnigramTables, WordCache, TokenBuffer],
    values: Bytes,
    chunk: Chunk,
    num_tokens: int,
) -> Progress:
    """Append the tokens of a word, and cache them; see ``process_chunks``."""
    model, cache, out = tables
    start, stop = chunk.start, chunk.stop
    if stop - start <= SHORT_KEY:
        cache.counters[WORD_MISSES] += 1
    else:
        last = append_word(cache, values, start, stop, CHUNK, num_tokens, out)
        if last != UNKNOWN:
            return last, stop, DONE, 0
    last, origin, unknown = search_best(
        keep_best,
        add_scores,
        take_score,
        append_path,
        values,
        start,
        stop,
        0.0,
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
    put_word(cache, values, start, stop, CHUNK, num_tokens, last, out)
    return last, stop, DONE, 0


@kernel
def encode_unigram(
    values: Bytes,
    offsets: Int64,
    added: Int64,
    model: UnigramTables,
    rules: CutRules,
    cache: WordCache,
    queue: Queue,
    state: Int64,
    out_ids: Ids,
    out_starts: UInt64,
    out_offsets: Int64,
) -> int:
    """Encode texts, from where ``state`` stands.

    Args:
        values: uint8, the texts in valid UTF-8, normalized, with a space for U+2581.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        added: see ``Texts``.
        model: the tokenizer.
        rules: a text is cut before each space.
        cache: the cache of this tokenizer.
        queue: memory for this call.
        state: see ``chunks``; updated.
        out_ids: room for as many ids as the texts have bytes, and ``SPARE_IDS`` more.
        out_starts: uint64, a bit for each of ``out_ids`` and 128 more, set where a word starts; see
            ``word_cache``.
        out_offsets: int64 ``[num_texts + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE`` or ``LONG_WORD``.
    """
    drop_starts(out_starts, state[NUM_TOKENS])
    texts = Texts(values, offsets, added, rules, WHITE_SPACE, has_marks=False, longest=LONG_CHUNK)
    tables = (model, cache, TokenBuffer(out_ids, out_starts))
    return process_chunks(
        queue_stretches,
        append_known,
        _append_chunk,
        append_added,
        find_record_ahead,
        texts,
        tables,
        queue,
        state,
        out_offsets,
    )


@splice
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


@splice
def _note_unknown(
    values: Bytes, start: int, stop: int, model: UnigramTables, num_tokens: int, out: Int64
) -> int:
    """Write where the tokens of unknown text begin, which is where the text begins."""
    count, _ = read_unknown(values, start, stop, model)
    for token in range(num_tokens, num_tokens + count):
        out[token] = start
    return num_tokens + count


@kernel
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
