"""How fast text becomes ids in memory on two cores, against what people can install today.

    pip install -c tests/constraints.txt '.[bench]'
    python tests/benchmarks/encode.py [--peer-python other/bin/python] [--command]

Contestants take turns, round by round, and medians are compared, so that a machine that slows down
slows down all of them. Rates are in MB (10^6 bytes of UTF-8) per second, ratios are tokkit's rate
over the peer's. Each line of a corpus that has text is a document; a contestant that encodes a
corpus in less than a tenth of a second does it several times in a call.

warm    the same encoders called again: compiled, and their caches full of the same text
cold    a fresh process, imports and reading not counted: two new encoders and their first call,
        with kernels compiled before and kept on disk; once over the corpus, so that a small one
        shows little but the start

WordPiece has BERT's published vocabulary for English; all others are learned from the corpus by
tokkit, 30,522 entries where it gives so many. Peers are tokenizers' ``encode_batch_fast``
(``encode_batch`` in 1.0) on every n-th document, since they are slow, and ``encode_files`` of
nanotoken and gigatoken from a file in the page cache. The row of random words has new words in
every round, so nobody's cache knows them.

``--command`` measures ``tokkit encode``, from starting the process until its output is on disk,
against the encoders on the same text: the English books over and over, each copy in another
substitution of letters, so that its words are new.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import string
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import peers

from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent.parent
SHORTEST_CALL = 0.1  # seconds
SAMPLE_BYTES = 1_000_000  # on which ids are compared
TRAINING_BYTES = 16_000_000
SOURCE_CODE_BYTES = 30_000_000
RANDOM_BYTES = 20_000_000
MODELS = {"wordpiece": "WordPiece", "bpe": "Byte-level BPE"}
FROM_FILES: dict[str, dict[str, Callable[[Path], peers.Contestant]]] = {
    "wordpiece": {"nanotoken": peers.Nanotoken},
    "bpe": {"gigatoken": peers.Gigatoken},
}
# Files of the folder of corpora; those without any are made here.
CORPORA = {
    "en": ("English prose", ("en-gutenberg/books.txt.zst",)),
    "zh": ("Chinese", ("zh-wiki-cmrc/*.txt", "zh-poetry/*.txt")),
    "ja": ("Japanese", ("ja-aozora/*.txt",)),
    "ko": ("Korean", ("ko-nsmc/*.txt", "ko-react-docs/*.md")),
    "ru": ("Russian", ("ru-novels/*.txt",)),
    "ar": ("Arabic", ("multi-*/ar[._]*", "multi-udhr/arb.txt")),
    "de": ("German", ("de-laws/*.md",)),
    "code": ("source code", ()),
    "random": ("random words", ()),
}


@dataclass(frozen=True)
class Corpus:
    """A text for each round after one to warm up with; mostly they are all the same."""

    title: str
    texts: tuple[Path, ...]


@dataclass
class Timing:
    """What a contestant did: ``seconds`` of each round for ``repeat`` times ``num_bytes``."""

    name: str
    num_bytes: int
    repeat: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """MB/s, by the median."""
        return self.num_bytes * self.repeat / statistics.median(self.seconds) / 1e6


@dataclass
class Row:
    """A row of a table.

    Attributes:
        corpus: its title.
        num_entries: of the vocabulary.
        ours: the encoders, warm.
        others: the same cold, then each peer by its column, None for one that cannot.
        notes: on what peers cannot, or do otherwise.
    """

    corpus: str
    num_entries: int
    ours: Timing
    others: dict[str, Timing | None]
    notes: list[str] = field(default_factory=list)


def write_text(path: Path, data: bytes) -> Path:
    """Write the lines of ``data`` that have text."""
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if line.strip()))
    return path


def read_source_code() -> bytes:
    """The standard library of the running Python."""
    parts: list[bytes] = []
    num_bytes = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or num_bytes > SOURCE_CODE_BYTES:
            continue
        data = path.read_bytes()
        if data.decode(errors="ignore").encode() == data:  # tests of decoders are not UTF-8
            parts.append(data)
            num_bytes += len(data)
    return b"\n".join(parts)


def make_random_words(num_texts: int) -> Iterator[bytes]:
    """Texts of words of 3 to 12 letters, 16 a line; no word comes twice in any of them."""
    rng = np.random.default_rng(0)
    num_words = num_texts * RANDOM_BYTES // 8
    letters = rng.integers(ord("a"), ord("z") + 1, (num_words, 13), np.uint8)
    letters[np.arange(13) >= rng.integers(3, 13, (num_words, 1))] = 0
    codes = np.zeros(num_words, np.int64)
    for column in range(12):
        codes = codes * 27 + (letters[:, column] & 31)
    letters = letters[rng.permutation(np.unique(codes, return_index=True)[1])]
    letters[:, 12] = ord(" ")
    letters[15::16, 12] = ord("\n")
    for part in np.array_split(letters, num_texts):
        yield part[part != 0].tobytes()


def make_corpus(code: str, shared: Path, cache: Path, rounds: int) -> Corpus:
    """Put a corpus of ``CORPORA`` together, as files in ``cache``."""
    title, patterns = CORPORA[code]
    if code == "random":
        texts = [
            write_text(cache / f"random-{number}.txt", data)
            for number, data in enumerate(make_random_words(rounds + 1))
        ]
        return Corpus(title, tuple(texts))
    if code == "code":
        data = read_source_code()
    else:
        paths = [path for glob in patterns for path in sorted((shared / "corpora").glob(glob))]
        # Arrow unpacks what is packed.
        data = b"\n".join(pa.input_stream(str(path)).read() for path in paths)
    return Corpus(title, (write_text(cache / f"{code}.txt", data),) * (rounds + 1))


def make_tokenizer(model: str, code: str, shared: Path, cache: Path) -> Path:
    """The folder of a corpus's tokenizer, learned unless it is there."""
    language = "en" if code == "random" else code
    if (model, language) == ("wordpiece", "en"):
        folder = cache / "bert-base-uncased"
        save_tokenizer(load_tokenizer(shared / "vocabs" / "bert-base-uncased"), folder)
        return folder
    documents = make_corpus(language, shared, cache, 0).texts[0].read_bytes().split(b"\n")
    sample = b"\n".join(peers.spread(documents, TRAINING_BYTES))
    name = f"{language}-{model}-{hashlib.sha256(sample).hexdigest()[:8]}"
    path, folder = cache / f"{name}.txt", cache / name
    if not (folder / "training.json").is_file():
        sys.stderr.write(f"learning {model} from {len(sample):,} B of {CORPORA[language][0]}\n")
        path.write_bytes(sample)
        config = TrainConfig(
            inputs=(str(path),),
            documents="line",
            output=folder,
            model=model,
            limit_alphabet=10_000,  # Chinese has more than the default
            workers=peers.NUM_THREADS,
            progress=False,
        )
        train(config)
    return folder


def make_unique_text(books: Path, num_bytes: int, path: Path) -> Path:
    """Copies of the books one after another, each in another substitution of letters."""
    rng = np.random.default_rng(0)
    data = books.read_bytes()
    with path.open("wb") as sink:
        while num_bytes > 0:
            order = rng.permutation(26).astype(np.uint8)
            letters = (order + ord("a")).tobytes() + (order + ord("A")).tobytes()
            copy = data if num_bytes > len(data) else data[: data.rfind(b"\n", 0, num_bytes)]
            sink.write(b"\n" if sink.tell() else b"")
            sink.write(copy.translate(bytes.maketrans(string.ascii_letters.encode(), letters)))
            num_bytes -= len(data)
    return path


def take_turns(contestants: list[peers.Contestant], corpus: Corpus) -> list[Timing]:
    """Warm up, then let every contestant encode in every round."""
    timings: list[Timing] = []
    unchanging = len(set(corpus.texts)) == 1
    # Ours is last here: what it tells the tokenizers library of threads holds for those to come.
    for contestant in reversed(contestants):
        timing = Timing(contestant.name, contestant.open(corpus.texts[0]))
        if contestant.repeatable:
            seconds = contestant.seconds(1)
            if unchanging and seconds < 1:
                timing.repeat = math.ceil(SHORTEST_CALL / contestant.seconds(1))
        timings.insert(0, timing)
    for text in corpus.texts[1:]:
        for contestant, timing in zip(contestants, timings, strict=True):
            if not unchanging:
                timing.num_bytes = contestant.open(text)
            timing.seconds.append(contestant.seconds(timing.repeat))
    return timings


def measure(model: str, code: str, options: argparse.Namespace) -> Row:
    """Let all contestants encode one corpus."""
    peers.limit_cores()
    corpus = make_corpus(code, options.shared, options.cache, options.rounds)
    folder = make_tokenizer(model, code, options.shared, options.cache)
    makers: dict[str, Callable[[Path], peers.Contestant]] = {
        "tokenizers": peers.Library,
        **FROM_FILES[model],
        "tokenizers 1.0": partial(peers.OtherPython, python=options.peer_python),
    }
    sample = options.cache / "sample.txt"
    documents = corpus.texts[0].read_bytes().split(b"\n")
    sample.write_bytes(b"\n".join(peers.spread(documents, SAMPLE_BYTES)))
    ours = peers.Encoders(folder)
    able: dict[str, peers.Contestant] = {"tokkit": ours, "cold": peers.Cold(folder)}
    notes = []
    for column, make in makers.items():
        try:
            able[column] = make(folder / "tokenizer.json")
        except peers.PeerError as error:
            notes.append(str(error))
        else:
            difference = peers.compare_ids(ours, able[column], sample)
            notes += [f"{corpus.title}: {difference}"] if difference else []
    timings = dict(zip(able, take_turns(list(able.values()), corpus), strict=True))
    for contestant in able.values():
        contestant.close()
    others = {column: timings.get(column) for column in ("cold", *makers)}
    return Row(corpus.title, ours.num_entries, timings["tokkit"], others, notes)


def measure_command(model: str, options: argparse.Namespace) -> Row:
    """``tokkit encode`` and the encoders on the same text."""
    peers.limit_cores()
    folder = make_tokenizer(model, "en", options.shared, options.cache)
    (books,) = make_corpus("en", options.shared, options.cache, 0).texts
    text = make_unique_text(books, options.command * 1_000_000, options.cache / "unique.txt")
    ours, command = peers.Encoders(folder), peers.Command(folder)
    corpus = Corpus("books under substitutions of letters", (text,) * (options.rounds + 1))
    in_memory, whole = take_turns([ours, command], corpus)
    ours.close()
    text.unlink()
    return Row(corpus.title, ours.num_entries, in_memory, {command.name: whole})


def describe_machine() -> str:
    """The machine, and the versions of everything."""
    model = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = [f"Python {platform.python_version()}"]
    for name in ("tokkit", "numba", "numpy", "pyarrow", "tokenizers", "nanotoken", "gigatoken"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    cores = f"{peers.NUM_THREADS} of {os.cpu_count()} cores"
    return f"{model}, {cores}, {platform.system()}\n{', '.join(versions)}"


def format_table(rows: list[Row]) -> str:
    """Markdown, and the notes below it."""
    titles = ["corpus", "MB", "entries", "tokkit, MB/s", "cold, MB/s", "first call, s"]
    for column in list(rows[0].others)[1:]:
        names = [timing.name for row in rows if (timing := row.others[column])]
        titles += [f"{names[0] if names else column}, MB/s", "tokkit is"]
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    for row in rows:
        cells = [row.corpus, f"{row.ours.num_bytes / 1e6:.1f}", f"{row.num_entries:,}"]
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
        f"\ntokkit encode of {command.num_bytes / 1e6:,.0f} MB ({row.corpus}): "
        f"{command.rate:.1f} MB/s, {command.rate / row.ours.rate:.2f} of the {row.ours.rate:.1f} "
        "MB/s in memory\n"
    )


def one_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"known are {', '.join(known)}")
        return names

    return parse


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=one_of(MODELS), default=list(MODELS), help="which tables")
    parser.add_argument(
        "--languages", type=one_of(CORPORA), default=list(CORPORA), help="which rows: en,zh"
    )
    parser.add_argument("--peer-python", type=Path, help="a Python with tokenizers 1.0")
    parser.add_argument(
        "--command",
        type=int,
        nargs="?",
        const=1000,
        metavar="MB",
        help="also measure tokkit encode on so much text (1000), written to the cache",
    )
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="with corpora")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tokkit-benchmarks",
        help="where texts and learned vocabularies are kept (%(default)s)",
    )
    parser.add_argument("--json", type=Path, help="also write every timing to this file")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    if not (options.shared / "corpora").is_dir():
        sys.exit(f"{options.shared}: no folder of corpora; name it with --shared")
    options.cache.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    sys.stdout.write(
        f"{machine}\nmedians of {options.rounds} rounds; tokenizers gets at most "
        f"{peers.PART_BYTES / 1e6:.0f} MB of a corpus, 1.0 {peers.LARGER_PART_BYTES / 1e6:.0f}; "
        f"ids are compared on {SAMPLE_BYTES / 1e6:.0f} MB of each;\nwho encodes a corpus in less "
        f"than {SHORTEST_CALL} s does it several times in a call\n"
    )
    results: dict[str, list[Row]] = {}
    for model in options.models:
        rows = [measure(model, code, options) for code in options.languages]
        sys.stdout.write(f"\n## {MODELS[model]}\n\n{format_table(rows)}")
        if options.command:
            rows.append(measure_command(model, options))
            sys.stdout.write(format_command(rows[-1]))
        sys.stdout.flush()
        results[model] = rows
    if options.json:
        tables = {model: [asdict(row) for row in rows] for model, rows in results.items()}
        options.json.write_text(json.dumps({"machine": machine, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
