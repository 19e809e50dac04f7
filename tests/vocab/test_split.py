"""Byte-level BPE can be trained with the words and the normalization of today's models."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokkit.errors import UsageError
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.kernel_choice import choose_kernel
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

WORDS = (
    "The cat's 12345 HTML5 don't DON'T I'll foo_bar(x)!\r\n\tre\u0301sume\u0301 \u00e9t\u00e9 ﬁne "
    "year2024 春の2024年 は。\n\n  return x[1]; наука/жизнь №7 가나다 \u1100\u1161 हिन्दी ..."
).split(" ")


def write_corpus(path: Path) -> list[str]:
    picks = [[number * step % len(WORDS) for number in range(40)] for step in range(1, 61)]
    documents = [" ".join(WORDS[pick] for pick in each).strip() for each in picks]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return documents


@pytest.mark.parametrize(
    ("split", "normalize"),
    [
        ("gpt2", "nfkc"),
        ("gpt4", "none"),
        ("gpt4o", "nfc"),
        ("llama3", "none"),
        ("qwen", "nfc"),
        (r"\p{L}+|[^\p{L}]", "none"),
    ],
)
def test_merges_are_those_of_the_library_with_the_same_words(
    tmp_path: Path, split: str, normalize: str
) -> None:
    texts = write_corpus(tmp_path / "corpus.jsonl")
    config = TrainConfig(
        inputs=(str(tmp_path / "corpus.jsonl"),),
        output=tmp_path / "tokenizer",
        model="bpe",
        vocab_size=330,
        special_tokens=("<s>", "<mask>"),
        held_out=0,
        workers=0,
        split=split,
        normalize=normalize,
    )
    train(config)
    found = json.loads((config.output / "tokenizer.json").read_text())
    library = Tokenizer(models.BPE())
    if normalize != "none":
        library.normalizer = getattr(normalizers, normalize.upper())()
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(config.split_pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        min_frequency=2,
        special_tokens=["<s>", "<mask>"],
        initial_alphabet=byte_level_alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    expected = json.loads(library.to_str())
    assert found["model"]["merges"] == expected["model"]["merges"]
    tokenizer = load_tokenizer(config.output)
    assert choose_kernel(tokenizer).name == "bpe"
    encoded = Encoder(tokenizer).encode(pa.array(texts, pa.large_string()))
    ids = [number for each in library.encode_batch(texts) for number in each.ids]
    assert [tokenizer.tokens[i] for i in encoded.ids] == [library.id_to_token(i) for i in ids]


def test_transformers_loads_such_a_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    texts = write_corpus(tmp_path / "corpus.jsonl")
    train(
        TrainConfig(
            inputs=(str(tmp_path / "corpus.jsonl"),),
            output=tmp_path / "tokenizer",
            model="bpe",
            vocab_size=330,
            workers=0,
            split="llama3",
            normalize="nfc",
        )
    )
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    encoded = Encoder(load_tokenizer(tmp_path / "tokenizer")).encode(
        pa.array(texts, pa.large_string())
    )
    expected = [i for text in texts for i in loaded(text, add_special_tokens=False)["input_ids"]]
    assert encoded.ids.tolist() == expected


@pytest.mark.parametrize("split", [r"\bword", "(?<=x)y", "a*", "gpt5("])
def test_a_pattern_that_is_not_known_is_a_usage_error(tmp_path: Path, split: str) -> None:
    with pytest.raises(UsageError, match="--split"):
        TrainConfig(inputs=("x",), output=tmp_path, model="bpe", split=split)
