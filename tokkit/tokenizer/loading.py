r"""Reading the files of a tokenizer, of any format, as the object of a ``tokenizer.json``.

    folder   tokenizer.json
             else vocab.txt              BERT's WordPiece
             else vocab.json, merges.txt byte-level BPE, as GPT-2's and RoBERTa's
             else *.model or *.spm       sentencepiece, whose bytes are kept as they are
    file     tokenizer.json, vocab.txt, or a sentencepiece model

``tokenizer_config.json`` and ``special_tokens_map.json`` next to them are read, too. A
``vocab.txt`` without them does not say how text is normalized. It is guessed so that every token
can occur: if a token has a capital letter, text keeps its case, else it is lower-cased; and if a
token of a lower-case vocabulary has an accent, text keeps its accents.

Lines of ``vocab.txt`` end at ``\n`` alone. ``str.splitlines`` would also cut at U+2028, which is a
token of BERT's multilingual vocabulary, and shift all ids after it.
"""

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokkit.engine.files import STATE_FOLDER
from tokkit.engine.manifest import TRAINING
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.tokenizer.definitions import (
    added_token,
    byte_level_alphabet,
    byte_level_bpe,
    refuse_duplicate,
    refuse_missing_unknown,
    wordpiece,
)
from tokkit.tokenizer.special_tokens import SPECIAL_TOKENS, named_roles

log = logging.getLogger(__name__)

_SENTENCEPIECE_SUFFIXES = (".model", ".spm")
_ACCEPTED = (
    "a folder with tokenizer.json, vocab.txt, vocab.json and merges.txt, or a sentencepiece "
    "*.model; or one of tokenizer.json, vocab.txt, *.model"
)


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files of a tokenizer say.

    Attributes:
        path: the file that was read, for errors.
        definition: the object of a ``tokenizer.json``; None for sentencepiece.
        model: the bytes of a sentencepiece model; empty for the others.
        config: ``tokenizer_config.json`` over ``special_tokens_map.json``; empty without them.
    """

    path: Path
    definition: dict[str, Any] | None
    model: bytes = b""
    config: Mapping[str, Any] = field(default_factory=dict)


def read_tokenizer_files(path: Path) -> TokenizerFiles:
    """Read the tokenizer in a folder or file.

    Raises:
        TokkitError: if nothing is there, or it is no tokenizer, or one that contradicts itself.
    """
    if path.is_dir():
        path = _find_in_folder(path)
    elif not path.exists():
        raise TokkitError(f"{path}: no such file or folder; name {_ACCEPTED}")
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path.parent / name).is_file():
            config.update(_read_json(path.parent / name))
    if path.suffix in _SENTENCEPIECE_SUFFIXES:
        with wrap_os_errors(path):
            return TokenizerFiles(path, None, path.read_bytes(), config)
    if path.suffix == ".txt":
        definition = _read_vocab_txt(path, config)
    elif path.name == "vocab.json" and (path.parent / "merges.txt").is_file():
        definition = _read_byte_level_bpe(path, config)
    elif path.suffix == ".json":
        definition = _read_tokenizer_json(path)
    else:
        raise TokkitError(f"{path}: not a tokenizer by its name; name {_ACCEPTED}")
    return TokenizerFiles(path, definition, config=config)


def _find_in_folder(folder: Path) -> Path:
    """Return the file in a folder that defines the tokenizer."""
    if (folder / STATE_FOLDER).is_dir() and not (folder / TRAINING).is_file():
        raise TokkitError(
            f"{folder}: unfinished (it has no {TRAINING}); run the same tokkit train again"
        )
    for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
        others = ("merges.txt",) if name == "vocab.json" else ()
        if all((folder / each).is_file() for each in (name, *others)):
            return folder / name
    with wrap_os_errors(folder):
        models = sorted(path for path in folder.iterdir() if path.suffix in _SENTENCEPIECE_SUFFIXES)
    if not models:
        raise TokkitError(f"{folder}: no tokenizer in this folder; name {_ACCEPTED}")
    if len(models) > 1:
        raise TokkitError(
            f"{folder}: holds {models[0].name} and {models[1].name}; name the one to use"
        )
    return models[0]


def _read_tokenizer_json(path: Path) -> dict[str, Any]:
    definition = _read_json(path)
    if not isinstance(definition.get("model"), dict):
        raise TokkitError(f"{path}: not a tokenizer.json: it has no model")
    return definition


def _read_vocab_txt(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    lines = _read_lines(path)
    if lines[0].startswith("#version"):
        raise TokkitError(f"{path}: holds merges; name the folder that also has the vocab.json")
    ids: dict[str, int] = {}
    for number, token in enumerate(lines):
        if token in ids:
            raise TokkitError(
                f"{path}, line {number + 1}: the token {token!r} is already on line "
                f"{ids[token] + 1}; remove one of them, if the model's ids allow it"
            )
        ids[token] = number
    named = named_roles(config)
    unknown = named.get("unk", "[UNK]")
    if unknown not in ids:
        refuse_missing_unknown(unknown, ids, path)
    cased, keeps_accents = _guess_normalization(lines)
    if "do_lower_case" in config:
        cased, keeps_accents = not config["do_lower_case"], False
    else:
        log.info(
            "%s: no tokenizer_config.json says whether it is cased; by its tokens it is %s",
            path,
            "cased" if cased else "uncased",
        )
    definition = wordpiece(
        ids,
        unknown=unknown,
        named=named,
        lowercase=not cased,
        strip_accents=config.get("strip_accents", False if keeps_accents else None),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    return _with_added_tokens(definition, path.parent, config)


def _guess_normalization(tokens: Sequence[str]) -> tuple[bool, bool]:
    """Whether a vocabulary is cased, and if not, whether it keeps accents; see the module."""
    words = [token for token in tokens if token[:1] + token[-1:] not in ("[]", "<>")]
    cased = any(token.lower() != token for token in words)
    keeps_accents = not cased and any(
        unicodedata.category(char) == "Mn"
        for token in words
        if not token.isascii()
        for char in unicodedata.normalize("NFD", token)
    )
    return cased, keeps_accents


def _read_byte_level_bpe(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    ids = _read_json(path)
    missing = [char for char in byte_level_alphabet() if char not in ids]
    if missing or any(token.endswith("</w>") for token in ids):
        fault = f"the token {missing[0]!r} is missing" if missing else "tokens end with </w>"
        raise TokkitError(
            f"{path}: not byte-level BPE ({fault}); "
            f"save the tokenizer as tokenizer.json with transformers, and name that"
        )
    definition = byte_level_bpe(
        ids,
        _read_merges(path.parent / "merges.txt", ids),
        named=named_roles(config),
        add_prefix_space=bool(config.get("add_prefix_space", False)),
    )
    return _with_added_tokens(definition, path.parent, config)


def _read_merges(path: Path, ids: Mapping[str, int]) -> list[list[str]]:
    """Return the merges by rank, each of two tokens that make a third."""
    merges = []
    for number, line in enumerate(_read_lines(path), start=1):
        if number == 1 and line.startswith("#version"):
            continue
        merge = line.split(" ")
        if len(merge) != 2:
            raise TokkitError(f"{path}, line {number}: {line!r} is not two tokens and a space")
        missing = [token for token in (*merge, "".join(merge)) if token not in ids]
        if missing:
            raise TokkitError(
                f"{path}, line {number}: the token {missing[0]!r} is not in vocab.json; "
                f"take both files from the same tokenizer"
            )
        merges.append(merge)
    return merges


def _with_added_tokens(
    definition: dict[str, Any], folder: Path, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Add the tokens that transformers keeps next to a classic vocabulary.

    They are in ``added_tokens.json``, or in ``added_tokens_decoder`` in ``tokenizer_config.json``.
    """
    ids = definition["model"]["vocab"]
    rows: dict[str, dict[str, Any]] = {}
    if (folder / "added_tokens.json").is_file():
        for token, number in _read_json(folder / "added_tokens.json").items():
            rows[token] = added_token(token, number, special=token in SPECIAL_TOKENS)
    decoder = config.get("added_tokens_decoder")
    for number, row in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(row, dict) and isinstance(row.get("content"), str) and number.isdecimal():
            token = row["content"]
            rows[token] = {**added_token(token, int(number), special=False), **row}
    added = [row for token, row in rows.items() if token not in ids or row["special"]]
    return {**definition, "added_tokens": added}


def _read_lines(path: Path) -> list[str]:
    with wrap_os_errors(path):
        data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise TokkitError(
            f"{path}, line {number}: invalid UTF-8 (byte {error.start}); name a vocabulary"
        ) from error
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise TokkitError(f"{path}: empty; a vocabulary has one token a line")
    return lines


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; refuse duplicate keys, of which Python keeps the last."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            refuse_duplicate(Counter(key for key, _ in pairs).most_common(1)[0][0], path)
        return data

    with wrap_os_errors(path):
        content = path.read_bytes()
    try:
        data = json.loads(content, object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise TokkitError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise TokkitError(f"{path}: not a JSON object, as a tokenizer is; download it again")
    return data
