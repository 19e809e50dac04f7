"""Characters and texts that are hard for a tokenizer, drawn from a seed.

Each pool holds pieces to which one rule of some tokenizer applies. A text mixes the pieces of one
to four pools, so that any two rules meet at neighbouring characters.
"""

import functools
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np
from tokenizers import normalizers

# White space of the library's patterns, in one-byte and longer forms.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# Marks of many combining classes. U+034F has none, U+20DD encloses; BERT's normalizer does not strip
# those from U+302E on, though it reorders most of them.
MARKS = (
    "\u0300\u0301\u0307\u0308\u0327\u0323\u0331\u0334\u0345\u035c\u0361\u034f\u0591\u05b4\u064b\u0651"
    "\u093c\u094d\u0e38\u0e48\u0f71\u0f72\u0f74\u302a\u3099\u20dd\u0903"
    "\u302e\u302f\u1b44\ua953\u08d4\u08df\u1dfb\U0001d165\U0001d16d\U0001d16e\U00016ff0\U00016ff1"
    "\U0001e000\U0001e94a\U00011442\U00011446\U000111c0\u0898\u1715"
)
# Special cases of normalizers: noncharacters, private use, unassigned, and characters whose category
# or decomposition is newer than some table of the library.
ODD = (
    "\ufffd\x00\ufeff\uffff\U0001ffff\U0010ffff\ue000\U000f0000\u0378\u2fe0\U0003ffff\ufffe\u0890"
    "\u08e2\u166d\U000111c9\u1734\U00011938\u1885\u1c89\ua7cb\U00010d50\U00016ea0\U000323af\u0600"
    "\u070f\u180e\u061c\u06dd\x1c\x1d\x1e\x1f\x7f\x80\x9f\xad\u200b\u200c\u200d\u2060\U000e0041"
)
# Characters that lower-casing or decomposition changes to others, to several, or to none.
CHANGED = (
    "İI\u0131i\u017fßẞ\u212a\u212bΣ\u03c3ςǅŉǰΐΰᾳᾼﬁﬀﬃ\u2126ꭰ\u13a0ÄÖÜÇÑéèêŁøĐđẛ̣ậṩ\u0958\u0dde\u0f73\u0f77\u0344\u1e9b\u2adc"
    "\u2f00\u2fd5\uf900\uf967\U0002f800\U0002fa1d\U0001d15e\U0001d160\U0001d1bf\U0001d400\uff21\uff41"
    "㍿①½ⅷⅧ\u3392\ufb1d\ufb4f\ufef7\ufdfa"
)
JAMO = (
    "\u1100\u1161\u11a8\u115f\u1160\u1112\u1175\u11c2\ud7b0\ud7fb\ua960\u3131\uffa1가각힣한국값뷁"
)
SCRIPTS = (
    "stredmlvaeiou",
    "ABCDEFGHSTREDMLV",
    "абвгдеёжйщ",
    "αβγδάίϊΰ",
    "اءآبتثلهי\u05e9\u05c1\u05d0",
    "कखगघिीािमानक्ष",
    "กขคำแก้ไข",
    "あいうがぱアイウガパｱｶﾞ",
    "中文字龍㐀\u4dbf\u4dc0\u9fff\ufaff\U00020000\U0002a6df\U0002a6e0\U0002a700\U0002b740",
    "\U0002b81f\U0002b820\U0002b91f\U0002b920\U0002ceaf\U0002ceb0\U0002fa1f\U0002fa20\U00030000",
    "\U0001d4d0\U0001d5ba\U00010400\U00010428\U0001f130",
)
EMOJI = (
    *("👩\u200d👩\u200d👧\u200d👦", "❤\ufe0f", "🇩🇪", "1\ufe0f\u20e3", "👍🏽", "🙂", "☃", "©", "‼"),
    *("🏴\U000e0067\U000e0062\U000e007f", "🧑🏿\u200d🚀", "🏳\ufe0f\u200d🌈"),
    *("\u200d", "\ufe0f", "\ufe0e"),
)
CONTRACTIONS = (
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'l", "'v", "'r", "'", "''", "''s"),
    *("\u2019s", "'\u0301s", "'\u017f", "s'", "'sx", "s", "t", "re", "ve", "m", "ll", "d"),
)
POOLS: tuple[tuple[str, ...], ...] = (
    *map(tuple, (WHITE_SPACE, MARKS, ODD, CHANGED, JAMO, *SCRIPTS, EMOJI, CONTRACTIONS)),
    tuple(".,-'\"()[]{}#@$^`~_+=<>|!?:;/\\&%*«»。、・¿٪\u0964\u00b4¦§¶\u2e43\u2019"),
    tuple("0123456789\u0660१Ⅷ½²①\U0001d7d8\u3007一"),
    tuple(chr(code) for code in range(0x20)),
    (" ", " ", " ", "\n", "  ", "   ", " \n", "\xa0 ", " \u3000", "\n\u3000", "\t"),
    ("the", "and", "##ing", "##", "unaffable", "world", "[UNK]", "[MASK]", "<s>", "ing", "The"),
)
_CATEGORIES = {"Mn", "Mc", "Me", "Cf", "Zs", "Zl", "Zp", "Cc", "Nl", "No"}


def random_texts(number: int, seed: int) -> list[str]:
    """Return ``number`` texts of a few to some hundred characters."""
    draws = np.random.default_rng(seed)
    # In a few pages of 256, since an encoder learns the whole page of a character that it meets.
    pages = [*draws.integers(0, 0x200, 24), *draws.integers(0, 0x1100, 4)]
    places = draws.integers(0, 256, (len(pages), 12))
    anything = [
        256 * page + place for page, row in zip(pages, places, strict=True) for place in row
    ]
    pools = (*POOLS, tuple(chr(code) for code in anything if _is_scalar(code)))
    texts = []
    for num_pieces in draws.geometric(0.08, number).tolist():
        mixed = [pools[i] for i in draws.integers(0, len(pools), draws.integers(1, 5))]
        which, where = draws.integers(0, (len(mixed), 1 << 30), (num_pieces, 2)).T.tolist()
        pieces = [mixed[i][place % len(mixed[i])] for i, place in zip(which, where, strict=True)]
        texts.append((" " if draws.random() < 0.2 else "").join(pieces))
    return texts


@functools.cache
def code_points(*, full: bool) -> tuple[str, ...]:
    """Return all 1,112,064 code points as texts, or about 30,000 that cover every rule.

    The sample has everything below U+3400; marks, spaces, controls, numbers, and characters with
    cases or decompositions; a ninth of Hangul; the ends of each page of 256 in the first two planes
    and of each plane; and 2,000 others in those two. It is sparse beyond, where nearly all are
    ideographs or unassigned, since tables that are filled page by page would be filled in every test.
    """
    if full:
        return tuple(chr(code) for code in range(0x110000) if _is_scalar(code))
    chosen = {*range(0x3400), *range(0xAC00, 0xD7A4, 9)}
    chosen.update(page + low for page in range(0, 0x20000, 256) for low in (0, 255))
    chosen.update(plane + low for plane in range(0, 0x110000, 1 << 16) for low in (0, 1, 0xFFFF))
    chosen.update(np.random.default_rng(1).integers(0, 0x20000, 2000).tolist())
    chosen.update(code for code in range(0x110000) if _is_special(chr(code)))
    return tuple(chr(code) for code in sorted(chosen) if _is_scalar(code))


def neighbourhoods(chars: Iterable[str]) -> Iterator[str]:
    """Yield each character alone, between letters, and doubled."""
    for char in chars:
        yield from (char, f"a{char}b", char * 2)


@functools.cache
def alphabet(*, full: bool) -> tuple[str, ...]:
    """Return every assigned code point of the sample (or of all), and its normalized characters.

    With a vocabulary of these, no character is unknown, so that differences show.
    """
    chars = {char for char in code_points(full=True) if not _is_unassigned(char)} if full else set()
    chars.update(code_points(full=False))
    chars.update(char for pool in POOLS for piece in pool for char in piece)
    for normalizer in (normalizers.NFD(), normalizers.Lowercase(), normalizers.NFD()):
        chars.update(normalizer.normalize_str("".join(sorted(chars))))
    return tuple(sorted(chars))


def long_words() -> list[str]:
    """Return words around the length limits of models, of characters that normalizers keep, expand or drop."""
    letters = (*"aé가각İΐ", "\U0001d15e", "\u0301", "字", "\U00010400", "b\u0301")
    sizes = (1, 4, 5, 6, 33, 34, 49, 50, 51, 99, 100, 101, 102, 299, 300, 301, 10_000)
    words = [letter * size for letter, size in product(letters, sizes)]
    words += ["x" * (size - 1) + letter for letter, size in product(letters, sizes)]
    return [*words, *(f"the {word}, and" for word in words)]


def short_words() -> list[str]:
    """Return words of 1 to 70 bytes after 0 to 15 bytes, and words that differ in one byte."""
    texts = []
    for letters, size in product(
        ("a", "é", "字", "\U00010400", "abc", "aé", ".", "\x00"), range(70)
    ):
        word = (letters * 70).encode()[: size + 1].decode(errors="ignore")
        texts += [" " * (size % 16) + word, word, f"{word} ", "x" * (size % 17) + f" {word} {word}"]
        texts += [f"{word}\x00", f".{word}\x00\x00", f"{word}, {word}. {word}!"]
    for word in ("b" * 7 + "\x00", "abcdefgh" * 2, "b" * 31, "Ab" * 16, "й" * 8, "b" * 48):
        texts += [word[:place] + "c" + word[place:] for place in range(len(word) + 1)]
        texts += [word[:place] + word[place + 1 :] for place in range(len(word))]
    return texts


def all_texts(pieces: Iterable[str], longest: int) -> list[str]:
    """Return every text of at most ``longest`` pieces."""
    pieces = tuple(pieces)
    return ["".join(text) for size in range(longest + 1) for text in product(pieces, repeat=size)]


def _is_scalar(code: int) -> bool:
    return not 0xD800 <= code < 0xE000


def _is_unassigned(char: str) -> bool:
    return unicodedata.category(char) in {"Cn", "Co", "Cs"}


def _is_special(char: str) -> bool:
    changed = {char, char.lower(), char.upper(), char.title()}
    category, decomposition = unicodedata.category(char), unicodedata.decomposition(char)
    return len(changed) > 1 or category in _CATEGORIES or bool(decomposition)
