"""Pairs of a text and its translation: document n of one token folder, and document n of another.

    inputs    the text's tokens, end of text        targets    the translation's tokens, end of text

A pair with a side that is too long is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError, plural
from tokkit.instances.document_reader import DocumentReader, Documents, Int64, Split, bounds_of
from tokkit.kernels.arrays import INDEX_SHIFT
from tokkit.kernels.ragged import take_bit_rows, take_rows
from tokkit.shards.instances import Instances, Predictions
from tokkit.shards.reader import ShardFolder

# Their ids, and int64 ``[num_texts + 1]``, offsets into these.
Texts = tuple[npt.NDArray[Any], Int64]


@dataclass(frozen=True)
class TranslationOptions:
    """How texts are paired.

    Attributes:
        reader: of the translations.
        max_seq_length: most tokens of a side, the end included.
        end_id: id of the end of text.
    """

    reader: DocumentReader
    max_seq_length: int
    end_id: int


def open_translations(path: Path, source: ShardFolder) -> ShardFolder:
    """Open the token folder of the translations.

    Raises:
        TokkitError: by its manifest, it does not have a document for each of the source.
    """
    folder = ShardFolder.open(path, "tokens")
    if folder.header.tokenizer_fingerprint != source.header.tokenizer_fingerprint:
        raise TokkitError(
            f"{path}: was made with another tokenizer than {source.path}; encode both sides with one"
        )
    for expected, found in zip(_count_documents(source), _count_documents(folder), strict=True):
        if expected != found:
            raise TokkitError(
                f"{path}: has {found}, but {source.path} has {expected}, so they cannot be paired; encode "
                f"with --documents line two files of as many lines, or two fields of the same records"
            )
    return folder


def _count_documents(folder: ShardFolder) -> tuple[str, str]:
    """Return how many documents a folder was made of, and how many it has, in words."""
    num_kept = folder.manifest.num_rows
    number = folder.manifest.accounts.get("documents", {}).get("in", num_kept)
    return plural(number, "document"), f"{plural(num_kept, 'document')} that encode kept"


def compare_documents(source: ShardFolder, folder: ShardFolder) -> list[str]:
    """Compare the names of documents, where encode dropped some of both sides.

    The folders do not say which these were, so all others must have the same names, such as the
    ids of their records. Names that occur twice in a record batch say nothing. Lines have no names
    but their places in their files: as many empty ones on both sides are taken for the same.

    Returns:
        A warning where lines are taken for the same.

    Raises:
        TokkitError: if names of other documents differ.
    """
    dropped = _count_dropped(folder)
    if not dropped or all(map(eq, _list_names(source), _list_names(folder))):
        return []
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items())
    what = f"encode dropped as many documents as of {source.path} ({reasons})"
    remedy = "remove these and their translations from the inputs"
    if all(
        {*_count_dropped(side)} == {"empty"} and side.manifest.options.get("documents") == "line"
        for side in (source, folder)
    ):
        warning = f"{what}, and the others are paired in order; if these were not the same lines"
        return [f"{folder.path}: {warning}, {remedy}, and encode again"]
    raise TokkitError(
        f"{folder.path}: {what}, but maybe others; {remedy}, or encode with --id-field records that "
        f"have the same unique id on both sides"
    )


def _count_dropped(folder: ShardFolder) -> dict[str, int]:
    dropped = folder.manifest.accounts.get("documents", {}).get("dropped", {})
    return {reason: number for reason, number in dropped.items() if number}


def _list_names(folder: ShardFolder) -> Iterator[object]:
    """Yield the names of documents, or something unequal to all others if they are not unique."""
    for ref in folder.batch_refs():
        batch = folder.read_batch(ref, check_ids=False, copied=True)
        names = batch.column("document").to_pylist()
        yield from names if len({*names}) == len(names) else [object()]


def find_pairs(
    documents: Documents, split: Split, options: TranslationOptions
) -> tuple[Texts, npt.NDArray[np.bool_]]:
    """Return the translations of documents, and whether each pair is short enough."""
    reader, numbers = options.reader, documents.numbers
    first, last = (int(numbers[0]), int(numbers[-1])) if len(numbers) else (0, 0)
    start, stop = np.searchsorted(reader.starts, [first, last], side="right").tolist()
    found = reader.read(start - 1, stop, split)
    rows = np.flatnonzero(np.isin(found.numbers, numbers))
    ids = found.ids[found.token_offsets[rows[0]] :] if len(rows) else found.ids[:0]
    lengths = np.diff(found.token_offsets)[rows]
    is_short = np.maximum(lengths, np.diff(documents.token_offsets)) < options.max_seq_length
    return (ids, bounds_of(lengths)), is_short


def lay_out_translations(
    documents: Documents, translations: Texts, rows: Int64, options: TranslationOptions
) -> Instances:
    """Lay the pairs of some rows out as instances."""
    texts = documents.ids, documents.token_offsets
    ids, offsets, is_end = _take_texts(*texts, rows, options.end_id)
    target_ids, target_offsets, _ = _take_texts(*translations, rows, options.end_id)
    packed = np.zeros(len(ids) // 8 + 1, np.uint8)
    take_bit_rows(
        rows, documents.word_starts, documents.first_bit, documents.token_offsets, 0, packed
    )
    begins = np.zeros(8 * len(packed), np.uint8)
    begins[: len(ids)][~is_end] = np.unpackbits(packed, bitorder="little")[: len(ids) - len(rows)]
    return Instances(
        input_ids=ids,
        offsets=offsets,
        word_starts=np.packbits(begins, bitorder="little"),
        indices=documents.numbers[rows] << INDEX_SHIFT,
        predictions=Predictions.of_ids(target_ids, target_offsets),
    )


def _take_texts(
    ids: npt.NDArray[Any], offsets: Int64, rows: Int64, end_id: int
) -> tuple[npt.NDArray[Any], Int64, npt.NDArray[np.bool_]]:
    """Return the ids of some texts with ends, their offsets, and which ids are ends."""
    lengths = np.diff(offsets)[rows]
    out_offsets = bounds_of(lengths + 1)
    is_end = np.zeros(out_offsets[-1], np.bool_)
    is_end[out_offsets[1:] - 1] = True
    taken = np.empty(lengths.sum(), ids.dtype)
    take_rows(rows, ids, offsets, 0, taken)
    out_ids = np.full(len(is_end), end_id, ids.dtype)
    out_ids[~is_end] = taken
    return out_ids, out_offsets, is_end
