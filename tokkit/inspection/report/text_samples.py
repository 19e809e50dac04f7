"""The beginnings of texts, on which a report measures tokenizers, and what it measures.

tokens per word        tokens per stretch between white space
whole words            share of the words of letters alone that are one token, not unknown
bytes per token        UTF-8 bytes of the text
unknown                share of unknown tokens among the tokens
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import plan_units
from tokkit.errors import TokkitError
from tokkit.options import option
from tokkit.shards.arrow import string_buffers
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.vocab.measure import split_lines

BYTES_OF_GROUP = 256 << 10
BYTES_READ = 16 << 20  # of an input, in search of all its languages
BATCH_BYTES = 256 << 10
MAX_GROUPS = 24
UNKNOWN_LANGUAGE = "no language"
WHITE_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\r\v\f", np.uint8))


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
    sizes, read = Counter[str](), Counter[str]()  # bytes by group, and by file
    limit = BYTES_OF_GROUP if config.language_field is None else BYTES_READ
    for unit in plan_units(config):
        name = unit.source.name
        if read[name] >= limit:
            continue
        for batch in read_documents(unit, config, batch_bytes=BATCH_BYTES):
            languages = batch.languages.to_pylist() if batch.languages is not None else None
            for row, scalar in enumerate(batch.texts):
                group = name if languages is None else languages[row] or UNKNOWN_LANGUAGE
                room = BYTES_OF_GROUP - sizes[group]
                read[name] += len(scalar.as_buffer())
                if room > 0 and (group in groups or len(groups) < MAX_GROUPS):
                    text = scalar.as_buffer()[:room].to_pybytes().decode(errors="ignore")
                    groups.setdefault(group, []).append(text)
                    sizes[group] += len(text.encode())
            if read[name] >= limit:
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


@dataclass(frozen=True)
class TextSample:
    """Lines of one source or language, and where their words end."""

    lines: pa.LargeStringArray
    ends: npt.NDArray[np.int64]  # of words, and of lines
    is_word: npt.NDArray[np.bool_]  # made of letters alone
    num_words: int
    num_characters: int
    num_bytes: int


def find_words(lines: pa.LargeStringArray) -> TextSample:
    """Find the words of lines: what stands between ASCII white space."""
    lines = pa.concat_arrays([lines])
    values, bounds = string_buffers(lines)
    data = values[bounds[0] : bounds[-1]]
    is_space = WHITE_SPACE[data]
    is_last = np.zeros(len(data), np.bool_)
    is_last[bounds[1:] - bounds[0] - 1] = True
    ends_word = ~is_space & (is_last | np.append(is_space[1:], True))
    places = np.flatnonzero(ends_word | is_last)
    is_word = np.zeros(len(places), np.bool_)
    start = 0
    whole = data.tobytes()
    for number, place in enumerate(places.tolist()):
        is_word[number] = whole[start : place + 1].decode(errors="replace").strip().isalpha()
        start = place + 1
    return TextSample(
        lines=lines,
        ends=places + 1 + bounds[0],
        is_word=is_word,
        num_words=int(ends_word.sum()),
        num_characters=len(whole.decode()),
        num_bytes=len(data),
    )


def measure(tokenizer: Tokenizer, encoder: Encoder, text: TextSample) -> dict[str, float]:
    """Return how a tokenizer cuts a text, as the module explains."""
    encoded = encoder.encode(text.lines, text.ends)
    num_tokens = max(len(encoded.ids), 1)
    unknown = encoded.ids == tokenizer.special_ids.get("unk", -1)
    lengths = np.diff(encoded.offsets)
    firsts = encoded.offsets[:-1].clip(max=num_tokens - 1)
    is_known = ~unknown[firsts] if len(encoded.ids) else np.zeros(len(firsts), np.bool_)
    whole = text.is_word & (lengths == 1) & is_known
    return {
        "tokens": len(encoded.ids),
        "words": text.num_words,
        "tokens_per_word": len(encoded.ids) / max(text.num_words, 1),
        "tokens_per_character": len(encoded.ids) / max(text.num_characters, 1),
        "bytes_per_token": text.num_bytes / num_tokens,
        "whole_words": float(whole.sum() / max(int(text.is_word.sum()), 1)),
        "unknown": float(unknown.sum() / num_tokens),
    }
