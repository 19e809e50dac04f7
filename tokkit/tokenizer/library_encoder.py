"""Encoding with the tokenizer's own library, for what our kernels do not support.

The library makes objects of about 100 bytes a token, so it gets about a megabyte of text at a time
(each call takes 4 ms more than its text, so that windows of 64 kB take 1.5 times as long):
several short texts, or a *window* of a long one. A window overlaps the next one, which begins at a
token of the first:

    window 1    … Ġthe Ġcat Ġsat Ġon Ġthe Ġm
    window 2                Ġsat Ġon Ġthe Ġmat Ġand …

The cut before ``Ġsat`` is accepted if the second window, which does not see the text before it,
begins with the same tokens as the first has there. For byte-pair encoding one such token is
proof, since it is compatible with its neighbors on both sides (see
``tokkit.kernels.encode.bpe_lookup``); here all tokens in a quarter of the overlap must agree. If
they agree at none of several cuts, the window grows.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64, UInt32
from tokkit.shards.arrow import boolean_array, id_dtype, string_buffers
from tokkit.tokenizer.characters import WordCharacters, cut_at_words
from tokkit.tokenizer.continuing_library import make_continuing_library
from tokkit.tokenizer.encoded import Encoded, TextTooLongError
from tokkit.tokenizer.file_checks import find_growth
from tokkit.tokenizer.library_calls import LibraryError, single_thread, watch_library
from tokkit.tokenizer.metaspace_vocabulary import find_added_ids, find_word_tokens
from tokkit.tokenizer.tokenizer import Tokenizer

WINDOW_BYTES = 1 << 20
# Sentencepiece makes objects of 300 bytes a byte of text where it says which text a token stands for.
# Windows of 256 kB took 5% longer than those of 1 MB.
PIECE_WINDOW_BYTES = 1 << 18
LONGEST_WINDOW = 16 << 20
# Sentencepiece adds up scores in single precision, so that a choice between nearly equal ones depends
# on all that comes before: it gets texts of up to 8 MB whole.
WHOLE_TEXT_BYTES = 8 << 20
_LONGEST_OVERLAP = 1 << 14  # characters
_MAX_CUTS = 32  # cuts to try before a window grows

# Characters of its text that a token stands for: the first, and the one after the last.
Span = tuple[int, int]


@dataclass(frozen=True)
class _Part:
    """The tokens of some texts, or of a part of one.

    Attributes:
        ids: of all tokens.
        word_starts: whether each begins a word.
        counts: int64, tokens that begin before each end of a sentence in it.
    """

    ids: Ids
    word_starts: Bools
    counts: Int64


class LibraryEncoder:
    """Encodes texts with ``tokenizers`` or ``sentencepiece``.

    A token begins a word if its word differs from that of the token before, or if it is the first
    of its text; where U+2581 stands for spaces, if it begins with that, or at added tokens.

    Args:
        tokenizer: defines the ids.
        window_bytes: about how many bytes of text the library gets at a time; None for
            1 MB, or 256 kB if that is sentencepiece.
        longest_window: most bytes that it gets of a text that cannot be cut; None for 16 MB.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        window_bytes: int | None = None,
        longest_window: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        default = WINDOW_BYTES if tokenizer.processor is None else PIECE_WINDOW_BYTES
        # Normalized text takes as much memory as it is longer.
        growth = find_growth(tokenizer.definition.get("normalizer"), tokenizer.path)
        self._window_bytes = int((window_bytes or default) / max(1, growth / 4))
        self._whole_bytes = self._window_bytes
        if tokenizer.processor is not None and window_bytes is None:
            self._whole_bytes = WHOLE_TEXT_BYTES
        self._longest_window = longest_window or LONGEST_WINDOW
        self._id_dtype = np.dtype(id_dtype(tokenizer.vocab_size))
        self._word_tokens = find_word_tokens(tokenizer)

    def encode(self, texts: pa.LargeStringArray, ends: Int64 | None = None) -> Encoded:
        """Encode texts, in order; see ``Encoder.encode``."""
        values, offsets = string_buffers(texts)
        inner = np.zeros(0, np.int64) if ends is None else np.setdiff1d(ends, offsets)
        # They grow in place: to join parts, 200 MB of text would take 100 MB more at the end.
        ids, bits = bytearray(), bytearray()
        begins = np.zeros(0, np.bool_)
        counts = [np.zeros(1, np.int64)]
        for start, stop in self._slices(offsets):
            bounds = offsets[start : stop + 1]
            first, last = np.searchsorted(inner, bounds[[0, -1]])
            marks = inner[first:last]
            pieces: Iterable[_Part]
            if stop - start == 1 and bounds[1] - bounds[0] > self._whole_bytes:
                data = values[bounds[0] : bounds[1]]
                pieces = self._encode_long(data, marks - bounds[0], self._libraries[0], start)
            else:
                rows = texts[start:stop].to_pylist()
                pieces = [self._encode_short(rows, values, bounds, marks)]
            for piece in pieces:
                counts.append(len(ids) // self._id_dtype.itemsize + piece.counts)
                ids += piece.ids.data
                begins = np.concatenate([begins, piece.word_starts])
                num_whole = len(begins) // 8 * 8
                bits += np.packbits(begins[:num_whole], bitorder="little").data
                begins = begins[num_whole:]
        bits += np.packbits(begins, bitorder="little").data
        joined: Ids = np.frombuffer(ids, self._id_dtype)
        word_starts = boolean_array(np.frombuffer(bits, np.uint8), len(joined))
        return Encoded(joined, np.concatenate(counts), word_starts)

    def encode_within(self, data: Bytes, text: int) -> Iterator[tuple[Ids, Bools]]:
        """Encode a part of a text, piece by piece.

        Args:
            data: valid UTF-8 of any length, cut where that changes no ids.
            text: the number of the text, for the error.

        Yields:
            The ids of a piece, and which of them begin words.

        Raises:
            TextTooLongError: if it has millions of bytes that cannot be cut.
        """
        library = self._libraries[-1]
        if len(data) <= self._window_bytes:
            yield self._call_library([_decode(data)], library, has_spans=False)[1:3]
        else:
            for piece in self._encode_long(data, np.zeros(0, np.int64), library, text):
                yield piece.ids, piece.word_starts

    def find_begins(self, data: Bytes) -> Int64:
        """Return the byte at which each token of a part of a text begins: int64 ``[num_tokens]``."""
        *_, find_spans = self._call_library([_decode(data)], self._libraries[-1])
        places = np.flatnonzero(_begins_character(data))
        return places[[start for start, _ in find_spans(0)]]

    def _slices(self, offsets: Int64) -> Iterator[tuple[int, int]]:
        """Yield bounds of runs of at least one text, of about ``window_bytes`` together."""
        start = 0
        while start < len(offsets) - 1:
            limit = offsets[start] + self._window_bytes
            stop = max(start + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
            yield start, stop
            start = stop

    def _encode_short(self, texts: list[str], values: Bytes, bounds: Int64, marks: Int64) -> _Part:
        """Encode texts with one call.

        Args:
            texts: the texts.
            values: their bytes.
            bounds: int64 ``[num_texts + 1]``, into ``values``.
            marks: int64, where sentences end within texts, into ``values``.
        """
        try:
            called = self._call_library(texts, self._libraries[0], has_spans=marks.size > 0)
        except LibraryError:
            for one in texts:  # which of them it is
                self._call_library([one], self._libraries[0])
            raise
        lengths, ids, word_starts, find_spans = called
        counts = lengths.cumsum()
        if marks.size:
            rows = np.searchsorted(marks, bounds)
            found = []
            for text, (first, last) in enumerate(pairwise(rows.tolist())):
                if last > first:
                    data = values[bounds[text] : bounds[text + 1]]
                    inner = _count_begins(data, marks[first:last] - bounds[text], find_spans(text))
                    found.append(counts[text] - lengths[text] + inner)
                found.append(counts[text : text + 1])
            counts = np.concatenate(found)
        return _Part(ids, word_starts, counts)

    def _encode_long(self, data: Bytes, marks: Int64, library: Any, number: int) -> Iterator[_Part]:
        """Encode one text window by window.

        Args:
            data: valid UTF-8.
            marks: int64, where sentences end within it.
            library: encodes the first window.
            number: the number of the text, for the error.
        """
        if self._tokenizer.pipeline == "bert" and not marks.size:
            yield from self._encode_words(_decode(data))
            return
        start = 0
        size = self._window_bytes
        begins_word = True
        while start < len(data):
            stop = min(len(data), start + size)
            while stop < len(data) and data[stop] & 0xC0 == 0x80:
                stop -= 1
            text = _decode(data[start:stop])
            _, ids, word_starts, find_spans = self._call_library([text], library)
            spans = find_spans(0)
            cut, num_tokens = len(text), len(ids)
            restart = self._find_restart(library, text, ids, spans)
            if restart is not None:
                cut, num_tokens, library = spans[restart][0], restart, self._libraries[0]
            elif stop < len(data):
                found = self._find_cut(text, ids, spans)
                if found is None:
                    if size >= self._longest_window:
                        raise TextTooLongError(size, number)
                    size *= 2
                    continue
                cut, num_tokens, library = found
            if num_tokens:
                word_starts[0] = begins_word
            begins_word = num_tokens == len(ids) or bool(word_starts[num_tokens])
            end = start + len(text[:cut].encode())
            first, last = np.searchsorted(marks, [start, end], "right")
            counts = _count_begins(data[start:stop], marks[first:last] - start, spans)
            if end == len(data):
                counts = np.append(counts, num_tokens)
            yield _Part(ids[:num_tokens], word_starts[:num_tokens], counts)
            start = end
            size = self._window_bytes

    def _find_cut(self, text: str, ids: Ids, spans: list[Span]) -> tuple[int, int, Any] | None:
        """Return where the next window can begin.

        Returns:
            The character, the number of tokens before it, and the library that encodes what
            follows; None if no cut is right.
        """
        overlap = min(_LONGEST_OVERLAP, len(text) // 4)
        lowest = bisect_left(spans, (len(text) - overlap,))
        highest = bisect_left(spans, (len(text) - overlap // 2,))
        last = bisect_left(spans, (len(text) - overlap // 4,))
        cuts = [
            (not text[spans[token - 1][1]].isspace(), token)
            for token in range(max(1, lowest), min(highest, last))
            if spans[token - 1][1] <= spans[token][0]
        ]
        for _, token in sorted(cuts)[:_MAX_CUTS]:
            cut = spans[token - 1][1]
            for library in self._libraries:
                _, next_ids, _, _ = self._call_library([text[cut:]], library)
                if np.array_equal(next_ids[: last - token], ids[token:last]):
                    return cut, token, library
        return None

    def _find_restart(self, library: Any, text: str, ids: Ids, spans: list[Span]) -> int | None:
        """Return the first added token, behind which only the first library puts white space."""
        if library is self._libraries[0] or self._tokenizer.processor is not None:
            return None
        for token in np.flatnonzero(np.isin(ids, find_added_ids(self._tokenizer))).tolist():
            alone = self._call_library([text[slice(*spans[token])]], self._libraries[0])
            if alone[1].tolist() == [ids[token]]:
                return token  # and no part of a word
        return None

    def _encode_words(self, text: str) -> Iterator[_Part]:
        """Encode a text with BERT's pre-tokenizer, cut at words."""
        characters = WordCharacters.of_definition(self._tokenizer.definition)
        limit = self._tokenizer.definition["model"]["max_input_chars_per_word"]
        for piece in cut_at_words(text, characters, limit, self._window_bytes):
            called = self._call_library([piece], self._libraries[0], has_spans=False)
            lengths, ids, word_starts, _ = called
            yield _Part(ids, word_starts, lengths[:0])
        yield _Part(ids[:0], word_starts[:0], np.zeros(1, np.int64))

    @cached_property
    def _libraries(self) -> list[Any]:
        """The tokenizer's library, and one that goes on behind other text if it needs one."""
        library = self._tokenizer.processor or self._tokenizer.library
        other = make_continuing_library(self._tokenizer)
        return [library] if other is None else [library, other]

    def _call_library(
        self, texts: list[str], library: Any, *, has_spans: bool = True
    ) -> tuple[Int64, Ids, Bools, Callable[[int], list[Span]]]:
        """Encode texts with the library.

        Args:
            texts: the texts.
            library: one of ``_libraries``.
            has_spans: whether the spans of tokens are needed. Without them and the numbers of words,
                tokenizers takes a quarter less time for Mistral's model.

        Returns:
            How many tokens each text has, all their ids, which of them begin words, and a function
            that returns the spans of the tokens of one text.
        """
        words: Iterable[list[int]] = ()
        with single_thread(), watch_library(self._tokenizer.path, texts):
            if self._tokenizer.processor is not None:
                encodings = lists = library.encode(texts, out_type=int, num_threads=1)
            else:
                is_fast = not has_spans and self._word_tokens is not None
                encode_batch = library.encode_batch_fast if is_fast else library.encode_batch
                encodings = encode_batch(texts, add_special_tokens=False)
                # One by one: the lists of a megabyte of text are larger than the processor's cache.
                lists = (encoding.ids for encoding in encodings)
                words = (encoding.word_ids for encoding in encodings)

        def find_spans(text: int) -> list[Span]:
            if self._tokenizer.processor is None:
                spans: list[Span] = encodings[text].offsets
            else:
                spans = library.encode(texts[text], return_type="offset_mapping")["offsets"]
            return spans

        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = _join(lists)  # an id beyond the vocabulary is refused before it is narrowed
        if self._word_tokens is not None:
            begins, is_added = self._word_tokens[:, ids]
            word_starts = begins | is_added
            word_starts[1:] |= is_added[:-1]
        else:
            numbers = _join(words)
            word_starts = np.ones(len(ids), np.bool_)
            np.not_equal(numbers[1:], numbers[:-1], out=word_starts[1:])
        word_starts[(lengths.cumsum() - lengths)[lengths > 0]] = True
        self._replace_special(ids)
        return lengths, ids.astype(self._id_dtype, copy=False), word_starts, find_spans

    def _replace_special(self, ids: Ids) -> None:
        """Replace special tokens by ``unk``, in place.

        Some models find them in text: a WordPiece that cuts at white space alone finds ``[SEP]`` in
        its vocabulary, and sentencepiece does where ``[SEP]`` is a user-defined symbol.

        Raises:
            TokkitError: if there is no ``unk``.
        """
        found = np.flatnonzero(self._tokenizer.forbidden[ids])
        if not len(found):
            return
        unknown = self._tokenizer.special_ids.get("unk")
        if unknown is None:
            raise TokkitError(
                f"{self._tokenizer.path}: text would be encoded as the special token "
                f"{self._tokenizer.tokens[ids[found[0]]]!r}, and there is no unknown token to use "
                f"instead; name one as unk_token in a tokenizer_config.json next to this file"
            )
        ids[found] = unknown


def _join(lists: Iterable[list[int]]) -> UInt32:
    """Join lists; three times as fast as NumPy, which takes numbers of any kind."""
    joined = array("I")
    for numbers in lists:
        joined.fromlist(numbers)
    return np.frombuffer(joined, np.uint32)


def _decode(data: Bytes) -> str:
    return data.tobytes().decode()


def _begins_character(data: Bytes) -> Bools:
    """Return whether each byte of UTF-8 is the first of its character."""
    begins: Bools = data & 0xC0 != 0x80
    return begins


def _count_begins(data: Bytes, marks: Int64, spans: list[Span]) -> Int64:
    """Return how many tokens begin before each mark, which is a byte of the text."""
    characters = np.cumsum(_begins_character(data))[marks - 1].tolist()
    return np.array([bisect_left(spans, (character,)) for character in characters], np.int64)
