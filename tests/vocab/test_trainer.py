"""Vocabularies are those of the slow twins, and of the tokenizers library."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from trainruns import word_counts

from reference import library_trainer
from reference.bpe_trainer import learn_merges
from reference.wordpiece_trainer import by_likelihood
from tokkit.errors import TokkitError, UsageError
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.vocab.train_config import BERT_SPECIAL_TOKENS, TrainConfig
from tokkit.vocab.trainers import train_bpe, train_wordpiece

# Few letters and short words, so that counts are often equal and pairs overlap themselves; counts on
# both sides of 65,535, from which on words are sorted apart.
CORPORA = st.dictionaries(
    st.one_of(st.text("ab", min_size=1, max_size=9), st.text("abcé", min_size=1, max_size=7)),
    st.one_of(st.integers(1, 5), st.integers(65_533, 65_537)),
    min_size=1,
    max_size=12,
).map(lambda words: {word.encode(): count for word, count in words.items()})


def config(**options: Any) -> TrainConfig:
    return TrainConfig(inputs=("-",), output=Path("unused"), **options)


def tokens_of(definition: Mapping[str, Any]) -> list[str]:
    ids = definition["model"]["vocab"]
    assert list(ids.values()) == list(range(len(ids)))
    return list(ids)


def fill(train: Any, words: Mapping[bytes, int], options: dict[str, Any]) -> Any:
    """Train with the size that is given, or else with the one that the words can fill."""
    counts = word_counts(words)
    try:
        return train(config(**options), counts)
    except TokkitError as error:
        size = int(str(error).split("pass --vocab-size ")[1].split()[0])
        assert size < options["vocab_size"]
        return train(config(**{**options, "vocab_size": size}), counts)


def check_bpe(words: Mapping[bytes, int], **options: Any) -> None:
    options = {"model": "bpe", "special_tokens": ("<s>",), **options}
    definition = fill(train_bpe, words, options)
    tokens, merges = library_trainer.train_bpe(config(**options), words)
    assert tokens_of(definition) == tokens
    assert [tuple(merge) for merge in definition["model"]["merges"]] == merges


def check_wordpiece(words: Mapping[bytes, int], **options: Any) -> None:
    definition, _ = fill(train_wordpiece, words, options)
    assert tokens_of(definition) == library_trainer.train_wordpiece(config(**options), words)


@given(CORPORA, st.integers(257, 300), st.integers(1, 4), st.sampled_from([None, 2, 3, 4, 6]))
def test_bpe_equals_the_library_with_ties_and_overlaps(
    words: dict[bytes, int], vocab_size: int, min_frequency: int, max_token_length: int | None
) -> None:
    check_bpe(
        words,
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
    )


@given(CORPORA, st.integers(0, 40), st.integers(1, 4), st.integers(1, 5))
def test_wordpiece_equals_the_library_with_characters_left_out(
    words: dict[bytes, int], num_merges: int, min_frequency: int, limit: int
) -> None:
    check_wordpiece(
        words,
        vocab_size=5 + 2 * limit + num_merges,
        min_frequency=min_frequency,
        limit_alphabet=limit,
    )


def as_ids(tokens: list[str], words: Mapping[bytes, int]) -> dict[tuple[int, ...], int]:
    """Words of WordPiece as ids of single characters."""
    ids = {token: number for number, token in enumerate(tokens)}
    return {
        tuple(
            ids[char if not place else f"##{char}"] for place, char in enumerate(word.decode())
        ): n
        for word, n in words.items()
    }


@given(CORPORA, st.integers(0, 40), st.integers(1, 4), st.sampled_from([None, 2, 3, 4, 6]))
def test_likelihood_equals_its_twin(
    words: dict[bytes, int], num_merges: int, min_frequency: int, max_token_length: int | None
) -> None:
    options: dict[str, Any] = {
        "score": "likelihood",
        "vocab_size": 15 + num_merges,
        "min_frequency": min_frequency,
        "max_token_length": max_token_length,
    }
    definition, alphabet = fill(train_wordpiece, words, options)
    tokens = tokens_of(definition)
    num_symbols = len(alphabet.characters) + len(alphabet.continuing)
    expected = tokens[: 5 + num_symbols]
    merges = learn_merges(
        as_ids(tokens, words),
        [0] * 5 + [1] * num_symbols,
        options["vocab_size"] - len(expected),
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        score=by_likelihood,
    )
    for left, right in merges:
        expected.append(expected[left] + expected[right].removeprefix("##"))
    assert tokens == expected


@given(CORPORA, st.integers(257, 300), st.integers(1, 4))
def test_bpe_equals_its_twin(words: dict[bytes, int], vocab_size: int, min_frequency: int) -> None:
    options = {"model": "bpe", "vocab_size": vocab_size, "min_frequency": min_frequency}
    definition = fill(train_bpe, words, {**options, "special_tokens": ()})
    tokens = tokens_of(definition)
    ids = {token: number for number, token in enumerate(tokens)}
    spellings = byte_level_alphabet()
    counts = {tuple(ids[spellings[byte]] for byte in word): n for word, n in words.items()}
    merges = learn_merges(counts, [1] * 256, vocab_size - 256, min_frequency=min_frequency)
    assert definition["model"]["merges"] == [
        [tokens[left], tokens[right]] for left, right in merges
    ]


LANGUAGES = ("eng", "deu_1996", "rus", "hin", "jpn", "cmn_hans", "tha", "arb", "kor", "vie")


def read_udhr(shared: Path) -> str:
    folder = shared / "corpora" / "multi-udhr"
    paths = [path for name in LANGUAGES for path in sorted(folder.glob(f"*{name}*"))]
    assert len(paths) >= len(LANGUAGES) - 2
    return "\n".join(path.read_text() for path in paths)


def test_bpe_equals_the_library_on_text_of_many_languages(shared: Path) -> None:
    spelled = {spelling: byte for byte, spelling in enumerate(byte_level_alphabet())}
    pre_tokenizer = ByteLevel(add_prefix_space=False)
    words = Counter(
        bytes(spelled[char] for char in word)
        for line in read_udhr(shared).split("\n")
        for word, _ in pre_tokenizer.pre_tokenize_str(line)
    )
    for vocab_size, min_frequency, max_token_length in ((2000, 2, None), (90_000, 1, 9)):
        check_bpe(
            words,
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            max_token_length=max_token_length,
        )


def test_wordpiece_equals_the_library_on_text_of_many_languages(shared: Path) -> None:
    text = BertNormalizer().normalize_str(read_udhr(shared))
    words = Counter(word.encode() for word, _ in BertPreTokenizer().pre_tokenize_str(text))
    check_wordpiece(words, vocab_size=3000, limit_alphabet=300)
    check_wordpiece(words, vocab_size=90_000, min_frequency=1)


def test_long_words_take_no_square_of_their_length() -> None:
    words = {b"a" * 16384: 2, bytes(range(97, 123)) * 600: 1, "é".encode() * 9000: 3}
    check_bpe(words, vocab_size=320)
    for score in ("frequency", "likelihood"):
        train_wordpiece(config(vocab_size=64, score=score), word_counts(words))


def test_unused_tokens_follow_the_special_tokens() -> None:
    words = word_counts({b"abab": 3})
    definition, _ = train_wordpiece(config(vocab_size=12, unused=2), words)
    expected = [*BERT_SPECIAL_TOKENS, "[unused0]", "[unused1]", "a", "b", "##a", "##b", "ab"]
    assert tokens_of(definition) == expected
    assert [row["content"] for row in definition["added_tokens"]] == list(BERT_SPECIAL_TOKENS)
    tokens = Tokenizer.from_str(json.dumps(definition)).encode(
        "[unused0]", add_special_tokens=False
    )
    assert "[unused0]" not in tokens.tokens
    bpe = train_bpe(config(model="bpe", vocab_size=264, unused=2), words)
    assert tokens_of(bpe)[5:8] == ["[unused0]", "[unused1]", "!"]


def test_an_initial_alphabet_is_normalized_as_text_is(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_text("É z\n中")
    words = word_counts({b"ab": 3})
    definition, _ = train_wordpiece(config(vocab_size=11, initial_alphabet=path), words)
    assert tokens_of(definition)[5:] == ["a", "b", "e", "z", "中", "##b"]
    with pytest.raises(TokkitError, match="12"):
        train_wordpiece(config(vocab_size=13, initial_alphabet=path), words)


def test_a_size_that_the_corpus_cannot_fill_is_refused_with_the_size_that_it_can() -> None:
    words = word_counts({b"abc": 3, b"x": 1})
    with pytest.raises(TokkitError, match=r"gives 13 tokens.* pass --vocab-size 13 or less"):
        train_wordpiece(config(vocab_size=30522), words)
    train_wordpiece(config(vocab_size=13), words)
    with pytest.raises(TokkitError, match="less than the 11 tokens"):
        train_wordpiece(config(vocab_size=10), words)
    with pytest.raises(TokkitError, match="gives 256 tokens"):
        train_bpe(config(model="bpe", vocab_size=300, special_tokens=()), word_counts({}))


@pytest.mark.parametrize("token", ["pad", "##ing", "a"])
def test_special_tokens_that_are_words_are_refused(token: str) -> None:
    words = word_counts({b"ab": 3})
    for train, model in ((train_wordpiece, "wordpiece"), (train_bpe, "bpe")):
        if (token, model) != ("##ing", "bpe"):
            with pytest.raises(UsageError, match="add punctuation"):
                train(config(model=model, special_tokens=("[UNK]", token)), words)
