"""A tokenizer as a folder: the files that transformers loads, and the classic file of its kind.

    tokenizer.json           all of it, as the tokenizers library writes it
    tokenizer_config.json    how transformers is to load it, and the classic loaders' switches
    special_tokens_map.json  the entries of the roles
    vocab.txt                WordPiece: an entry a line, so that the line's number is the id
    vocab.json, merges.txt   BPE
    tokenizer.model          sentencepiece, in place of tokenizer.json

``tokenizer_class`` is transformers' general one, which takes ``tokenizer.json`` as it is;
``BertTokenizer`` would make it again from ``vocab.txt`` and a few switches. A sentencepiece model
has no ``tokenizer.json``: transformers makes one of it where protobuf is installed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokkit.engine.files import write_atomically
from tokkit.errors import wrap_os_errors
from tokkit.tokenizer.special_tokens import ROLES, named_token
from tokkit.tokenizer.tokenizer import Tokenizer

DEFAULT_MODEL_MAX_LENGTH = 512  # BERT's positions
_LONGEST_MODEL_MAX_LENGTH = 1 << 20  # transformers writes 10^30 where it knows none


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write each file of the folder, whole or not at all.

    Args:
        tokenizer: what is saved; the same one gives the same bytes.
        folder: made if it is not there; other files in it stay.
    """
    with wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in describe_files(tokenizer).items():
        with write_atomically(folder / name) as file:
            file.write(content)


def describe_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The content of each file, ``tokenizer.json`` last, since it alone makes a tokenizer."""
    named = _named_tokens(tokenizer)
    files = {
        "special_tokens_map.json": _json(named),
        "tokenizer_config.json": _json({**_config(tokenizer), **named}),
        **_classic_files(tokenizer),
    }
    if tokenizer.processor is not None:
        files["tokenizer.model"] = tokenizer.processor.serialized_model_proto()
    if tokenizer.library is not None:
        files["tokenizer.json"] = tokenizer.library.to_str(pretty=True).encode()
    return files


def _json(form: Any) -> bytes:
    return (json.dumps(form, indent=2, ensure_ascii=False) + "\n").encode()


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """The entries of the roles, and of the two that only generating models have."""
    named = {
        f"{role}_token": tokenizer.tokens[tokenizer.special_ids[role]]
        for role in ROLES
        if role in tokenizer.special_ids
    }
    for role in ("bos", "eos"):
        token = named_token(tokenizer.config, role)
        if token is not None and token in tokenizer.tokens:
            named[f"{role}_token"] = token
    return named


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    """How transformers is to load the folder."""
    length = tokenizer.config.get("model_max_length")
    known = isinstance(length, int) and 0 < length <= _LONGEST_MODEL_MAX_LENGTH
    config: dict[str, Any] = {
        "model_max_length": length if known else DEFAULT_MODEL_MAX_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    if tokenizer.definition:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    normalizer = tokenizer.definition.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        config["do_lower_case"] = normalizer["lowercase"]
        config["strip_accents"] = normalizer["strip_accents"]
        config["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    pre_tokenizer = tokenizer.definition.get("pre_tokenizer") or {}
    if pre_tokenizer.get("type") == "ByteLevel":
        config["add_prefix_space"] = pre_tokenizer["add_prefix_space"]
    return config


def _classic_files(tokenizer: Tokenizer) -> Mapping[str, bytes]:
    """The files of before ``tokenizer.json``, where they can say what there is to say."""
    if tokenizer.kind == "wordpiece":
        if any("\n" in token or token.endswith("\r") for token in tokenizer.tokens):
            return {}
        return {"vocab.txt": "".join(f"{token}\n" for token in tokenizer.tokens).encode()}
    if tokenizer.kind == "bpe":
        merges = tokenizer.definition["model"]["merges"]
        if any(part.split() != [part] for merge in merges for part in merge):
            return {}
        ids = {token: number for number, token in enumerate(tokenizer.tokens)}
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
        return {
            "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
            "merges.txt": "".join(f"{line}\n" for line in lines).encode(),
        }
    return {}
