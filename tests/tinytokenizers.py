"""Writes small tokenizers for tests, as the files that a user would have."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokkit.tokenizer.definitions import byte_level_alphabet

CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'",
    *(f"##{char}" for char in "abcdefghijklmnopqrstuvwxyz0123456789"),
    *("the", "cat", "sat", "on", "mat", "##ing", "##s", "un", "##aff", "##able"),
)
TINY_VOCAB = tuple(dict.fromkeys((*CONTROL, "[unused0]", *WORDS)))


def write_vocab(folder: Path, tokens: Iterable[str] = TINY_VOCAB, **config: Any) -> Path:
    """Write ``vocab.txt``, and ``tokenizer_config.json`` if ``config`` has entries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokens).encode())
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def wordpiece_json(**changes: Any) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` with the tiny vocabulary and some parts changed."""
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: number for number, token in enumerate(TINY_VOCAB)},
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        **{key: value for key, value in changes.items() if key != "model"},
        "model": {**model, **changes.get("model", {})},
    }


def added(token: str, number: int, *, special: bool = False) -> dict[str, Any]:
    """Return a row of ``added_tokens``."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": special, **flags}


def write_json(path: Path, form: Any) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(form))
    return path


def write_bpe(folder: Path, merges: list[str], extra: tuple[str, ...] = (), **config: Any) -> Path:
    """Write ``vocab.json`` and ``merges.txt`` of byte-level BPE."""
    entries = [*byte_level_alphabet(), *(m.replace(" ", "") for m in merges), *extra]
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(entries)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    if config:
        write_json(folder / "tokenizer_config.json", config)
    return folder


def write_sentencepiece(path: Path, sentences: Iterable[str]) -> Path:
    """Write a sentencepiece model of some letters and words of ``sentences``."""
    from sentencepiece import SentencePieceTrainer

    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return path
