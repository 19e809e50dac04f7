"""Where texts can be cut for a normalizer, and what it makes of the parts.

Each kind of rules asks a library what it makes of characters and pieces of text, and finds out, also
by asking, between which characters it never looks at both sides: there texts can be cut. To cut too
seldom is never wrong; it makes pieces longer.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from tokkit.kernels.arrays import Int64
from tokkit.kernels.encode.normalize import IN_CONTEXT, JOINED, LINKER, NUM_CLASSES, PLAIN
from tokkit.tokenizer.definitions import UnsupportedError
from tokkit.tokenizer.library_calls import make_empty_library
from tokkit.tokenizer.sentencepiece_model import USER_DEFINED, SentencepieceModel

# Classes of characters, in addition to those that the kernel knows.
_BEGINNING = 4  # never cut off from what is behind, such as U+0600, which is before a number
_CONSONANT = 5  # joined by a linker, in scripts of India
_PICTURE = 6  # joined by U+200D
_MEMBER = 4  # of what a regular expression matches

# Characters of what a key of a table becomes; a piece has at most 32 bytes, so 32 keys.
_LONGEST_FORM = 1000
# No character beyond is composed of two.
_LAST_COMPOSITION = 0x20000
# ModelProto.normalizer_spec without dummy prefix, removal of spaces, and U+2581 for them: a later
# value of a field overrides an earlier one.
_CHARSMAP_ALONE = b"\x1a\x06\x18\x00\x20\x00\x28\x00"
# Of these scripts no character belongs to the one before it, in any version of Unicode.
_ALONE = (range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xAC00, 0xD7A4))


class Rules(ABC):
    """What a step of a normalizer does to characters.

    Attributes:
        blocks: see ``tokkit.kernels.encode.normalize``.
    """

    def __init__(self, normalize: Callable[[str], str]) -> None:
        self._normalize = normalize
        self.blocks = np.zeros((NUM_CLASSES, NUM_CLASSES), np.uint8)
        self.blocks[:, [JOINED, LINKER]] = 0xFF

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalize texts, each by itself."""
        return list(map(self._normalize, texts))

    @abstractmethod
    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of the characters on a page."""

    def normalize_in_context(self, before: str, text: str) -> str:
        """Normalize a text that begins with an ``IN_CONTEXT`` character, or is long.

        Args:
            before: some text that stands before it.
            text: to normalize.
        """
        del before
        return self._normalize(text)


def _make_normalizer(*parts: Mapping[str, Any]) -> Callable[[str], str]:
    """Return what some normalizers of a ``tokenizer.json`` do, one after the other."""
    library = make_empty_library({"type": "Sequence", "normalizers": list(parts)})
    normalize: Callable[[str], str] = library.normalizer.normalize_str
    return normalize


def _normalize_each(normalize: Callable[[str], str], texts: list[str]) -> list[str]:
    """Normalize texts that are not affected by line feeds around them, a few hundred in one call."""
    found = normalize("\n".join(texts)).split("\n")
    return found if len(found) == len(texts) else list(map(normalize, texts))


class SingleRules(Rules):
    """Normalizers that map each character by itself.

    Args:
        parts: of a ``tokenizer.json``: ``Lowercase``, ``StripAccents``, ``Nmt``, or ``Replace`` of
            one character.
    """

    def __init__(self, *parts: Mapping[str, Any]) -> None:
        super().__init__(_make_normalizer(*parts))

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalize texts, each by itself."""
        return _normalize_each(self._normalize, texts)

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of the characters on a page."""
        return [PLAIN] * len(chars)


class UnicodeRules(SingleRules):
    """NFC, NFD, NFKC or NFKD, and then others that map each character by itself.

    A text can be cut before a character that is decomposed into something whose first character is
    neither put into order with the marks before it nor composed with what is before it.

    Args:
        parts: of a ``tokenizer.json``.
    """

    def __init__(self, *parts: Mapping[str, Any]) -> None:
        super().__init__(*parts)
        name = parts[0]["type"]
        self._decompose = _make_normalizer({"type": name.replace("C", "D")})
        self._composes = name.endswith("C")

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of the characters on a page."""
        if chars[0] == "\0":
            return [PLAIN] * len(chars)
        firsts = [form[0] for form in _normalize_each(self._decompose, chars)]
        # U+0345 has the highest combining class: all other marks are moved before it.
        ordered = _normalize_each(self._decompose, ["\u0345" + first for first in firsts])
        is_joined = [
            pair[0] != "\u0345" or first == "\u0345" or (self._composes and _may_compose(first))
            for pair, first in zip(ordered, firsts, strict=True)
        ]
        return [JOINED if joined else PLAIN for joined in is_joined]


def _may_compose(char: str) -> bool:
    """Return whether NFC may compose a character with one before it.

    What Python does not know at all may be new in the library's Unicode.
    """
    return char in _find_second_characters() or unicodedata.category(char) == "Cn"


@cache
def _find_second_characters() -> frozenset[str]:
    """Return the characters that NFC composes with one before them, as far as Python knows."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for code in range(_LAST_COMPOSITION):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


class PrecompiledRules(Rules):
    """``Precompiled`` of tokenizers, which looks up whole grapheme clusters of up to five bytes.

    In longer ones it looks up each character. So it does not matter where clusters are cut that are
    long on both sides, and all that matters can be found out with a table in which every byte but
    the line feed becomes an ``X``: a cluster of up to five bytes gives one, a longer one gives one
    for each character.

    Args:
        part: of a ``tokenizer.json``.
    """

    def __init__(self, part: Mapping[str, Any]) -> None:
        super().__init__(_make_normalizer(part))
        read_forms(b64decode(part["precompiled_charsmap"]))
        self._probe = _make_normalizer(
            {"type": "Precompiled", "precompiled_charsmap": b64encode(_probing_table()).decode()}
        )
        self.blocks[_BEGINNING] = 0xFF
        self.blocks[[JOINED, LINKER], _CONSONANT] = 1 << LINKER
        self.blocks[[JOINED, LINKER], _PICTURE] = 1 << _PICTURE

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of the characters on a page."""
        codes = ord(chars[0]), ord(chars[-1])
        if any(codes[0] in alone and codes[1] in alone for alone in _ALONE):
            return [PLAIN] * len(chars)
        # Plain characters are found first, by those that no neighbor is joined to, in fewer calls.
        is_odd = self._count(chars, "a{}가\u0301") != 3
        for pattern, count in (("가{}\u0301", 2), ("©\u200d{}", 2), ("क\u094d{}\u0301", 3)):
            is_odd |= self._count(chars, pattern) != count
        classes = np.full(len(chars), PLAIN)
        odd = np.flatnonzero(is_odd)
        if len(odd):
            classes[odd] = self._classify_odd([chars[place] for place in odd.tolist()])
        if chars[0] == "\0":
            classes[ord("\r")] = _BEGINNING  # joined to a line feed
        found: list[int] = classes.tolist()
        return found

    def _classify_odd(self, chars: list[str]) -> Int64:
        # What is joined by characters of four bytes is too long in any case, and no mark is joined
        # to a control character.
        num_bytes = np.array([len(char.encode()) for char in chars])
        is_letter = (num_bytes < 4) & (self._count(chars, "{}\u0301") == 1)
        classes = np.full(len(chars), PLAIN)
        classes[is_letter & (self._count(chars, "क\u094d{}\u0301") == 4)] = _CONSONANT
        classes[self._count(chars, "©\u200d{}") == 3] = _PICTURE
        # First marks, then vowels and final consonants of Hangul, which follow what is before them.
        classes[self._count(chars, "a{}") == 1] = JOINED
        classes[is_letter & (self._count(chars, "가{}\u0301") == 3)] = JOINED
        classes[self._count(chars, "क{}क\u0301") == 4] = LINKER
        # Initial consonants of Hangul, then signs before numbers.
        classes[is_letter & (self._count(chars, "{}가\u0301") == 3)] = _BEGINNING
        classes[self._count(chars, "{}a") == 1] = _BEGINNING
        return classes

    def _count(self, chars: list[str], pattern: str) -> Int64:
        """Return how many ``X`` the characters give, put into a pattern; 0 for line ends."""
        texts = [pattern.format(char) if char not in "\r\n" else "" for char in chars]
        lines = self._probe("\n".join(texts)).split("\n")
        return np.array([line.count("X") for line in lines])


def _probing_table() -> bytes:
    """Return a table in which each byte but 0 and the line feed becomes an ``X``.

    A double array, as the library reads it: unit 0 is the root, with its children at 256 and up, by
    byte, and each of these has its value among the first 256.
    """
    units = np.zeros(512, np.uint32)
    units[0] = 256 << 10
    for byte in range(1, 256):
        if byte != ord("\n"):
            units[256 + byte] = 256 << 10 | 1 << 8 | byte
    return (4 * len(units)).to_bytes(4, "little") + units.tobytes() + b"X\0"


class PatternRules(Rules):
    """``Replace`` of a simple regular expression: of characters, sets of them, and repetitions.

    A match has only characters that the expression names, so a text can be cut at all others.

    Args:
        part: of a ``tokenizer.json``.

    Raises:
        UnsupportedError: if the expression is not simple, or may match nothing.
    """

    def __init__(self, part: Mapping[str, Any]) -> None:
        pattern = part["pattern"]["Regex"]
        atom = r"\\[snrt]|\[(?:[^\[\]\\^&-]|\\[nrt])+\]|[^\\\[\](){}.^$*+?|]"
        is_simple = re.fullmatch(
            rf"(?:(?:{atom})(?:[+*]|\{{[1-9]\d*,\d*\}})?|(?<=.)\|(?=.))+", pattern
        )
        if not is_simple or re.fullmatch(pattern, ""):
            raise UnsupportedError(f"its normalizer Replace of {pattern!r}")
        super().__init__(_make_normalizer(part))
        names = "|".join(re.findall(atom, re.sub(r"\{[\d,]+\}", "", pattern)))
        self._remove = _make_normalizer({**part, "pattern": {"Regex": names}, "content": ""})
        self.blocks[_MEMBER, _MEMBER] = 0xFF

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of the characters on a page."""
        return [PLAIN if self._remove(char) else _MEMBER for char in chars]


class SentencepieceRules(Rules):
    """What sentencepiece's normalizer does to characters: it replaces the longest keys of a table.

    A text can be cut before a character that is in no key except at its start. Text that is a
    user-defined piece is not normalized. As its characters stay as they are by themselves, that
    matters only where a key begins with its last character: what follows it may not combine with
    it, though it does with the same character elsewhere.

    Args:
        model: what the model says.
        serialized: the model.

    Raises:
        UnsupportedError: if only sentencepiece can tell what it does.
    """

    def __init__(self, model: SentencepieceModel, serialized: bytes) -> None:
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_proto=serialized + _CHARSMAP_ALONE)
        super().__init__(processor.normalize)
        read_forms(model.charsmap)
        later, before_others = _read_keys(model.charsmap)
        self._later = later
        self._texts = user_defined(model)
        self._last_chars = {text[-1] for text in self._texts if ord(text[-1]) in before_others}
        for text in self._texts:
            is_plain = all(self._normalize(char) == char for char in text)
            overlaps = any(
                text[first:].startswith(other) or other.startswith(text[first:])
                for first in range(1, len(text))
                for other in self._texts
                if len(other) > 1
            )
            if not is_plain or overlaps or later.intersection(map(ord, text)):
                raise UnsupportedError(f"its user-defined piece {text!r}")
        self.blocks[IN_CONTEXT, [JOINED]] = 0xFF

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of the characters on a page."""
        return [
            JOINED
            if ord(char) in self._later
            else IN_CONTEXT
            if char in self._last_chars
            else PLAIN
            for char in chars
        ]

    def normalize_in_context(self, before: str, text: str) -> str:
        """Normalize a text that begins with an ``IN_CONTEXT`` character, or is long."""
        whole = before + text[0]
        for piece in self._texts:
            if whole.endswith(piece):
                return self._normalize(piece + text[1:])[len(piece) - 1 :]
        return self._normalize(text)


def user_defined(model: SentencepieceModel) -> list[str]:
    """Return the user-defined pieces of a model, long ones first.

    With U+2581, since sentencepiece searches for them in a text as it is.
    """
    pairs = zip(model.pieces, model.kinds, strict=True)
    texts = {piece for piece, kind in pairs if kind == USER_DEFINED}
    return sorted(texts, key=len, reverse=True)


def read_forms(charsmap: bytes) -> list[str]:
    """Return what the keys of a table become.

    Raises:
        UnsupportedError: if one is so long that what a piece becomes may not fit the kernel.
    """
    values = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    forms = values.decode().split("\0")
    if max(map(len, forms)) > _LONGEST_FORM:
        raise UnsupportedError("its precompiled_charsmap with long texts")
    return forms


def _read_keys(charsmap: bytes) -> tuple[set[int], set[int]]:
    """Return characters of the keys of a table: those after a first one, and those before a last.

    The table is a double array of bytes, a trie: the children of a node are where the exclusive or
    of the node and their byte points to. It is walked level by level.
    """
    size = int.from_bytes(charsmap[:4], "little")
    units = np.frombuffer(charsmap[4 : 4 + size], np.uint32).astype(np.int64)
    offsets = (units >> 10) << ((units & 0x200) >> 6)
    labels = units & 0x8000_00FF
    children = np.flatnonzero((labels > 0) & (labels < 256))
    parents = children ^ labels[children]
    order = np.argsort(parents, kind="stable")
    children, parents = children[order], parents[order]
    later: set[int] = set()
    before_others: set[int] = set()
    nodes = offsets[:1]
    codes, num_left, num_chars = np.zeros((3, 1), np.int64)
    while len(nodes):
        firsts, stops = np.searchsorted(parents, nodes), np.searchsorted(parents, nodes, "right")
        counts = stops - firsts
        before_others.update(codes[(num_left == 0) & (counts > 0)].tolist())
        rows = np.repeat(np.arange(len(nodes)), counts)
        within = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        found = children[firsts[rows] + within]
        byte = labels[found]
        begins = num_left[rows] == 0
        bits = np.select([byte < 0x80, byte < 0xE0, byte < 0xF0], [0x7F, 0x1F, 0xF], 7)
        codes = np.where(begins, byte & bits, codes[rows] << 6 | byte & 0x3F)
        size_left = np.select([byte < 0x80, byte < 0xE0, byte < 0xF0], [0, 1, 2], 3)
        num_left = np.where(begins, size_left, num_left[rows] - 1)
        num_chars = num_chars[rows] + begins
        later.update(codes[(num_left == 0) & (num_chars > 1)].tolist())
        nodes = found ^ offsets[found]
    return later, before_others
