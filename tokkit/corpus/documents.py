r"""Batches of documents, and the cleaning of every text before it becomes one.

A text is a slice of bytes from a file, a record or a table. In a text file line ends become ``\n``,
the last one and byte order marks are removed; the text of a record or a table stays as it is. A text
of white space alone is dropped; invalid UTF-8 is an error, is replaced, or drops the text. The result
is an Arrow string column, written once.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.string_columns import BLOCK, copy_documents, is_utf8, write_names
from tokkit.shards.arrow import SpareMemory, call_compute, string_array

# Reasons for dropping a document.
EMPTY = "empty"
NO_TEXT = "no text field"
REPEATED_HEADER = "repeated header"
NULL_TEXT = "null text"
NOT_A_STRING = "text is not a string"
INVALID_UTF8 = "invalid UTF-8"
TOO_LONG = "too long"

# The remedy for invalid UTF-8 in errors.
ERRORS_OPTION = (
    "pass --errors replace to substitute U+FFFD, or --errors skip to drop such documents"
)

_MAX_DIGITS = 19

spare_memory = SpareMemory(16 << 20)  # for text: twice what a batch has


@dataclass(frozen=True)
class DocumentBatch:
    r"""Documents that were read together.

    Attributes:
        texts: large_string, valid UTF-8, not of white space alone.
        names: the record's own id, or the file's name and where the document begins in it.
        languages: of the records, null if unknown; None if none were read.
        dropped: documents dropped since the last batch, by reason.
        replaced: documents of this batch in which U+FFFD replaces invalid UTF-8.
        bytes_read: bytes of the input, as on disk, since the last batch; over a unit they add up to
            its size, and for standard input to what was read.
        in_lines: whether each text is a list of strings, whose lines are its sentences.
        are_lines: whether each text is a single line.
    """

    texts: pa.LargeStringArray
    names: pa.StringArray
    languages: pa.StringArray | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    bytes_read: int = 0
    in_lines: bool = False
    are_lines: bool = False


def empty_batch(dropped: dict[str, int], bytes_read: int = 0) -> DocumentBatch:
    """Return a batch without documents, which reports what was dropped and read."""
    none = pa.array([], pa.string())
    return DocumentBatch(none.cast(pa.large_string()), none, none, dropped, 0, bytes_read)


def too_long_error(what: str, config: CorpusConfig) -> TokkitError:
    """Return the error for a document, named with its place, above ``--max-document-bytes``."""
    return TokkitError(
        f"{what} has more than {config.max_document_bytes:,} bytes; raise --max-document-bytes, or "
        f"pass --errors skip to drop such documents"
    )


@dataclass(frozen=True)
class CleanTexts:
    """Texts as a batch holds them.

    Attributes:
        texts: large_string ``[num_kept]``.
        kept: int64 ``[num_kept]``, the number of each text's slice.
        dropped: slices dropped, by reason.
        replaced: texts in which U+FFFD replaces invalid UTF-8.
    """

    texts: pa.LargeStringArray
    kept: Int64
    dropped: dict[str, int]
    replaced: int = 0


def clean_texts(
    values: Bytes,
    starts: Int64,
    stops: Int64,
    errors: str = "strict",
    make_error: Callable[[int, UnicodeDecodeError], Exception] = lambda _, error: error,
    *,
    of_text_file: bool = False,
) -> CleanTexts:
    """Copy texts out of a buffer and clean them.

    Args:
        values: uint8.
        starts: int64 ``[num_texts]``, first byte of each text.
        stops: int64 ``[num_texts]``, the byte after its last one.
        errors: ``strict``, ``replace`` or ``skip`` invalid UTF-8.
        make_error: returns the error to raise for the text of this number if ``strict``.
        of_text_file: whether line ends and byte order marks are those of a text file.
    """
    out_values = spare_memory.take(int((stops - starts).sum()) + BLOCK)
    offsets = np.empty(starts.size + 1, dtype=np.int64)
    kept = np.empty(starts.size, dtype=np.int64)
    num_kept = copy_documents(values, starts, stops, of_text_file, out_values, offsets, kept)
    kept = kept[:num_kept]
    offsets = offsets[: num_kept + 1]
    texts = string_array(out_values, offsets)
    dropped = add_counts({EMPTY: starts.size - num_kept})
    if is_utf8(out_values, offsets):
        return CleanTexts(texts, kept, dropped)
    return _repair(texts, kept, dropped, errors, make_error)


def _repair(
    texts: pa.LargeStringArray,
    kept: Int64,
    dropped: dict[str, int],
    errors: str,
    make_error: Callable[[int, UnicodeDecodeError], Exception],
) -> CleanTexts:
    """Handle texts of which some are invalid, as ``errors`` says."""
    valid: list[bytes] = []
    numbers: list[int] = []
    num_replaced = num_skipped = 0
    for number, text in zip(kept.tolist(), texts.cast(pa.large_binary()).to_pylist(), strict=True):
        repaired = text
        try:
            text.decode()
        except UnicodeDecodeError as error:
            if errors == "strict":
                raise make_error(number, error) from None
            if errors == "skip":
                num_skipped += 1
                continue
            repaired = text.decode(errors="replace").encode()
            num_replaced += 1
        valid.append(repaired)
        numbers.append(number)
    return CleanTexts(
        pa.array(valid, pa.large_binary()).cast(pa.large_string()),
        np.array(numbers, dtype=np.int64),
        add_counts(dropped, {INVALID_UTF8: num_skipped}),
        num_replaced,
    )


def name_documents(
    name: str, positions: Int64, ids: pa.StringArray | None = None
) -> pa.StringArray:
    """Return the documents' own ids, else the file's name and position: ``books.txt:312``.

    Args:
        name: of the file.
        positions: int64 ``[num_documents]``, where each begins.
        ids: string ``[num_documents]``, null for a document without an id; None if all are.
    """
    if ids is not None and not ids.null_count:
        return ids
    prefix = np.frombuffer(f"{name}:".encode(), dtype=np.uint8)
    values = np.empty(positions.size * (prefix.size + _MAX_DIGITS), dtype=np.uint8)
    offsets = np.empty(positions.size + 1, dtype=np.int32)
    num_bytes = write_names(prefix, positions, values, offsets)
    names = pa.StringArray.from_buffers(
        positions.size, pa.py_buffer(offsets), pa.py_buffer(values[:num_bytes])
    )
    if ids is None:
        return names
    return call_compute("coalesce", ids, names)


def add_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of counts by reason, without zeros."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(+total)
