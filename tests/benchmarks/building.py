"""From text to masked NSP instances on disk: ``tokkit encode`` and ``tokkit build``, and the peer.

The text is English books, a sentence a line and a blank line between chapters of 100 sentences;
the vocabulary is BERT's. tokkit's two commands are timed from their start to their end, with two
workers. The peer is google-research/bert's script as ported in ``tests/reference``, pure Python
like the script, on a part of the same text: tokenization, pairing, masking, padding, and numbers
written as they lie. The script itself handles strings, prints examples and makes a TFRecord of
every instance, which is most of its work where the dupe factor is large; that is left out, to the
peer's gain. (The script made 0.33 MB/s at dupe factor 1 and 0.09 at 10 on such a machine.)

Ratios are of seconds on the clock, and of seconds of processor time, ours shared by two cores:
where others use the machine, the latter says more.
"""

import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from reference.bert import Document, Instance, Script
from reference.bert_tokenizer import BertTokenizer
from tokkit.engine.manifest import Manifest
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
BOOKS = SHARED / "corpora" / "en-gutenberg" / "books.txt.zst"
VOCAB = SHARED / "vocabs" / "bert-base-uncased"
PEER_BYTES = 500_000
CHAPTER_SENTENCES = 100
SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
DUPE_FACTORS = (1, 10)

# In a process of its own, so that its peak is its own.
BUILD = """
import resource, sys
from pathlib import Path
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
build(BuildConfig(tokens=Path(sys.argv[1]), output=Path(sys.argv[2]), objective=sys.argv[3],
                  masking=sys.argv[4], workers=0, overwrite=True, progress=False))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def sentences_of_books(num_bytes: int) -> list[str]:
    """Lines: sentences, and an empty one after each chapter; the books over and over."""
    with pa.input_stream(str(BOOKS), compression="zstd") as stream:
        paragraphs = stream.read(num_bytes).decode(errors="ignore").split("\n")
    sentences = (
        sentence
        for paragraph in cycle(paragraphs)
        for sentence in SENTENCE_END.split(paragraph)
        if sentence
    )
    lines = []
    size = 0
    for number, sentence in enumerate(sentences, 1):
        lines.append(sentence)
        size += len(sentence) + 1
        if number % CHAPTER_SENTENCES == 0:
            lines.append("")
            if size >= num_bytes:
                return lines
    raise AssertionError


def read_documents(lines: Iterator[str], tokenizer: BertTokenizer) -> list[Document]:
    """What the script reads: documents of sentences of ids."""
    documents: list[list[list[int]]] = [[]]
    for line in lines:
        if not line:
            documents.append([])
        elif ids := tokenizer.encode(line):
            documents[-1].append(ids)
    return [document for document in documents if document]


@dataclass(frozen=True)
class Seconds:
    """What something took, on the clock and of processor time, all processes together."""

    clock: float
    processor: float


def write_records(instances: list[Instance], path: Path) -> None:
    """Pad instances as the script does, and write them as numbers of 8 bytes."""
    with path.open("wb") as file:
        for instance in instances:
            length = len(instance.input_ids)
            padding = [0] * (128 - length)
            b_length = length - instance.a_length - 2
            missing = [0] * (20 - len(instance.masked_labels))
            record = [
                *(instance.input_ids + padding),
                *([1] * length + padding),
                *([0] * (instance.a_length + 2) + [1] * b_length + padding),
                *(instance.masked_positions + missing),
                *(instance.masked_labels + missing),
                int(instance.is_random),
            ]
            file.write(array("q", record).tobytes())


def time_peer(lines: list[str], tokenizer: Tokenizer, dupe_factor: int, output: Path) -> Seconds:
    """How long the script takes."""
    script = Script(
        max_seq_length=128,
        max_predictions_per_seq=20,
        short_seq_prob=0.1,
        masked_lm_prob=0.15,
        vocab_size=tokenizer.vocab_size,
        cls_id=tokenizer.special_ids["cls"],
        sep_id=tokenizer.special_ids["sep"],
        mask_id=tokenizer.special_ids["mask"],
    )
    ids = {token: number for number, token in enumerate(tokenizer.tokens)}
    start, processor = time.perf_counter(), time.process_time()
    documents = read_documents(iter(lines), BertTokenizer(ids))
    write_records(script.run(documents, dupe_factor=dupe_factor, seed=1), output)
    return Seconds(time.perf_counter() - start, time.process_time() - processor)


def processor_time_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_command(*arguments: str | Path) -> Seconds:
    """How long a command of ours takes."""
    start, processor = time.perf_counter(), processor_time_of_children()
    command = [sys.executable, "-c", "from tokkit.cli import main; main()", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return Seconds(time.perf_counter() - start, processor_time_of_children() - processor)


def time_commands(text: Path, folder: Path, dupe_factor: int) -> list[Seconds]:
    """How long encode and build take, into new folders."""
    tokens, instances = folder / "tokens", folder / "instances"
    for path in (tokens, instances):
        shutil.rmtree(path, ignore_errors=True)
    return [
        run_command(
            *("encode", text, "-t", VOCAB, "-o", tokens, "--documents", "blank-line"),
            *("--sentences", "lines", "--workers", "2"),
        ),
        run_command(
            *("build", tokens, "-o", instances, "--masking", "static", "--workers", "2"),
            *("--dupe-factor", str(dupe_factor)),
        ),
    ]


def compare_texts(num_bytes: int, rounds: int) -> None:
    """Print how fast text becomes instances, and how large they are."""
    lines = sentences_of_books(num_bytes)
    tokenizer = load_tokenizer(VOCAB)
    sample = sentences_of_books(PEER_BYTES)
    sample_size = sum(len(line.encode()) + 1 for line in sample) / 1e6
    with TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text("\n".join(lines))
        size = text.stat().st_size / 1e6
        sys.stdout.write(f"text to masked NSP instances of 128 on disk, {size:.0f} MB of text\n")
        for dupe_factor in DUPE_FACTORS:
            ours: list[list[Seconds]] = []
            peers: list[Seconds] = []
            for _ in range(rounds):
                ours.append(time_commands(text, folder, dupe_factor))
                peers.append(time_peer(sample, tokenizer, dupe_factor, folder / "records"))
            encoding, building = (
                statistics.median(seconds.clock for seconds in part)
                for part in zip(*ours, strict=True)
            )
            clock = size / statistics.median(sum(s.clock for s in both) for both in ours)
            processor = size / statistics.median(
                sum(s.processor for s in both) / 2 for both in ours
            )
            peer_clock = sample_size / statistics.median(s.clock for s in peers)
            peer_processor = sample_size / statistics.median(s.processor for s in peers)
            sys.stdout.write(
                f"  dupe factor {dupe_factor}: encode {encoding:.1f} s, build {building:.1f} s, "
                f"{clock:.1f} MB/s; the script, ported: {peer_clock:.3f} MB/s\n"
                f"    on the clock {clock / peer_clock:.0f}x, "
                f"by processor time {processor / peer_processor:.0f}x\n"
            )
            sys.stdout.flush()
        for masking in ("dynamic", "static"):
            run_command("build", folder / "tokens", "-o", folder / masking, "--masking", masking)
            manifest = Manifest.read(folder / masking, "instances")
            num_bytes = sum(row["bytes"] for row in manifest.shards)
            sys.stdout.write(
                f"  {masking}: {num_bytes / manifest.num_tokens:.2f} bytes a token on disk\n"
            )


def measure_memory(tokens: list[Path]) -> None:
    """Print the most memory that a build takes, token folder by token folder."""
    for path in tokens:
        size = sum(row["bytes"] for row in Manifest.read(path, "tokens").shards) / 1e6
        for objective, masking in (("nsp", "static"), ("mlm", "dynamic"), ("clm", "dynamic")):
            with TemporaryDirectory() as folder:
                arguments = [str(path), f"{folder}/instances", objective, masking]
                start = time.perf_counter()
                ended = subprocess.run(
                    [sys.executable, "-c", BUILD, *arguments],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                seconds = time.perf_counter() - start
            sys.stdout.write(
                f"peak memory of build: {size:.0f} MB of tokens, {objective}, {masking}: {ended.stdout.strip()} MB, "
                f"{seconds:.1f} s\n"
            )
            sys.stdout.flush()
