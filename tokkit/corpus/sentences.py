r"""Splitting documents into sentences.

With ``lines`` each line is a sentence, which is BERT's own input format, and with ``none`` each
document; a kernel finds them in the bytes of the column. With ``auto`` the sentencex library splits
text, as ``str``. ASCII white space at both ends of a sentence is removed, and nothing else.

The library's time grows with the square of the length of a paragraph. Its paragraphs end at blank
lines, which a document between blank lines does not have: it splits the paragraphs of 49 books at
51 MB/s, but the same books, each in one piece, at 13 MB/s. There, one stray quotation mark joins
all that follows: the longest "sentence" had 131,539 characters. So the library gets a text longer
than ``WINDOW`` in pieces, at 48 MB/s, each of which ends at the first of these that exists:

1. the last blank line in the window;
2. the last line end after a full stop or similar;
3. the last sentence that ends in the first three quarters of the window, where the library sees
   what follows; if none does, the window doubles;
4. if a window of ``LONGEST_SENTENCE`` holds no end of a sentence, its last white space, or its end.

A text whose paragraphs all fit into a window is split as the library splits it in one piece.

To add a method: write a function, add it to ``SPLITTERS`` below, and add its name to the choices of
``--sentences`` in ``encoding/encode_config.py``.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import sentencex
from numpy.typing import NDArray

from tokkit.corpus.languages import language_code, require_language
from tokkit.errors import TokkitError
from tokkit.kernels.scan import LF, copy_documents, count_byte, find_sentences
from tokkit.shards.arrow import read_only, string_array, string_buffers

WINDOW = 1 << 12
LONGEST_SENTENCE = 1 << 16
# Bytes to decode at a time: as str, a text of 200 MB with curly quotes takes 400 MB.
BLOCK = 1 << 20

_MOST_STRINGS = 1 << 16

Sentences = tuple[pa.LargeStringArray, NDArray[np.int64]]  # see ``split_sentences``

_WHITE_SPACE = " \t\n\v\f\r"
_TERMINATORS = frozenset(".!?…。．！？｡।॥۔؟։።፧။៕")  # noqa: RUF001  full stops of many scripts
_CLOSERS = frozenset("\"'”’»›」』）)]")  # noqa: RUF001  closing marks of many scripts


def split_sentences(
    texts: pa.LargeStringArray,
    sentences: str,
    language: str = "en",
    languages: pa.StringArray | None = None,
) -> Sentences:
    """Sentences documents into sentences.

    Args:
        texts: large_string ``[num_documents]``, valid UTF-8, not of white space alone.
        sentences: the option: ``auto``, ``lines`` or ``none``.
        language: language code for ``auto``.
        languages: string ``[num_documents]``, each document's own, null or empty without one.

    Returns:
        The sentences of all documents in order, large_string, none empty; and their offsets by
        document, int64 ``[num_documents + 1]``. A document has at least one.

    Raises:
        UsageError: if ``language`` is no language code.
        TokkitError: if one of ``languages`` is no language code.
    """
    return SPLITTERS[sentences](texts, language, languages)


def _split_by_kernel(texts: pa.LargeStringArray, *, at_line_ends: bool) -> Sentences:
    """Return each line as a sentence, or each document."""
    values, offsets = string_buffers(texts)
    values = read_only(values)
    num_line_ends = 0
    if at_line_ends:
        num_line_ends = count_byte(values[offsets[0] : offsets[-1]], LF)
    by_line = num_line_ends > 0
    starts = np.empty(len(texts) + num_line_ends, dtype=np.int64)
    stops = np.empty_like(starts)
    sentence_offsets = np.empty(len(texts) + 1, dtype=np.int64)
    count = find_sentences(values, read_only(offsets), by_line, starts, stops, sentence_offsets)
    starts, stops = starts[:count], stops[:count]
    num_bytes = int((stops - starts).sum())
    if num_bytes == offsets[-1] - offsets[0]:  # nothing is removed
        return string_array(values, np.append(starts, offsets[-1])), sentence_offsets
    out_values = np.empty(num_bytes, dtype=np.uint8)
    out_offsets = np.empty(count + 1, dtype=np.int64)
    kept = np.empty(count, dtype=np.int64)
    copy_documents(values, read_only(starts), read_only(stops), out_values, out_offsets, kept)
    return string_array(out_values, out_offsets), sentence_offsets


def _split_by_library(
    texts: pa.LargeStringArray, language: str, languages: pa.StringArray | None
) -> Sentences:
    """Sentences documents by sentencex, each in its own language if it has one."""
    default = require_language(language)
    values, bounds = string_buffers(texts)
    own_languages = [None] * len(texts) if languages is None else languages.to_pylist()
    done = [pa.array([], pa.large_string())]
    sentences: list[str] = []
    num_sentences = 0
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    for index, own in enumerate(own_languages):
        code = language_code(own) if own else default
        if code is None:
            raise TokkitError(
                f"a record gives its language as {own!r}, which is no language code, such as en, "
                f"de or pt-BR; omit --language-field to use --language for all records"
            )
        for found in split_utf8(values[bounds[index] : bounds[index + 1]].data, code):
            sentences += found
            num_sentences += len(found)
            if len(sentences) > _MOST_STRINGS:
                done.append(pa.array(sentences, pa.large_string()))
                sentences = []
        offsets[index + 1] = num_sentences
    done.append(pa.array(sentences, pa.large_string()))
    return pa.concat_arrays(done), offsets


# By the names of ``--sentences``.
SPLITTERS: Mapping[str, Callable[[pa.LargeStringArray, str, pa.StringArray | None], Sentences]] = {
    "auto": _split_by_library,
    "lines": lambda texts, *_: _split_by_kernel(texts, at_line_ends=True),
    "none": lambda texts, *_: _split_by_kernel(texts, at_line_ends=False),
}


def split_utf8(text: memoryview, code: str) -> Iterator[list[str]]:
    """Sentences one text by sentencex, block by block.

    Args:
        text: valid UTF-8.
        code: sentencex's code of its language.

    Yields:
        The sentences that end in each block, without surrounding white space.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    for start in range(0, len(text), BLOCK):
        final = start + BLOCK >= len(text)
        rest += decoder.decode(text[start : start + BLOCK], final)
        pieces, used = _cut_text(rest, code, final=final)
        rest = rest[used:]
        yield [sentence for piece in pieces if (sentence := piece.strip(_WHITE_SPACE))]


def _cut_text(text: str, code: str, *, final: bool) -> tuple[list[str], int]:
    """Return the sentences of a text with the white space between them, and their length.

    Unless the text is ``final``, enough is left to find where the next sentence ends, so that the
    sentences do not depend on the blocks.
    """
    pieces: list[str] = []
    start = 0
    window = WINDOW
    while len(text) - start > (window if final else LONGEST_SENTENCE):
        stop = _find_line_end(text, start, start + window)
        if stop > start:
            pieces += sentencex.segment(code, text[start:stop])
        else:
            found = _split_window(text[start : start + window], code)
            if not found and window < LONGEST_SENTENCE:
                window *= 2
                continue
            found = found or [text[start : _find_space(text, start, start + window)]]
            stop = start + sum(map(len, found))
            pieces += found
        start = stop
        window = WINDOW
    if final:
        pieces += sentencex.segment(code, text[start:])
        start = len(text)
    return pieces, start


def _find_line_end(text: str, start: int, stop: int) -> int:
    """Return where to cut after the last blank line or line that ends a sentence, or -1."""
    blank_line = text.rfind("\n\n", start, stop)
    if blank_line >= 0:
        return blank_line + 1
    line_end = text.rfind("\n", start, stop)
    while line_end >= 0:
        last = line_end - 1
        while last > start and text[last] in _CLOSERS:
            last -= 1
        if last >= start and text[last] in _TERMINATORS:
            return line_end + 1
        line_end = text.rfind("\n", start, line_end)
    return -1


def _split_window(window: str, code: str) -> list[str]:
    """Return the sentences of one paragraph's window that end in its first three quarters."""
    sentences: list[str] = sentencex.segment(code, window)
    ends = np.cumsum([len(sentence) for sentence in sentences])
    return sentences[: int(np.searchsorted(ends, len(window) * 3 // 4, side="right"))]


def _find_space(text: str, start: int, stop: int) -> int:
    """Return where to cut a window without an end of a sentence: see the module, 4."""
    for last in range(stop - 1, start, -1):
        if text[last] in _WHITE_SPACE:
            return last + 1
    return stop
