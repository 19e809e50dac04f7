"""A unigram model is sentencepiece's, the same at every run, in both of its forms."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from trainruns import word_counts

from tokkit.errors import TokkitError
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.unigram_trainer import define_unigram, train_unigram
from tokkit.vocab.word_counts import WordCounts

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = README.read_text()
WORDS = word_counts(Counter(TEXT.encode().split()))
HARD = ("", " ", "\u2581", "  the  cat ", "a\u2581 cat", "CAT\tÉ", "[MASK] <s>", "\n", "the" * 99)


def learn(words: WordCounts = WORDS, **options: Any) -> bytes:
    options = {"vocab_size": 300, **options}
    config = TrainConfig(inputs=("x",), output=Path("out"), model="unigram", **options)
    return train_unigram(config, words)


def processor_of(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def pieces_of(model: bytes) -> list[str]:
    processor = processor_of(model)
    return [processor.id_to_piece(number) for number in range(len(processor))]


def library_of(model: bytes) -> Tokenizer:
    return make_tokenizer(TokenizerFiles(Path("unigram.json"), define_unigram(model, ())))


def test_every_run_gives_the_same_model() -> None:
    assert learn() == learn()


def test_special_tokens_come_first_and_text_never_becomes_one() -> None:
    model = learn(unused=2)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    assert pieces_of(model)[:7] == names
    processor = processor_of(model)
    assert processor.pad_id() == 0
    assert processor.unk_id() == 1
    assert not {0, 2, 3, 4, 5, 6} & set(processor.encode(" ".join(names)))
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<other>")
    model = learn(special_tokens=special)
    assert tuple(pieces_of(model)[:6]) == special
    assert library_of(model).special_ids == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}


@pytest.mark.parametrize(
    "options", [{}, {"byte_fallback": True, "vocab_size": 600}, {"cased": True}]
)
def test_both_forms_give_the_same_ids(options: dict[str, Any]) -> None:
    model = learn(**options)
    processor, library = processor_of(model), library_of(model).library
    assert library is not None
    for text in (*TEXT.split(), *HARD):
        ids = library.encode(text, add_special_tokens=False).ids
        # "000" falls into "0" and "00", or "00" and "0": of equally likely ways to cut, the two may
        # choose others.
        assert ids == processor.encode(text) or log_probability(processor, ids) == pytest.approx(
            log_probability(processor, processor.encode(text)), abs=1e-5
        ), text


def log_probability(processor: Any, ids: list[int]) -> float:
    return float(sum(processor.get_score(number) for number in ids))


def test_both_forms_give_the_same_ids_for_real_text(shared: Path) -> None:
    """Among equally likely ways to cut, the two may choose others; that is rare."""
    text = (shared / "corpora" / "multi-udhr").glob("*.txt")
    lines = [line for file in sorted(text)[::40] for line in file.read_text().splitlines()]
    model = learn(word_counts(Counter("\n".join(lines).encode().split())), vocab_size=4000)
    processor, library = processor_of(model), library_of(model).library
    assert library is not None
    same = [
        library.encode(text, add_special_tokens=False).ids == processor.encode(text)
        for text in lines
    ]
    assert sum(same) > 0.98 * len(same)


def test_options_shape_the_model(tmp_path: Path) -> None:
    assert not any("T" in piece for piece in pieces_of(learn())[5:])
    assert any("T" in piece for piece in pieces_of(learn(cased=True))[5:])
    assert max(map(len, pieces_of(learn(max_token_length=2))[5:])) == 2
    split = pieces_of(learn(split_digits=True))
    assert not any(len(piece) > 1 and piece[-1].isdigit() for piece in split)
    (tmp_path / "alphabet.txt").write_text("Ж %\n")
    alphabet = learn(initial_alphabet=tmp_path / "alphabet.txt")
    assert {"ж", "%"} <= set(pieces_of(alphabet))
    fallback = processor_of(learn(byte_fallback=True, vocab_size=600))
    assert fallback.encode("ж", out_type=str)[-2:] == ["<0xD0>", "<0xB6>"]


def test_no_word_is_left_out() -> None:
    words = {b"x" * 5000: 3, "zebra\u2585zebu".encode(): 9, b"[MASK]q": 9}
    pieces = pieces_of(learn(word_counts({**dict(WORDS), **words})))
    assert {"x", "z", "q", "["} <= {char for piece in pieces for char in piece}


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (5000, r"--vocab-size 5000: the corpus gives \d+ tokens; pass --vocab-size \d+ or less"),
        (12, r"--vocab-size 12: less than the \d+ tokens that special tokens and single"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_one_that_can(
    size: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TokkitError, match=line) as fault:
        learn(vocab_size=size)
    assert capfd.readouterr().err == ""
    other = int(str(fault.value).partition("pass --vocab-size ")[2].split()[0])
    assert len(processor_of(learn(vocab_size=other))) == other


def test_transformers_loads_what_was_learned(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = TrainConfig(
        inputs=(str(README),),
        output=tmp_path / "out",
        model="unigram",
        vocab_size=300,
        workers=0,
    )
    train(config)
    ours = load_tokenizer(tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    classic = load_tokenizer(tmp_path / "out" / "tokenizer.model")
    assert classic.processor is not None
    for text in (*filter(None, TEXT.splitlines()[:20]), "the  cat"):
        ids = classic.processor.encode(text)
        assert theirs(text)["input_ids"] == [2, *ids, 3]
        assert theirs(text, text)["input_ids"] == [2, *ids, 3, *ids, 3]
    assert theirs("[MASK]")["input_ids"] == [2, 4, 3]
    assert theirs.decode(theirs("the cat", add_special_tokens=False)["input_ids"]) == "the cat"
    assert classic.tokens == ours.tokens
    assert classic.special_ids == ours.special_ids
