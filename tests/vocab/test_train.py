"""``train`` learns the same vocabulary every time, and knows when there is nothing to do."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from trainruns import SENTENCES, files, fill, run, run_apart

from tokkit.errors import TokkitError, UsageError
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab.train_config import BERT_SPECIAL_TOKENS


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_every_run_gives_the_same_bytes(tmp_path: Path, languages: Path, model: str) -> None:
    outputs = [tmp_path / str(number) for number in range(3)]
    for number, (output, workers) in enumerate(zip(outputs, (0, 1, 4), strict=True)):
        process = run_apart(
            output, str(languages), seed=number, model=model, vocab_size=3000, workers=workers
        )
        _, line = process.communicate()
        assert process.returncode == 0, line
    first, *others = (files(output) for output in outputs)
    assert "training.json" in first
    for other in others:
        assert other == first
    tokenizer = load_tokenizer(outputs[0])
    assert tokenizer.vocab_size == 3000
    assert tokenizer.tokens[:5] == BERT_SPECIAL_TOKENS
    assert tokenizer.all_special_ids == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
@pytest.mark.parametrize("split_digits", [False, True])
def test_transformers_loads_what_was_learned(
    tmp_path: Path, corpus: Path, model: str, split_digits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    run(corpus, tmp_path / "out", model=model, split_digits=split_digits)
    assert ("load it with AutoTokenizer" in caplog.text) == split_digits
    ours = load_tokenizer(tmp_path / "out").library
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours is not None
    for text in (*SENTENCES[:2], "Ünaffable 中 \u0301! 2024", ""):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs(text)["input_ids"] == [2, *ids, 3]
        if text:
            assert theirs(text, text)["input_ids"] == [2, *ids, 3, *ids, 3]
    assert theirs("[MASK]")["input_ids"] == [2, 4, 3]


def test_a_wordpiece_vocabulary_is_special_tokens_alphabet_and_merges(
    tmp_path: Path, corpus: Path
) -> None:
    fill(corpus, tmp_path / "out")
    tokens = load_tokenizer(tmp_path / "out").tokens
    words = [
        word
        for text in SENTENCES
        for word, _ in BertPreTokenizer().pre_tokenize_str(BertNormalizer().normalize_str(text))
    ]
    alphabet = sorted({char for word in words for char in word})
    continuing = [f"##{char}" for char in sorted({char for word in words for char in word[1:]})]
    head = [*BERT_SPECIAL_TOKENS, *alphabet, *continuing]
    assert list(tokens[: len(head)]) == head
    bare = [token.removeprefix("##") for token in tokens[len(head) :]]
    assert bare
    assert all(any(token in word for word in words) for token in bare)


def test_special_tokens_in_text_are_counted_as_words(tmp_path: Path, corpus: Path) -> None:
    run(corpus, tmp_path / "out")
    tokens = load_tokenizer(tmp_path / "out").tokens
    assert {"[", "]", "mask"} <= set(tokens)
    assert tokens.count("[MASK]") == 1


def test_the_alphabet_keeps_the_most_frequent_and_counts_the_others(
    tmp_path: Path, corpus: Path
) -> None:
    counts = Counter("".join(SENTENCES * 5).lower().replace(" ", ""))
    training = fill(corpus, tmp_path / "out", limit_alphabet=6)
    kept = sorted(sorted(counts, key=lambda char: (-counts[char], char))[:6])
    assert list(load_tokenizer(tmp_path / "out").tokens[5:11]) == kept
    removed = counts.total() - sum(counts[char] for char in kept)
    assert training.accounts["characters"] == {
        "in": counts.total(),
        "kept": counts.total() - removed,
        "dropped": {"beyond --limit-alphabet": removed},
    }
    assert training.accounts["documents"] == {"in": 15, "kept": 15, "dropped": {}}


def test_options_shape_the_vocabulary(tmp_path: Path, corpus: Path) -> None:
    corpus.write_text("Éclair Éclair éclair\n\nÉclair")
    cased = fill(corpus, tmp_path / "cased", cased=True)
    assert "Éclair" in load_tokenizer(tmp_path / "cased").tokens
    fill(corpus, tmp_path / "accents", strip_accents=False)
    assert "éclair" in load_tokenizer(tmp_path / "accents").tokens
    plain = fill(corpus, tmp_path / "plain")
    assert "eclair" in load_tokenizer(tmp_path / "plain").tokens
    assert cased.tokenizer_fingerprint != plain.tokenizer_fingerprint
    fill(corpus, tmp_path / "rare", min_frequency=9)
    assert "eclair" not in load_tokenizer(tmp_path / "rare").tokens
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|sep|>")
    fill(corpus, tmp_path / "bpe", model="bpe", special_tokens=special)
    tokenizer = load_tokenizer(tmp_path / "bpe")
    assert tokenizer.special_ids == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}
    assert tokenizer.all_special_ids == tuple(range(6))


def test_a_size_that_the_corpus_cannot_fill_is_refused_with_the_size_that_it_can(
    tmp_path: Path, corpus: Path
) -> None:
    line = "--vocab-size 5000: the corpus gives 58 tokens with --min-frequency 2; pass"
    with pytest.raises(TokkitError, match=line):
        run(corpus, tmp_path / "out", vocab_size=5000)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert run(corpus, tmp_path / "out", vocab_size=58).vocab_size == 58


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"vocab_size": 10}, "--vocab-size 10: less than the .* tokens that special tokens"),
        ({"special_tokens": ("[UNK]", "cat")}, r"--special-token cat: .* as in \[cat\]"),
        ({"special_tokens": ("[UNK]", "##s")}, "--special-token ##s: text has such words"),
        ({"special_tokens": ("[UNK]", "!")}, "--special-token !: text has such words"),
        ({"model": "bpe", "special_tokens": ("Ġthe",)}, "--special-token Ġthe: text has such"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    tmp_path: Path, corpus: Path, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(TokkitError, match=line):
        run(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "training.json").exists()


def test_a_special_token_that_no_word_can_become_is_accepted(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(UsageError):
        run(corpus, tmp_path / "out", special_tokens=("[UNK]", "cat"))
    run(corpus, tmp_path / "out2", special_tokens=("[UNK]", "CAT", "[cat]", "日本"))
    tokenizer = load_tokenizer(tmp_path / "out2")
    assert tokenizer.all_special_ids == (0, 1, 2, 3)
    assert "cat" in tokenizer.tokens


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
@pytest.mark.parametrize("content", [b"", b"\n\n \n\n\t\n"])
def test_a_corpus_of_nothing_is_one_line(tmp_path: Path, model: str, content: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(TokkitError, match=r"empty\.txt: .*no document is left to learn from"):
        run(path, tmp_path / "out", model=model)


def test_a_corpus_without_words_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "controls.txt"
    path.write_text("\u200b\u200b\n\n\x01")
    with pytest.raises(TokkitError, match=r"controls\.txt: .*no character is left"):
        run(path, tmp_path / "out")


def test_a_long_line_without_a_space_is_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("ab" * 50_000 + " the cat " * 3)
    for model in ("wordpiece", "bpe"):
        fill(path, tmp_path / model, model=model)
        assert any(t in load_tokenizer(tmp_path / model).tokens for t in ("the", "Ġthe"))
