"""Finds a folder's class in transformers, and converts the classes that tokkit does not read itself.

A folder says by ``tokenizer_class``, else by the ``model_type`` of its model, which class reads its
vocabulary. The class decides about normalization, about ids that are shifted, and about tokens that
are added, so another reader of the same file gives other ids:

    sentencepiece.bpe.model    ▁the is 5 to sentencepiece, which has <unk>, <s> and </s> first
                                       6 to XLMRobertaTokenizer, which has <s>, <pad>, </s>, <unk>

Classes that only cut words and look them up are read by ``tokkit.tokenizer.loading``. The others are
made by transformers, which gives a tokenizer of the tokenizers library. Of those that it runs in
Python, ByT5's and Perceiver's are byte-level BPE without merges, and some look up the pieces of a
sentencepiece model; the others are refused, since the ids of Python code can be had from that code
alone, and a folder holds no code.

So a class of transformers needs no change here, and another name of a class that tokkit reads is a
line of ``_ALIASES``. For a class that tokkit is to read itself, add it to ``CLASS_TOKENS`` and
``_BY_MODEL_TYPE``, and to ``loading.py`` how its files are read.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from tokkit.engine.copies import call_in_copy
from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import added_token, byte_level_alphabet, byte_level_bpe, model_ids
from tokkit.tokenizer.sentencepiece_model import (
    LOOKUP_CLASSES,
    PieceVocabulary,
    read_piece_vocabulary,
)
from tokkit.tokenizer.special_tokens import ROLES
from tokkit.tokenizer.tekken import NAME as TEKKEN

GENERAL = "PreTrainedTokenizer"  # takes tokenizer.json as it is
BERT = "BertTokenizer"
CONVBERT = "ConvBertTokenizer"  # BERT's, but takes tokenizer.json as it is
GPT2 = "GPT2Tokenizer"
ROBERTA = "RobertaTokenizer"
ESM = "EsmTokenizer"

# Names of the same classes, without the ending "Fast".
_ALIASES = {
    "TokenizersBackend": GENERAL,
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
}
_BERT_TOKENS = {f"{role}_token": f"[{role.upper()}]" for role in ROLES}
_ROBERTA_TOKENS = {f"{role}_token": f"<{role}>" for role in ("unk", "pad", "mask")}
# The classes that ``tokkit.tokenizer.loading`` reads, or no class, and their special tokens unless a
# folder names others.
CLASS_TOKENS: Mapping[str | None, Mapping[str, str]] = {
    None: {},
    GENERAL: {},
    BERT: _BERT_TOKENS,
    CONVBERT: _BERT_TOKENS,
    GPT2: dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    ROBERTA: {
        **dict.fromkeys(("bos_token", "cls_token"), "<s>"),
        **dict.fromkeys(("eos_token", "sep_token"), "</s>"),
        **_ROBERTA_TOKENS,
    },
    ESM: {"cls_token": "<cls>", "sep_token": "<eos>", "eos_token": "<eos>", **_ROBERTA_TOKENS},
}
_BY_MODEL_TYPE = {
    **dict.fromkeys(("bert", "convbert", "distilbert", "electra", "ernie"), BERT),
    "gpt2": GPT2,
    "roberta": ROBERTA,
    "esm": ESM,
}
# For these models transformers replaces the general class by one of their own.
_REPLACED = ("qwen2", "qwen3_5", "qwen4", "siglip2", "hyperclovax_vision")
_SEGMENTERS = {
    "BertJapaneseTokenizer": "MeCab, Sudachi or Juman++",
    "BioGptTokenizer": "Moses",
    "BertweetTokenizer": "a normalizer of tweets",
    "CpmTokenizer": "jieba",
    "CpmAntTokenizer": "jieba",
    "FlaubertTokenizer": "Moses",
    "FSMTTokenizer": "Moses",
    "GPTNeoXJapaneseTokenizer": "a Japanese normalizer",
    "PhobertTokenizer": "VnCoreNLP",
    "RoFormerTokenizer": "jieba",
    "XLMTokenizer": "Moses",
}
_BYTES = ("ByT5Tokenizer", "PerceiverTokenizer")  # a token for each byte, without any file
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_EXPECTED = ("sentencepiece library", "TikToken")  # in the warning before a tiktoken file is read


def find_class(folder: Path, config: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """Return the class that reads a folder's tokenizer, or None if nothing names one.

    Args:
        folder: whose files decide between classes that transformers would choose by them.
        config: its ``tokenizer_config.json``.
        model: its ``config.json``.

    Returns:
        One of the names above, or that of a class which only transformers has.
    """
    kind = str(model.get("model_type") or "")
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    if named is None:
        is_saved_model = config.get("backend") == "sentencepiece"  # tokkit's own
        # For a tekken.json transformers needs mistral-common, which gives the same ids.
        has_tekken = (folder / TEKKEN).is_file() and not (folder / "tokenizer.json").is_file()
        if is_saved_model or has_tekken or not kind:
            return None
        return _BY_MODEL_TYPE.get(kind, f"the tokenizer of {kind}")
    name = str(named).removesuffix("Fast")
    name = _ALIASES.get(name, name)
    if name == GENERAL:
        if (folder / "tokenizer.json").is_file():
            return name if not kind.startswith(_REPLACED) else f"the tokenizer of {kind}"
        return "a converted tokenizer" if any(folder.glob("*.model")) else None
    # With another kind of model, transformers may take the model's class.
    return (
        name if name not in CLASS_TOKENS or kind in ("", *_BY_MODEL_TYPE) else f"{name} of {kind}"
    )


class _TokenRow(TypedDict):
    content: str


_TokenRows = list[str | _TokenRow] | dict[str, str | _TokenRow] | None


class _TokenConfig(TypedDict, total=False):
    added_tokens_decoder: dict[Annotated[str, msgspec.Meta(max_length=20)], _TokenRow] | None
    additional_special_tokens: _TokenRows
    extra_special_tokens: _TokenRows


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a ``tokenizer_config.json`` whose tokens are neither strings nor have a content.

    Args:
        config: the object of it, or of ``special_tokens_map.json``.
        path: of the file.
    """
    named = {key: row for key, row in config.items() if key.endswith("_token")}
    try:
        msgspec.convert(config, _TokenConfig)
        msgspec.convert([row for row in named.values() if isinstance(row, dict)], list[_TokenRow])
    except ValueError as error:  # of msgspec; or a string is not UTF-8
        raise TokkitError(f"{path}: damaged ({error}); download it again") from error


def add_tokens(
    definition: Mapping[str, Any],
    config: Mapping[str, Any],
    added: Mapping[str, int],
    class_tokens: Mapping[str, str],
) -> dict[str, Any]:
    """Return a definition with the tokens that ``AutoTokenizer`` adds, in its order.

    Those are the tokens of ``added_tokens_decoder``, else ``added``; and then the special tokens that
    none of them has. A token of the model keeps its id.

    Args:
        definition: the object of a ``tokenizer.json``.
        config: ``tokenizer_config.json`` with ``special_tokens_map.json``.
        added: ``added_tokens.json``: tokens and their ids.
        class_tokens: special tokens of the class, unless the config names others.
    """
    keys = [f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    keys += [key for key in config if key.endswith("_token") and key not in keys]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values = [{**class_tokens, **config}.get(key) for key in keys]
    values += extra.values() if isinstance(extra, dict) else extra
    named = [{"content": value} if isinstance(value, str) else value for value in values]
    special = {row["content"]: row for row in named if isinstance(row, dict)}
    decoder = config.get("added_tokens_decoder")
    numbered = {number: {"content": token} for token, number in added.items()}
    if isinstance(decoder, dict):
        numbered = {int(number): row for number, row in decoder.items() if number.isdecimal()}
    wanted = {row["content"]: {**row, "id": number} for number, row in sorted(numbered.items())}
    ids = model_ids(definition)
    rows = {row["content"]: row for row in definition.get("added_tokens") or []}
    next_id = max([-1, *ids.values(), *(row["id"] for row in rows.values())]) + 1
    for token, row in {**wanted, **{t: special[t] for t in special if t not in wanted}}.items():
        if token in rows and token not in wanted:
            continue
        number = ids.get(token, rows.get(token, row).get("id", next_id))
        next_id = max(next_id, number + 1)
        is_special = token in special or bool(row.get("special"))
        flags = {name: row[name] for name in _FLAGS if name in row}
        rows[token] = (
            added_token(token, number, special=is_special) | flags | {"special": is_special}
        )
    return {**definition, "added_tokens": list(rows.values())}


def convert_folder(
    folder: Path, name: str, config: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, PieceVocabulary | None, dict[str, str]]:
    """Let transformers make the tokenizer of a folder; no code from the folder is run.

    A copy of this process imports it, where there can be one.

    Args:
        folder: with the files of a tokenizer.
        name: what ``find_class`` returned.
        config: its ``tokenizer_config.json``.

    Returns:
        The object of its ``tokenizer.json``, or else the pieces of sentencepiece and their ids; and
        its special tokens by role.

    Raises:
        TokkitError: if transformers is missing, cannot make it, or makes it in Python.
    """
    has_json = (folder / "tokenizer.json").is_file()
    other_way = "; or name its tokenizer.json, which is then taken as it is" if has_json else ""
    if segmenter := _SEGMENTERS.get(name):
        raise TokkitError(
            f"{folder}: {name} needs {segmenter}, which tokkit does not support{other_way}"
        )
    return call_in_copy(partial(_convert, folder, name, config, other_way))


def _convert(
    folder: Path, name: str, config: Mapping[str, Any], other_way: str
) -> tuple[dict[str, Any] | None, PieceVocabulary | None, dict[str, str]]:
    """Convert a folder in the copied process; ``other_way`` ends the error messages."""
    try:
        from transformers import AutoTokenizer
        from transformers import logging as transformers_logging
    except ImportError as error:
        raise TokkitError(
            f"{folder}: only transformers can make {name}; pip install 'tokkit[hub]'{other_way}"
        ) from error
    library_log = transformers_logging.get_logger()
    handlers, library_log.handlers = library_log.handlers, [collected := _Warnings()]
    made: Any = None
    definition: dict[str, Any] = {}
    pieces: PieceVocabulary | None = None
    try:
        with warnings.catch_warnings(action="ignore"):  # of packages that make no difference
            made = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        if getattr(made, "is_fast", False):
            definition = json.loads(made.backend_tokenizer.to_str())
        elif name in _BYTES:
            definition = _define_bytes(made)
        elif type(made).__name__ in LOOKUP_CLASSES:
            pieces = read_piece_vocabulary(made, folder)
    except Exception as error:  # noqa: BLE001  transformers raises errors of many types
        is_custom = "auto_map" in config
        collected.faults[:] = [
            "auto_map names code of its own, which is never run"
            if is_custom
            else " ".join(str(error).split())[:300] or type(error).__name__
        ]
    finally:
        library_log.handlers = handlers
    if not definition and not pieces and not collected.faults:
        collected.faults.append(
            f"{type(made).__name__} runs in Python, not in the tokenizers library; take a tokenizer "
            f"whose class is fast"
        )
    # A class that does not find its file makes a small vocabulary of its own.
    is_checked = not (other_way or collected.faults or name in _BYTES)
    if is_checked and not pieces and 2 * len(model_ids(definition)) < _count_tokens(folder):
        collected.faults.append("it does not read the vocabulary that is there")
    if collected.faults:
        raise TokkitError(
            f"{folder}: transformers cannot load {name}: {collected.faults[0]}{other_way}"
        )
    special = {
        f"{role}_token": getattr(made, f"{role}_token", None) for role in (*ROLES, "bos", "eos")
    }
    tokens = {key: str(token) for key, token in special.items() if token is not None}
    return definition or None, pieces, tokens


def _define_bytes(made: Any) -> dict[str, Any]:
    """Return the definition of a class that has a token for each byte of UTF-8."""
    ids = {
        char: made.convert_tokens_to_ids(chr(byte))
        for byte, char in enumerate(byte_level_alphabet())
    }
    rows = [
        added_token(row.content, number, special=row.special or number in made.all_special_ids)
        for number, row in sorted(made.added_tokens_decoder.items())
    ]
    # Within the model, because the library numbers tokens that are not in it itself.
    ids |= {row["content"]: row["id"] for row in rows}
    return {**byte_level_bpe(ids, []), "added_tokens": rows}


def _count_tokens(folder: Path) -> int:
    """Estimate the number of tokens in a folder's vocabulary files; 1,000 if there is none."""
    import sentencepiece

    counts = []
    for path in (*folder.glob("*.model"), *folder.glob("*.spm"), *folder.glob("vocab.*")):
        content = path.read_bytes()
        try:
            counts.append(len(sentencepiece.SentencePieceProcessor(model_proto=content)))
        except RuntimeError:
            counts.append(max(content.count(b"\n"), content.count(b'":')))
    return max(counts, default=1000)


class _Warnings(logging.Handler):
    """Collects warnings that ids may be wrong, after which transformers continues.

    Attributes:
        faults: the messages.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.faults: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning that something was replaced by something else."""
        message = " ".join(record.getMessage().split())
        if "Falling back" in message and not all(part in message for part in _EXPECTED):
            self.faults.append(message)
