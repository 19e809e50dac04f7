"""How fast text becomes a vocabulary on two cores, and in how much memory, against its peers.

    pip install -c tests/constraints.txt '.[bench]'
    python tests/benchmarks/train.py [--megabytes 50,200,500] [--peers none] [--scores]

The text is English books, a paragraph a line and a document. A text that is larger than all books
has copies of them, each under another substitution of letters, so that its words are new; that is
hard on a trainer, since a larger corpus has fewer new words. Each contestant is a command that
reads the text from a file in the page cache, measured from its start to its end, with kernels
compiled before. Memory is the peak of its largest process.

wordpiece   30,522 tokens: ``tokkit train`` with both scores, and tokenizers' trainer
bpe         50,000 tokens: ``tokkit train --model bpe``, tokenizers' trainer, and gigatoken's

``--scores`` prints how many tokens a word has with either score, on every hundredth document of the
smallest text, which was not learned from.
"""

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.texts import Texts

VOCAB_SIZES = {"wordpiece": 30_522, "bpe": 50_000}
TINY_VOCAB_SIZE = 1000
PEERS = {"wordpiece": ("tokenizers",), "bpe": ("tokenizers", "gigatoken")}
SCORES = {"wordpiece": ("frequency", "likelihood"), "bpe": ("frequency",)}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HELD_OUT = 100  # every hundredth document
WARM_UP_BYTES = 2_000_000


@dataclass
class Contestant:
    """A command, and what each of its rounds took."""

    name: str
    command: measuring.Command
    usages: list[measuring.Usage] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(usage.seconds for usage in self.usages)

    @property
    def megabytes(self) -> float:
        return max(usage.megabytes for usage in self.usages)


def tokkit_command(
    model: str, score: str, size: int, text: Path, folder: Path
) -> measuring.Command:
    options = f"--overwrite --documents line --model {model} --vocab-size {size}".split()
    options += ["--workers", str(measuring.NUM_THREADS)]
    options += ["--score", score] if model == "wordpiece" else []
    return measuring.tokkit("train", text, "-o", folder, *options)


def train_with_tokenizers(model: str, size: int, text: str) -> None:
    """Train with the tokenizers library: the work of a contestant's process."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    trainer: trainers.Trainer
    if model == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  not a password
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size,
            min_frequency=2,
            limit_alphabet=1000,
            special_tokens=SPECIAL_TOKENS,
            show_progress=False,
        )
    tokenizer.train([text], trainer)


def train_with_gigatoken(size: int, text: str) -> None:
    """Train with gigatoken: the work of a contestant's process."""
    gigatoken = import_module("gigatoken")
    source = gigatoken.TextFileSource([text], "\n")
    gigatoken.train_bpe(source, size, SPECIAL_TOKENS)


def compare(model: str, text: Path, size: int, options: argparse.Namespace) -> list[Contestant]:
    """Let all contestants of a model take turns."""
    trained = options.cache / "trained"
    contestants = [
        Contestant(f"tokkit, {score}", tokkit_command(model, score, size, text, trained))
        for score in SCORES[model]
    ]
    for peer in PEERS[model]:
        if peer in options.peers:
            arguments = ["--contestant", peer, model, str(size), str(text)]
            contestants.append(Contestant(peer, [sys.executable, __file__, *arguments]))
    text.read_bytes()
    for _ in range(options.rounds):
        for contestant in contestants:
            contestant.usages.append(measuring.run_measured(contestant.command))
    return contestants


def compile_kernels(text: Path, cache: Path) -> None:
    """Train on a small part of the text, so that no measured command compiles."""
    part = cache / "part.txt"
    part.write_bytes(text.read_bytes()[:WARM_UP_BYTES])
    for model, scores in SCORES.items():
        for score in scores:
            measuring.run_measured(tokkit_command(model, score, 2000, part, cache / "compiled"))


def count_tokens_per_word(text: Path, size: int, cache: Path) -> dict[str, float]:
    """Return the tokens per word of held-out documents, by the score that was learned with."""
    from tokenizers import Tokenizer

    documents = text.read_text().split("\n")
    held_out = documents[::HELD_OUT]
    del documents[::HELD_OUT]
    learned = cache / "learned.txt"
    learned.write_text("\n".join(documents))
    figures = {}
    for score in SCORES["wordpiece"]:
        folder = cache / f"scored-{score}"
        measuring.run_measured(tokkit_command("wordpiece", score, size, learned, folder))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        num_tokens = num_words = 0
        for encoding in tokenizer.encode_batch(held_out, add_special_tokens=False):
            words = encoding.word_ids
            num_tokens += len(words)
            num_words += len(set(words))
        figures[score] = num_tokens / num_words
    return figures


def format_table(rows: dict[int, list[Contestant]]) -> str:
    """Return a Markdown table: a row a text, with times, memory, and tokkit's speed over peers."""
    titles = ["MB"]
    for contestant in next(iter(rows.values())):
        titles += [f"{contestant.name}, s", "peak, MB", "tokkit is"]
    del titles[3]
    lines = [titles, ["---:"] * len(titles)]
    for megabytes, contestants in rows.items():
        cells = [str(megabytes)]
        for contestant in contestants:
            cells += [f"{contestant.seconds:.1f}", f"{contestant.megabytes:.0f}"]
            cells.append(f"{contestant.seconds / contestants[0].seconds:.2f}x")
        del cells[3]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = measuring.make_parser(__doc__, rounds=1)
    measuring.add_folders(parser)
    models = measuring.list_of(VOCAB_SIZES)
    peers = measuring.list_of(["tokenizers", "gigatoken", "none"])
    sizes = measuring.list_of_numbers
    parser.add_argument("--megabytes", type=sizes, default=[50, 200, 500], help="sizes of texts")
    parser.add_argument("--models", type=models, default=list(VOCAB_SIZES), help="tables to make")
    parser.add_argument(
        "--peers",
        type=peers,
        default=["tokenizers", "gigatoken"],
        help="trainers to compare with; tokenizers takes minutes",
    )
    parser.add_argument("--scores", action="store_true", help="compare tokens per word by score")
    parser.add_argument("--contestant", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    if options.contestant:
        peer, model, size, path = options.contestant
        if peer == "gigatoken":
            train_with_gigatoken(int(size), path)
        else:
            train_with_tokenizers(model, int(size), path)
        return
    measuring.limit_cores()
    vocab_sizes = VOCAB_SIZES
    texts = Texts(options.shared, options.cache, tiny=options.tiny)
    options.cache = texts.cache
    if options.tiny:
        vocab_sizes = dict.fromkeys(VOCAB_SIZES, TINY_VOCAB_SIZE)
        files = {0: texts.books()}
    else:
        compile_kernels(texts.books(), options.cache)
        files = {size: texts.new_words(size * 1_000_000) for size in options.megabytes}
    machine = measuring.describe_machine()
    measuring.write(f"{machine}\nmedians of {options.rounds} rounds")
    missing = {peer for peer in options.peers if importlib.util.find_spec(peer) is None} - {"none"}
    for peer in missing:
        measuring.write(f"{peer}: left out, not installed; pip install tokkit[bench]")
    options.peers = [peer for peer in options.peers if peer not in missing]
    tables: dict[str, dict[int, list[Contestant]]] = {}
    for model in options.models:
        size = vocab_sizes[model]
        tables[model] = {
            megabytes: compare(model, text, size, options) for megabytes, text in files.items()
        }
        measuring.write(f"\n## {model}\n\n{format_table(tables[model])}")
    figures = {}
    if options.scores:
        figures = count_tokens_per_word(files[min(files)], vocab_sizes["wordpiece"], options.cache)
        for score, figure in figures.items():
            measuring.write(f"{score}: {figure:.4f} tokens per held-out word")
    for path in files.values():
        path.unlink()
    measuring.write_json(
        options.json,
        {
            "machine": machine,
            "tables": {
                model: {size: [asdict(c) for c in row] for size, row in rows.items()}
                for model, rows in tables.items()
            },
            "tokens_per_word": figures,
        },
    )


if __name__ == "__main__":
    main()
