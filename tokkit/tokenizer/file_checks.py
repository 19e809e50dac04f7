"""Checks of a tokenizer's files: limits of size, and the validity of their vocabulary.

The limits are far above those of real files. The libraries take whatever a file says, and end the process if memory is short. So these are checked
before they see it:

    file              256 MB, and 16 million values; Gemma's tokenizer.json has 34 MB
    token, pattern    65,536 characters
    normalizer        1,000 parts, which together make text at most 64 times as long, and
                      begin it with at most 1,024 bytes
    charsmap          a table as long as it says

Published vocabularies have tokens that occur twice, and ids without a token. Ids are those that the
tokenizers library gives: of a doubled token the last counts, and an added token that the model lacks
gets the next id, whatever its file says. Two tokens with one id are refused.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tokkit.engine.files import read_whole
from tokkit.errors import TokkitError

_MAX_BYTES = 256_000_000
_MAX_VALUES = 1 << 24
_LONGEST_TOKEN = 1 << 16
_MAX_PARTS = 1000
_MAX_GROWTH = 64
_MAX_PREPENDED = 1024
# That U+FDFA becomes 33 bytes says nothing of other text.
_LONGEST_COMPATIBLE = 64
_MAX_HOLES = 1 << 20
_INNER = ("normalizers", "pretokenizers", "decoders")


def read_file(path: Path) -> bytes:
    """Read a file of a tokenizer.

    Raises:
        TokkitError: if it cannot be read, or is too large.
    """
    return read_whole(path, _MAX_BYTES)


def check_json(content: bytes, path: Path) -> None:
    """Refuse JSON of so many values that their objects would fill the memory."""
    if sum(map(content.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise TokkitError(
            f"{path}: more than {_MAX_VALUES:,} values, which no tokenizer has; pass another"
        )


def check_tokens(tokens: Iterable[str], path: str) -> None:
    """Refuse tokens of a length that no text needs."""
    longest = max(tokens, key=len, default="")
    if len(longest) > _LONGEST_TOKEN:
        raise TokkitError(
            f"{path}: the token that begins with {longest[:20]!r} has {len(longest):,} characters; "
            f"at most {_LONGEST_TOKEN:,} are supported"
        )


def check_parts(definition: Mapping[str, Any], path: str) -> None:
    """Refuse a normalizer, pre-tokenizer or decoder that takes excessive time or memory.

    Args:
        definition: the object of a ``tokenizer.json``.
        path: its file, for errors.
    """
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        parts = [*_list_parts(definition.get(name))]
        num_parts, prepended = len(parts), sum(_length(part.get("prepend")) for part in parts)
        fault = None
        if num_parts > _MAX_PARTS:
            fault = f"has {num_parts:,} parts; at most {_MAX_PARTS:,} are supported"
        elif prepended > _MAX_PREPENDED:
            fault = (
                f"prepends {prepended:,} bytes to each text; at most {_MAX_PREPENDED} are supported"
            )
        elif (growth := find_growth(definition.get(name), path)) > _MAX_GROWTH:
            fault = f"may make text {growth:,.0f} times as long; at most {_MAX_GROWTH} is supported"
        if fault:
            raise TokkitError(f"{path}: its {name} {fault}; use another tokenizer")


def _list_parts(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a sequence of sequences, in any order."""
    waiting = [part]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += [
                inner for name in _INNER if isinstance(part.get(name), list) for inner in part[name]
            ]


def find_growth(normalizer: Any, path: str) -> float:
    """Return how many times as long text may become, Unicode's own normalization forms aside."""
    growth = 1.0
    for part in _list_parts(normalizer):
        before, after = 1, 1
        if part.get("type") == "Replace":
            pattern = part.get("pattern")
            fixed = pattern.get("String") if isinstance(pattern, dict) else None
            before, after = max(1, _length(fixed)), _length(part.get("content"))
        elif part.get("type") == "Precompiled":
            after = check_charsmap(_decode(part.get("precompiled_charsmap")), path)
        growth = min(1e18, growth * max(1, after / before))
    return growth


def check_charsmap(charsmap: bytes, path: str) -> int:
    """Refuse a damaged table; return how many bytes a byte of text may become, in unusual tables.

    It is the size of a trie in four bytes, the trie, and strings that end with a zero byte.
    """
    size = int.from_bytes(charsmap[:4], "little")
    if charsmap and (size % 4 or size > len(charsmap) - 4):
        raise TokkitError(f"{path}: its precompiled_charsmap is damaged; download it again")
    longest = max(map(len, charsmap[4 + size :].split(b"\0")))
    return longest if longest > _LONGEST_COMPATIBLE else 1


def _length(text: Any) -> int:
    return len(text.encode(errors="replace")) if isinstance(text, str) else 0


def _decode(text: Any) -> bytes:
    try:
        return b64decode(text)
    except (Base64Error, TypeError, ValueError):
        return b""  # for which the library has an error of its own


def check_vocabulary(definition: Mapping[str, Any], path: str) -> None:
    """Refuse tokens and ids that the library would report without naming them, or not at all.

    Args:
        definition: the object of a ``tokenizer.json``, with a model.
        path: its file, for errors.

    Raises:
        TokkitError: naming the token.
    """
    vocab = definition["model"].get("vocab")
    if isinstance(vocab, dict):
        for token, number in vocab.items():
            if type(number) is not int or number < 0:
                raise TokkitError(
                    f"{path}: the token {token!r} has id {number!r}; ids must be 0 or more"
                )
    elif isinstance(vocab, list):
        for number, piece in enumerate(vocab):
            if not (isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)):
                raise TokkitError(f"{path}: token {number} is not a string with a score")
    else:
        raise TokkitError(f"{path}: not a tokenizer.json: its model has no vocabulary")
    check_tokens(vocab if isinstance(vocab, dict) else (token for token, _ in vocab), path)
    rows = definition.get("added_tokens") or []
    if not vocab and not rows:
        raise TokkitError(f"{path}: the vocabulary is empty")
    for row in rows if isinstance(rows, list) else [rows]:
        number = row.get("id") if isinstance(row, dict) else None
        if type(number) is not int or number < 0 or not isinstance(row.get("content"), str):
            raise TokkitError(
                f"{path}: the added token {str(row)[:200]} lacks its content or its id"
            )
        check_tokens([row["content"]], path)


def order_tokens(ids: Mapping[str, int], path: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the tokens by id, and the ids that have none, which are called ``[hole 7]``.

    Args:
        ids: the ids that the library gives.
        path: their file, for errors.

    Raises:
        TokkitError: if two tokens have the same id, an id is so large that it must be an error, or a
            token is so long.
    """
    check_tokens(ids, path)
    size = max(ids.values()) + 1
    if size > len(ids) + _MAX_HOLES:
        token = max(ids, key=ids.__getitem__)
        raise TokkitError(f"{path}: the token {token!r} has id {size - 1:,}, far beyond the others")
    tokens: list[str | None] = [None] * size
    for token, number in ids.items():
        if (other := tokens[number]) is not None:
            first, second = sorted((token, other))
            raise TokkitError(
                f"{path}: the token {second!r} has the same id, {number}, as {first!r}; each id "
                f"must have one token"
            )
        tokens[number] = token
    holes = tuple(number for number, token in enumerate(tokens) if token is None)
    named = (f"[hole {n}]" if token is None else token for n, token in enumerate(tokens))
    return tuple(named), holes


def find_unknown(model: Mapping[str, Any], tokens: Sequence[str], path: str) -> str | None:
    """Return the token that a model gives for what it does not know, or None.

    Args:
        model: as the library writes it, with every default.
        tokens: its tokens.
        path: its file, for errors.

    Raises:
        TokkitError: the model would fail at the first word it does not know.
    """
    unknown: str | None = model.get("unk_token")
    if unknown is not None and unknown not in model["vocab"]:
        refuse_missing_unknown(unknown, tokens, path)
    number = model.get("unk_id")
    if number is not None and number not in range(len(tokens)):
        raise TokkitError(f"{path}: unk_id is {number}, but there are {len(tokens)} tokens")
    return unknown if number is None else tokens[number]


def refuse_missing_unknown(unknown: str, tokens: Iterable[str], path: object) -> NoReturn:
    """Raise the error for a vocabulary without the token for unknown words."""
    raise TokkitError(
        f"{path}: no token {unknown!r}{suggest_case([unknown], tokens)}, which the model needs for "
        f"words it does not know; put it back, or use another vocabulary"
    )


def suggest_case(wanted: Iterable[str], tokens: Iterable[str]) -> str:
    """Return a hint for errors if a token differs from a required one only in case, or ``""``."""
    exact = {*wanted}
    folded = {token.casefold() for token in exact}
    similar = next((t for t in tokens if t.casefold() in folded and t not in exact), None)
    return "" if similar is None else f" (it has {similar!r}: capitals matter)"
