"""The parts of a normalizer or pre-tokenizer of a ``tokenizer.json``."""

from collections.abc import Mapping
from typing import Any

_INNER = {"normalizers", "pretokenizers"}


def list_parts(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the parts of a normalizer or pre-tokenizer in order, those of sequences in place of it."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    (name,) = _INNER.intersection(part)
    return [inner for outer in part[name] for inner in list_parts(outer)]
