"""How fast text becomes masked NSP instances on disk, against google-research/bert's script.

    python tests/benchmarks/instances.py [--megabytes 400,1200] [--dupe-factors 1,10]

The text is English books, a sentence a line and a blank line between chapters of 100 sentences;
the vocabulary is BERT's. ``tokkit encode`` and ``tokkit build`` are measured from their start to
their end, with two workers. The peer is google-research/bert's script as ported in
``tests/reference``, pure Python like the script, on a part of the same text: it tokenizes, pairs,
masks, pads and writes numbers. The script itself handles strings, prints examples and makes a
TFRecord of every instance, which is most of its work where the dupe factor is large; that is left
out, to the peer's gain. (The script made 0.33 MB/s at dupe factor 1 and 0.09 at 10 on such a
machine.)

Ratios are of seconds and of processor time, tokkit's shared by two cores: where other processes use
the machine, the latter is more accurate. Then the size of instances and the peak memory of a
process of ``build`` are printed.
"""

import re
import shutil
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.texts import Texts

from reference.bert import Document, Instance, Script
from reference.bert_tokenizer import BertTokenizer
from tokkit.engine.manifest import Manifest
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

PEER_BYTES = 500_000
TINY_BYTES, TINY_PEER_BYTES = 100_000, 20_000
CHAPTER_SENTENCES = 100
SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
MAX_SEQ_LENGTH, MAX_PREDICTIONS = 128, 20
WORKERS = ("--workers", str(measuring.NUM_THREADS))


def split_sentences(books: Path, num_bytes: int) -> list[str]:
    """Return sentences, and an empty line after each chapter; the books are repeated if needed."""
    paragraphs = books.read_text().split("\n")
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


def read_documents(lines: list[str], tokenizer: BertTokenizer) -> list[Document]:
    """Return documents of sentences of ids, as the script reads them."""
    documents: list[list[list[int]]] = [[]]
    for line in lines:
        if not line:
            documents.append([])
        elif ids := tokenizer.encode(line):
            documents[-1].append(ids)
    return [document for document in documents if document]


def write_records(instances: list[Instance], path: Path) -> None:
    """Pad instances as the script does, and write them as numbers of 8 bytes."""
    with path.open("wb") as file:
        for instance in instances:
            length = len(instance.input_ids)
            padding = [0] * (MAX_SEQ_LENGTH - length)
            b_length = length - instance.a_length - 2
            missing = [0] * (MAX_PREDICTIONS - len(instance.masked_labels))
            record = [
                *(instance.input_ids + padding),
                *([1] * length + padding),
                *([0] * (instance.a_length + 2) + [1] * b_length + padding),
                *(instance.masked_positions + missing),
                *(instance.masked_labels + missing),
                int(instance.is_random),
            ]
            file.write(array("q", record).tobytes())


def run_script(
    lines: list[str], tokenizer: Tokenizer, dupe_factor: int, output: Path
) -> measuring.Usage:
    """Measure the ported script."""
    script = Script(
        max_seq_length=MAX_SEQ_LENGTH,
        max_predictions_per_seq=MAX_PREDICTIONS,
        short_seq_prob=0.1,
        masked_lm_prob=0.15,
        vocab_size=tokenizer.vocab_size,
        cls_id=tokenizer.special_ids["cls"],
        sep_id=tokenizer.special_ids["sep"],
        mask_id=tokenizer.special_ids["mask"],
    )
    ids = {token: number for number, token in enumerate(tokenizer.tokens)}
    start, cpu_start = time.perf_counter(), time.process_time()
    documents = read_documents(lines, BertTokenizer(ids))
    write_records(script.run(documents, dupe_factor=dupe_factor, seed=1), output)
    return measuring.Usage(time.perf_counter() - start, time.process_time() - cpu_start)


def run_tokkit(
    text: Path, tokenizer: Path, dupe_factor: int, folder: Path
) -> tuple[measuring.Usage, measuring.Usage]:
    """Measure ``encode`` and ``build``, writing new folders."""
    tokens, instances = folder / "tokens", folder / "instances"
    for path in (tokens, instances):
        shutil.rmtree(path, ignore_errors=True)
    options = ["--documents", "blank-line", "--sentences", "lines", *WORKERS]
    encode = measuring.tokkit("encode", text, "-t", tokenizer, "-o", tokens, *options)
    options = ["--masking", "static", "--dupe-factor", str(dupe_factor), *WORKERS]
    build = measuring.tokkit("build", tokens, "-o", instances, *options)
    return measuring.run_measured(encode), measuring.run_measured(build)


def compare(
    num_bytes: int, sample_bytes: int, dupe_factors: Sequence[int], rounds: int, texts: Texts
) -> list[dict[str, float]]:
    """Print how fast one text becomes instances, how large they are, and the memory of ``build``."""
    vocabulary = texts.tokenizer("wordpiece", "en")
    assert vocabulary is not None
    tokenizer = load_tokenizer(vocabulary)
    lines = split_sentences(texts.books(), num_bytes)
    sample = split_sentences(texts.books(), sample_bytes)
    sample_megabytes = sum(len(line.encode()) + 1 for line in sample) / 1e6
    figures = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text("\n".join(lines))
        megabytes = text.stat().st_size / 1e6
        measuring.write(f"{megabytes:.1f} MB of text to masked NSP instances of {MAX_SEQ_LENGTH}")
        for dupe_factor in dupe_factors:
            ours, peers = [], []
            for _ in range(rounds):
                ours.append(run_tokkit(text, vocabulary, dupe_factor, folder))
                peers.append(run_script(sample, tokenizer, dupe_factor, folder / "records"))
            encode, build = (
                statistics.median(usage.seconds for usage in part)
                for part in zip(*ours, strict=True)
            )
            rate = megabytes / statistics.median(e.seconds + b.seconds for e, b in ours)
            cpu_rate = megabytes / statistics.median(e.cpu_seconds + b.cpu_seconds for e, b in ours)
            peer_rate = sample_megabytes / statistics.median(usage.seconds for usage in peers)
            peer_cpu = sample_megabytes / statistics.median(usage.cpu_seconds for usage in peers)
            cpu_ratio = measuring.NUM_THREADS * cpu_rate / peer_cpu
            peak = max(build.megabytes for _, build in ours)
            tokens = Manifest.read(folder / "tokens", "tokens")
            token_megabytes = sum(row["bytes"] for row in tokens.shards) / 1e6
            measuring.write(
                f"  dupe factor {dupe_factor}: encode {encode:.1f} s, build {build:.1f} s, "
                f"{rate:.1f} MB/s; the script, ported: {peer_rate:.3f} MB/s\n"
                f"    tokkit is {rate / peer_rate:.0f}x, by processor time {cpu_ratio:.0f}x\n"
                f"    peak memory of build: {peak:.0f} MB, of {token_megabytes:.1f} MB of tokens"
            )
            figures.append(
                {
                    "megabytes": megabytes,
                    "dupe_factor": dupe_factor,
                    "rate": rate,
                    "ratio": rate / peer_rate,
                    "cpu_ratio": cpu_ratio,
                    "peak_megabytes": peak,
                }
            )
        for masking in ("dynamic", "static"):
            output = folder / masking
            options = ("-o", str(output), "--masking", masking)
            measuring.run_measured(measuring.tokkit("build", folder / "tokens", *options))
            manifest = Manifest.read(output, "instances")
            size = sum(row["bytes"] for row in manifest.shards)
            measuring.write(f"  {masking}: {size / manifest.num_tokens:.2f} bytes a token on disk")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measuring.make_parser(__doc__, rounds=3)
    measuring.add_folders(parser)
    numbers = measuring.list_of_numbers
    parser.add_argument("--megabytes", type=numbers, default=[400], help="sizes of texts")
    parser.add_argument("--dupe-factors", type=numbers, default=[1, 10])
    options = parser.parse_args(arguments)
    texts = Texts(options.shared, options.cache, tiny=options.tiny)
    figures = []
    if options.tiny:
        figures += compare(TINY_BYTES, TINY_PEER_BYTES, [1], 1, texts)
    else:
        for megabytes in options.megabytes:
            size = megabytes * 1_000_000
            figures += compare(size, PEER_BYTES, options.dupe_factors, options.rounds, texts)
    measuring.write_json(options.json, figures)


if __name__ == "__main__":
    main()
