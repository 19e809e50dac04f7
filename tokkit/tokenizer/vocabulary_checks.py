"""Checks of the vocabulary of a ``tokenizer.json``.

Published vocabularies have tokens that occur twice, and ids without a token. Ids are those that the
tokenizers library gives: of a doubled token the last counts, and an added token that the model lacks
gets the next id, whatever its file says. Two tokens with one id are refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from tokkit.errors import TokkitError
from tokkit.tokenizer.limits import check_tokens

_MAX_HOLES = 1 << 20


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
    """Return a remark for errors if a token differs from a wanted one only in its case, or ``""``."""
    exact = {*wanted}
    folded = {token.casefold() for token in exact}
    similar = next((t for t in tokens if t.casefold() in folded and t not in exact), None)
    return "" if similar is None else f" (it has {similar!r}: capitals matter)"
