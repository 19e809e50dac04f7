"""Checks of the quality of a corpus: counted in each unit, evaluated when the stage ends.

A survey counts, so that the counts of all units add up to the same for any number of workers. It
looks at every file and every unknown token, and at a sample of whole documents: all of a small
unit, and evenly spread ones of a large unit, which takes less than 1% of the time of encoding.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.accounts import Accounts
from tokkit.errors import plural
from tokkit.kernels.arrays import Ids, Int64
from tokkit.shards.arrow import string_array, string_buffers, text_arrays
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokkit.tokenizer.encoder import Encoder

# A sample has this many bytes of a unit, and one in so many of those beyond.
_SAMPLE_BYTES = 1 << 18
_SAMPLE_EVERY = 64
_SMALLEST_SAMPLE = 1 << 10
# Documents with unknown tokens that are looked at in a batch, and bytes of each.
_UNKNOWN_DOCUMENTS = 16
_UNKNOWN_BYTES = 4096

# Tokens or characters that are looked at together.
_PART = 1 << 16

_CONTROL = re.compile(rb"[\0-\x08\v\f\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xef\xbf\xbd")
# By byte: the regular expression alone took a twentieth of the time of a whole command.
_BEGINS_CONTROL = np.array([byte < 32 or byte in (0x7F, 0xC2, 0xEF) for byte in range(256)])
_BEGINS_CONTROL[[9, 10, 13]] = False

# Limits of the warnings. Novels of a paragraph a line have up to 1.4 MB and 6,000 lines; where
# there are several, a file may well be a document.
_HUGE_FILE = 1_500_000
_MANY_LINES = 250
_MANY_FILES = 5
_SMALL_FILE = 1_000_000
_SHORT_DOCUMENT = 1000  # bytes, as paragraphs have
_MANY_DOCUMENTS = 100
_FEW_TOKENS = 40  # of two letters or more
_FEW_HAN_TOKENS = 1000


class TextSurvey:
    """Counts of one unit.

    Args:
        tokenizer: of the stage.
        encoder: its encoder.

    Attributes:
        counts: by name; a character or script follows a name that ends in a space.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: "Encoder") -> None:
        self.counts: Counter[str] = Counter()
        self._tokenizer, self._encoder = tokenizer, encoder
        self._room = _SAMPLE_BYTES
        self._num_documents = self._num_bytes = self._num_lines = 0

    def end_file(self, *, is_whole_text: bool) -> None:
        """Count a file whose documents were added.

        Args:
            is_whole_text: whether it is a whole file of plain text that was cut at blank lines.
        """
        kind = "cut" if self._num_documents > 1 else "other"
        if kind == "other" and self._num_lines > _MANY_LINES:
            kind = "huge" if self._num_bytes > _HUGE_FILE else "long"
        if is_whole_text:
            self.counts[f"{kind} files"] += 1
            self.counts[f"{kind} bytes"] += self._num_bytes
            self.counts[f"{kind} documents"] += self._num_documents
        self._num_documents = self._num_bytes = self._num_lines = 0

    def add_documents(self, texts: pa.LargeStringArray) -> None:
        """Count documents of a file, and letters and control characters of a sample of them."""
        from tokkit.kernels.scan import LF, count_byte  # compiles kernels

        values, offsets = string_buffers(texts)
        size = int(offsets[-1] - offsets[0])
        self._num_documents += len(texts)
        self._num_bytes += size
        if len(texts) == 1:
            inside = values[offsets[0] : offsets[-1]]
            self._num_lines += count_byte(inside, LF)
        self._room += size // _SAMPLE_EVERY
        if not size or self._room < _SMALLEST_SAMPLE:
            return
        step = min(-(-size // self._room), len(texts))
        if len(texts) > 1 < step:
            rows = zip(offsets[:-1:step].tolist(), offsets[1::step].tolist(), strict=True)
            parts = [values[start:stop] for start, stop in rows]
            values, offsets = np.concatenate(parts), np.cumsum([0, *map(len, parts)])
        data = values[offsets[0] : offsets[-1]][: self._room].tobytes()
        self._room -= len(data)
        bounds = offsets - offsets[0]
        self.counts["sampled"] += int(np.searchsorted(bounds, len(data)))
        suspects = np.flatnonzero(_BEGINS_CONTROL[np.frombuffer(data, np.uint8)]).tolist()
        found = [place for place in suspects if _CONTROL.match(data, place)]
        # np.unique would import numpy.ma, which takes 10 ms.
        self.counts["with controls"] += len({*np.searchsorted(bounds, found, "right").tolist()})
        for character, number in count_characters(data.decode(errors="ignore")):
            if character.isalpha():
                self.counts[f"letters {script_of(character)}"] += number

    def add_texts(self, offsets: Int64) -> None:
        """Count texts that sentencepiece does not get whole: int64 ``[num_texts + 1]``, in bytes."""
        if self._tokenizer.processor is not None:
            from tokkit.tokenizer.library_encoder import WHOLE_TEXT_BYTES  # compiles kernels

            windowed = np.diff(offsets) > WHOLE_TEXT_BYTES
            self.counts["windowed texts"] += int(np.count_nonzero(windowed))

    def add_unknown(self, texts: pa.LargeStringArray, documents: Int64) -> None:
        """Count characters that have no token, in a sample of the documents.

        Args:
            texts: all documents.
            documents: int64 ``[num_documents]``, which of them have unknown tokens.
        """
        values, bounds = string_buffers(texts)
        unknown_id = self._tokenizer.special_ids["unk"]
        step = -(-len(documents) // _UNKNOWN_DOCUMENTS)
        for document in documents[:: max(step, 1)].tolist():
            text = values[bounds[document] : bounds[document + 1]][:_UNKNOWN_BYTES].tobytes()
            numbers = dict(count_characters(text.decode(errors="ignore")))
            for character in find_unknown_characters(self._encoder, [*numbers], unknown_id):
                self.counts[f"unknown {character}"] += numbers[character]


def find_unknown(ids: Ids, unknown_id: int, offsets: Int64) -> tuple[int, Int64]:
    """Return the number of unknown tokens, and the documents that have any, in order.

    Args:
        ids: uint16 or uint32 ``[num_tokens]``.
        unknown_id: of the unknown token; -1 if there is none.
        offsets: int64 ``[num_documents + 1]``, the tokens of each document.
    """
    number, documents = 0, [np.zeros(0, np.int64)]
    # Part by part, in the processor's cache: few batches have any.
    for start in range(0, len(ids), _PART):
        found = np.flatnonzero(ids[start : start + _PART] == unknown_id)
        number += len(found)
        if len(found):
            first = int(np.searchsorted(offsets, start + found[0], "right")) - 1
            stop = int(np.searchsorted(offsets, start + found[-1], "right"))
            before = np.searchsorted(found, offsets[first : stop + 1] - start)
            documents.append(first + np.flatnonzero(np.diff(before)))
    joined = np.concatenate(documents)
    return number, joined[np.flatnonzero(np.diff(joined, prepend=-1))]


def find_warnings(
    counts: Mapping[str, int], accounts: Accounts, tokenizer: Tokenizer, config: EncodeConfig
) -> list[str]:
    """Return a line for each thing that looks wrong, with what to do.

    Args:
        counts: of all units.
        accounts: of the corpus.
        tokenizer: of the stage.
        config: of the stage.
    """
    counts = Counter(counts)
    num_documents, num_tokens = accounts.kept("documents"), accounts.kept("tokens")
    warnings = []
    kinds = ("cut", "long", "huge", "other")
    is_few = sum(counts[f"{kind} files"] for kind in kinds) < _MANY_FILES
    uncut = ("long", "huge") if is_few else ("huge",)
    if files := sum(counts[f"{kind} files"] for kind in uncut):
        size = sum(counts[f"{kind} bytes"] for kind in uncut)
        warnings.append(
            f"{plural(files, 'file')} of {size:,} bytes without a blank line became one document each; pass "
            f"--documents line if a line is a document, or --documents file if a file is"
        )
    files, documents = counts["cut files"], counts["cut documents"]
    if (
        files >= _MANY_FILES
        and counts["cut bytes"] < files * _SMALL_FILE
        and counts["cut bytes"] < documents * _SHORT_DOCUMENT
    ):
        warnings.append(
            f"blank lines cut {plural(files, 'file')} into {documents:,} documents of "
            f"{counts['cut bytes'] // documents:,} bytes on average; pass --documents file if a file "
            f"is a document"
        )
    is_meant = config.sentences == "none" or config.documents == "line"
    if num_documents == accounts.kept("sentences") >= _MANY_DOCUMENTS and not is_meant:
        has_several = sum(counts[f"{kind} files"] for kind in kinds) > 1
        warnings.append(
            f"each of the {num_documents:,} documents has one sentence, so that --objective nsp of "
            f"tokkit build will find random pairs only; if blank lines stand between the sentences "
            f"of a text, remove them{' or pass --documents file' * has_several}, else build with "
            f"--objective mlm"
        )
    if texts := counts["windowed texts"]:
        warnings.append(
            f"{plural(texts, 'text')} reached sentencepiece in overlapping windows, and some ids may "
            f"differ from those of one call, in which rounding errors add up over many megabytes; pass "
            f"--sentences lines if each line is a text of its own"
        )
    unknown = accounts.figures.get("unknown_tokens", 0)
    if unknown * 100 > num_tokens:
        common = [
            character if character.isprintable() else f"U+{ord(character):04X}"
            for character in _commonest(counts, "unknown ", 5)
        ]
        what = f" (commonest characters without a token: {' '.join(common)})" if common else ""
        warnings.append(
            f"{unknown / num_tokens:.2%} of the tokens are unknown{what}; use a vocabulary that was "
            f"learned from such text, see tokkit train"
        )
    letters = {name: n for name, n in counts.items() if name.startswith("letters ")}
    for script in _commonest(counts, "letters ", 10):
        share = letters[f"letters {script}"] / sum(letters.values())
        if share >= 0.1 and (known := _count_tokens(tokenizer, script)) is not None:
            warnings.append(
                f"{share:.0%} of the letters are {script.title()}, but only {known:,} of "
                f"{tokenizer.vocab_size:,} tokens are made of them; use a vocabulary that was learned "
                f"from this script, see tokkit train"
            )
    if counts["with controls"] * 100 > counts["sampled"]:
        share = counts["with controls"] / counts["sampled"]
        warnings.append(
            f"{share:.1%} of the documents contain control characters or U+FFFD, so the text may be "
            f"damaged or of another encoding; clean it before training on it"
        )
    return warnings


def _commonest(counts: Mapping[str, int], name: str, number: int) -> list[str]:
    """Return what follows ``name`` in the largest counts, in an order that is always the same."""
    found = sorted(
        (-n, key.removeprefix(name)) for key, n in counts.items() if key.startswith(name)
    )
    return [key for _, key in found[:number]]


def count_characters(text: str) -> list[tuple[str, int]]:
    """Return the characters of a text and how often each occurs, in the order of code points.

    Part by part: new memory for all of it took more time than counting.
    """
    counts = np.zeros(0, np.int64)
    for start in range(0, len(text), _PART):
        codes = np.frombuffer(text[start : start + _PART].encode("utf-32-le"), np.uint32)
        found = np.bincount(codes, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    occurring = np.flatnonzero(counts)
    return list(zip(map(chr, occurring.tolist()), counts[occurring].tolist(), strict=True))


@cache
def script_of(letter: str) -> str:
    """Return the first word of a letter's name, as its script, such as ``THAI``."""
    name = unicodedata.name(letter, "unnamed").split()[0]
    return "HAN" if name == "CJK" else name


def find_unknown_characters(
    encoder: "Encoder", characters: Sequence[str], unknown_id: int
) -> set[str]:
    """Return those of some characters that become the unknown token when they are a text alone.

    The encoder is asked, not its library, which takes 20 ms to load.
    """
    texts = string_array(*text_arrays([character.encode() for character in characters]))
    encoded = encoder.encode(texts)
    unknown = np.flatnonzero(encoded.ids == unknown_id)
    rows = np.searchsorted(encoded.offsets, unknown, "right") - 1
    return {characters[row] for row in rows.tolist()}


def _count_tokens(tokenizer: Tokenizer, script: str) -> int | None:
    """Return how many tokens are made of a script, if these are too few to encode it.

    Those are tokens with two letters of it, or of Han one. None if they are enough, or if the
    tokens of all scripts together are characters, as for proteins.
    """
    num_tokens = len(tokenizer.tokens)
    limit = min(_FEW_HAN_TOKENS if script == "HAN" else _FEW_TOKENS, num_tokens // 10)
    values: dict[str, int] = {}
    if "ByteLevel" in str(tokenizer.definition.get("decoder")):
        values = {char: byte for byte, char in enumerate(byte_level_alphabet())}
    numbers = Counter[str]()
    for token in tokenizer.tokens:
        text = token
        if values:
            text = bytes(values.get(char, 0) for char in token).decode(errors="ignore")
        scripts = [script_of(char) for char in text if char.isalpha()]
        numbers.update(name for name in set(scripts) if name == "HAN" or scripts.count(name) > 1)
        if numbers[script] >= limit:
            return None
    return None if sum(numbers.values()) < num_tokens // 2 else numbers[script]
