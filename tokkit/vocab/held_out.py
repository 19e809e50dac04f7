"""Documents that are held out: never learned from, so that a vocabulary can be measured on them.

A document is drawn by its name, from the last slash on (``books.txt:312``, or the record's own id):
so the choice depends on neither units nor workers, nor on where the corpus lies. The very first
document is never drawn, so that something is left to learn from.

Their texts are kept while a vocabulary is learned, the first 16 MB of them, and nowhere afterwards:
a tokenizer is given to others, the text that it was learned from need not be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.corpus.readers import DocumentBatch, read_documents
from tokkit.corpus.units import CorpusUnit
from tokkit.kernels.philox import draw_names
from tokkit.shards.arrow import read_only
from tokkit.vocab.train_config import TrainConfig

MOST_BYTES = 16 << 20

_SCHEMA = pa.schema([("text", pa.large_string())])


def draw(batch: DocumentBatch, share: float) -> npt.NDArray[np.bool_]:
    """Which documents are held out, bool ``[num_documents]``."""
    drawn = np.zeros(len(batch.texts), np.bool_)
    if len(drawn) and share > 0:
        _, bounds, data = batch.names.buffers()
        offsets = np.frombuffer(bounds, np.int32)[batch.names.offset :][: len(drawn) + 1]
        values = np.frombuffer(data if data is not None else b"", np.uint8)
        threshold = np.uint64(min(int(share * 2**64), 2**64 - 1))
        draw_names(read_only(values), read_only(offsets), threshold, drawn)
    return drawn


class HeldOutWriter:
    """An Arrow file of texts, as many as the report has use for.

    Args:
        file: has ``write``.
    """

    def __init__(self, file: Any) -> None:
        self._writer = pa.ipc.new_file(file, _SCHEMA)
        self._room = MOST_BYTES

    def add(self, texts: pa.LargeStringArray) -> None:
        """Write texts while there is room; the last one is cut short."""
        if self._room:
            kept, self._room = _take(texts, self._room)
            self._writer.write_batch(pa.record_batch([kept], schema=_SCHEMA))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


def read_held_out(paths: Sequence[Path]) -> pa.LargeStringArray:
    """The texts of several such files, in order."""
    return _gather(pa.ipc.open_file(path.read_bytes()).read_all()["text"] for path in paths)


def find_held_out(config: TrainConfig, units: Sequence[CorpusUnit]) -> pa.LargeStringArray:
    """Read the corpus again for the texts that were held out when it was learned from.

    Raises:
        TokkitError: of the readers.
    """

    def texts() -> Any:
        is_first = True
        for unit in units:
            if unit.source.format == "counts" or unit.is_stdin:
                continue
            for batch in read_documents(unit, config):
                drawn = draw(batch, config.held_out)
                if is_first and len(drawn):
                    drawn[0] = is_first = False
                yield batch.texts.filter(pa.array(drawn))

    return _gather(texts())


def _gather(arrays: Any) -> pa.LargeStringArray:
    """The first texts of several arrays, while there is room."""
    parts = []
    room = MOST_BYTES
    for texts in arrays:
        kept, room = _take(texts, room)
        parts.append(kept)
        if not room:
            break
    return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())


def _take(texts: pa.LargeStringArray, room: int) -> tuple[pa.LargeStringArray, int]:
    """The first texts, of so many bytes at most, the last cut short; and the room that is left."""
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
