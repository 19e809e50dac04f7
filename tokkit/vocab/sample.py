"""Samples of a corpus: documents that are drawn by their names until they have about so much text.

A vocabulary hardly changes beyond 200 GB of text. With ``--sample`` the documents whose names have a
small hash are counted, whatever units and workers they are in. How small follows from the size of
the text, which is known only when all of it has been read, so it is estimated for the files of each
format and compression: from the beginnings of those at 16 places that are spread evenly over their
bytes. With 4 places:

    a.jsonl ──────│─────────────────│────────  b.jsonl ──│───  c.jsonl ──│─────
                  0.8 bytes of text a byte     0.7 a byte      0.8 a byte

    (0.8 + 0.8 + 0.7 + 0.8) / 4 = 0.775 bytes of text a byte of these files
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby

import numpy as np

from tokkit.corpus.documents import DocumentBatch
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import CorpusUnit
from tokkit.shards.arrow import string_buffers
from tokkit.vocab.train_config import TrainConfig

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
