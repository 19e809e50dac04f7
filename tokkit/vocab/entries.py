"""The entries of a ``tokenizer.json``, checked: every id has one entry, and every entry one id.

The tokenizers library takes a file with doubled ids, holes, or an added token whose id is taken,
and answers with other ids than the file says. Ids are what shards hold, so here such a file is
refused, by name of the entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from tokkit.errors import TokkitError


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
