"""Texts are normalized as the libraries do it, character for character."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hardtexts import code_points, random_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from tokkit.tokenizer.character_rules import SentencepieceRules
from tokkit.tokenizer.definitions import UnsupportedError
from tokkit.tokenizer.sentencepiece_model import read_sentencepiece
from tokkit.tokenizer.text_normalizer import TextNormalizer

_Function = Callable[[str], str]
_Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any] | None]
_SEQUENCE = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}


@cache
def _train_model(**options: Any) -> bytes:
    """Return a tiny sentencepiece model."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few words of text, a few more"]),
        model_writer=model,
        vocab_size=64,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _precompiled(rule: str) -> dict[str, Any]:
    charsmap = read_sentencepiece(_train_model(normalization_rule_name=rule)).charsmap
    return {"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode()}


def _replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _sub(pattern: str, content: str) -> dict[str, Any]:
    return _replace(pattern, content, "Regex")


def _strip(*, left: bool) -> dict[str, Any]:
    return {"type": "Strip", "strip_left": left, "strip_right": True}


def _metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}


def _prepend(text: str) -> dict[str, Any]:
    return {"type": "Prepend", "prepend": text}


@cache
def _definitions() -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Return normalizers and pre-tokenizers of published tokenizers, and of ours, by name."""
    nfc, nfd, nfkc, nfkd, lower, strips, nmt = (
        {"type": name}
        for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")
    )
    charsmap = _precompiled("nmt_nfkc")
    quotes = [_replace("``", '"'), _replace("''", '"')]
    always, words = [_metaspace("always")], [{"type": "WhitespaceSplit"}, _metaspace("always")]
    uncased = [*quotes, nfkd, strips, lower, charsmap, _sub(" {2,}", " ")]
    ends = [_sub(r"\A +", ""), _sub(" +", "▁"), _sub(r"▁+\z", ""), _prepend("▁")]
    return {
        "Qwen": ([nfc], []),
        "NFD": ([nfd], []),
        "NFKC": ([nfkc], []),
        "lower-case": ([nfkd, lower, strips], []),
        "Nmt": ([nmt, nfkc], []),
        "Precompiled": ([_precompiled("nfkc")], []),
        "XLM-R": ([charsmap, _strip(left=False), _sub(" {2,}", "▁")], always),
        "T5": ([charsmap], words),
        "ALBERT": (uncased, always),
        "BigBird": ([_precompiled("nfkc")], [_metaspace("first")]),
        "DeBERTa": ([_strip(left=True), charsmap, _sub(" {2,}", " ")], always),
        "Barthez": ([_sub(r"\s{2,}|[\n\r\t]", " "), nfc, _strip(left=False)], always),
        "Llama": ([_prepend("▁"), _replace(" ", "▁")], []),
        "Gemma": ([_replace(" ", "▁")], [_metaspace("never")]),
        "GPT-BERT": ([_prepend(" "), nfkc, _sub("\n", "\n "), _sub(" *\n", "\n")], []),
        "CLIP": ([nfc, _sub(r"\s+", " "), lower], []),
        "tokkit": ([charsmap, *ends], [_metaspace("never")]),
    }


def _sequence(parts: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    return {"type": "Sequence", _SEQUENCE[kind]: parts} if parts else None


@cache
def _make(name: str) -> tuple[TextNormalizer, _Function]:
    """Return a normalizer, and what its library does, with the space for U+2581."""
    parts = dict(zip(_SEQUENCE, _definitions()[name], strict=True))
    changes = {kind: _sequence(found, kind) for kind, found in parts.items()}
    empty = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    library = tokenizers.Tokenizer.from_str(json.dumps({**empty, **changes}))
    is_escaped = bool(parts["pre_tokenizer"]) or name == "Llama"

    def normalize(text: str) -> str:
        text = library.normalizer.normalize_str(text)
        if library.pre_tokenizer is not None:
            text = "".join(part for part, _ in library.pre_tokenizer.pre_tokenize_str(text))
        return text.replace("▁", " ") if is_escaped else text

    definition = changes["normalizer"], changes["pre_tokenizer"]
    return TextNormalizer.of_definition(*definition), normalize


_MODELS: dict[str, dict[str, Any]] = {
    "nmt_nfkc": {},
    "nfkc": {"remove_extra_whitespaces": False, "normalization_rule_name": "nfkc"},
    "identity": {"normalization_rule_name": "identity"},
    "user-defined U+2581": {"normalization_rule_name": "nfkc", "user_defined_symbols": "▁the"},
    "no prefix": {"add_dummy_prefix": False, "user_defined_symbols": "<sep>,.,é"},
}


@cache
def _make_model(name: str) -> tuple[TextNormalizer, _Function]:
    serialized = _train_model(**_MODELS[name])
    processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
    model = read_sentencepiece(serialized)
    tokenizer: Any = SimpleNamespace(processor=processor, model=model)
    return TextNormalizer.of_tokenizer(tokenizer), lambda text: processor.normalize(text).replace(
        "▁", " "
    )


def _pack(texts: Iterable[str]) -> _Arrays:
    encoded = [text.encode() for text in texts]
    values = np.frombuffer(b"".join(encoded), np.uint8)
    return values, np.cumsum([0, *map(len, encoded)]), None


def _unpack(values: np.ndarray[Any, Any], bounds: np.ndarray[Any, Any]) -> list[str]:
    content = values.tobytes()
    return [content[start:stop].decode() for start, stop in pairwise(bounds.tolist())]


def _assert_same(normalizer: TextNormalizer, expected: _Function, texts: Sequence[str]) -> None:
    values, bounds, _ = normalizer.add_prefix(*normalizer.normalize(*_pack(texts)))
    for text, found in zip(texts, _unpack(values, bounds), strict=True):
        assert found == expected(text), ascii(text)


_CHARS = st.sampled_from(
    "aeZ 09\n\r\t\0`'\"<>éßſﬁ½²Å①㍿ﷺｶﾞ\u3099\u0301\u0338\u0323\u0327\u0345\u0344\u1100\u1161\u11a8가각ﾡￂ"
    "क\u094d\u093c\u0958\u093f\u09be\u09c7\u1b05\u1b35й\u0e33\u0650\u0651\u3000\u200d\u200b\ufeff😀©\ufe0f🇫\u0600"
    "     ▁▁"
)
_TEXTS = st.lists(st.text(st.one_of(_CHARS, _CHARS, st.characters(exclude_categories=["Cs"]))))
_NAMES = list(_definitions())


@pytest.mark.parametrize("name", _NAMES)
@settings(max_examples=settings().max_examples // 2)
@given(texts=_TEXTS)
def test_texts_are_normalized_as_the_library_does(name: str, texts: list[str]) -> None:
    _assert_same(*_make(name), texts)


@pytest.mark.parametrize("name", list(_MODELS))
@given(texts=_TEXTS)
def test_texts_are_normalized_as_sentencepiece_does(name: str, texts: list[str]) -> None:
    _assert_same(*_make_model(name), texts)


@pytest.mark.parametrize("name", _NAMES)
def test_hard_texts_are_normalized_as_the_library_does(name: str) -> None:
    _assert_same(*_make(name), random_texts(150, seed=14))


def _place(patterns: Sequence[str], *, full: bool) -> list[str]:
    """Return each code point in each of some surroundings, or in every other one."""
    return [
        pattern.format(char)
        for number, pattern in enumerate(patterns)
        for char in code_points(full=full)[0 if full else number % 2 :: 1 if full else 2]
    ]


@pytest.mark.parametrize("name", ["Qwen", "NFKC", "lower-case", "Precompiled"])
def test_each_character_among_others(name: str, *, full: bool) -> None:
    """No character changes what is beside it but where the library says so."""
    patterns = ["a{0}{0}b", "e{}\u0323\u0301", "\u1100{}\u11a8", "©\u200d{}\u0301"]
    _assert_same(*_make(name), _place(patterns, full=full))


def test_each_character_among_others_in_sentencepiece(*, full: bool) -> None:
    texts = _place(["{}", "a{0}{0}b", "e{}\u0323\u0301", "<sep>{}"], full=full)
    _assert_same(*_make_model("no prefix"), texts)


@pytest.mark.parametrize("name", ["Qwen", "ALBERT", "T5"])
def test_real_text(name: str, shared: Path) -> None:
    paths = sorted((shared / "corpora" / "messy").iterdir())
    texts = [path.read_bytes()[:20_000].decode(errors="ignore") for path in paths]
    _assert_same(*_make(name), texts)


def test_a_user_defined_piece_is_searched_for_as_it_is() -> None:
    """A space is none of its U+2581, which the table of nmt_nfkc makes a space elsewhere."""
    texts = ["▁the\u0301", " the\u0301", "a ▁the", "a the"]
    _assert_same(*_make_model("user-defined U+2581"), texts)
    replaced = _train_model(user_defined_symbols="▁the")
    with pytest.raises(UnsupportedError, match="its user-defined piece '▁the'"):
        SentencepieceRules(read_sentencepiece(replaced), replaced)


def test_long_pieces_and_forms() -> None:
    """A thousand accents, texts that grow elevenfold, more pieces than the table holds."""
    marks = [chr(code) for code in range(0x300, 0x340)]
    many = "".join(f"{chr(0x61 + i % 26)}{mark}{marks[i % 61]}" for i, mark in enumerate(marks * 9))
    pairs = "".join(f"{chr(code)}\u0323\u0301" for code in range(0x4E00, 0x4E00 + 20_000))
    texts = ["a" + "\u0301\u0323" * 40_000, "ﷺ" * 5000, many, pairs, "x"]
    for name in ("NFKC", "Precompiled"):
        _assert_same(*_make(name), texts)


@pytest.mark.parametrize("name", ["Qwen", "XLM-R", "Barthez", "lower-case"])
def test_nothing_is_copied_where_nothing_changes(name: str) -> None:
    values, bounds, ends = _pack(["many plain words", "and more of them; no accents"])
    found = _make(name)[0].normalize(values, bounds, ends)
    assert found[0] is values
    assert found[1] is bounds


@pytest.mark.parametrize("name", ["Qwen", "XLM-R", "ALBERT", "T5", "tokkit"])
@settings(max_examples=20)
@given(texts=_TEXTS, data=st.data())
def test_ends_of_sentences_move_with_the_text(
    name: str, texts: list[str], data: st.DataObject
) -> None:
    """Where a text can be cut at an end, what is before it becomes what is before the new end."""
    values, bounds, _ = _pack(texts)
    ends: list[int] = []
    for text, start in zip(texts, bounds.tolist(), strict=False):
        lengths = np.cumsum([len(char.encode()) for char in text]).tolist()
        if lengths:
            ends += [start + end for end in sorted(data.draw(st.sets(st.sampled_from(lengths))))]
    normalizer, _ = _make(name)
    found = normalizer.normalize(values, bounds, np.array(ends, np.int64))
    out_values, out_bounds, out_ends = normalizer.add_prefix(*found)
    assert out_ends is not None
    assert np.all(np.diff(out_ends) >= 0)
    for end, new_end in zip(ends, out_ends.tolist(), strict=True):
        segment = int(np.searchsorted(bounds, end)) - 1
        assert out_bounds[segment] <= new_end <= out_bounds[segment + 1]
        out_values[out_bounds[segment] : new_end].tobytes().decode()
        if end == bounds[segment + 1] and name in ("Qwen", "tokkit"):
            assert new_end == out_bounds[segment + 1]


def test_an_end_stays_behind_the_text_before_it() -> None:
    values, bounds, _ = _pack(["①ne. ①wo  ", "e\u0301e\u0301"])
    normalizer, _ = _make("XLM-R")
    ends = np.array([6, 14, 15, 17])
    text = normalizer.add_prefix(*normalizer.normalize(values, bounds, ends))
    assert _unpack(*text[:2]) == [" 1ne. 1wo", " éé"]
    assert text[2] is not None
    assert text[2].tolist() == [5, 9, 12, 12]


def test_only_the_first_segment_of_a_text_has_a_prefix() -> None:
    normalizer, _ = _make("BigBird")
    text = _pack(["a", "b", "c"])
    values, bounds, _ = normalizer.add_prefix(*text, is_first=np.array([True, False, True]))
    assert _unpack(values, bounds) == [" a", "b", " c"]


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "part"),
    [
        ({"type": "BertNormalizer"}, None, "its normalizer BertNormalizer"),
        (_sub("a*", "b"), None, "its normalizer Replace of 'a\\*'"),
        (_sub("a|b*", "b"), None, "its normalizer Replace of 'a|b\\*'"),
        (_sub("^ +", ""), None, "its normalizer Replace"),
        (None, {**_metaspace("always"), "replacement": "_"}, "its pre-tokenizer Metaspace"),
        (
            None,
            _sequence([{"type": "Punctuation"}, _metaspace("always")], "pre_tokenizer"),
            "its pre-tokenizer Punctuation before Metaspace",
        ),
    ],
)
def test_what_only_the_library_knows_is_named(
    normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None, part: str
) -> None:
    with pytest.raises(UnsupportedError, match=part):
        TextNormalizer.of_definition(normalizer, pre_tokenizer)
