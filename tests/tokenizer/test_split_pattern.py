"""Texts are cut into the pieces that the library's pre-tokenizers cut them into."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import UnsupportedError, byte_level_alphabet, byte_level_bpe
from tokkit.tokenizer.encoder import Encoder, choose_kernel
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.split_pattern import SPLIT_PATTERNS, PatternParser
from tokkit.tokenizer.tokenizer import Tokenizer, make_tokenizer

_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def split(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": invert,
    }


DIGITS = {"type": "Digits", "individual_digits": True}
NUMBERS = {"type": "Digits", "individual_digits": False}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LAST = {**GPT2, "use_regex": False}
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
GPT4, GPT4O = SPLIT_PATTERNS["gpt4"], SPLIT_PATTERNS["gpt4o"]
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt2": [GPT2],
    "digits": [DIGITS, GPT2],
    "gpt4": [split(GPT4), LAST],
    "inverted": [split(GPT4, "Removed", invert=True), LAST],
    "possessive": [split(POSSESSIVE), LAST],
    "gpt4o": [split(GPT4O, "Removed", invert=True), LAST],
    "deepseek": [
        split(r"\p{N}{1,3}"),
        split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        LAST,
    ],
    "deepseek 2": [
        split("[\r\n]"),
        split(
            "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\ufb00-\ufb06\uff21-\uff3a]+"
        ),
        split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
        split(r"\s+$"),
        split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        DIGITS,
        LAST,
    ],
    "ends": [split(r"\s+$|a+?$|[^\r\n]+?(?:b|$)|\n$"), LAST],
    "bloom": [split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), LAST],
    "han": [split(rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^\p{{Han}}]]+|{_SPACES}"), LAST],
    "dropped": [split(r"\s+", "Removed"), NUMBERS, split("the|[a-c]{2,3}?x?", "Contiguous"), LAST],
    "punctuation": [{"type": "Punctuation", "behavior": "Contiguous"}, GPT2],
    "falcon": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        GPT2,
        NUMBERS,
        split("[0-9][0-9][0-9]"),
    ],
    "spelled": [LAST, DIGITS, split("\u0120?[a-z\u00a1-\u00ff]+|[^\u0120]")],
    "lazy": [split(r"a+?b?|(?:x|yz)*?[0-9]{2,}|\p{L}(?=\p{N})|."), LAST],
}
TEXTS = (
    "I'll say: DON'T  stop\r\n\r\n\t at 12345 km/h (x)!\n  no\u00a0\u3000 ok   ",
    "'\u017f 'S 'rE 'Ve'LL ''d x's\n 'st \ufb06 ß \u017f\u017f",
    "春の2024年 は\u3000、。 ok\n \n  \n\ty",
    "\u0301a \u0301\n\u0301 1\u0301 ½²Ⅷ٣ ǅ ʰ\u200d🙂‍↔️ \x85\u2028 \x1c",
)
# Characters that patterns tell apart, and ordinary ones.
CHARS = "aB'sSdtlLrReEvVm  \n\r\t1²٣.,!/(\uff0c。\u060c\u00a0\u3000\u2028\x85\x1c\u0301é中あ가ǅʰ\u017fﬆß🙂\U00010400x_yz"
TEXT = st.lists(st.text(CHARS, max_size=40) | st.text(max_size=8), max_size=4)


@functools.cache
def make(name: str) -> tuple[Tokenizer, Encoder]:
    return make_with(PRE_TOKENIZERS[name])


def make_with(parts: list[dict[str, Any]]) -> tuple[Tokenizer, Encoder]:
    """A tokenizer whose tokens are bytes, so that only its pieces matter."""
    ids = {char: number for number, char in enumerate(byte_level_alphabet())}
    definition = byte_level_bpe(ids, [])
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    tokenizer = make_tokenizer(TokenizerFiles(path=Path("tokenizer.json"), definition=definition))
    return tokenizer, Encoder(tokenizer)


def check(tokenizer: Tokenizer, encoder: Encoder, texts: list[str]) -> None:
    column = pa.array(texts, pa.large_string())
    found, expected = encoder.encode(column), LibraryEncoder(tokenizer).encode(column)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert found.word_starts.to_pylist() == expected.word_starts.to_pylist()


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pieces_are_those_of_the_library(name: str) -> None:
    tokenizer, encoder = make(name)
    assert choose_kernel(tokenizer).name == "bpe"
    check(tokenizer, encoder, list(TEXTS))

    @given(TEXT)
    def check_any(texts: list[str]) -> None:
        check(tokenizer, encoder, texts)

    check_any()


@pytest.mark.parametrize("name", ["gpt4o", "deepseek"])
def test_every_character_is_of_its_class(name: str) -> None:
    tokenizer, encoder = make(name)
    # Ideographs and Hangul are sampled, and so are planes without characters.
    codes = [*range(0x3400), *range(0x3400, 0xD800, 7), *range(0xE000, 0x20000, 2)]
    codes += [*range(0xA000, 0xAC00), *range(0xFA00, 0x10000), *range(0x20000, 0x110000, 1 << 12)]
    chars = list(map(chr, codes))
    texts = ["".join(f" a{char}b{char}{char}1" for char in chars[i::64]) for i in range(64)]
    column = pa.array(texts, pa.large_string())
    found = encoder.encode(column)
    pieces = [
        piece
        for text in texts
        for piece, _ in tokenizer.library.pre_tokenizer.pre_tokenize_str(text)  # type: ignore[union-attr]
    ]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    assert (
        np.flatnonzero(found.word_starts.to_numpy(zero_copy_only=False)).tolist() == starts.tolist()
    )


SETS = st.sampled_from(["a", "[ab]", r"\p{L}", r"\s", r"[^\s\p{L}]", "1", " ", r"\n", "(?i:x)"])


def patterns() -> st.SearchStrategy[str]:
    """Patterns of which each alternative takes a character at least."""

    def join(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map("".join)

    end = st.sampled_from(["", "", "$"])
    solid = join(SETS, st.sampled_from(["", "+", "{2}", "{1,3}", "+?", "++"]))
    item = join(SETS, st.sampled_from(["", "?", "+", "*", "+?", "??", "{2}", "{,2}", "?+", "*+"]))
    ahead = join(st.sampled_from(["(?!", "(?="]), SETS, st.just(")"))
    group = join(st.just("(?:"), solid, item, st.just("|"), item, solid, st.just(")"))
    loop = join(group, st.sampled_from(["", "?", "+", "*"]))
    rest = st.lists(item | ahead | loop, max_size=2).map("".join)
    return st.lists(join(solid | group, rest, end), min_size=1, max_size=4).map("|".join)


@given(
    levels=st.lists(
        st.tuples(
            patterns(), st.sampled_from(["Isolated", "Removed", "Contiguous"]), st.booleans()
        ),
        min_size=1,
        max_size=3,
    ),
    texts=st.lists(st.text("ab1 \n\txX.é", max_size=20), min_size=1, max_size=3),
)
@example(levels=[(r"\s+(?!\S)|\s+|a(?=b)", "Isolated", False)], texts=["a  ab \n\na"])
@example(levels=[("ab|b", "Isolated", False), ("a|.+", "Removed", True)], texts=["aab bab"])
def test_any_pattern_matches_as_in_the_library_or_is_refused(
    levels: list[tuple[str, str, bool]], texts: list[str]
) -> None:
    parts = [split(pattern, behavior, invert=invert) for pattern, behavior, invert in levels]
    try:
        tokenizer, encoder = make_with([*parts, LAST])
    except TokkitError:  # the library cannot repeat lookahead
        assume(False)
    assume(choose_kernel(tokenizer).name == "bpe")
    check(tokenizer, encoder, texts)


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\bfoo", "^a", "a$?", r"(a)\1", "(?<=x)y", "(?=ab)c", r"(?=(\d{3})+(?!\d))", "(?>a)"),
        *(
            "(?i:st)",
            "(?i:[a-z]s)",
            "(?i:é)",
            "a{2}+",
            "a{2}?",
            "(a*)*",
            "[]a]",
            "a**",
            r"\Z",
            "(?m:.)",
        ),
        *("a{1000}", "(?:ab)++", "[a", "(a", "a)", r"\R", r"\X", "\\"),
    ],
)
def test_what_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedError):
        PatternParser().parse(pattern)
    try:
        tokenizer, _ = make_with([split(pattern), LAST])
    except Exception:  # noqa: BLE001  the library refuses some, too
        return
    assert choose_kernel(tokenizer).name is None


def test_texts_that_are_not_split_are_left_to_the_library() -> None:
    tokenizer, encoder = make_with([LAST])
    assert choose_kernel(tokenizer) == (None, "BPE of texts that are not split")
    check(tokenizer, encoder, list(TEXTS))


def test_a_pattern_that_matches_nothing_is_left_to_the_library() -> None:
    tokenizer, _ = make_with([split("a*"), LAST])
    assert choose_kernel(tokenizer) == (None, "a pattern that matches an empty text")
