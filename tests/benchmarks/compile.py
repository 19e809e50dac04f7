"""How long kernels take to compile, nearly all of them: those that a run of many commands needs.

    python tests/benchmarks/compile.py

The commands run one after the other on the project's own README, and store kernels in an empty folder;
each kernel's file says how long it took. A kernel is compiled for ids of 16 bits here, and is compiled
again for a vocabulary of more than 65,536 tokens. Published models of sentencepiece are used where
there are any in ``--shared``.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.measuring import ROOT, Command, tokkit

OBJECTIVES = ("nsp", "sop", "mlm", "clm", "span-corruption", "plm")
UNITS = ("token", "word", "span", "ngram")
NUM_TINY = 2  # commands: they train a tokenizer and encode with it
TOKENIZERS = {
    "wordpiece": ["--unused", "99"],
    "likelihood": ["--score", "likelihood"],
    "bpe": ["--model", "bpe"],
    "qwen": ["--model", "bpe", "--split", "qwen", "--normalize", "nfc"],
    "metaspace": ["--model", "bpe", "--metaspace", "--byte-fallback"],
    "unigram": ["--model", "unigram"],
}


def list_commands(text: Path, shared: Path, folder: Path) -> Iterator[Command]:
    """Yield the commands, each of which may need what those before it wrote."""
    for name, options in TOKENIZERS.items():
        trained, tokens = folder / name, folder / f"tokens-{name}"
        yield tokkit("train", text, "-o", trained, "--vocab-size", "600", *options)
        yield tokkit("encode", text, "-o", tokens, "--tokenizer", trained)
    for path in sorted(shared.glob("vocabs/sentencepiece/*")):
        yield tokkit("encode", text, "-o", folder / path.stem, "--tokenizer", path)
    lines = tokkit("encode", text, "-o", folder / "tokens-lines", "--sentences", "lines")
    yield [*lines, "--tokenizer", folder / "unigram"]
    for objective in OBJECTIVES:
        options = ["--objective", objective]
        yield tokkit("build", folder / "tokens-wordpiece", "-o", folder / objective, *options)
    for unit in UNITS:
        options = ["--masking", "static", "--mask-unit", unit]
        yield tokkit("build", folder / "tokens-wordpiece", "-o", folder / unit, *options)
    for objective in ("nsp", "mlm", "plm"):
        options = ["--preset", "tiny", "--max-steps", "1", "--batch-size", "2", "--device", "cpu"]
        yield tokkit("pretrain", folder / objective, "-o", folder / f"run-{objective}", *options)


def read_seconds(folder: Path) -> dict[str, float]:
    """Return how long each kernel took, the slowest first."""
    seconds: dict[str, float] = {}
    for path in folder.rglob("*.kernel"):
        name = path.name.rsplit("-", 2)[0]
        header = json.loads(path.read_bytes().split(b"\n", 1)[0])
        seconds[name] = seconds.get(name, 0) + header["seconds"]
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measuring.make_parser(__doc__)
    measuring.add_folders(parser)
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        folder = Path(name)
        commands = list_commands(ROOT / "README.md", options.shared, folder)
        with patch.dict(os.environ, NUMBA_CACHE_DIR=str(folder / "kernels")):
            for command in islice(commands, NUM_TINY if options.tiny else None):
                measuring.run_measured(command)
        seconds = read_seconds(folder / "kernels")
    measuring.write(measuring.describe_machine())
    for kernel, duration in seconds.items():
        measuring.write(f"{duration:7.2f} s  {kernel}")
    measuring.write(f"{sum(seconds.values()):7.2f} s  all {len(seconds)}")
    measuring.write_json(options.json, seconds)


if __name__ == "__main__":
    main()
