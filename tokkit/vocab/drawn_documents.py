"""Documents that are drawn: a sample of a large corpus, and those held out to measure a vocabulary.

A document is drawn by its name, from the last slash on (``books.txt:312``, or the record's own id),
so the choice depends on neither units nor workers, nor on the folder of the corpus. The first text
document of the corpus is never held out, so that something is left to learn from; files of counts
are no text.

A vocabulary hardly changes beyond 200 GB of text. With ``--sample`` the documents whose names have a
small hash are counted. How small follows from the size of the text, which is known only when all of
it has been read, so it is estimated for the files of each format and compression: from the
beginnings of those at 16 places that are spread evenly over their bytes. With 4 places:

    a.jsonl ──────│─────────────────│────────  b.jsonl ──│───  c.jsonl ──│─────
                  0.8 bytes of text a byte     0.7 a byte      0.8 a byte

    (0.8 + 0.8 + 0.7 + 0.8) / 4 = 0.775 bytes of text a byte of these files

The first 16 MB of held-out texts are kept while a vocabulary is learned, and deleted afterwards:
a tokenizer is given to others, and the text that it was learned from need not be.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from tokkit.corpus.documents import DocumentBatch
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import CorpusUnit
from tokkit.kernels.arrays import Bools
from tokkit.kernels.philox import sample_names
from tokkit.shards.arrow import string_buffers
from tokkit.vocab.train_config import TrainConfig

MAX_BYTES = 16 << 20  # of held-out texts
# Never changes, nor does the 0 of held-out documents.
_SAMPLE_SALT = np.uint64(0x53A3_F1B6_9D27_4C05)
_SCHEMA = pa.schema([("text", pa.large_string())])
_NUM_PLACES = 16
_HEAD_BYTES = 8 << 20  # of text, read at each place
_BATCH_BYTES = 1 << 20


def choose_share(config: TrainConfig, units: Sequence[CorpusUnit]) -> float:
    """Return the share of the documents to count, 1 for all of them.

    The share depends on the files, and not on how units cut them.

    Args:
        config: its ``sample`` is about the size of the text to count, in bytes.
        units: all units of the corpus, in order.

    Raises:
        TokkitError: by the readers.
    """
    if config.sample is None:
        return 1.0
    last_parts = [[*parts][-1] for _, parts in groupby(units, lambda unit: unit.source.name)]
    kinds: dict[tuple[str, str | None], list[CorpusUnit]] = {}
    for part in last_parts:
        file = replace(part, start=0, size=part.source.bytes)
        kinds.setdefault((part.source.format, part.source.compression), []).append(file)
    num_bytes = sum(_estimate_text(files, config) for files in kinds.values())
    return min(1.0, config.sample / max(num_bytes, 1.0))


def _estimate_text(files: Sequence[CorpusUnit], config: TrainConfig) -> float:
    """Return about how many bytes of text whole files have."""
    ends = [*accumulate(file.size for file in files)]
    places = (np.arange(_NUM_PLACES) + 0.5) * (ends[-1] / _NUM_PLACES)
    at_places = np.minimum(np.searchsorted(ends, places, side="right"), len(files) - 1)
    chosen, numbers = np.unique(at_places, return_counts=True)
    rates = [_measure_head(files[index], config) for index in chosen.tolist()]
    return float(np.average(rates, weights=numbers)) * ends[-1]


def _measure_head(unit: CorpusUnit, config: TrainConfig) -> float:
    """Return the bytes of text per byte of a file, at its beginning."""
    text = read = 0
    for batch in read_documents(unit, config, batch_bytes=_BATCH_BYTES):
        text += count_bytes(batch)
        read += batch.bytes_read
        if text >= _HEAD_BYTES and batch.bytes_read:  # what was read is reported with the last text
            break
    return text / max(read, 1)


def count_bytes(batch: DocumentBatch) -> int:
    """Return the number of bytes of a batch's texts."""
    _, offsets = string_buffers(batch.texts)
    return int(offsets[-1] - offsets[0])


def draw_held_out(batch: DocumentBatch, share: float) -> Bools:
    """Return which documents are drawn to be held out, bool ``[num_documents]``."""
    return _draw(batch, share, np.uint64(0))


def take_sample(batch: DocumentBatch, share: float) -> DocumentBatch:
    """Return a batch with those of its documents that are drawn for ``--sample``."""
    if share >= 1:
        return batch
    drawn = pa.array(_draw(batch, share, _SAMPLE_SALT))
    return replace(batch, texts=batch.texts.filter(drawn), names=batch.names.filter(drawn))


def _draw(batch: DocumentBatch, share: float, salt: np.uint64) -> Bools:
    drawn = np.zeros(len(batch.texts), np.bool_)
    if len(drawn) and share > 0:
        _, bounds, data = batch.names.buffers()
        offsets = np.frombuffer(bounds, np.int32)[batch.names.offset :][: len(drawn) + 1]
        values = np.frombuffer(data if data is not None else b"", np.uint8)
        threshold = np.uint64(min(int(share * 2**64), 2**64 - 1))
        sample_names(values, offsets, threshold, salt, drawn)
    return drawn


class HeldOutWriter:
    """Writes an Arrow stream of held-out texts, as many as the report uses.

    Args:
        file: has ``write``.
    """

    def __init__(self, file: Any) -> None:
        self._writer = pa.ipc.new_stream(file, _SCHEMA)
        self._room = MAX_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def write(self, texts: pa.LargeStringArray) -> None:
        """Write texts while there is room; the last one is cut."""
        if self._room:
            kept, self._room = _take(texts, self._room)
            self.write_whole(kept)

    def write_whole(self, texts: pa.LargeStringArray) -> None:
        """Write texts regardless of the size limit."""
        self._writer.write_batch(pa.record_batch([texts], schema=_SCHEMA))


def read_held_out(
    paths: Sequence[Path], *, without_first_of: int | None = None
) -> pa.LargeStringArray:
    """Return the first 16 MB of the texts in several such files, in order.

    Args:
        paths: files that begin with a stream of ``HeldOutWriter``.
        without_first_of: number of the file whose first text is left out; None for none.
    """
    return _gather(
        read_texts(path)[1 if number == without_first_of else 0 :]
        for number, path in enumerate(paths)
    )


def read_texts(path: Path) -> pa.LargeStringArray:
    """Return all texts in a file of ``HeldOutWriter``, without a copy."""
    table = pa.ipc.open_stream(pa.memory_map(os.fsencode(path))).read_all()
    return pa.concat_arrays([pa.array([], pa.large_string()), *table["text"].chunks])


def find_held_out(config: TrainConfig, units: Sequence[CorpusUnit]) -> pa.LargeStringArray:
    """Read the corpus again for the texts that were held out when it was learned from.

    Raises:
        TokkitError: see ``read_documents``.
    """
    sample_share = choose_share(config, units)

    def texts() -> Iterator[pa.LargeStringArray]:
        is_first = True
        for unit in units:
            if unit.source.format == "counts" or unit.source.is_stdin:
                continue
            for whole_batch in read_documents(unit, config):
                batch = take_sample(whole_batch, sample_share)
                drawn = draw_held_out(batch, config.held_out)
                if is_first and len(drawn):
                    drawn[0] = is_first = False
                yield batch.texts.filter(pa.array(drawn))

    return _gather(texts())


def _gather(arrays: Iterable[pa.LargeStringArray]) -> pa.LargeStringArray:
    """Return the first texts of several arrays, while there is room."""
    parts = []
    room = MAX_BYTES
    for texts in arrays:
        kept, room = _take(texts, room)
        parts.append(kept)
        if not room:
            break
    return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())


def _take(texts: pa.LargeStringArray, room: int) -> tuple[pa.LargeStringArray, int]:
    """Return the first texts, of at most ``room`` bytes, the last one cut; and the room left."""
    kept = []
    for scalar in texts:
        if not room:
            break
        data = scalar.as_buffer()
        if data.size > room:
            kept.append(data[:room].to_pybytes().decode(errors="ignore"))
            room = 0
        else:
            kept.append(data.to_pybytes().decode())
            room -= data.size
    return pa.array(kept, pa.large_string()), room
