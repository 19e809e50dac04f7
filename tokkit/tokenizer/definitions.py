"""The tokenizers that tokkit makes itself, as objects of a ``tokenizer.json``.

Such an object says how text becomes ids: a normalizer, a pre-tokenizer that cuts words, a model
that cuts words into entries, added tokens that are found before all this, and a post-processor
that puts ``[CLS]`` and ``[SEP]`` around sequences:

    "Wörld, unaffable"  normalizer     world, unaffable
                        pre-tokenizer  world | , | unaffable
                        model          world , una ##ffa ##ble
                        post-processor [CLS] world , una ##ffa ##ble [SEP]

What stands here is what transformers makes of BERT's, GPT-2's and RoBERTa's vocabularies.

The entries of a ``tokenizer.json``, checked: every id has one entry, and every entry one id.

The tokenizers library takes a file with doubled ids, holes, or an added token whose id is taken,
and answers with other ids than the file says. Ids are what shards hold, so here such a file is
refused, by name of the entry.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from tokkit.errors import TokkitError
from tokkit.tokenizer.special_tokens import SPECIAL_TOKENS, find_special_ids


def read_entries(definition: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The entries by id, those of the model and those added to it.

    Args:
        definition: the object of a ``tokenizer.json``, with a model.
        path: its file, for errors.

    Raises:
        TokkitError: naming the entry that is doubled, has no id of its own or leaves a hole.
    """
    model = definition["model"]
    if "vocab" not in model:
        raise TokkitError(f"{path}: not a tokenizer.json: its model has no vocabulary")
    ids: dict[str, int] = {}
    for token, number in _model_entries(model["vocab"], path):
        if token in ids:
            raise TokkitError(f"{path}: the entry {token!r} is there twice; remove one of them")
        ids[token] = number
    for token, number in _added_entries(definition.get("added_tokens") or [], path):
        if ids.setdefault(token, number) != number:
            raise TokkitError(
                f"{path}: the added token {token!r} has id {number}, but the vocabulary gives it "
                f"{ids[token]}; make them the same"
            )
    return _by_id(ids, path)


def _model_entries(vocab: Any, path: str) -> Iterable[tuple[str, int]]:
    """Entries and ids of a model: a mapping, or Unigram's list of pieces and scores."""
    if isinstance(vocab, dict):
        for token, number in vocab.items():
            if type(number) is not int or number < 0:
                raise TokkitError(f"{path}: the entry {token!r} has {number!r} for an id")
            yield token, number
    elif isinstance(vocab, list):
        for number, piece in enumerate(vocab):
            if not (isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)):
                raise TokkitError(f"{path}: entry {number} is not a piece with a score")
            yield piece[0], number
    else:
        raise TokkitError(f"{path}: not a tokenizer.json: its vocabulary is no mapping and no list")


def _added_entries(added: Any, path: str) -> Iterable[tuple[str, int]]:
    for token in added if isinstance(added, list) else [added]:
        number = token.get("id") if isinstance(token, dict) else None
        if type(number) is not int or number < 0 or not isinstance(token.get("content"), str):
            raise TokkitError(f"{path}: the added token {token!r} lacks its content or its id")
        yield token["content"], number


def _by_id(ids: Mapping[str, int], path: str) -> tuple[str, ...]:
    """Entries in the order of their ids, which must be 0, 1, 2, … without a hole."""
    if not ids:
        raise TokkitError(f"{path}: the vocabulary is empty")
    ordered = sorted(ids, key=ids.__getitem__)
    for expected, token in enumerate(ordered):
        if ids[token] < expected:
            _refuse_id(path, token, f"the same id, {ids[token]}, as {ordered[expected - 1]!r}")
        if ids[token] > expected:
            _refuse_id(path, token, f"id {ids[token]}, but no entry has {expected}")
    return tuple(ordered)


def _refuse_id(path: str, token: str, fault: str) -> NoReturn:
    raise TokkitError(
        f"{path}: the entry {token!r} has {fault}; ids must be 0, 1, 2, … with one entry each"
    )


def check_unknown(model: Mapping[str, Any], tokens: Sequence[str], path: str) -> None:
    """Refuse a model that would fail at the first word it does not know.

    Args:
        model: of a ``tokenizer.json`` that the library wrote, so that every default is there.
        tokens: its entries.
        path: its file, for errors.
    """
    unknown = model.get("unk_token")
    if unknown is not None and unknown not in tokens:
        refuse_missing_unknown(unknown, tokens, path)
    number = model.get("unk_id")
    if number is not None and number not in range(len(tokens)):
        raise TokkitError(f"{path}: unk_id is {number}, beyond the {len(tokens)} entries")


def refuse_missing_unknown(unknown: str, ids: Iterable[str], path: str) -> NoReturn:
    """Say that a vocabulary lacks the entry for unknown words, and what it has instead."""
    alike = next((token for token in ids if token.casefold() == unknown.casefold()), None)
    has = f" (it has {alike!r}: capitals matter)" if alike is not None else ""
    raise TokkitError(
        f"{path}: no entry {unknown!r}{has}, which the model needs for words it does not know; "
        f"put it back, or use another vocabulary"
    )


CONTINUING_SUBWORD_PREFIX = "##"
MAX_INPUT_CHARS_PER_WORD = 100
SPLIT_DIGITS = {"type": "Digits", "individual_digits": True}
# A ByteLevel pre-tokenizer has it in it.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLIT_WORDS = {
    "type": "Split",
    "pattern": {"Regex": GPT2_PATTERN},
    "behavior": "Isolated",
    "invert": False,
}
WORD_BEGINNING = "\u2581"  # sentencepiece's sign for a space


def wordpiece(
    ids: Mapping[str, int],
    *,
    unknown: str,
    named: Mapping[str, str],
    lowercase: bool,
    strip_accents: bool | None,
    handle_chinese_chars: bool = True,
    split_digits: bool = False,
) -> dict[str, Any]:
    """BERT's tokenizer.

    Args:
        ids: the vocabulary.
        unknown: the entry for words that cannot be made of entries.
        named: the entries of roles that the usual forms do not tell, see ``control``.
        lowercase: text is lower-cased.
        strip_accents: combining marks are removed; None does so where text is lower-cased.
        handle_chinese_chars: each CJK ideograph is a word.
        split_digits: each digit is a word.
    """
    pre_tokenizer: dict[str, Any] = {"type": "BertPreTokenizer"}
    if split_digits:
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [pre_tokenizer, SPLIT_DIGITS]}
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": handle_chinese_chars,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }
    model = {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": CONTINUING_SUBWORD_PREFIX,
        "max_input_chars_per_word": MAX_INPUT_CHARS_PER_WORD,
        "vocab": dict(ids),
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _sequence_template(ids, named),
        "decoder": {"type": "WordPiece", "prefix": CONTINUING_SUBWORD_PREFIX, "cleanup": True},
        "model": model,
    }


def byte_level_bpe(
    ids: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    *,
    named: Mapping[str, str],
    add_prefix_space: bool,
    split_digits: bool = False,
) -> dict[str, Any]:
    """Byte-level BPE as in GPT-2 and RoBERTa.

    Where the vocabulary has tokens for both ends of a sequence they are put there as BERT does,
    since that is what the model trained on it expects.

    Args:
        ids: the vocabulary, the 256 of ``byte_level_alphabet`` among it.
        merges: pairs of entries, by rank.
        named: the entries of roles that the usual forms do not tell, see ``control``.
        add_prefix_space: text is taken to begin with a space, so that its first word is like others.
        split_digits: each digit is a word, and so is the space before it.
    """
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": True,
    }
    pre_tokenizer: dict[str, Any] = byte_level
    if split_digits:
        parts = [SPLIT_WORDS, SPLIT_DIGITS, {**byte_level, "use_regex": False}]
        pre_tokenizer = {"type": "Sequence", "pretokenizers": parts}
    template = _sequence_template(ids, named)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(ids),
        "merges": [list(merge) for merge in merges],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        # ByteLevel leaves ids as they are; it takes the space out of a word's offsets.
        "post_processor": {"type": "Sequence", "processors": [byte_level, template]}
        if template
        else byte_level,
        "decoder": byte_level,
        "model": model,
    }


def unigram(
    pieces: Sequence[tuple[str, float]], *, unknown: int, charsmap: bytes, byte_fallback: bool
) -> dict[str, Any]:
    """Sentencepiece's unigram tokenizer.

    Args:
        pieces: entries with their scores, by id.
        unknown: the id for characters that are no entries.
        charsmap: sentencepiece's table of normalization.
        byte_fallback: the bytes ``<0x00>`` to ``<0xFF>`` are entries, for such characters.
    """

    def replace(pattern: str, content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    normalizers = [
        {"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode()},
        replace(r"\A +", ""),
        replace(" +", WORD_BEGINNING),
        replace(rf"{WORD_BEGINNING}+\z", ""),
        {"type": "Prepend", "prepend": WORD_BEGINNING},
    ]
    metaspace = {"type": "Metaspace", "replacement": WORD_BEGINNING, "split": True}
    model = {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [list(piece) for piece in pieces],
        "byte_fallback": byte_fallback,
    }
    decoders = [
        *([{"type": "ByteFallback"}] if byte_fallback else []),
        {**metaspace, "prepend_scheme": "always"},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {**metaspace, "prepend_scheme": "never"},
        "post_processor": _sequence_template(
            {token: number for number, (token, _) in enumerate(pieces)}, {}
        ),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def byte_level_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, by the byte.

    Bytes that print stand for themselves; the others, in order, for what follows U+0100, so that
    an entry is never white space or a control character: the space is ``Ġ``.
    (GPT-2's ``bytes_to_unicode``.)
    """
    prints = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    prints.update(range(ord("®"), ord("ÿ") + 1))
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _sequence_template(ids: Mapping[str, int], named: Mapping[str, str]) -> dict[str, Any] | None:
    """BERT's ``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]``; None where a token is missing."""
    special = find_special_ids(ids, named)
    if "cls" not in special or "sep" not in special:
        return None
    tokens = {number: token for token, number in ids.items()}
    cls, sep = tokens[special["cls"]], tokens[special["sep"]]

    def control(token: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    def sequence(name: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    single = [control(cls, 0), sequence("A", 0), control(sep, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, sequence("B", 1), control(sep, 1)],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (cls, sep)
        },
    }


def added_token(token: str, number: int, *, special: bool) -> dict[str, Any]:
    """A row of ``added_tokens``."""
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "special": special,
    }


def mark_special_tokens(
    definition: Mapping[str, Any], tokens: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """The same definition with every control token among the special ``added_tokens``.

    So the library keeps them out of text (``encode_special_tokens``), and leaves them out of
    decoded text where asked to, whichever form the tokenizer came in.

    Args:
        definition: the object of a ``tokenizer.json``.
        tokens: its entries, by id.
        names: control tokens beside the usual forms.
    """
    rows = {row["content"]: row for row in definition.get("added_tokens") or []}
    control = SPECIAL_TOKENS | set(names)
    for number, token in enumerate(tokens):
        if token in control:
            row = rows.get(token) or added_token(token, number, special=True)
            rows[token] = {**row, "special": True}
    return {**definition, "added_tokens": sorted(rows.values(), key=lambda row: row["id"])}
