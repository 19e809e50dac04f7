"""Reading ``tekken.json``, in which mistral-common keeps a tokenizer: byte-level BPE by ranks.

    {"config": {"pattern": …, "default_vocab_size": 131072, "default_num_special_tokens": 1000},
     "vocab": [{"rank": 0, "token_bytes": "AA=="}, …]}

Special tokens come first, so the token of rank 0 has the id 1000. As in tiktoken, of two neighbors
those merge first that make the token of the lowest rank, and a word that is a token is not cut.
See ``mistral_common/tokens/tokenizers/tekken.py``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import added_token, byte_level_alphabet, byte_level_bpe

NAME = "tekken.json"
# Of files that name none. The others are <SPECIAL_20> and so on.
_SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)


class _Config(TypedDict):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Token(TypedDict):
    rank: int
    token_bytes: bytes  # written in base 64


class _SpecialToken(TypedDict):
    rank: int
    token_str: str


class _Tekken(TypedDict):
    config: _Config
    vocab: list[_Token]
    special_tokens: list[_SpecialToken] | None


def is_tekken(data: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is that of a ``tekken.json``."""
    return "model" not in data and {"config", "vocab"} <= data.keys()


def define_tekken(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the object of a ``tokenizer.json`` that gives the same ids.

    Args:
        data: the object of a ``tekken.json``.
        path: its file, for errors.

    Raises:
        TokkitError: if it is damaged.
    """
    try:
        tekken = msgspec.convert({"special_tokens": None, **data}, _Tekken)
    except msgspec.ValidationError as error:
        raise TokkitError(f"{path}: damaged ({error}); download it again") from error
    config = tekken["config"]
    num_special = config["default_num_special_tokens"]
    ranks = {
        token["token_bytes"]: number
        for number, token in enumerate(tekken["vocab"])
        if token["rank"] == number < config["default_vocab_size"] - num_special
    }
    listed = tekken["special_tokens"] or []
    special = {number: f"<SPECIAL_{number}>" for number in range(num_special)}
    special |= dict(enumerate(_SPECIAL_TOKENS)) if tekken["special_tokens"] is None else {}
    special |= {token["rank"]: token["token_str"] for token in listed}
    letters = byte_level_alphabet()
    names = {token: "".join(letters[byte] for byte in token) for token in ranks}
    ids = {names[token]: num_special + rank for token, rank in ranks.items()}
    if len(ids) + num_special != config["default_vocab_size"] or not ids.keys().isdisjoint(
        special.values()
    ):
        raise TokkitError(f"{path}: damaged (ranks or tokens that occur twice); download it again")
    merges = [[names[left], names[right]] for left, right in _list_merges(ranks)]
    made = byte_level_bpe(
        {name: number for number, name in special.items()} | ids,
        merges,
        pattern=config["pattern"],
    )
    made["model"]["ignore_merges"] = True
    made["added_tokens"] = [
        added_token(name, number, special=True) for number, name in sorted(special.items())
    ]
    return made


def _list_merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs that make each token, by its rank and by their own."""
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in ranks and pair[1] in ranks]
        yield from sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
