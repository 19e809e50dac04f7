"""Limits of what a tokenizer's files may ask for, far above those of real ones.

The libraries take whatever a file says, and end the process if memory is short. So these are checked
before they see it:

    file              256 MB, and 16 million values; Gemma's tokenizer.json has 34 MB
    token, pattern    65,536 characters
    normalizer        1,000 parts, which together make text at most 64 times as long, and
                      begin it with at most 1,024 bytes
    charsmap          a table as long as it says
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
    """Refuse a normalizer, pre-tokenizer or decoder that takes time or memory out of all proportion.

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
