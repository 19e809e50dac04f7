r"""Batches of documents, and what is done to every text before it is one.

A text comes as a slice of bytes from a file, a record or a table. Line ends become ``\n`` and the
last one is left out; a text of white space alone is dropped; invalid UTF-8 stops the work, is
replaced, or drops the text. What remains is an Arrow string column, written once.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokkit.kernels.scan import copy_documents, write_names
from tokkit.shards.arrow import read_only, string_array

EMPTY = "empty"
NO_TEXT = "no text field"
NULL_TEXT = "null text"
NOT_A_STRING = "text is not a string"
INVALID_UTF8 = "invalid UTF-8"

_MOST_DIGITS = 19


@dataclass(frozen=True)
class DocumentBatch:
    r"""Documents that were read together.

    Attributes:
        texts: in valid UTF-8, not of white space alone, with ``\n`` line ends, the last left out.
        names: the record's own id, or the file's name and where the document begins in it.
        languages: of the records, null where one tells none; None where nobody asked.
        dropped: documents left out since the last batch, by reason.
        replaced: documents of this batch into which U+FFFD was put for invalid UTF-8.
        bytes_read: how far the input was read since the last batch, as it lies on disk; over a
            unit they add up to its size, and for standard input to what it gave.
    """

    texts: pa.LargeStringArray
    names: pa.StringArray
    languages: pa.StringArray | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    bytes_read: int = 0


@dataclass(frozen=True)
class CleanTexts:
    """Texts as they are handed on.

    Attributes:
        texts: large_string [num_kept].
        kept: int64 [num_kept], which of the given slices each one is.
        dropped: slices left out, by reason.
        replaced: texts into which U+FFFD was put.
    """

    texts: pa.LargeStringArray
    kept: NDArray[np.int64]
    dropped: dict[str, int]
    replaced: int = 0


def clean_texts(
    values: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    errors: str = "strict",
    invalid: Callable[[int, UnicodeDecodeError], Exception] = lambda _, error: error,
) -> CleanTexts:
    """Copy texts out of a buffer in the form that a batch promises.

    Args:
        values: uint8.
        starts: int64 [num_texts], first byte of each.
        stops: int64 [num_texts], the byte after its last one.
        errors: what to do about invalid UTF-8: ``strict``, ``replace`` or ``skip``.
        invalid: makes the error to raise for the text of this number under ``strict``.
    """
    out_values = np.empty(int((stops - starts).sum()), dtype=np.uint8)
    offsets = np.empty(starts.size + 1, dtype=np.int64)
    kept = np.empty(starts.size, dtype=np.int64)
    num_kept = copy_documents(
        read_only(values), read_only(starts), read_only(stops), out_values, offsets, kept
    )
    offsets = offsets[: num_kept + 1]
    kept = kept[:num_kept]
    texts = string_array(out_values, offsets)
    dropped = add_counts({EMPTY: starts.size - num_kept})
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return _mend(texts, kept, dropped, errors, invalid)
    return CleanTexts(texts, kept, dropped)


def name_documents(
    name: str, positions: NDArray[np.int64], ids: pa.StringArray | None = None
) -> pa.StringArray:
    """Name documents by their own ids, else by the file and where they begin: ``books.txt:312``.

    Args:
        name: of the file.
        positions: int64 [num_documents].
        ids: string [num_documents], null where a document has none; None where none has.
    """
    if ids is not None and not ids.null_count:
        return ids
    prefix = np.frombuffer(f"{name}:".encode(), dtype=np.uint8)
    values = np.empty(positions.size * (prefix.size + _MOST_DIGITS), dtype=np.uint8)
    offsets = np.empty(positions.size + 1, dtype=np.int32)
    num_bytes = write_names(prefix, positions, values, offsets)
    names = pa.StringArray.from_buffers(
        positions.size, pa.py_buffer(offsets), pa.py_buffer(values[:num_bytes])
    )
    return names if ids is None else pc.coalesce(ids, names)


def add_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason, summed, without those of 0."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(+total)


def _mend(
    texts: pa.LargeStringArray,
    kept: NDArray[np.int64],
    dropped: dict[str, int],
    errors: str,
    invalid: Callable[[int, UnicodeDecodeError], Exception],
) -> CleanTexts:
    """Do what ``errors`` says about texts of which some are invalid."""
    valid: list[bytes] = []
    indices: list[int] = []
    num_replaced = 0
    num_skipped = 0
    for index, raw in zip(kept.tolist(), texts.cast(pa.large_binary()).to_pylist(), strict=True):
        text = raw
        try:
            text.decode()
        except UnicodeDecodeError as error:
            if errors == "strict":
                raise invalid(index, error) from None
            if errors == "skip":
                num_skipped += 1
                continue
            text = text.decode(errors="replace").encode()
            num_replaced += 1
        valid.append(text)
        indices.append(index)
    return CleanTexts(
        pa.array(valid, pa.large_binary()).cast(pa.large_string()),
        np.array(indices, dtype=np.int64),
        add_counts(dropped, {INVALID_UTF8: num_skipped}),
        num_replaced,
    )
