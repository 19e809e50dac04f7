"""A small run of every stage as command lines, and what two equal runs have in common."""

import json
from pathlib import Path
from typing import Any

from tokkit.encoding import encode_unit
from tokkit.pretraining.training.run_record import list_checkpoints, read_metrics

SENTENCES = (
    "The cat sat on the warm mat. It looked at the door. Nobody came in.",
    "A ship left the old harbour. The wind was strong and the sea was grey. It did not return.",
    "She wrote a long letter. The answer came in spring. It had three words.",
)
STAGES = ("train", "encode", "build", "pretrain", "run")
CLOCK_FIELDS = {"tokens_per_second", "data_wait", "elapsed"}
# Of a run's files, these tell of the machine and the time.
_TIMED = {"run.json", "state.json", "recipe.toml", "recipe.json", "report.html"}
_STEPS = (
    *("--preset", "tiny", "--share-layers", "--max-steps", "3", "--batch-size", "4"),
    *("--checkpoint-every", "1", "--eval-every", "3", "--device", "cpu", "--threads", "1"),
    *("--learning-rate", "1e-3"),
)

RECIPE = """
output = "{output}"
[corpus]
inputs = ["{corpus}"]
[train]
vocab-size = 120
[encode]
compression = "zstd"
[build]
max-seq-length = 32
eval-fraction = 0.2
[pretrain]
preset = "tiny"
share-layers = true
max-steps = 2
batch-size = 4
checkpoint-every = 1
eval-every = 2
device = "cpu"
threads = 1
"""


def write_corpus(folder: Path, num_files: int = 3) -> Path:
    """Write a folder of text files, each of which is a unit of ``encode``."""
    folder.mkdir(parents=True)
    for number in range(num_files):
        texts = [f"Number {i}. {SENTENCES[i % 3]}" for i in range(number, 40, num_files)]
        (folder / f"{number}.txt").write_text("\n\n".join(texts))
    return folder


def use_small_batches() -> None:
    """Give the shards that this process and its copies write several record batches each."""
    encode_unit.BATCH_TOKENS = 150


def stage_command(stage: str, work: Path, output: Path, workers: int = 0) -> list[str]:
    """Return the command line of a stage.

    Args:
        stage: of ``STAGES``.
        work: folder with ``corpus``, and what the stage reads as ``make_inputs`` writes it.
        output: what it writes.
        workers: number of processes.
    """
    if stage == "run":
        output.mkdir(parents=True, exist_ok=True)
        recipe = output / "recipe.toml"
        recipe.write_text(RECIPE.format(output=output, corpus=work / "corpus"))
        return ["run", str(recipe), "--workers", str(workers)]
    arguments: dict[str, tuple[Any, ...]] = {
        "train": (work / "corpus", "--vocab-size", 120),
        "encode": (work / "corpus", "-t", work / "tokenizer", "--unit-bytes", 1024),
        "build": (work / "tokens", "--max-seq-length", 32, "--eval-fraction", 0.2),
        "pretrain": (work / "instances", *_STEPS),
    }
    command = [stage, *map(str, arguments[stage]), "-o", str(output)]
    if stage == "build":
        command += ["--unit-tokens", "400"]
    return command if stage == "pretrain" else [*command, "--workers", str(workers)]


def stage_commands(stage: str, work: Path, output: Path, workers: int = 0) -> list[list[str]]:
    """Return the command lines of a stage, one after another.

    Args:
        stage: of ``STAGES``; ``parts`` for ``encode`` in two parts; or the address of a cluster of
            Ray, which encodes.
        work: as for ``stage_command``.
        output: what they write.
        workers: number of processes.
    """
    if stage in STAGES:
        return [stage_command(stage, work, output, workers)]
    encode = stage_command("encode", work, output, workers)
    if stage == "parts":
        steps = (("--plan",), ("--part", "0/2"), ("--part", "1/2"), ("--commit",))
        return [[*encode, *options] for options in steps]
    return [[*encode, "--engine", "ray", "--ray-address", stage]]


def make_inputs(work: Path) -> dict[str, list[str]]:
    """Write a corpus; return the commands that make of it what the stages read, in order."""
    write_corpus(work / "corpus")
    folders = {"train": "tokenizer", "encode": "tokens", "build": "instances"}
    return {stage: stage_command(stage, work, work / name) for stage, name in folders.items()}


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a run wrote, without what depends on the clock or on how often it was stopped."""
    files: dict[str, Any] = {}
    newest = {found[-1] for found in map(list_checkpoints, folder.rglob("checkpoints")) if found}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_old = "checkpoints" in path.parts and path.parent not in newest
        if not path.is_file() or is_old or path.name in _TIMED or ".tokkit/" in name:
            continue
        if path.name == "metrics.jsonl":
            lines = read_metrics(path)
            files[name] = [{key: line[key] for key in line.keys() - CLOCK_FIELDS} for line in lines]
        elif path.name == "manifest.json" and (path.parent / "run.json").is_file():
            manifest = json.loads(path.read_text())
            files[name] = {key: manifest[key] for key in ("kind", "key", "options")}
        else:
            files[name] = path.read_bytes()
    return files


def temporary_files(folder: Path) -> list[Path]:
    """Return what a run should not leave when it ends by itself."""
    return [path for path in folder.rglob("*") if ".tmp" in path.name]
