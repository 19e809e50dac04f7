"""Added tokens are found where the library finds them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.segments import AddedTokens, added_obstacles, make_added_tokens
from tokkit.tokenizer.tokenizer import Tokenizer, make_tokenizer

UNKNOWN = 0
NORMALIZERS: list[Any] = [
    None,
    {"type": "Lowercase"},
    {"type": "NFC"},
    {"type": "Prepend", "prepend": "\u2581"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]
TEXT = st.text("ab<> \n\u2581\u00e9E\u0301", max_size=8)

rows = st.lists(
    st.tuples(TEXT.filter(bool), st.booleans(), st.booleans()),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
)


def make_rows(tokens: Sequence[tuple[str, bool, bool]], **flags: bool) -> list[dict[str, Any]]:
    """Return rows of added tokens; of each its content, and whether it is normalized and special."""
    off = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    return [
        {"id": number, "content": content, "normalized": normalized, "special": special}
        | off
        | flags
        for number, (content, normalized, special) in enumerate(tokens, 1)
    ]


def make(rows: list[dict[str, Any]], normalizer: Any = None) -> Tokenizer:
    """Return a tokenizer that makes one unknown word of all that lies between added tokens."""
    definition = {
        "added_tokens": rows,
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "model": {"type": "WordLevel", "vocab": {"unk": UNKNOWN}, "unk_token": "unk"},
    }
    return make_tokenizer(TokenizerFiles(Path("added.json"), definition))


def explain_added(tokenizer: Tokenizer, *, spaced: bool) -> str | None:
    return next(added_obstacles(tokenizer, spaced=spaced), None)


def as_values(texts: Sequence[str]) -> tuple[Any, Any]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), np.uint8), np.cumsum([0, *map(len, data)])


def cut(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of the segments of each text."""
    assert tokenizer.library is not None
    raw, normalized = make_added_tokens(tokenizer, spaced=False)
    values, bounds = as_values(texts)
    ids: Any = None
    firsts = np.arange(len(texts) + 1)
    bounds, ids, found = raw.cut(values, bounds)
    firsts = firsts if found is None else found
    segments = [values[start:stop].tobytes().decode() for start, stop in pairwise(bounds)]
    library = tokenizer.library.normalizer
    if library is not None:
        is_plain = [True] * len(segments) if ids is None else (ids < 0).tolist()
        segments = [
            library.normalize_str(segment) if plain else segment
            for segment, plain in zip(segments, is_plain, strict=True)
        ]
    values, bounds = as_values(segments)
    bounds, ids, found = normalized.cut(values, bounds, ids)
    firsts = firsts if found is None else found[firsts]
    ids = np.full(len(bounds) - 1, -1) if ids is None else ids
    is_there = np.diff(bounds) > 0
    return [
        [max(number, UNKNOWN) for number in ids[start:stop][is_there[start:stop]].tolist()]
        for start, stop in pairwise(firsts)
    ]


def ask_library(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    assert tokenizer.library is not None
    return [tokenizer.library.encode(text, add_special_tokens=False).ids for text in texts]


@given(rows, st.sampled_from(NORMALIZERS), st.data())
@example([("<s>a", False, True), ("a", False, False)], None, None)
def test_added_tokens_are_cut_as_in_the_library(
    tokens: list[tuple[str, bool, bool]], normalizer: Any, data: Any
) -> None:
    """Special tokens hide what overlaps with them, empty texts keep their place."""
    tokenizer = make(make_rows(tokens), normalizer)
    assume(explain_added(tokenizer, spaced=False) is None)
    texts = ["<s>aa", "", "a"]
    if data is not None:
        parts = st.one_of(st.sampled_from([token for token, *_ in tokens]), TEXT)
        text = st.lists(parts, max_size=30).map("".join)
        texts = data.draw(st.lists(text, min_size=1, max_size=5))
    assert cut(tokenizer, texts) == ask_library(tokenizer, texts)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_flags_of_tokens_in_text_are_refused(flag: str) -> None:
    special = make(
        [
            *make_rows([("<s>", False, True)], **{flag: True}),
            *make_rows([("b", False, False)]),
        ]
    )
    assert explain_added(special, spaced=False) is None
    plain = make(make_rows([("<a>", False, False)], **{flag: True}))
    assert explain_added(plain, spaced=False) == f"{flag} of its added token '<a>'"


@pytest.mark.parametrize(
    "contents",
    [
        [" " * size for size in range(2, 25)],
        [f"<unused{number}>" for number in range(6000)] + ["\n" * size for size in range(2, 32)],
        [chr(code) for code in range(33, 1000)],
        ["\u4e2d\u6587", "\u4e2d", "\ufffd", "\U0001f600"],
    ],
    ids=["spaces", "thousands", "characters", "ideographs"],
)
def test_tables_of_all_sizes_are_exact(contents: list[str]) -> None:
    tokenizer = make(make_rows([(content, False, False) for content in contents]))
    draws = np.random.default_rng(1)
    texts = []
    for size in (1, 2, 63, 64, 65, 5000):
        picked = draws.integers(0, len(contents), size).tolist()
        texts += ["".join(contents[place] for place in picked)]
        texts += ["".join("x "[place % 2] * (place % 9) + contents[place] for place in picked)]
    texts += [*contents[:100], "", *(content[:-1] for content in contents[:100])]
    assert cut(tokenizer, texts) == ask_library(tokenizer, texts)


def test_what_has_no_token_is_returned_as_it_is() -> None:
    tokens = AddedTokens({b"  ": 1, b"<s>": -1})
    values, bounds = as_values(["one text", "", "<s>another "])
    found, ids, firsts = tokens.cut(values, bounds[1:])
    assert found.tolist() == bounds[1:].tolist()
    assert ids is None
    assert firsts is None


def test_a_part_of_the_values_is_cut() -> None:
    tokens = AddedTokens({b"  ": 1})
    values, bounds = as_values(["a  ", "b  c", "", "  ", "  d"])
    found, ids, firsts = tokens.cut(values, bounds[1:-1])
    assert found.tolist() == [3, 4, 6, 7, 7, 9]
    assert ids is not None
    assert ids.tolist() == [-1, 1, -1, -1, 1]
    assert firsts is not None
    assert firsts.tolist() == [0, 3, 4, 5]


def test_tokens_that_are_equal_once_normalized_are_refused() -> None:
    tokenizer = make(make_rows([("A", True, False), ("a", True, True)]), {"type": "Lowercase"})
    reason = "its added token 'A', which is normalized to 'a'"
    assert explain_added(tokenizer, spaced=False) == reason
    tokenizer = make(make_rows([(" ", True, False)]), NORMALIZERS[-1])
    assert (
        explain_added(tokenizer, spaced=False) == "its added token ' ', which is normalized to ''"
    )


def test_normalized_tokens_with_spaces_are_found_where_the_normalizer_replaces_these() -> None:
    tokens = make_rows([("a b", True, False), ("\u2581\u2581", False, False)])
    reason = "its added token 'a b', which has white space"
    assert explain_added(make(tokens), spaced=True) == reason
    assert explain_added(make(tokens, NORMALIZERS[4]), spaced=True) is None
    raw, normalized = make_added_tokens(make(tokens, NORMALIZERS[4]), spaced=True)
    for table, text in ((raw, "x\u2581\u2581"), (normalized, "xa b")):
        _, ids, _ = table.cut(*as_values([text]))
        assert ids is not None
        assert len(ids) == 2


def test_a_token_does_not_begin_in_the_text_before_where_memory_grows() -> None:
    """The kernel returns at a text whose token it found, and is called again for the same block."""
    runs = [(" " * size, True, False) for size in range(2, 8)]
    tokenizer = make(make_rows(runs))
    texts = ["a ", "     b"] * 2000  # three segments for two texts
    assert cut(tokenizer, texts) == [[UNKNOWN], [4, UNKNOWN]] * 2000
