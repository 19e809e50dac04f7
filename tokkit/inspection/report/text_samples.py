"""The beginnings of texts, on which a report measures tokenizers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import plan_units
from tokkit.errors import TokkitError
from tokkit.options import option
from tokkit.vocab.measure import split_lines

BYTES_OF_GROUP = 256 << 10
BYTES_READ = 16 << 20  # of an input, in search of all its languages
BATCH_BYTES = 256 << 10
MAX_GROUPS = 24
UNKNOWN_LANGUAGE = "no language"


class SampleConfig(CorpusConfig):
    """How texts are read, and what tells their languages apart."""

    language_field: str | None = option(
        "Field of a record that holds its language, each of which is measured by itself.",
        default=None,
    )


def read_samples(config: SampleConfig) -> dict[str, pa.LargeStringArray]:
    """Return the first lines of each input, or of each language: up to 256 kB.

    Raises:
        TokkitError: if an input is missing or damaged.
    """
    groups: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    read: dict[str, int] = {}
    for unit in plan_units(config):
        name = unit.source.name
        limit = BYTES_OF_GROUP if config.language_field is None else BYTES_READ
        if read.get(name, 0) >= limit:
            continue
        for batch in read_documents(unit, config, batch_bytes=BATCH_BYTES):
            languages = batch.languages.to_pylist() if batch.languages is not None else None
            for row, scalar in enumerate(batch.texts):
                group = name if languages is None else languages[row] or UNKNOWN_LANGUAGE
                room = BYTES_OF_GROUP - sizes.get(group, 0)
                read[name] = read.get(name, 0) + len(scalar.as_buffer())
                if room > 0 and (group in groups or len(groups) < MAX_GROUPS):
                    text = scalar.as_buffer()[:room].to_pybytes().decode(errors="ignore")
                    groups.setdefault(group, []).append(text)
                    sizes[group] = sizes.get(group, 0) + len(text.encode())
            if read.get(name, 0) >= limit:
                break
    lines = {
        name: split_lines(pa.array(texts, pa.large_string())) for name, texts in groups.items()
    }
    return {name: texts for name, texts in lines.items() if len(texts)}


def read_training_text(
    inputs: Sequence[str], options: Mapping[str, Any]
) -> dict[str, pa.LargeStringArray]:
    """Return the beginnings of the inputs that a vocabulary was learned from, if they are there.

    Args:
        inputs: names of files.
        options: with which they were read.
    """
    samples: dict[str, pa.LargeStringArray] = {}
    for name in inputs[:MAX_GROUPS]:
        if name == "-" or (Path(name).exists() and not Path(name).is_file()):
            continue  # a stranger's record may name what never ends
        try:
            config = msgspec.convert({**options, "inputs": [name]}, SampleConfig)
            samples |= read_samples(config)
        except (TokkitError, ValueError):
            continue  # it has moved, is one that only train reads, or the record is damaged
    return samples
