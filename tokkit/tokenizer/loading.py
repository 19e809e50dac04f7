r"""Reading the files of a tokenizer, of any format, as the object of a ``tokenizer.json``.

    folder   what its class reads; see ``tokkit.tokenizer.conversion``. If nothing names a class:
             tokenizer.json
             else vocab.txt              BERT's WordPiece
             else vocab.json, merges.txt byte-level BPE, as GPT-2's and RoBERTa's
             else tekken.json            as below
             else *.model or *.spm       sentencepiece, whose bytes are kept as they are
    file     tokenizer.json              taken as it is
             tekken.json                 mistral-common's byte-level BPE
             vocab.txt, *.model, *.spm   read as its folder says

``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` next to them are
read, too, and tokens are added as ``transformers.AutoTokenizer`` adds them. A ``vocab.txt`` alone
does not say how text is normalized. It is guessed from how many tokens have capital letters, since
people put single ones into unused places of a vocabulary without capitals; and from how many have
accents.

Lines of ``vocab.txt`` end at ``\n`` alone. ``str.splitlines`` would also cut at U+2028, which is a
token of BERT's multilingual vocabulary, and shift all ids after it. Of a doubled line the last
counts, as in the tokenizers library, and white space at its end does not.
"""

import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokkit.engine.manifest import TRAINING
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.tokenizer.conversion import (
    BERT,
    CLASS_TOKENS,
    CONVBERT,
    ESM,
    GENERAL,
    GPT2,
    ROBERTA,
    add_tokens,
    check_config,
    convert_folder,
    find_class,
)
from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    byte_level_alphabet,
    byte_level_bpe,
    letters,
    wordpiece,
)
from tokkit.tokenizer.file_checks import (
    check_json,
    check_tokens,
    check_vocabulary,
    read_file,
    refuse_missing_unknown,
)
from tokkit.tokenizer.sentencepiece_model import PieceVocabulary
from tokkit.tokenizer.special_tokens import named_roles, named_token
from tokkit.tokenizer.tekken import NAME as TEKKEN
from tokkit.tokenizer.tekken import define_tekken, is_tekken

log = logging.getLogger(__name__)

_SENTENCEPIECE_SUFFIXES = (".model", ".spm")
_VERSION = re.compile(r"\.v\d\w*$")  # that mistral-common writes after .model
_ACCEPTED = (
    "a folder with tokenizer.json, vocab.txt, vocab.json and merges.txt, or a sentencepiece "
    "*.model; or one of tokenizer.json, vocab.txt, *.model"
)
_CASED_SHARE = 0.15  # 0.23 to 0.31 in published cased vocabularies, at most 0.002 in others
_ACCENTED_SHARE = 0.02
_FEWEST_ACCENTED = 3
BERTS = (BERT, CONVBERT)
GPTS = (GPT2, ROBERTA)


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files of a tokenizer say.

    Attributes:
        path: the file that was read, for errors.
        definition: the object of a ``tokenizer.json``; None for sentencepiece.
        model: the bytes of a sentencepiece model; empty for the others.
        config: ``tokenizer_config.json`` with ``special_tokens_map.json``; empty without them.
        pieces: the sentencepiece model and its ids, if these are of another vocabulary.
    """

    path: Path
    definition: dict[str, Any] | None
    model: bytes = b""
    config: Mapping[str, Any] = field(default_factory=dict)
    pieces: PieceVocabulary | None = None


def read_tokenizer_files(path: Path) -> TokenizerFiles:
    """Read the tokenizer in a folder or file.

    Raises:
        TokkitError: if nothing is there, or it is no tokenizer, or one that contradicts itself.
    """
    if not path.exists():
        raise TokkitError(f"{path}: no such file or folder; pass {_ACCEPTED}")
    folder = path if path.is_dir() else path.parent
    if path == folder and (folder / STATE_FOLDER).is_dir() and not (folder / TRAINING).is_file():
        raise TokkitError(
            f"{folder}: unfinished (it has no {TRAINING}); run the same tokkit train again"
        )
    config = _read_config(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config = {**config, **_read_config(folder / "special_tokens_map.json")}
    if path.is_file() and path.suffix == ".json" and not _is_classic_bpe(path):
        return TokenizerFiles(path, _read_definition(path, GENERAL, config), config=config)
    name = find_class(folder, config, _read_optional(folder / "config.json"))
    tokens = CLASS_TOKENS.get(name, {})
    definition = None
    if name in CLASS_TOKENS:
        if path.is_dir():
            path = folder / "vocab.txt" if name == ESM else _find_in_folder(path)
        is_plain = name in (None, GENERAL) or "tokenizer_class" not in config
        if _is_sentencepiece(path) and is_plain:
            with wrap_os_errors(path):
                return TokenizerFiles(path, None, read_file(path), config)
        definition = _read_definition(path, name, {**tokens, **config})
    if definition is None:
        definition, pieces, tokens = convert_folder(folder, str(name), config)
        return TokenizerFiles(folder, definition, config={**config, **tokens}, pieces=pieces)
    added = _read_optional(folder / "added_tokens.json")
    if any(type(number) is not int for number in added.values()):
        raise TokkitError(f"{folder / 'added_tokens.json'}: an id is no integer; download it again")
    definition = add_tokens(definition, config, added, tokens)
    return TokenizerFiles(path, definition, config={**tokens, **config})


def _read_definition(
    path: Path, name: str | None, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the definition that a class makes of a file; None if it does not read such a file.

    Args:
        path: ``tokenizer.json``, ``vocab.txt``, ``vocab.json`` or a sentencepiece model.
        name: the class, one that we read, or None.
        config: ``tokenizer_config.json`` over the special tokens of the class.
    """
    if path.suffix == ".txt":
        if name == ESM:
            return _read_letters(path, config)
        return _read_vocab_txt(path, name, config) if name in (None, GENERAL, *BERTS) else None
    if _is_classic_bpe(path):
        return _read_byte_level_bpe(path, config) if name in (None, GENERAL, *GPTS) else None
    if path.suffix == ".json":
        return _read_tokenizer_json(path, name, config)
    if _is_sentencepiece(path):
        return None
    raise TokkitError(f"{path}: not the name of a tokenizer file; pass {_ACCEPTED}")


def _read_tokenizer_json(
    path: Path, name: str | None, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the definition that a class makes of a ``tokenizer.json``; see ``_read_definition``."""
    definition = _read_json(path)
    if is_tekken(definition):
        return define_tekken(definition, path)
    model = definition.get("model")
    if not isinstance(model, dict):
        raise TokkitError(f"{path}: not a tokenizer.json: it has no model")
    check_vocabulary(definition, str(path))
    if name in (None, GENERAL, CONVBERT):
        return definition
    # These take no more than tokens from a tokenizer.json.
    vocab, merges = model["vocab"], model.get("merges")
    if not isinstance(vocab, dict):
        return None
    if name == BERT and merges is None:
        made = _make_bert(path, vocab, config, lowercase=config.get("do_lower_case", True))
    elif name in GPTS and isinstance(merges, list):
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        made = _make_byte_level_bpe(vocab, pairs, config)
    else:
        return None
    if _word_rules(definition) != _word_rules(made):
        log.warning(
            "%s: %s, the class that %s names, splits or normalizes text otherwise than this file "
            "says, and its ids are used; to use this file as it is, pass it itself",
            *(path, name, path.parent),
        )
    is_listed = "added_tokens_decoder" in config
    return {**made, "added_tokens": [] if is_listed else definition.get("added_tokens")}


def _word_rules(definition: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how text is normalized and split, with defaults, without what changes no ids."""
    rules = [dict(definition.get(part) or {}) for part in ("normalizer", "pre_tokenizer")]
    normalizer, pre_tokenizer = rules
    if normalizer.get("strip_accents", False) is None:
        normalizer["strip_accents"] = normalizer.get("lowercase")
    pre_tokenizer.pop("trim_offsets", None)
    if pre_tokenizer.get("type") == "ByteLevel":
        pre_tokenizer.setdefault("use_regex", True)
    return rules


def _is_classic_bpe(path: Path) -> bool:
    return path.name == "vocab.json" and (path.parent / "merges.txt").is_file()


def _is_sentencepiece(path: Path) -> bool:
    return _VERSION.sub("", path.name).endswith(_SENTENCEPIECE_SUFFIXES)


def _find_in_folder(folder: Path) -> Path:
    """Return the file in a folder that defines the tokenizer."""
    for name in ("tokenizer.json", "vocab.txt", "vocab.json", TEKKEN):
        others = ("merges.txt",) if name == "vocab.json" else ()
        if all((folder / each).is_file() for each in (name, *others)):
            return folder / name
    with wrap_os_errors(folder):
        models = sorted(path for path in folder.iterdir() if path.suffix in _SENTENCEPIECE_SUFFIXES)
    if not models:
        raise TokkitError(f"{folder}: no tokenizer in this folder; pass {_ACCEPTED}")
    if len(models) > 1:
        raise TokkitError(
            f"{folder}: holds {models[0].name} and {models[1].name}; pass the one to use"
        )
    return models[0]


def _read_vocab_txt(path: Path, name: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
    lines = _read_lines(path)
    if lines[0].startswith("#version"):
        raise TokkitError(f"{path}: holds merges; pass the folder that also has the vocab.json")
    # As the library reads them; white space alone is kept, since no text becomes it.
    ends = (line.rstrip() for line in lines)
    ids = {
        line if end in ("", CONTINUING_SUBWORD_PREFIX) else end: number
        for number, (line, end) in enumerate(zip(lines, ends, strict=True))
    }
    lowercase, strip_accents = config.get("do_lower_case"), config.get("strip_accents")
    if lowercase is None and (name or (path.parent / "tokenizer_config.json").is_file()):
        lowercase = True  # transformers' default
    if lowercase is None:
        lowercase, strip_accents = _guess_normalization(ids)
        log.info(
            "%s: no tokenizer_config.json says how text is normalized; by its tokens it is %s%s",
            path,
            "uncased" if lowercase else "cased",
            ", with accents" if lowercase and strip_accents is False else "",
        )
    return _make_bert(path, ids, {**config, "strip_accents": strip_accents}, lowercase=lowercase)


def _guess_normalization(tokens: Iterable[str]) -> tuple[bool, bool | None]:
    """Return whether to lower-case text, and ``strip_accents``; see the module."""
    words = [token for token in tokens if token[:1] + token[-1:] not in ("[]", "<>")]
    num_letters = sum(token.lower() != token.upper() for token in words)
    num_cased = sum(token.lower() != token for token in words)
    num_accented = sum(
        any(unicodedata.category(char) == "Mn" for char in unicodedata.normalize("NFD", token))
        for token in words
        if not token.isascii()
    )
    lowercase = num_cased <= _CASED_SHARE * num_letters
    has_accents = num_accented >= max(_FEWEST_ACCENTED, _ACCENTED_SHARE * len(words))
    return lowercase, False if lowercase and has_accents else None


def _make_bert(
    path: Path, ids: Mapping[str, int], config: Mapping[str, Any], *, lowercase: bool
) -> dict[str, Any]:
    """Return the definition of ``BertTokenizer``."""
    named = named_roles(config)
    unknown = named.get("unk", "[UNK]")
    if unknown not in ids:
        refuse_missing_unknown(unknown, ids, path)
    return wordpiece(
        ids,
        unknown=unknown,
        named=named,
        lowercase=lowercase,
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )


def _read_letters(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition of ``EsmTokenizer``: every token is found in text."""
    lines = [line.strip() for line in "\n".join(_read_lines(path)).splitlines()]
    ids = {token: number for number, token in enumerate(lines)}
    named = named_roles(config)
    if named["unk"] not in ids:
        refuse_missing_unknown(named["unk"], ids, path)
    special = [*named.values(), named_token(config, "eos") or ""]
    return letters(ids, unknown=named["unk"], special=special)


def _read_byte_level_bpe(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    ids = _read_json(path)
    missing = [char for char in byte_level_alphabet() if char not in ids]
    if missing or any(token.endswith("</w>") for token in ids):
        fault = f"the token {missing[0]!r} is missing" if missing else "tokens end with </w>"
        raise TokkitError(
            f"{path}: not byte-level BPE ({fault}); "
            f"save the tokenizer as tokenizer.json with transformers, and name that"
        )
    return _make_byte_level_bpe(ids, _read_merges(path.parent / "merges.txt", ids), config)


def _make_byte_level_bpe(
    ids: Mapping[str, int], merges: Sequence[Sequence[str]], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the definition of ``GPT2Tokenizer`` and ``RobertaTokenizer``."""
    return byte_level_bpe(
        ids,
        merges,
        named=named_roles(config),
        add_prefix_space=bool(config.get("add_prefix_space", False)),
    )


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


def _read_lines(path: Path) -> list[str]:
    data = read_file(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise TokkitError(
            f"{path}, line {number}: invalid UTF-8 (byte {error.start}); pass a vocabulary in UTF-8"
        ) from error
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise TokkitError(f"{path}: empty; a vocabulary has one token a line")
    check_tokens(lines, str(path))
    return lines


def _read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no file."""
    return _read_json(path) if path.is_file() else {}


def _read_config(path: Path) -> dict[str, Any]:
    """Read ``tokenizer_config.json`` or ``special_tokens_map.json``; empty if there is none."""
    config = _read_optional(path)
    check_config(config, path)
    return config


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; of a doubled key the last counts, as in the library."""
    content = read_file(path)
    check_json(content, path)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TokkitError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise TokkitError(f"{path}: not a JSON object, as a tokenizer is; download it again")
    return data
