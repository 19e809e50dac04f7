"""How fast text becomes ids in memory on two cores, against what people can install today.

    pip install -c tests/constraints.txt '.[bench]'
    python tests/benchmarks/encode.py [--peer-python other/bin/python] [--command]

Contestants take turns, round by round, and medians are compared. Rates are in MB (10^6 bytes of
UTF-8) per second, ratios are tokkit's rate over the peer's. Each line of a corpus that has text is
a document; a corpus that is encoded in less than a tenth of a second is encoded several times in a
call. Texts and vocabularies are made by the first run and kept (``texts.py``).

warm    the same encoders called again: compiled, and their caches full of the same text
cold    a new process, imports and reading not counted: two new encoders and their first call, with
        kernels compiled before; once over the corpus, so that a small one shows little but the start

English WordPiece has BERT's published vocabulary; all others are learned from the corpus by tokkit,
30,522 tokens where the corpus yields as many. Peers are tokenizers' ``encode_batch_fast``
(``encode_batch`` in 1.0) on every n-th document, since they are slow, and ``encode_files`` of
nanotoken and gigatoken from a file in the page cache. ``--tokenizers`` names a folder of published
tokenizers, each of which gets a table of its own. Random words are new words in every round, so
nobody's cache has them.

``--command`` measures ``tokkit encode`` from the start of the process until its output is on disk,
against the encoders on the same text: copies of the English text, each under another substitution
of letters, so that its words are new.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring, peers
from benchmarks.texts import CORPORA, Texts

SHORTEST_CALL = 0.1  # seconds
SAMPLE_BYTES = 1_000_000  # on which ids are compared
MODELS = {
    "wordpiece": "WordPiece",
    "bpe": "Byte-level BPE with GPT-2's words",
    "llama3": "Byte-level BPE with Llama 3's words",
    "gpt4o": "Byte-level BPE with GPT-4o's words",
    "mistral": "BPE with byte fallback: Mistral's sentencepiece model",
    "unigram": "Unigram",
}
TINY_LANGUAGES = ["random"]
FROM_FILES: dict[str, dict[str, Callable[[Path], peers.Contestant]]] = {
    "wordpiece": {"nanotoken": peers.Nanotoken},
    "bpe": {"gigatoken": peers.Gigatoken},
    "llama3": {"gigatoken": peers.Gigatoken},
    "gpt4o": {"gigatoken": peers.Gigatoken},
}


@dataclass
class Timing:
    """The ``seconds`` of each round, in which ``num_bytes`` were encoded ``repeat`` times."""

    name: str
    num_bytes: int
    repeat: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median rate in MB/s."""
        return self.num_bytes * self.repeat / statistics.median(self.seconds) / 1e6


@dataclass
class Row:
    """A row of a table.

    Attributes:
        corpus: title of the corpus.
        vocab_size: number of tokens in the vocabulary.
        ours: tokkit's encoders, warm.
        others: tokkit's encoders, cold, then each peer by its column; None for one that is left out.
        notes: why peers are left out, and where their ids differ.
    """

    corpus: str
    vocab_size: int
    ours: Timing
    others: dict[str, Timing | None]
    notes: list[str] = field(default_factory=list)


def take_turns(contestants: list[peers.Contestant], texts: Sequence[Path]) -> list[Timing]:
    """Warm up on the first text, then let every contestant encode every other text in turn."""
    timings: list[Timing] = []
    unchanging = len(set(texts)) == 1
    # tokkit comes last: the number of threads that it sets for the tokenizers library stays.
    for contestant in reversed(contestants):
        timing = Timing(contestant.name, contestant.open(texts[0]))
        if contestant.repeatable:
            seconds = contestant.seconds(1)
            if unchanging and seconds < 1:
                timing.repeat = math.ceil(SHORTEST_CALL / contestant.seconds(1))
        timings.insert(0, timing)
    for text in texts[1:]:
        for contestant, timing in zip(contestants, timings, strict=True):
            if not unchanging:
                timing.num_bytes = contestant.open(text)
            timing.seconds.append(contestant.seconds(timing.repeat))
    return timings


def measure_corpus(model: str, code: str, texts: Texts, options: argparse.Namespace) -> Row | None:
    """Let all contestants encode one corpus; None if its files are missing."""
    num_texts = options.rounds + 1
    corpus = texts.corpus(code)
    if corpus is None:
        return None
    files = texts.random_words(num_texts) if code == "random" else [corpus] * num_texts
    published = options.tokenizers and options.tokenizers / model
    folder = published if model not in MODELS else texts.tokenizer(model, code)
    if folder is None:
        return None
    makers: dict[str, Callable[[Path], peers.Contestant]] = {
        "tokenizers": peers.Library,
        **FROM_FILES.get(model, {"gigatoken": peers.Gigatoken} if model not in MODELS else {}),
        "tokenizers 1.0": partial(peers.OtherPython, python=options.peer_python),
    }
    if folder.suffix == ".model":
        makers = {"sentencepiece": peers.SentencePiece, "gigatoken": peers.Gigatoken}
    sample = texts.cache / "sample.txt"
    documents = files[0].read_bytes().split(b"\n")
    sample.write_bytes(b"\n".join(peers.spread(documents, SAMPLE_BYTES)))
    ours = peers.Encoders(folder)
    able: dict[str, peers.Contestant] = {"tokkit": ours, "cold": peers.Cold(folder)}
    title = CORPORA[code][0]
    notes = []
    for column, make in makers.items():
        try:
            able[column] = make(folder if folder.is_file() else folder / "tokenizer.json")
        except peers.PeerError as error:
            notes.append(str(error))
        else:
            difference = peers.compare_ids(ours, able[column], sample)
            if difference and column in ("tokenizers", "sentencepiece"):
                sys.exit(f"{model}, {title}: {difference}")  # no figure for wrong ids
            notes += [f"{title}: {difference}"] if difference else []
    timings = dict(zip(able, take_turns(list(able.values()), files), strict=True))
    for contestant in able.values():
        contestant.close()
    others = {column: timings.get(column) for column in ("cold", *makers)}
    return Row(title, ours.vocab_size, timings["tokkit"], others, notes)


def measure_command(model: str, texts: Texts, options: argparse.Namespace) -> Row:
    """Compare ``tokkit encode`` with the encoders on the same text."""
    folder = texts.tokenizer(model, "en")
    assert folder is not None
    text = texts.new_words(options.command * 1_000_000)
    ours, command = peers.Encoders(folder), peers.WholeCommand(folder)
    in_memory, whole = take_turns([ours, command], [text] * (options.rounds + 1))
    ours.close()
    text.unlink()
    return Row("new words", ours.vocab_size, in_memory, {command.name: whole})


def format_table(rows: list[Row]) -> str:
    """Return a Markdown table and the notes below it."""
    titles = ["corpus", "MB", "vocabulary", "tokkit, MB/s", "cold, MB/s", "first call, s"]
    for column in list(rows[0].others)[1:]:
        names = [timing.name for row in rows if (timing := row.others[column])]
        titles += [f"{names[0] if names else column}, MB/s", "tokkit is"]
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    for row in rows:
        cells = [row.corpus, f"{row.ours.num_bytes / 1e6:.1f}", f"{row.vocab_size:,}"]
        cold, *others = row.others.values()
        assert cold is not None
        cells += [f"{row.ours.rate:.1f}", f"{cold.rate:.1f}"]
        cells.append(f"{statistics.median(cold.seconds):.2f}")
        for peer in others:
            cells += (
                [f"{peer.rate:.1f}", f"{row.ours.rate / peer.rate:.2f}x"] if peer else ["-"] * 2
            )
        lines.append(cells)
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    return table + "\n" + "".join(f"- {note}\n" for note in notes)


def format_command(row: Row) -> str:
    (command,) = row.others.values()
    assert command is not None
    return (
        f"tokkit encode of {command.num_bytes / 1e6:,.0f} MB ({row.corpus}): "
        f"{command.rate:.1f} MB/s, {command.rate / row.ours.rate:.2f} of the {row.ours.rate:.1f} "
        "MB/s in memory"
    )


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = measuring.make_parser(__doc__)
    measuring.add_folders(parser)
    models, languages = measuring.list_of(MODELS), measuring.list_of(CORPORA)
    parser.add_argument("--models", type=models, default=list(MODELS), help="tables to make")
    parser.add_argument(
        "--tokenizers",
        type=Path,
        help="also make a table for each tokenizer.json in a folder of this folder",
    )
    parser.add_argument("--languages", type=languages, help="rows to make: en,zh")
    parser.add_argument("--peer-python", type=Path, help="a Python with tokenizers 1.0")
    parser.add_argument(
        "--command",
        type=int,
        nargs="?",
        const=1000,
        metavar="MB",
        help="also measure tokkit encode on so much text (1000)",
    )
    options = parser.parse_args(arguments)
    if options.tiny:
        options.rounds = 1
    options.languages = options.languages or (TINY_LANGUAGES if options.tiny else list(CORPORA))
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    measuring.limit_cores()
    texts = Texts(options.shared, options.cache, tiny=options.tiny)
    machine = measuring.describe_machine()
    measuring.write(
        f"{machine}\nmedians of {options.rounds} rounds; tokenizers encodes at most "
        f"{peers.PART_BYTES / 1e6:.0f} MB of a corpus, 1.0 {peers.LARGER_PART_BYTES / 1e6:.0f}; "
        f"ids are compared on {SAMPLE_BYTES / 1e6:.0f} MB of each"
    )
    tables: dict[str, list[Row]] = {}
    published = sorted(options.tokenizers.glob("*/tokenizer.json")) if options.tokenizers else []
    for model in [*options.models, *(path.parent.name for path in published)]:
        rows = []
        for code in options.languages:
            if row := measure_corpus(model, code, texts, options):
                rows.append(row)
            else:
                measuring.write(f"{model}, {CORPORA[code][0]}: left out, not in {options.shared}")
        if not rows:
            continue
        measuring.write(f"\n## {MODELS.get(model, model)}\n\n{format_table(rows)}")
        if options.command and model in MODELS:
            rows.append(measure_command(model, texts, options))
            measuring.write(format_command(rows[-1]))
        tables[model] = rows
    figures = {model: [asdict(row) for row in rows] for model, rows in tables.items()}
    measuring.write_json(options.json, {"machine": machine, "tables": figures})


if __name__ == "__main__":
    main()
