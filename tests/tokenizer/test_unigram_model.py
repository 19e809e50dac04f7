"""Unigram tokenizers are encoded as their libraries do, to the last bit of the scores."""

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exactness import assert_exact, column, load_published
from hardtexts import all_texts, alphabet, long_words, random_texts
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from tokkit.tokenizer.encoded import TextTooLongError
from tokkit.tokenizer.encoder import Encoder, choose_kernel
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from tokkit.tokenizer.unigram_model import UnigramModel

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
METASPACE = {
    "type": "Metaspace",
    "replacement": "\u2581",
    "prepend_scheme": "always",
    "split": True,
}
WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
# Equal scores, scores that differ in the last bit, scores whose sums round, and some above zero.
SCORES = st.one_of(
    st.sampled_from([-1.0, -0.1, -0.2, -0.3, -0.30000000000000004, 0.0, 1.0]),
    st.floats(-30, 30),
)
CHARACTERS = "ab é字\u2581\0😀\n"
PARTS = st.lists(st.sampled_from([*CHARACTERS, "<unk>", "\u2581\u2581"]), max_size=40)
TEXTS = st.lists(PARTS.map("".join))
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
FOLDERS = ("en-wikitext2", "ja-aozora", "zh-wiki-cmrc", "th-wisesight", "ko-nsmc", "messy")


def make_unigram(
    scores: dict[str, float],
    *,
    unknown: str | None = "<unk>",
    byte_fallback: bool = False,
    pre_tokenizer: Any = METASPACE,
    **changes: Any,
) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.json``."""
    form = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "Unigram",
            "unk_id": None if unknown is None else [*scores].index(unknown),
            "vocab": [list(piece) for piece in scores.items()],
            "byte_fallback": byte_fallback,
        },
        **changes,
    }
    return make_tokenizer(TokenizerFiles(Path("made.json"), form))


def write_model(path: Path, pieces: Sequence[tuple[str, float, int]], **options: bool) -> Tokenizer:
    """Return the tokenizer of a sentencepiece model with these texts, scores and kinds."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([*_varint(number << 3), *_varint(value)])
        return bytes([*_varint(number << 3 | 2), *_varint(len(value))]) + value

    trainer = field(3, 1) + field(35, int(any(kind == BYTE for *_, kind in pieces)))
    rows = [
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + field(3, kind))
        for text, score, kind in pieces
    ]
    removes = options.get("remove_extra_whitespaces", False)
    normalizer = field(1, b"identity") + field(4, int(removes))
    path.write_bytes(b"".join(rows) + field(2, trainer) + field(3, normalizer))
    return load_tokenizer(path)


def _varint(number: int) -> list[int]:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups[-1] |= 0x80
        groups.append(number & 0x7F)
    return groups


@st.composite
def unigrams(draw: st.DrawFn) -> Tokenizer:
    """Any vocabulary over a few characters."""
    texts = st.text(CHARACTERS, min_size=1, max_size=5)
    scores = {"<s>": 0.0, **draw(st.dictionaries(texts, SCORES, max_size=25))}
    scores["<unk>"] = draw(SCORES)
    byte_fallback = draw(st.booleans())
    if byte_fallback:
        scores |= {token: draw(SCORES) for token in BYTES[draw(st.sampled_from([0, 0, 33])) :]}
        scores.setdefault("\u2581", draw(SCORES))
    candidates = [token for token in scores if not byte_fallback or "\u2581" not in token]
    unknown = draw(st.sampled_from(["<unk>", *candidates]))
    schemes = [{**METASPACE, "prepend_scheme": scheme} for scheme in ("always", "first", "never")]
    pre_tokenizer = draw(st.sampled_from([*schemes, WORDS]))
    return make_unigram(
        scores, unknown=unknown, byte_fallback=byte_fallback, pre_tokenizer=pre_tokenizer
    )


def assert_equal(
    tokenizer: Tokenizer, texts: Sequence[str], ends: np.ndarray[Any, Any] | None = None
) -> None:
    """Assert that ids, word starts and tokens before ends of sentences are those of the library."""
    given, wanted = (
        make(tokenizer).encode(column(texts), ends) for make in (Encoder, LibraryEncoder)
    )
    assert given.ids.tolist() == wanted.ids.tolist()
    assert given.offsets.tolist() == wanted.offsets.tolist()
    assert given.word_starts.equals(wanted.word_starts)


@given(unigrams(), TEXTS)
def test_any_vocabulary_gives_the_ids_of_the_library(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    assert choose_kernel(tokenizer).name == "unigram"
    assert_equal(tokenizer, texts * 2)  # from the cache, too


def test_an_unknown_token_with_a_space_is_spelled_as_in_the_library() -> None:
    scores = dict.fromkeys(["<s>", "<unk>", "\u2581", "\u2581a", *BYTES], -1.0)
    for unknown in ("\u2581", "\u2581a"):
        tokenizer = make_unigram(scores, unknown=unknown, byte_fallback=True)
        assert_equal(tokenizer, ["a", "a b", "  a"])


@given(unigrams(), st.lists(st.lists(st.text("ab é字.", min_size=1), min_size=1), min_size=1))
def test_tokens_that_begin_before_the_end_of_a_sentence_are_counted(
    tokenizer: Tokenizer, documents: list[list[str]]
) -> None:
    texts = ["".join(sentences) for sentences in documents]
    lengths = [len(sentence.encode()) for sentences in documents for sentence in sentences]
    assert_equal(tokenizer, texts, np.cumsum(lengths, dtype=np.int64))


def test_a_text_of_spaces_alone_has_no_tokens_before_its_end() -> None:
    tokenizer = make_unigram({"<unk>": 0.0, "a": -1.0}, pre_tokenizer=WORDS)
    assert_equal(tokenizer, [" "], np.array([1]))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("pre_tokenizer", [METASPACE, WORDS], ids=["spaces", "words"])
def test_added_tokens_of_white_space_are_kept(pre_tokenizer: Any, *, normalized: bool) -> None:
    """Normalizers and pre-tokenizers that remove white space get only the text between them."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    rows = [
        {"id": 0, "content": content, "normalized": normalized, **flags}
        for content in ("\n", "\t\t")
    ]
    strip = {"type": "Strip", "strip_left": not normalized, "strip_right": not normalized}
    tokenizer = make_unigram(
        {"<unk>": 0.0, "\u2581": -1.0, "a": -1.0, "\u2581a": -1.5},
        pre_tokenizer=pre_tokenizer,
        normalizer=strip,
        added_tokens=rows,
    )
    assert choose_kernel(tokenizer).name == "unigram"
    texts = all_texts(["\n", "\t\t", "字", "\t", " ", "a"], 4)[1:]
    assert_equal(tokenizer, texts)
    assert_equal(tokenizer, texts, np.cumsum([len(text.encode()) for text in texts]))


@pytest.mark.parametrize("pattern", ["{0}", "a{0}b", "{0}{0}"], ids=["alone", "within", "twice"])
def test_every_character(pattern: str) -> None:
    chars = alphabet(full=False)
    scores = {char: -1.0 - number % 7 for number, char in enumerate(chars[::2]) if char != " "}
    tokenizer = make_unigram({"<unk>": 0.0, "\u2581": -2.0, "ab": -1.5, **scores})
    assert_exact(tokenizer, [pattern.format(char) for char in (*chars, *random_texts(50, 3))])


@pytest.mark.parametrize("name", ["xlnet-cased-spiece.model", "opus-mt-en-fr-source.spm"])
@pytest.mark.parametrize("kind", ["tokenizer.json", "model"])
def test_real_vocabularies_on_real_documents(shared: Path, name: str, kind: str) -> None:
    tokenizer = load_published(shared / "vocabs" / "sentencepiece" / name)
    if kind == "tokenizer.json":
        assert isinstance(tokenizer.processor, SentencePieceProcessor)
        score = tokenizer.processor.get_score
        tokenizer = make_unigram(
            {token: score(number) for number, token in enumerate(tokenizer.tokens)}
        )
    texts = []
    for folder in FOLDERS:
        path = max((shared / "corpora" / folder).iterdir())
        text = path.read_bytes()[:10_000].decode(errors="ignore").replace("\r", "")
        texts += [text, *(line for line in text.split("\n") if line)]
    ends = np.cumsum([len(text.encode()) for text in texts], dtype=np.int64)
    assert choose_kernel(tokenizer).name == "unigram"
    assert_equal(tokenizer, texts, ends)


@given(st.data())
def test_any_sentencepiece_model_gives_its_own_ids(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    texts = st.text("ab é字\u2581", min_size=1, max_size=4)
    kinds = st.sampled_from([NORMAL, NORMAL, NORMAL, USER_DEFINED, UNUSED])
    rows = data.draw(st.dictionaries(texts, st.tuples(SCORES, kinds), max_size=20))
    rows.pop("\u2581", None)
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("\u2581", -2.0, NORMAL)]
    pieces += [
        (text, score, kind)
        for text, (score, kind) in rows.items()
        if "\u2581" not in text[1:] and (" " not in text or kind != USER_DEFINED)
    ]
    if data.draw(st.booleans()):
        pieces += [(token, 0.0, BYTE) for token in BYTES]
    path = tmp_path_factory.mktemp("models") / "made.model"
    tokenizer = write_model(path, pieces, remove_extra_whitespaces=data.draw(st.booleans()))
    documents = [text for text in data.draw(TEXTS) if text and "\0" not in text]
    documents += ["ab aé 字b " * 1000, "ab" * 5000]  # sums that round, and beyond the largest
    ends = np.cumsum([len(text.encode()) for text in documents], dtype=np.int64)
    assert choose_kernel(tokenizer).name == "unigram"
    assert_equal(tokenizer, documents, ends)


def test_sums_of_a_long_text_round_as_in_sentencepiece(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    texts = {"".join(draws.choice(list("abc"), size)) for size in (1, 1, 2, 2, 2, 3, 3, 3, 4)}
    rows = [(text, draws.uniform(-9, -8.99), NORMAL) for text in sorted({*"abc", *texts})]
    rows += [(f"\u2581{text}", draws.uniform(-9, -8.99), NORMAL) for text, *_ in rows]
    pieces = [("<unk>", 0.0, UNKNOWN), ("\u2581", -9.0, NORMAL), *rows]
    tokenizer = write_model(tmp_path / "made.model", pieces)
    words = ["".join(draws.choice(list("abc"), size)) for size in draws.integers(1, 9, 300)]
    text = " ".join(draws.choice(words, 20_000))
    assert_equal(tokenizer, [text], np.array([len(text)]))


def test_words_of_any_length() -> None:
    scores = {"<unk>": 0.0, "a": -1.0, "aa": -1.9, "aaaa": -3.7, "ab": -2.5, "\u2581a": -1.1}
    tokenizer = make_unigram(scores)
    lengths = accumulate([1, 1, 2, 11, 90, 1000, 7000, 200, 20_000])
    texts = [letters * length for length in lengths for letters in ("a", "ab", "字", "aab b字")]
    assert_exact(tokenizer, [*texts, *long_words()])


def test_text_that_cannot_be_cut_within_the_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(UnigramModel, "longest_word", 20_000)
    tokenizer = make_unigram({"<unk>": 0.0, "a": -1.0, "aa": -1.9})
    encoder = Encoder(tokenizer)
    assert len(encoder.encode(column(["ab", "ab" * 50_000])).ids) > 0
    with pytest.raises(TextTooLongError, match="break the text into lines") as raised:
        encoder.encode(column(["ab", "a" * 50_000]))
    assert raised.value.text == 1


@pytest.mark.parametrize(
    ("make", "obstacle"),
    [
        (lambda: make_unigram({"<unk>": 0, "a": -1}, pre_tokenizer=None), "the pre-tokenizer None"),
        (
            lambda: make_unigram(
                {"<unk>": 0, "a": -1}, pre_tokenizer={**METASPACE, "split": False}
            ),
            "the pre-tokenizer Metaspace",
        ),
        (
            lambda: make_unigram({"<unk>": 0, "a": -1, "<0x61>": 0}, byte_fallback=True),
            "no token for a space",
        ),
        (
            lambda: make_unigram(
                {"<unk>": 0, "a": -1},
                pre_tokenizer={**METASPACE, "prepend_scheme": "first"},
                normalizer={"type": "StripAccents"},
            ),
            "prepend_scheme first after the normalizer StripAccents",
        ),
        (
            lambda: make_unigram(
                {"<unk>": 0, "a": -1},
                pre_tokenizer={**METASPACE, "prepend_scheme": "first"},
                normalizer={"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
            ),
            "prepend_scheme first after the normalizer Replace",
        ),
        (lambda: make_unigram({"<unk>": 0, "a": -1e200}), "scores above 1e"),
        (lambda: make_unigram({"a": 0, "b": -1}, unknown=None), "no token for unknown words"),
    ],
    ids=["no pre-tokenizer", "no split", "bytes", "first", "pairs", "scores", "no unknown token"],
)
def test_what_no_kernel_knows_is_named(make: Callable[[], Tokenizer], obstacle: str) -> None:
    choice = choose_kernel(make())
    assert choice.name is None
    assert choice.obstacle.startswith(obstacle)
