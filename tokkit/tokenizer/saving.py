"""Saving a tokenizer: the files that transformers loads, and the classic file of its kind.

    tokenizer.json           all of it, as the tokenizers library writes it
    tokenizer_config.json    how transformers loads it, and the options of classic loaders
    special_tokens_map.json  the special tokens by role
    vocab.txt                BERT's WordPiece: one token a line, so that the line's number is its id
    vocab.json, merges.txt   byte-level BPE
    tokenizer.model          sentencepiece, instead of tokenizer.json
    source.spm, vocab.json   Marian's and the like, as they were

``tokenizer_class`` is transformers' general class, which loads ``tokenizer.json`` as it is;
``BertTokenizer`` would make it again from ``vocab.txt`` and a few options. The classic files are
left out where their loaders would give other ids: they cannot say that digits are split. A
sentencepiece model has no ``tokenizer.json``: transformers makes one where protobuf is installed.
"""

import json
from pathlib import Path
from typing import Any

from tokkit.engine.files import write_atomically
from tokkit.errors import wrap_os_errors
from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    MAX_INPUT_CHARS_PER_WORD,
    encode_definition,
)
from tokkit.tokenizer.sentencepiece_model import PieceProcessor
from tokkit.tokenizer.special_tokens import ROLES, named_token
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall

_MODEL_MAX_LENGTH = 512  # BERT's positions
_LONGEST_MODEL_MAX_LENGTH = 1 << 20  # transformers writes 10^30 if it knows none


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer as a folder that tokkit and transformers load.

    The same tokenizer gives the same bytes. Each file is written atomically, ``tokenizer.json``
    last, because it alone makes a tokenizer.

    Args:
        tokenizer: the tokenizer to save.
        folder: created if missing; other files in it stay.
    """
    files = recall(tokenizer.digest, "files", lambda: _make_files(tokenizer))
    with wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with write_atomically(folder / name) as file:
            file.write(content)


def _make_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the content of the files, by name."""
    tokens = _special_tokens(tokenizer)
    files = {
        "special_tokens_map.json": _json(tokens),
        "tokenizer_config.json": _json({**_config(tokenizer), **tokens}),
        **classic_files(tokenizer),
    }
    if isinstance(tokenizer.processor, PieceProcessor):
        files = dict(tokenizer.processor.vocabulary.files)
    elif tokenizer.processor is not None:
        files["tokenizer.model"] = tokenizer.processor.serialized_model_proto()
    if tokenizer.definition:
        definition = encode_definition(dict(tokenizer.definition), indent=2)
        files["tokenizer.json"] = definition + b"\n"
    return files


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the tokens of the roles, and the two that only generating models have."""
    ids = tokenizer.special_ids
    tokens = {f"{role}_token": tokenizer.tokens[ids[role]] for role in ROLES if role in ids}
    for role in ("bos", "eos"):
        token = named_token(tokenizer.config, role)
        if token is not None and token in tokenizer.tokens:
            tokens[f"{role}_token"] = token
    return tokens


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return how transformers loads the folder."""
    length = tokenizer.config.get("model_max_length")
    is_known = isinstance(length, int) and 0 < length <= _LONGEST_MODEL_MAX_LENGTH
    config: dict[str, Any] = {
        "model_max_length": length if is_known else _MODEL_MAX_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    if tokenizer.definition:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        config["backend"] = "sentencepiece"  # so that no class reads it otherwise
    normalizer = tokenizer.definition.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        config["do_lower_case"] = normalizer["lowercase"]
        config["strip_accents"] = normalizer["strip_accents"]
        config["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    pre_tokenizer = tokenizer.definition.get("pre_tokenizer") or {}
    if pre_tokenizer.get("type") == "ByteLevel":
        config["add_prefix_space"] = pre_tokenizer["add_prefix_space"]
    return config


def classic_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files from before ``tokenizer.json``, if their formats can hold the tokenizer."""
    tokens = tokenizer.tokens
    if tokenizer.hole_ids or tokenizer.splits_digits:
        return {}
    if tokenizer.pipeline == "bert":
        model = tokenizer.definition["model"]
        is_default = (
            tokenizer.definition["normalizer"]["clean_text"]
            and model["continuing_subword_prefix"] == CONTINUING_SUBWORD_PREFIX
            and model["max_input_chars_per_word"] == MAX_INPUT_CHARS_PER_WORD
        )
        if not is_default or any("\n" in token or token.endswith("\r") for token in tokens):
            return {}
        return {"vocab.txt": "".join(f"{token}\n" for token in tokens).encode()}
    if tokenizer.pipeline == "byte-level":
        merges = tokenizer.definition["model"]["merges"]
        parts = [part for merge in merges for part in merge]
        if " ".join(parts).split() != parts:
            return {}
        ids = {token: number for number, token in enumerate(tokens)}
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
        return {
            "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
            "merges.txt": "".join(f"{line}\n" for line in lines).encode(),
        }
    return {}
