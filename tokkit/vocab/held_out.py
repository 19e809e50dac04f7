"""Documents that are held out: never learned from, so that a vocabulary can be measured on them.

A document is drawn by its name, from the last slash on (``books.txt:312``, or the record's own id),
so the choice depends on neither units nor workers, nor on the folder of the corpus. The first text
document of the corpus is never held out, so that something is left to learn from; files of counts
are no text.

The first 16 MB of held-out texts are kept while a vocabulary is learned, and deleted afterwards:
a tokenizer is given to others, and the text that it was learned from need not be.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.corpus.documents import DocumentBatch
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import CorpusUnit
from tokkit.kernels.philox import sample_names
from tokkit.shards.arrow import read_only
from tokkit.vocab.sample import choose_share
from tokkit.vocab.train_config import TrainConfig

MAX_BYTES = 16 << 20
_SAMPLE_SALT = np.uint64(
    0x53A3_F1B6_9D27_4C05
)  # never changes, nor does the 0 of held-out documents

_SCHEMA = pa.schema([("text", pa.large_string())])


def draw_held_out(batch: DocumentBatch, share: float) -> npt.NDArray[np.bool_]:
    """Return which documents are drawn to be held out, bool ``[num_documents]``."""
    return _draw(batch, share, np.uint64(0))


def take_sample(batch: DocumentBatch, share: float) -> DocumentBatch:
    """Return a batch with those of its documents that are drawn for ``--sample``."""
    if share >= 1:
        return batch
    drawn = pa.array(_draw(batch, share, _SAMPLE_SALT))
    return replace(batch, texts=batch.texts.filter(drawn), names=batch.names.filter(drawn))


def _draw(batch: DocumentBatch, share: float, salt: np.uint64) -> npt.NDArray[np.bool_]:
    drawn = np.zeros(len(batch.texts), np.bool_)
    if len(drawn) and share > 0:
        _, bounds, data = batch.names.buffers()
        offsets = np.frombuffer(bounds, np.int32)[batch.names.offset :][: len(drawn) + 1]
        values = np.frombuffer(data if data is not None else b"", np.uint8)
        threshold = np.uint64(min(int(share * 2**64), 2**64 - 1))
        sample_names(read_only(values), read_only(offsets), threshold, salt, drawn)
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
