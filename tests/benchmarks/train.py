"""How fast text becomes a vocabulary on two cores, and in how much memory, against its peers.

    pip install -c tests/constraints.txt '.[bench]'
    python tests/benchmarks/train.py [--megabytes 50,200,500] [--peers none] [--scores]

The text is English books, a paragraph a line and a document; where there are not enough of them
they come again, each copy in another substitution of letters, so that its words are new. That is
hard on a trainer: a larger corpus has fewer new words. Each contestant is a process of its own that
reads the text from a file in the page cache: whole commands, from starting them to their end.
Kernels are compiled before. Memory is the peak of the largest process, as the system tells it.

wordpiece   30,522 entries: ``tokkit train`` with both scores, and tokenizers' trainer
bpe         50,000 entries: ``tokkit train --model bpe``, tokenizers' trainer, and gigatoken's

``--scores`` tells in how many tokens a word comes by either score, on every hundredth document of
the smallest text, which was not learned from.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import peers
from benchmarks.encode import ROOT, describe_machine, make_corpus, make_unique_text, one_of

SIZES = {"wordpiece": 30522, "bpe": 50000}
PEERS = {"wordpiece": ("tokenizers",), "bpe": ("tokenizers", "gigatoken")}
OURS = {"wordpiece": ("frequency", "likelihood"), "bpe": ("frequency",)}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HELD_OUT = 100  # every so many-th document


@dataclass
class Run:
    """What a contestant took, by round.

    Attributes:
        name: of the contestant.
        seconds: of the whole process.
        megabytes: its peak of memory.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)


# Starts a command and tells its time and memory. A process of its own, and a small one: what a
# process takes at most is counted from the fork on, when it is as large as the one that started it.
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measure(command: Sequence[str | Path], run: Run) -> None:
    """Run a command, and add its time and memory."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(f"{run.name}: {ended.stderr.strip()}")
    seconds, size = ended.stdout.split()[-2:]
    run.seconds.append(float(seconds))
    # Linux tells KB, macOS bytes.
    run.megabytes.append(int(size) / (1e6 if sys.platform == "darwin" else 1e3))


def tokkit_command(model: str, score: str, size: int, text: Path, folder: Path) -> list[str | Path]:
    """``tokkit train`` of the sources beside this file."""
    start = [sys.executable, "-c", "from tokkit.cli import main; main()"]
    options = ["--documents", "line", "--model", model, "--vocab-size", str(size)]
    options += ["--workers", str(peers.NUM_THREADS)]
    options += ["--score", score] if model == "wordpiece" else []
    return [*start, "train", text, "-o", folder, "--overwrite", *options]


def train_with_tokenizers(model: str, text: Path) -> None:
    """What a process does whose contestant is the tokenizers library."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    trainer: trainers.Trainer
    if model == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=SIZES[model],
            min_frequency=2,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  no password
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=SIZES[model],
            min_frequency=2,
            limit_alphabet=1000,
            special_tokens=SPECIAL_TOKENS,
            show_progress=False,
        )
    tokenizer.train([str(text)], trainer)


def train_with_gigatoken(text: Path) -> None:
    """What a process does whose contestant is gigatoken."""
    gigatoken = import_module("gigatoken")
    source = gigatoken.TextFileSource([text], "\n")
    gigatoken.train_bpe(source, SIZES["bpe"], SPECIAL_TOKENS)


def compare(model: str, text: Path, options: argparse.Namespace) -> list[Run]:
    """Let all contestants of a model take turns."""
    runs = []
    commands: list[list[str | Path]] = []
    for score in OURS[model]:
        runs.append(Run(f"tokkit, {score}"))
        commands.append(tokkit_command(model, score, SIZES[model], text, options.cache / "trained"))
    for peer in PEERS[model]:
        if peer in options.peers:
            runs.append(Run(peer))
            commands.append([sys.executable, __file__, "--contestant", peer, model, text])
    text.read_bytes()
    for _ in range(options.rounds):
        for run, command in zip(runs, commands, strict=True):
            measure(command, run)
    return runs


def compile_kernels(text: Path, cache: Path) -> None:
    """Train on a small part, so that no contestant compiles."""
    part = cache / "part.txt"
    part.write_bytes(text.read_bytes()[:2_000_000])
    for model, scores in OURS.items():
        for score in scores:
            measure(tokkit_command(model, score, 2000, part, cache / "compiled"), Run("tokkit"))


def count_tokens_per_word(text: Path, cache: Path) -> dict[str, float]:
    """Tokens per word of held-out documents, by the score that the vocabulary was learned with."""
    from tokenizers import Tokenizer

    documents = text.read_text().split("\n")
    held_out = documents[::HELD_OUT]
    del documents[::HELD_OUT]
    learned = cache / "learned.txt"
    learned.write_text("\n".join(documents))
    figures = {}
    for score in OURS["wordpiece"]:
        folder = cache / f"scored-{score}"
        measure(tokkit_command("wordpiece", score, 30522, learned, folder), Run("tokkit"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        num_tokens = num_words = 0
        for encoding in tokenizer.encode_batch(held_out, add_special_tokens=False):
            words = encoding.word_ids
            num_tokens += len(words)
            num_words += len(set(words))
        figures[score] = num_tokens / num_words
    return figures


def format_table(rows: dict[int, list[Run]]) -> str:
    """Markdown: a row a text; of each contestant its time and memory, and tokkit's speed over it."""
    titles = ["MB"]
    for run in next(iter(rows.values())):
        titles += [f"{run.name}, s", "peak, MB", "tokkit is"]
    del titles[3]
    lines = [titles, ["---:"] * len(titles)]
    for megabytes, runs in rows.items():
        cells = [str(megabytes)]
        for run in runs:
            cells += [f"{run.time:.1f}", f"{max(run.megabytes):.0f}"]
            cells.append(f"{run.time / runs[0].time:.2f}x")
        del cells[3]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def parse_sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--megabytes", type=parse_sizes, default=[50, 200, 500], help="texts: 50,200,500"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models", type=one_of(SIZES), default=list(SIZES), help="which tables")
    parser.add_argument(
        "--peers",
        type=one_of(["tokenizers", "gigatoken", "none"]),
        default=["tokenizers", "gigatoken"],
        help="who is compared with; tokenizers takes minutes",
    )
    parser.add_argument("--scores", action="store_true", help="compare tokens per word by score")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="with corpora")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tokkit-benchmarks",
        help="where texts and vocabularies are kept (%(default)s)",
    )
    parser.add_argument("--json", type=Path, help="also write every timing to this file")
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    if options.contestant:
        peer, model, text = options.contestant
        if peer == "gigatoken":
            train_with_gigatoken(Path(text))
        else:
            train_with_tokenizers(model, Path(text))
        return
    if not (options.shared / "corpora").is_dir():
        sys.exit(f"{options.shared}: no folder of corpora; name it with --shared")
    options.cache.mkdir(parents=True, exist_ok=True)
    peers.limit_cores()
    machine = describe_machine()
    sys.stdout.write(f"{machine}\nmedians of {options.rounds} rounds\n")
    (books,) = make_corpus("en", options.shared, options.cache, 0).texts
    compile_kernels(books, options.cache)
    texts = {
        size: make_unique_text(books, size * 1_000_000, options.cache / f"books-{size}.txt")
        for size in options.megabytes
    }
    results: dict[str, dict[int, list[Run]]] = {}
    for model in options.models:
        results[model] = {size: compare(model, text, options) for size, text in texts.items()}
        sys.stdout.write(f"\n## {model}\n\n{format_table(results[model])}")
        sys.stdout.flush()
    figures = {}
    if options.scores:
        figures = count_tokens_per_word(texts[min(texts)], options.cache)
        for score, figure in figures.items():
            sys.stdout.write(f"\n{score}: {figure:.4f} tokens per held-out word\n")
    for text in texts.values():
        text.unlink()
    if options.json:
        tables = {
            model: {size: [asdict(run) for run in runs] for size, runs in rows.items()}
            for model, rows in results.items()
        }
        record = {"machine": machine, "tables": tables, "tokens_per_word": figures}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
