"""Options out of range, or without effect for the model, are refused by name."""

from pathlib import Path
from typing import Any

import pytest

from tokkit.errors import UsageError
from tokkit.vocab.train_config import TrainConfig


def make(**options: Any) -> TrainConfig:
    return TrainConfig(inputs=("a.txt", "b.txt"), output=Path("out"), **options)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"score": "ratio"}, "--score must be one of frequency, likelihood"),
        ({"min_word_count": 0}, "--min-word-count must be at least 1"),
        ({"unused": -1}, "--unused must be at least 0"),
        ({"unused": 30_517}, "--vocab-size must be at least 30,523"),
        ({"held_out": 1.0}, "--held-out must be at least 0 and below 1"),
        ({"held_out": -0.1}, "--held-out must be"),
        ({"memory": 63_999_999}, "--memory must be at least 64,000,000"),
        ({"max_token_length": 1}, "--max-token-length must be at least 2"),
        ({"model": "unigram", "max_token_length": 513}, "sentencepiece takes at most 512"),
        ({"weights": {"c.txt": 2.0}}, "c.txt=2: no such INPUT; name one of a.txt, b.txt"),
        ({"weights": {"a.txt": 0.0}}, "a.txt=0.0: must be above 0"),
        ({"weights": {"a.txt": 0.1234}}, "at most three decimals"),
        ({"weights": {"a.txt": float("nan")}}, "must be above 0"),
        ({"unused": 2, "special_tokens": ("[UNK]", "[unused1]")}, "--unused adds it already"),
        ({"model": "unigram", "special_tokens": ("<s>",)}, "unigram needs .UNK. or <unk>"),
        ({"model": "unigram", "byte_fallback": True, "vocab_size": 260}, "must be at least 261"),
    ],
)
def test_a_value_out_of_range_is_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        make(**options)


@pytest.mark.parametrize(
    ("model", "options", "flag"),
    [
        ("bpe", {"score": "likelihood"}, "--score"),
        ("unigram", {"score": "likelihood"}, "--score"),
        ("unigram", {"min_frequency": 3}, "--min-frequency"),
        ("bpe", {"limit_alphabet": 20}, "--limit-alphabet"),
        ("bpe", {"initial_alphabet": Path("x")}, "--initial-alphabet"),
        ("bpe", {"cased": True}, "--cased/--uncased"),
        ("bpe", {"strip_accents": False}, "--strip-accents/--keep-accents"),
        ("unigram", {"strip_accents": True}, "--strip-accents/--keep-accents"),
        ("wordpiece", {"byte_fallback": True}, "--byte-fallback"),
    ],
)
def test_an_option_without_effect_is_refused(
    model: str, options: dict[str, Any], flag: str
) -> None:
    with pytest.raises(UsageError, match=f"{flag} has no effect with --model {model}"):
        make(model=model, **options)


def test_options_with_an_effect_are_accepted() -> None:
    make(score="likelihood", strip_accents=False, split_digits=True, unused=100)
    make(model="bpe", max_token_length=10, weights={"a.txt": 0.001, "b.txt": 1_000_000})
    unigram = make(model="unigram", byte_fallback=True, cased=True, unused=2, held_out=0)
    assert unigram.unused_tokens == ("[unused0]", "[unused1]")
