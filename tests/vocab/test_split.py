"""Byte-level BPE can be trained with the words and the normalization of today's models."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokkit.errors import TokkitError, UsageError
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.encoder import Encoder, choose_kernel
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


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_merges_of_characters_are_those_of_the_library(tmp_path: Path, byte_fallback: bool) -> None:
    texts = [f" {text}\u2581  {text}" for text in write_corpus(tmp_path / "corpus.jsonl")]
    texts += [text.strip() for text in texts]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    config = TrainConfig(
        inputs=(str(tmp_path / "corpus.jsonl"),),
        output=tmp_path / "tokenizer",
        model="bpe",
        vocab_size=180 + 256 * byte_fallback,
        special_tokens=("<s>", "<unk>"),
        held_out=0,
        workers=0,
        metaspace=True,
        byte_fallback=byte_fallback,
        normalize="nfc",
    )
    train(config)
    found = json.loads((config.output / "tokenizer.json").read_text())
    library = Tokenizer(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback)  # noqa: S106  a token
    )
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    outside = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    trainer = trainers.BpeTrainer(
        vocab_size=180 + 256 * byte_fallback,
        min_frequency=2,
        special_tokens=["<s>", "<unk>", *outside],
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    expected = json.loads(library.to_str())
    assert found["model"]["merges"] == expected["model"]["merges"]
    tokenizer = load_tokenizer(config.output)
    assert choose_kernel(tokenizer).name == "metaspace-bpe"
    texts += ["\u5b57x \u00e9\U0001f600\U0001f600 <s>"]
    encoded = Encoder(tokenizer).encode(pa.array(texts, pa.large_string()))
    assert tokenizer.library is not None
    ids = [
        i for e in tokenizer.library.encode_batch(texts, add_special_tokens=False) for i in e.ids
    ]
    assert encoded.ids.tolist() == ids
    assert tokenizer.library.decode(encoded.ids[:9].tolist()).startswith(texts[0][1:5])


def test_a_special_token_that_merges_would_make_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a<s> b<s> c<s> d<s>\n" * 50)
    config = TrainConfig(
        inputs=(str(tmp_path / "corpus.txt"),),
        output=tmp_path / "tokenizer",
        model="bpe",
        vocab_size=14,
        special_tokens=("<s>", "<unk>"),
        held_out=0,
        workers=0,
        metaspace=True,
    )
    with pytest.raises(TokkitError, match="the corpus contains <s> so often"):
        train(config)


@pytest.mark.parametrize("options", [{"metaspace": True}, {"split": "llama3", "normalize": "nfc"}])
def test_transformers_loads_such_a_tokenizer(tmp_path: Path, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    texts = write_corpus(tmp_path / "corpus.jsonl")
    train(
        TrainConfig(
            inputs=(str(tmp_path / "corpus.jsonl"),),
            output=tmp_path / "tokenizer",
            model="bpe",
            vocab_size=330 if "split" in options else 170,
            workers=0,
            **options,
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


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"byte_fallback": True}, "--byte-fallback has no effect"),
        ({"limit_alphabet": 9}, "--limit-alphabet has no effect"),
        ({"metaspace": True, "split": "llama3"}, "--split has no effect"),
        ({"metaspace": True, "special_tokens": ("<s>",)}, "needs .UNK. or <unk>"),
    ],
)
def test_options_of_the_other_kind_are_usage_errors(
    tmp_path: Path, options: dict[str, Any], flag: str
) -> None:
    with pytest.raises(UsageError, match=flag):
        TrainConfig(inputs=("x",), output=tmp_path, model="bpe", **options)
