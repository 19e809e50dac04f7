"""What a folder of files suggests for a recipe: how its text is read, and what sizes fit it.

bytes of text   vocabulary   preset   steps of 64 instances of 128 tokens
10 MB           8,192        tiny     ten passes over the text
100 MB          16,384       mini
1 GB            30,522       small    up to 1,000,000 steps, as BERT had
more            30,522       base
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.sources import Source, find_sources
from tokkit.errors import plural, wrap_os_errors

# For texts of at most so many bytes: the vocabulary, and the preset of the model.
SIZES: Mapping[float, tuple[int, str]] = {
    10e6: (8192, "tiny"),
    100e6: (16_384, "mini"),
    1e9: (30_522, "small"),
    float("inf"): (30_522, "base"),
}
BATCH_SIZE, LENGTH = 64, 128
BYTES_PER_TOKEN = 4
NUM_PASSES = 10
FEWEST_STEPS, MAX_STEPS = 500, 1_000_000
COMPRESSION_RATIO = 3  # text is so much larger than its file, about
HEAD_BYTES = 1 << 20
HEADS_READ = 20
MANY_FILES = 20
SMALL_FILE = 100 << 10
LONG_LINE = 200


@dataclass(frozen=True)
class Proposal:
    """What a recipe may begin with.

    Attributes:
        num_files: files of text that were found.
        num_bytes: of their text, about.
        format: of most of them.
        documents: where a document of plain text ends; None for records and tables.
        text_field: the field of records that holds the text; None if it is not known, or ``text``.
        vocab_size: of the vocabulary.
        preset: of the model.
        max_steps: of the run.
    """

    num_files: int
    num_bytes: int
    format: str
    documents: str | None
    text_field: str | None
    vocab_size: int
    preset: str
    max_steps: int

    @property
    def found(self) -> str:
        """What was found, for the comment of a recipe: ``3 files, most of them text, about 1.2 MB of text``."""
        most = "most of them " * (self.num_files > 1)
        size = f"{self.num_bytes / 1e6:,.1f} MB"
        return f"{plural(self.num_files, 'file')}, {most}{self.format}, about {size} of text"


def propose(folder: Path) -> Proposal:
    """Look at the files of a folder.

    Raises:
        TokkitError: if it is missing, or holds no text.
    """
    sources = find_sources(CorpusConfig(inputs=(str(folder),)))
    formats = Counter(source.format for source in sources)
    chosen = formats.most_common(1)[0][0]
    own = [source for source in sources if source.format == chosen]
    num_bytes = sum(s.bytes * (COMPRESSION_RATIO if s.compression else 1) for s in sources)
    heads = _read_heads(own)
    vocab_size, preset = next(sizes for limit, sizes in SIZES.items() if num_bytes <= limit)
    steps = num_bytes * NUM_PASSES // BYTES_PER_TOKEN // (BATCH_SIZE * LENGTH)
    return Proposal(
        num_files=len(sources),
        num_bytes=num_bytes,
        format=chosen,
        documents=_choose_documents(own, heads) if chosen == "text" else None,
        text_field=_find_text_field(heads) if chosen == "jsonl" else None,
        vocab_size=vocab_size,
        preset=preset,
        max_steps=round(min(max(steps, FEWEST_STEPS), MAX_STEPS), -2),
    )


def _read_heads(sources: Sequence[Source]) -> list[bytes]:
    """Return the beginnings of a few files that are not compressed."""
    heads = []
    for source in [s for s in sources if s.compression is None][:HEADS_READ]:
        with wrap_os_errors(source.name), Path(source.path).open("rb") as file:
            heads.append(file.read(HEAD_BYTES))
    return heads


def _choose_documents(sources: Sequence[Source], heads: Sequence[bytes]) -> str:
    """Return where documents end: many small files are one each; else lines that are long."""
    if len(sources) >= MANY_FILES and median(source.bytes for source in sources) < SMALL_FILE:
        return "file"
    lines = [line for head in heads for line in head.rstrip().split(b"\n")]
    if not lines or any(not line.strip() for line in lines):
        return "blank-line"
    return "line" if sum(map(len, lines)) >= LONG_LINE * len(lines) else "blank-line"


def _find_text_field(heads: Sequence[bytes]) -> str | None:
    """Return the field of the first record whose string is the longest, unless it is ``text``."""
    for head in heads:
        with suppress(ValueError, RecursionError):
            record: dict[str, object] = json.loads(head.split(b"\n", 1)[0])
            texts = {name: len(value) for name, value in record.items() if isinstance(value, str)}
            if texts and "text" not in texts:
                return max(texts, key=lambda name: texts[name])
    return None
