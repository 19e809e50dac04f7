r"""The forms in which a tokenizer comes, each read into the object of a ``tokenizer.json``.

    folder   tokenizer.json
             else vocab.txt              BERT's WordPiece
             else vocab.json, merges.txt byte-level BPE, as GPT-2's and RoBERTa's
             else *.model or *.spm       sentencepiece, whose bytes are kept as they are
    file     tokenizer.json, vocab.txt, or a sentencepiece model

``tokenizer_config.json`` and ``special_tokens_map.json`` beside them are heeded. A ``vocab.txt``
without one does not say how text is normalized before it is looked up. It is taken so that every
entry can be met: where an entry has a capital letter, text keeps its case, else it is lower-cased;
and where an entry of a lower-case vocabulary has an accent, text keeps its accents.

A line of ``vocab.txt`` is what ``\n`` ends. ``str.splitlines`` would also cut at U+2028, which is
an entry of BERT's multilingual vocabulary, and shift all ids after it.
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
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.tokenizer.definitions import (
    added_token,
    byte_level_alphabet,
    byte_level_bpe,
    refuse_missing_unknown,
    wordpiece,
)
from tokkit.tokenizer.special_tokens import SPECIAL_TOKENS, named_roles

log = logging.getLogger(__name__)

TRAINING = "training.json"
SENTENCEPIECE_SUFFIXES = (".model", ".spm")
ACCEPTED = (
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
    """Read a tokenizer in whichever form it has.

    Args:
        path: what ``-t`` names.

    Raises:
        TokkitError: where nothing is there, or it is no tokenizer, or one that contradicts itself.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise TokkitError(f"{path}: no such file or folder; name {ACCEPTED}")
    config = _read_config(path.parent)
    if path.suffix in SENTENCEPIECE_SUFFIXES:
        return _read_sentencepiece(path, config)
    if path.suffix == ".json":
        return _read_tokenizer_json(path, config)
    if path.suffix == ".txt":
        return _read_vocab_txt(path, config)
    raise TokkitError(f"{path}: not a tokenizer by its name; name {ACCEPTED}")


def _read_folder(folder: Path) -> TokenizerFiles:
    if (folder / STATE_FOLDER).is_dir() and not (folder / TRAINING).is_file():
        raise TokkitError(
            f"{folder}: unfinished (it has no {TRAINING}); run the same tokkit train again"
        )
    config = _read_config(folder)
    if (folder / "tokenizer.json").is_file():
        return _read_tokenizer_json(folder / "tokenizer.json", config)
    if (folder / "vocab.txt").is_file():
        return _read_vocab_txt(folder / "vocab.txt", config)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _read_byte_level_bpe(folder, config)
    with wrap_os_errors(folder):
        models = sorted(path for path in folder.iterdir() if path.suffix in SENTENCEPIECE_SUFFIXES)
    if len(models) > 1:
        raise TokkitError(
            f"{folder}: holds {models[0].name} and {models[1].name}; name the one to use"
        )
    if not models:
        raise TokkitError(f"{folder}: no tokenizer in this folder; name {ACCEPTED}")
    return _read_sentencepiece(models[0], config)


def _read_config(folder: Path) -> dict[str, Any]:
    """Both configuration files of a folder, as far as they are there."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config.update(_read_json(folder / name))
    return config


def _read_sentencepiece(path: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    with wrap_os_errors(path):
        return TokenizerFiles(path, None, path.read_bytes(), config)


def _read_tokenizer_json(path: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    definition = _read_json(path)
    if not isinstance(definition.get("model"), dict):
        raise TokkitError(
            f"{path}: not a tokenizer.json: it has no model; "
            f"name the folder, to have a vocab.json read with the merges.txt beside it"
        )
    return TokenizerFiles(path, definition, config=config)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, refusing entries that are there twice, of which Python keeps the last."""

    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            double = next(key for key, count in counts.items() if count > 1)
            raise TokkitError(f"{path}: the entry {double!r} is there twice; remove one of them")
        return mapping

    with wrap_os_errors(path):
        data = path.read_bytes()
    try:
        form = json.loads(data, object_pairs_hook=refuse_doubles)
    except (ValueError, RecursionError) as error:
        raise TokkitError(f"{path}: not valid JSON ({error}); copy it anew") from error
    if not isinstance(form, dict):
        raise TokkitError(f"{path}: not a JSON object, as a tokenizer is; copy it anew")
    return form


def _read_vocab_txt(path: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    lines = _read_lines(path)
    if lines[0].startswith("#version"):
        raise TokkitError(f"{path}: holds merges; name the folder that has vocab.json beside it")
    ids: dict[str, int] = {}
    for number, token in enumerate(lines):
        if token in ids:
            raise TokkitError(
                f"{path}, line {number + 1}: the entry {token!r} is on line {ids[token] + 1} "
                f"already; remove one of them, if the model's ids allow it"
            )
        ids[token] = number
    named = named_roles(config)
    unknown = named.get("unk", "[UNK]")
    if unknown not in ids:
        refuse_missing_unknown(unknown, ids, str(path))
    cased, keeps_accents = _guess_normalization(lines)
    if "do_lower_case" in config:
        cased = not config["do_lower_case"]
        keeps_accents = False
    else:
        log.info(
            "%s: no tokenizer_config.json says whether it is cased; by its entries it is %s",
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
    return TokenizerFiles(path, _with_added_tokens(definition, path.parent, config), config=config)


def _guess_normalization(tokens: Sequence[str]) -> tuple[bool, bool]:
    """Whether a vocabulary is cased, and if not, whether it keeps accents: see the module."""
    words = [token for token in tokens if token[:1] + token[-1:] not in ("[]", "<>")]
    cased = any(token.lower() != token for token in words)
    accents = not cased and any(
        unicodedata.category(char) == "Mn"
        for token in words
        if not token.isascii()
        for char in unicodedata.normalize("NFD", token)
    )
    return cased, accents


def _read_lines(path: Path) -> list[str]:
    with wrap_os_errors(path):
        data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise TokkitError(
            f"{path}, line {number}: not UTF-8 (byte {error.start}); is it a vocabulary at all?"
        ) from error
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise TokkitError(f"{path}: empty; a vocabulary has one entry a line")
    return lines


def _read_byte_level_bpe(folder: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    path = folder / "vocab.json"
    ids = _read_json(path)
    missing = [char for char in byte_level_alphabet() if char not in ids]
    if missing or any(token.endswith("</w>") for token in ids):
        fault = f"the entry {missing[0]!r} is missing" if missing else "entries end with </w>"
        raise TokkitError(
            f"{path}: not byte-level BPE ({fault}); "
            f"save the tokenizer as tokenizer.json with transformers, and name that"
        )
    merges = _read_merges(folder / "merges.txt", ids)
    definition = byte_level_bpe(
        ids,
        merges,
        named=named_roles(config),
        add_prefix_space=bool(config.get("add_prefix_space", False)),
    )
    return TokenizerFiles(path, _with_added_tokens(definition, folder, config), config=config)


def _read_merges(path: Path, ids: Mapping[str, int]) -> list[list[str]]:
    """The merges by rank, each of two entries that make a third."""
    merges = []
    for number, line in enumerate(_read_lines(path), start=1):
        if number == 1 and line.startswith("#version"):
            continue
        merge = line.split(" ")
        if len(merge) != 2:
            raise TokkitError(f"{path}, line {number}: {line!r} is not two entries and a space")
        absent = [token for token in (*merge, "".join(merge)) if token not in ids]
        if absent:
            raise TokkitError(
                f"{path}, line {number}: the entry {absent[0]!r} is not in vocab.json; "
                f"take both files from the same tokenizer"
            )
        merges.append(merge)
    return merges


def _with_added_tokens(
    definition: dict[str, Any], folder: Path, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Add what transformers keeps beside a classic vocabulary.

    That is ``added_tokens.json``, or ``added_tokens_decoder`` in ``tokenizer_config.json``.
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
