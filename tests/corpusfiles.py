"""Reads a whole corpus in one call, for tests."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import plan_units
from tokkit.options import option


class _LanguageConfig(CorpusConfig):
    """The options of reading a corpus, with the field of a record's language."""

    language_field: str | None = option("Field of a record that holds its language.", default=None)


@dataclass
class Corpus:
    """The documents of a corpus, and what was counted."""

    texts: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    replaced: int = 0
    bytes_read: int = 0
    num_units: int = 0


def read_corpus(
    *inputs: Any,
    unit_bytes: int = 64 << 20,
    batch_bytes: int = 8 << 20,
    **options: Any,
) -> Corpus:
    """Plan and read a corpus, and check that every batch is valid."""
    if isinstance(options.get("text_field"), str):
        options["text_field"] = (options["text_field"],)
    config = _LanguageConfig(inputs=tuple(map(str, inputs)), **options)
    corpus = Corpus()
    for unit in plan_units(config, unit_bytes):
        corpus.num_units += 1
        for batch in read_documents(unit, config, batch_bytes=batch_bytes):
            batch.texts.validate(full=True)
            batch.names.validate(full=True)
            assert len(batch.names) == len(batch.texts)
            assert batch.names.null_count == batch.texts.null_count == 0
            corpus.texts += batch.texts.to_pylist()
            corpus.names += batch.names.to_pylist()
            if batch.languages is not None:
                assert len(batch.languages) == len(batch.texts)
                corpus.languages += batch.languages.to_pylist()
            corpus.dropped.update(batch.dropped)
            corpus.replaced += batch.replaced
            corpus.bytes_read += batch.bytes_read
    assert all(map(str.strip, corpus.texts))
    return corpus
