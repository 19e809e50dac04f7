r"""Where the sentences of documents end.

With ``auto`` and ``none`` the tokenizer gets each document as one text, and the ends of sentences
are marks in it. With ``lines``, which is BERT's own input format, each line is a text:

                "A cat.  It sat.\nOn it. "      texts                          ends
    auto        sentencex's sentences           the document                   6, 15, 23
    lines       lines that are not blank        A cat.  It sat. | On it.␣      each text's end
    none        the document                    the document                   its end

White space between two sentences belongs to the second, so that a token such as ``ĠIt`` begins in
the sentence whose word it is; that at the end of a document belongs to its last sentence.

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

To add a method, write a function, add it to ``SPLITTERS`` below, and add its name to the choices of
``--sentences`` in ``encoding/encode_config.py``.
"""

import codecs
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import sentencex

from tokkit.corpus.corpus_config import language_code, require_language
from tokkit.corpus.units import WIDE_SPACE
from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Int64
from tokkit.kernels.scan import CR, LF, count_byte, find_lines
from tokkit.kernels.string_columns import copy_documents
from tokkit.shards.arrow import string_array, string_buffers

WINDOW = 1 << 12
LONGEST_SENTENCE = 1 << 16
# Bytes to decode at a time: as str, a text of 200 MB with curly quotes takes 400 MB.
BLOCK = 1 << 20

_SPACE_BYTES = np.array([byte < 0x80 and chr(byte).isspace() for byte in range(256)])
_WIDE_SPACE = re.compile(WIDE_SPACE)
_WIDE_BEFORE_STOP = re.compile(r"[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]\.")
_INITIAL = re.compile(r"(?:\A|(?<=[\s./]))[A-Z][\s./]+\.")
_WHITE_SPACE = " \t\n\v\f\r"
_TERMINATORS = frozenset(".!?…。．！？｡।॥۔؟։።፧။៕")  # noqa: RUF001  full stops of many scripts
_CLOSERS = frozenset("\"'”’»›」』）)]")  # noqa: RUF001  closing marks of many scripts


@dataclass(frozen=True)
class Sentences:
    """The sentences of some documents.

    Attributes:
        texts: large_string, what the tokenizer encodes: documents, or lines; none is empty.
        ends: int64 ``[num_sentences]``, where each sentence ends in the value buffer of ``texts``,
            ascending; each text's end is among them.
        offsets: int64 ``[num_documents + 1]``, into ``ends``; a document has at least one.
    """

    texts: pa.LargeStringArray
    ends: Int64
    offsets: Int64

    def find_document(self, text: int) -> int:
        """Return the number of the document that a text is in."""
        _, bounds = string_buffers(self.texts)
        sentence = np.searchsorted(self.ends, bounds[text + 1])
        return int(np.searchsorted(self.offsets, sentence, "right")) - 1


def split_sentences(
    texts: pa.LargeStringArray,
    sentences: str,
    language: str = "en",
    languages: pa.StringArray | None = None,
) -> Sentences:
    """Find the sentences of documents.

    Args:
        texts: large_string ``[num_documents]``, valid UTF-8, not of white space alone.
        sentences: the option: ``auto``, ``lines`` or ``none``.
        language: language code for ``auto``.
        languages: string ``[num_documents]``, each document's own, null or empty without one.

    Raises:
        UsageError: if ``language`` is no language code.
        TokkitError: if one of ``languages`` is no language code.
    """
    return SPLITTERS[sentences](texts, language, languages)


def _split_lines(texts: pa.LargeStringArray) -> Sentences:
    """Return each line as a text and a sentence."""
    values, offsets = string_buffers(texts)
    inside = values[offsets[0] : offsets[-1]]
    most = len(texts) + count_byte(inside, LF) + count_byte(inside, CR)
    if most == len(texts):  # documents are lines
        return _keep_whole(texts)
    starts = np.empty(most, dtype=np.int64)
    stops = np.empty_like(starts)
    line_offsets = np.empty(len(texts) + 1, dtype=np.int64)
    count = find_lines(values, offsets, starts, stops, line_offsets)
    starts, stops = starts[:count], stops[:count]
    out_values = np.empty(int((stops - starts).sum()), dtype=np.uint8)
    out_offsets = np.empty(count + 1, dtype=np.int64)
    kept = np.empty(count, dtype=np.int64)
    as_text_file = False
    copy_documents(values, starts, stops, as_text_file, out_values, out_offsets, kept)
    return Sentences(string_array(out_values, out_offsets), out_offsets[1:], line_offsets)


def _keep_whole(texts: pa.LargeStringArray) -> Sentences:
    """Return each document as a sentence."""
    _, offsets = string_buffers(texts)
    return Sentences(texts, offsets[1:], np.arange(len(texts) + 1))


def _split_by_library(
    texts: pa.LargeStringArray, language: str, languages: pa.StringArray | None
) -> Sentences:
    """Find the sentences of documents by sentencex, each in its own language if it has one."""
    default = require_language(language)
    values, bounds = string_buffers(texts)
    own_languages = [None] * len(texts) if languages is None else languages.to_pylist()
    ends: list[int] = []
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    for index, own in enumerate(own_languages):
        code = language_code(own) if own else default
        if code is None:
            raise TokkitError(
                f"a record gives its language as {own!r}, which is no language code, such as en, "
                f"de or pt-BR; omit --language-field to use --language for all records"
            )
        start, stop = int(bounds[index]), int(bounds[index + 1])
        ends.extend(start + end for end in find_ends(values[start:stop].data, code))
        ends[-1] = stop
        offsets[index + 1] = len(ends)
    return Sentences(texts, np.array(ends, dtype=np.int64), offsets)


# By the names of ``--sentences``.
SPLITTERS: Mapping[str, Callable[[pa.LargeStringArray, str, pa.StringArray | None], Sentences]] = {
    "auto": _split_by_library,
    "lines": lambda texts, *_: _split_lines(texts),
    "none": lambda texts, *_: _keep_whole(texts),
}


def find_word_ends(texts: pa.LargeStringArray) -> Int64:
    """Return where white space begins within texts, after something else.

    Args:
        texts: large_string, valid UTF-8.

    Returns:
        int64, positions in the value buffer of ``texts``, ascending.
    """
    values, offsets = string_buffers(texts)
    inside = values[offsets[0] : offsets[-1]]
    is_space = _SPACE_BYTES[inside]
    for match in _WIDE_SPACE.finditer(inside.data):
        is_space[match.start() : match.end()] = True
    ends: Int64 = offsets[0] + 1 + np.flatnonzero(is_space[1:] > is_space[:-1])
    return ends


def find_ends(text: memoryview, code: str) -> Iterator[int]:
    """Find the sentences of one text by sentencex, block by block.

    Args:
        text: valid UTF-8.
        code: sentencex's code of its language.

    Yields:
        The byte after the last one of each sentence, white space after it excluded.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    position = 0
    for start in range(0, len(text), BLOCK):
        final = start + BLOCK >= len(text)
        rest += decoder.decode(text[start : start + BLOCK], final)
        ends, used = _cut_text(rest, code, final=final)
        is_ascii = rest.isascii()
        for first, end in pairwise([0, *ends]):
            position += end - first if is_ascii else len(rest[first:end].encode())
            yield position
        position += len(rest[ends[-1] if ends else 0 : used].encode())
        rest = rest[used:]


def _cut_text(text: str, code: str, *, final: bool) -> tuple[list[int], int]:
    """Return where sentences of a text end, white space excluded, and where to go on.

    Unless the text is ``final``, enough is left to find where the next sentence ends, so that the
    sentences do not depend on the blocks.
    """
    ends: list[int] = []
    start = 0
    window = WINDOW
    while len(text) - start > (window if final else LONGEST_SENTENCE):
        stop = _find_line_end(text, start, start + window)
        if stop > start:
            ends += _segment(text, start, stop, code)
        else:
            found = _segment(text, start, start + window, code)
            del found[bisect_right(found, start + window * 3 // 4) :]
            if found:
                rest = text[found[-1] : start + window]
                stop = start + window - len(rest.lstrip())
            elif window < LONGEST_SENTENCE:
                window *= 2
                continue
            else:
                stop = _find_space(text, start, start + window)
                found = [start + len(text[start:stop].rstrip())]
            ends += found
        start = stop
        window = WINDOW
    if final:
        ends += _segment(text, start, len(text), code)
        start = len(text)
    return ends, start


def _segment(text: str, start: int, stop: int, code: str) -> list[int]:
    """Return where the sentences that sentencex finds in a part of a text end.

    The library leaves out some white space of texts above 10 kB, so each sentence is looked up.
    """
    part = _narrow_initials(text[start:stop])
    ends = []
    position = 0
    for piece in sentencex.segment(code, part):
        sentence = piece.strip()
        found = part.find(sentence, position) if sentence else -1
        if found >= 0:
            position = found + len(sentence)
            ends.append(start + position)
    return ends


def _narrow_initials(text: str) -> str:
    r"""Replace wide white space between an initial and its full stop, as in ``J\xa0.``, by spaces.

    sentencex 1.0.32 takes it for one byte, and panics.
    """
    if not _WIDE_BEFORE_STOP.search(text):
        return text
    return _INITIAL.sub(lambda found: _WIDE_BEFORE_STOP.sub(" .", found[0]), text)


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


def _find_space(text: str, start: int, stop: int) -> int:
    """Return where to cut a window without an end of a sentence: see the module, 4."""
    last = max(text.rfind(space, start + 1, stop) for space in _WHITE_SPACE)
    return last + 1 if last > start else stop
