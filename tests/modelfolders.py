"""Sentencepiece models for folders of transformers, and the ids that it and tokkit give."""

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sentencepiece

from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer

WORDS = "the cat sat on a mat and The Cat was unaffable in 2024 日本 中文 мир Ünïcode नमस्ते , . ! ` ' \"".split()


@functools.cache
def spm_model(kind: str = "unigram", size: int = 300, symbols: str = "", **options: Any) -> bytes:
    """Return a small sentencepiece model; ``symbols`` are user-defined, between spaces."""
    out = io.BytesIO()
    lines = [" ".join(WORDS[i:] + WORDS[: i // 2]) for i in range(len(WORDS))] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        model_type=kind,
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=symbols.split(),
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def theirs(folder: Path) -> Any:
    """Return the tokenizer of transformers, which keeps special tokens out of text."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(str(folder))
    made.split_special_tokens = made.is_fast  # slow ones would not find other tokens then
    return made


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return the ids that the kernels give, of each text."""
    encoded = Encoder(tokenizer).encode(pa.array(texts, pa.large_string()))
    return [row.tolist() for row in np.split(encoded.ids, encoded.offsets[1:-1])]
