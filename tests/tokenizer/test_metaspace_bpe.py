"""sentencepiece's BPE is equal to its library, from either kind of file."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exactness import as_bools, ask_encoder, assert_same, batches, column, load_published
from hardtexts import random_texts
from hypothesis import given
from hypothesis import strategies as st
from metaspacetokenizers import (
    BYTES,
    GEMMA,
    LLAMA,
    PREPEND,
    REPLACE,
    make_metaspace_bpe,
    make_sentencepiece_bpe,
    metaspace,
    metaspace_bpes,
    scored_pieces,
)
from sentencepiece import SentencePieceProcessor

from tokkit.tokenizer.encoded import TextTooLongError
from tokkit.tokenizer.encoder import Encoder, choose_kernel
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.metaspace_bpe_model import MetaspaceBpeModel
from tokkit.tokenizer.sentencepiece_model import CONTROL, NORMAL, UNUSED, USER_DEFINED
from tokkit.tokenizer.tokenizer import Tokenizer

TEXTS = st.lists(
    st.text("aab\u00e9\u5b57  \u2581\n\tx\U0001f600", max_size=30), min_size=1, max_size=8
)
SIDES = {"strip_left": True, "strip_right": True}
CHARACTERS = [*range(0xD800), *range(0xE000, 0x3134F), *range(0xE0000, 0xE01F0), 0x10FFFF]


def assert_exact(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Assert that the kernel gives what the library gives, and that there is a kernel."""
    assert choose_kernel(tokenizer) == ("metaspace-bpe", "")
    encoder, library = Encoder(tokenizer), LibraryEncoder(tokenizer)
    for batch in batches(filter(None, texts)):
        encoded = library.encode(column(batch))
        wanted = encoded.ids, encoded.offsets, as_bools(encoded.word_starts)
        assert_same(tokenizer, batch, ask_encoder(encoder, column(batch)), wanted)


@given(metaspace_bpes(), TEXTS)
def test_any_bpe_is_exact(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert_exact(tokenizer, texts)


@given(scored_pieces(), st.booleans(), TEXTS)
def test_any_sentencepiece_bpe_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[str, float, int]],
    byte_fallback: bool,
    texts: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("model")
    assert_exact(make_sentencepiece_bpe(folder, pieces, byte_fallback=byte_fallback), texts)


def added(*contents: str, normalized: bool = False) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return [
        {"id": 0, "content": content, "normalized": normalized, **flags} for content in contents
    ]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    "parts", [LLAMA, GEMMA, metaspace("first", split=False)], ids=["llama", "gemma", "first"]
)
def test_added_tokens_are_exact(parts: dict[str, Any], normalized: bool) -> None:
    rows = added("<b>", "\n\n", "ba", "\u5b57\u5b57", normalized=normalized)
    merges = [("\u2581", "a"), ("\u2581a", "b"), ("a", "b"), ("\u2581", "\u2581"), ("b", "b")]
    tokenizer = make_metaspace_bpe(merges, parts, added=rows)
    pieces = ["<b>", "\n\n", " ", "a", "b", "\u5b57", "<", "\u2581", "\u00e9\u5b57\u5b57"]
    texts = [a + b + c + d for a in pieces for b in pieces for c in pieces for d in pieces[::4]]
    assert_exact(tokenizer, texts)


def _without_bytes(byte: int, *tokens: str) -> dict[str, int]:
    """Return a vocabulary without a token for a byte, but with these."""
    spellings = [token for number, token in enumerate(BYTES) if number != byte]
    rows = ["<unk>", *spellings, *"\u2581ab", "ab", *tokens]
    return {token: number for number, token in enumerate(rows)}


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"symbols": "ab"}, "no token for a space"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix in BPE"),
        ({"ignore_merges": True}, "ignore_merges in BPE"),
        ({"unk_token": None, "byte_fallback": False}, "no token for unknown characters"),
        ({"merges": [("a", "<0x41>")]}, "merges of tokens for unknown characters"),
        ({"vocab": _without_bytes(0x09)}, "bytes without a token"),
        ({"vocab": _without_bytes(0x20, " ")}, "bytes without a token"),
        ({"vocab": _without_bytes(0xE9, "\u00e9")}, "bytes without a token"),
        (
            {"parts": {**LLAMA, "pre_tokenizer": {"type": "Digits", "individual_digits": True}}},
            "the pre-tokenizer Digits before BPE",
        ),
        (
            {"parts": metaspace("first", split=False) | {"normalizer": {"type": "StripAccents"}}},
            "prepend_scheme first after the normalizer StripAccents",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_kernel_does_not_know_is_named(changes: dict[str, Any], obstacle: str) -> None:
    tokenizer = make_metaspace_bpe(**{"merges": [("a", "b")], **changes})
    assert choose_kernel(tokenizer) == (None, obstacle)


@pytest.mark.parametrize(
    ("pieces", "obstacle"),
    [
        ([("ab", -1.0, UNUSED)], "the unused piece 'ab'"),
        ([("c", -1.0, CONTROL)], "the control piece 'c'"),
        ([("ac", -1.0, NORMAL)], "the piece 'ac', which has characters without a piece"),
        ([("a b", -1.0, USER_DEFINED)], "the user-defined piece 'a b'"),
    ],
)
def test_what_the_kernel_does_not_know_of_pieces_is_named(
    tmp_path: Path, pieces: list[tuple[str, float, int]], obstacle: str
) -> None:
    symbols = [(char, -9.0, NORMAL) for char in "\u2581ab"]
    tokenizer = make_sentencepiece_bpe(tmp_path, [*symbols, *pieces])
    assert choose_kernel(tokenizer) == (None, obstacle)


def test_a_character_may_stand_in_for_its_byte() -> None:
    """As the tab does in Gemma's vocabulary."""
    tokenizer = make_metaspace_bpe([("a", "b")], GEMMA, vocab=_without_bytes(0x09, "\t"))
    assert choose_kernel(tokenizer).name == "metaspace-bpe"
    assert_exact(tokenizer, ["\t", "a\tb\t\tab \t\u00e9\n\t", "\u8a9e\t\x08\x0a\t ab"])


def test_a_word_begins_behind_user_defined_spaces(tmp_path: Path) -> None:
    """As those of Gemma's model."""
    spaces = [("\u2581" * size, 0.0, USER_DEFINED) for size in (2, 3)]
    tokenizer = make_sentencepiece_bpe(tmp_path, [(c, -9.0, NORMAL) for c in "\u2581ab"] + spaces)
    assert_exact(tokenizer, ["a  b", "  a", "a    b a"])


def test_long_words_are_exact() -> None:
    """The kernel asks for memory, and leaves words that need too much to the library."""
    merges = [("a", "a"), ("aa", "aa"), ("\u2581", "aa"), ("b", "a")]
    tokenizer = make_metaspace_bpe(merges)
    texts = ["a" * size + " b" + "a" * size for size in (1, 2, 63, 64, 65, 500, 5000)]
    assert_exact(tokenizer, texts)


@pytest.mark.parametrize(
    ("first", "rows", "continues"),
    [
        ([], [], True),
        ([{"type": "Strip", **SIDES}], [], False),
        ([PREPEND], added("a<x>"), True),
        ([PREPEND], added("a<x>", normalized=True), True),  # searched for as "▁a<x>"
    ],
)
def test_a_word_whose_space_the_library_would_drop_is_refused(
    first: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    continues: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A word that needs too much memory is the library's, which must not normalize it again."""
    monkeypatch.setattr(MetaspaceBpeModel, "longest_word", 4000)
    parts = {"normalizer": {"type": "Sequence", "normalizers": [*first, REPLACE]}}
    tokenizer = make_metaspace_bpe([("a", "a"), ("\u2581", "aa")], parts, added=rows)
    texts = column(["b " + "a" * 5000 + "<x>a"])
    encoder = Encoder(tokenizer)
    if continues:
        ids = encoder.encode(texts).ids.tolist()
        assert ids == LibraryEncoder(tokenizer).encode(texts).ids.tolist()
    else:
        with pytest.raises(TextTooLongError, match="must take in one piece"):
            encoder.encode(texts)


@pytest.mark.parametrize("trims", [True, False])
def test_a_word_that_sentencepiece_would_trim_is_refused(
    tmp_path: Path, trims: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetaspaceBpeModel, "longest_word", 4000)
    pieces = [(char, -9.0, NORMAL) for char in "\u2581ab"]
    made = make_sentencepiece_bpe(
        tmp_path, [*pieces, ("aa", -1.0, NORMAL)], normalizer={4: int(trims)}
    )
    encoder = Encoder(made)
    texts = column(["b " + "a" * 5000])
    if trims:
        with pytest.raises(TextTooLongError, match="must take in one piece"):
            encoder.encode(texts)
        assert len(encoder.encode(column(["b " + "a" * 900, *["a" * 1000] * 4])).ids)  # in lines
    else:
        ids = encoder.encode(texts).ids.tolist()
        assert ids == LibraryEncoder(made).encode(texts).ids.tolist()


def assert_characters(tokenizer: Tokenizer, *, step: int) -> None:
    """Compare characters alone, between letters, doubled and between spaces."""
    chars = list(map(chr, CHARACTERS[:0x300] + CHARACTERS[0x300::step]))
    forms = [text for char in chars for text in (char, f"a{char}b", char * 2, f" {char} {char}s")]
    assert_exact(tokenizer, forms)


MODELS = ["modern/mistral-v3.model", "sentencepiece/bpe-en-hi-te.model"]


@pytest.mark.parametrize("name", MODELS)
def test_published_models_are_exact(shared: Path, name: str) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    assert_characters(tokenizer, step=801)
    assert_exact(tokenizer, [*random_texts(300, seed=3), *_read_corpora(shared, 2_000)])


def _read_corpora(shared: Path, num_chars: int) -> list[str]:
    files = [path for path in sorted((shared / "corpora").glob("*/*")) if path.is_file()]
    folders = {path.parent: path for path in files}
    texts = [
        path.read_bytes()[: 4 * num_chars].decode(errors="replace") for path in folders.values()
    ]
    return [text[:num_chars] for text in texts]


@functools.cache
def _read_merges(path: Path) -> tuple[list[tuple[str, str]], str]:
    """Return the merges and the single characters of a sentencepiece model."""
    source = load_published(path)
    assert isinstance(source.processor, SentencePieceProcessor)
    tokens = {token: source.processor.get_score(i) for i, token in enumerate(source.tokens)}
    rows = [
        (score, len(token[:cut]), token[:cut], token[cut:])
        for token, score in tokens.items()
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    rows.sort(key=lambda row: row[:2], reverse=True)
    return [row[2:] for row in rows], "".join(token for token in tokens if len(token) == 1)


@pytest.mark.parametrize("parts", [LLAMA, metaspace("always", split=True)], ids=["llama", "split"])
def test_models_of_llamas_kind_are_exact(shared: Path, parts: dict[str, Any]) -> None:
    """Merges are those that transformers makes of the pieces of a sentencepiece model."""
    merges, symbols = _read_merges(shared / "vocabs/modern/mistral-v3.model")
    tokenizer = make_metaspace_bpe(
        merges,
        parts,
        symbols=symbols,
        added=added(*(f"<unused{number}>" for number in range(200)), "\n\n", "<h1>"),
    )
    model = MetaspaceBpeModel(tokenizer)
    assert model.tables[0].lookup.parts.size > 30_000
    assert_characters(tokenizer, step=2001)
    assert_exact(tokenizer, [*random_texts(100, seed=4), *_read_corpora(shared, 1_000)])


@pytest.mark.parametrize(
    "options",
    [{}, {"byte_fallback": False}, {"byte_fallback": False, "fuse_unk": False}],
    ids=["bytes", "fused", "unknown"],
)
def test_ends_of_sentences_change_no_ids(options: dict[str, Any]) -> None:
    tokenizer = make_metaspace_bpe([("\u2581", "a"), ("a", "b"), ("\u2581a", "b")], **options)
    texts: Sequence[str] = ["a ab. ab\u5b57x ab", "\u00e9 a\nb  ab", "\u8a9e\u8a9e!x\u8a9eb"]
    array = column(texts)
    encoder = Encoder(tokenizer)
    whole = encoder.encode(array)
    lengths = np.array([len(text.encode()) for text in texts])
    characters = [i for i, byte in enumerate("".join(texts).encode()) if byte & 0xC0 != 0x80]
    for step in (1, 2, 3):
        ends = np.union1d(characters[1::step], lengths.cumsum())
        parts = encoder.encode(array, ends)
        wanted = LibraryEncoder(tokenizer).encode(array, ends)
        assert parts.ids.tolist() == whole.ids.tolist() == wanted.ids.tolist()
        assert parts.offsets.tolist() == wanted.offsets.tolist()
