"""The sound folders of which the fuzzer makes mutants, and how each is read."""

# ruff: noqa: T201  it prints

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from forkedcommands import call_command, start
from smallruns import RECIPE, SENTENCES, make_inputs, stage_command
from storedfolders import Read, from_cache, on_store, start_store, upload

from tokkit.cli.streams import echo
from tokkit.engine.manifest import MANIFEST
from tokkit.errors import TokkitError
from tokkit.pretraining.data.instance_loader import InstanceLoader

VOCAB_SIZE = 120
BUILDS = {
    "nsp": (),
    "static": ("--masking", "static", "--compression", "zstd"),
    "mlm": ("--objective", "mlm", "--packing", "doc-sentences"),
    "sop": ("--objective", "sop", "--masking", "static", "--dupe-factor", "2"),
}

SIZES = {"bpe": "280", "unigram": "60"}


@dataclass(frozen=True)
class Subject:
    """A sound folder or file.

    Attributes:
        path: where it is.
        readers: the commands that read it, by their names: called with the folder and with a
            folder to write into, they return an exit status.
        accepting: those of them that use every value, with how the names of their shards begin.
        in_copies: they work in copies of a process alone, since they start threads.
    """

    path: Path
    readers: dict[str, Read]
    accepting: Mapping[str, str] = field(default_factory=dict)
    in_copies: bool = False


def command(*arguments: str) -> Read:
    """Return a reader that runs a command line; ``@`` is the folder, and ``+`` the output."""

    def read(folder: Path, output: Path) -> int:
        names = {"@": folder, "+": output}
        status = call_command(*(names.get(argument, argument) for argument in arguments))
        written = names[arguments[arguments.index("-o") + 1]] if "-o" in arguments else output
        if not status and written.is_dir():
            print_result(*(path.read_bytes() for path in sorted(written.glob("*.arrow"))))
        return status

    return read


def run_recipe(corpus: Path, *options: str) -> Read:
    """Return a reader that runs a recipe in a folder with a corpus; wrong usage is a fault of it."""

    def read(recipe: Path, output: Path) -> int:
        folder = output / "a" / "b"  # so that .. stays inside
        folder.mkdir(parents=True)
        (folder / "in").symlink_to(corpus)
        with chdir(folder):
            status = call_command("run", recipe, "--workers", "0", *options)
        return 1 if status == 2 else status

    return read


def load(layout: str, split: str) -> Read:
    """Return a reader that loads all instances of a folder."""

    def read(folder: Any, _: Path) -> int:
        try:
            loader = InstanceLoader(folder, batch_size=16, seed=1, layout=layout, split=split)
            batches = [*loader] if split == "eval" else [loader.batch(step) for step in range(9)]
        except TokkitError as error:
            echo(f"tokkit: {error}", err=True)
            return error.exit_status
        for batch in batches:
            check_batch(batch)
        print_result(
            *(np.asarray(value).tobytes() for batch in batches for value in batch.values())
        )
        return 0

    return read


def check_batch(batch: dict[str, object]) -> None:
    """Check that a model of the vocabulary can take a batch."""
    for name, low, high in (
        ("input_ids", 0, VOCAB_SIZE),
        ("labels", -100, VOCAB_SIZE),
        ("next_sentence_label", 0, 2),
        ("token_type_ids", 0, 2),
    ):
        values = np.asarray(batch.get(name, ()))
        assert not values.size or low <= values.min() <= values.max() < high, name


def print_result(*parts: bytes) -> None:
    """Print what identifies a result."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    print(f"result {digest.hexdigest()}")


def make_subjects(work: Path, *, quick: bool) -> list[Subject]:
    """Write all sound folders, or few; subjects that matter more are there more often."""
    start_store()
    commands = [*make_inputs(work).values()]
    trained, built = [*SIZES], [*BUILDS]
    if quick:
        trained, built = [], built[1:2]
    else:
        commands.append(stage_command("pretrain", work, work / "run"))
    corpus = str(work / "corpus")
    folder, output = work / "tokens", work / "output"
    names = {str(folder): "@", str(output): "+"}
    build = [names.get(part, part) for part in stage_command("build", work, output)]
    commands += [[*stage_command("build", work, work / name), *BUILDS[name]] for name in built]
    for model in trained:
        options = ("--model", model, "--vocab-size", SIZES[model])
        commands.append(["train", corpus, "-o", str(work / model), *options])
    words = work / "words.tsv"
    small = ("--vocab-size", "110", "--workers", "0")
    counts = ("train", "@", "--format", "counts", *small)
    commands[0] += ["--save-counts", str(words)]
    for arguments in commands:
        ended = start(partial(call_command, *arguments)).wait(120)
        assert not ended.status, ended

    shows = {
        "inspect": command("inspect", "@"),
        "inspect --json": command("inspect", "@", "--json"),
        "report": command("report", "@", "-o", "+"),
    }
    looks = {"verify": command("verify", "@"), **shows}
    builds = {"build": command(*build), "build of mlm": command(*build, "--objective", "mlm")}
    replay = {"replay": command("inspect", "@", "--replay", "--rows", "2")}
    loads = {
        f"loader of {name}": load(*name.split())
        for name in ("padded train", "ragged train", "padded eval")
    }
    encode = {
        "encode": command("encode", corpus, "-t", "@", "-o", "+", "--workers", "0"),
        "tokenize": command("tokenize", "-t", "@", SENTENCES[1]),
        "train": command("train", corpus, "--compare", "@", *small, "-o", "+"),
    }
    begun = {"resume encode": command(*commands[1][:-3], "@", "--workers", "0"), **looks}
    pretrain = stage_command("pretrain", work, output)[:-1]
    resume = {"pretrain": command(*pretrain, "@")}
    without_size = ("pretrain", pretrain[1], "--threads", "1", "--batch-size", "4", "-o", "+")
    init, *later = (
        {f"pretrain {options[0]}": command(*without_size, *options)}
        for options in (
            ("--init-from", "@", "--max-steps", "1"),
            ("--continue-from", "@", "--max-steps", "4"),
            ("--decay-from", "@", "--decay-steps", "1"),
        )
    )
    if quick:
        shows, looks, builds = {}, {"verify": looks["verify"]}, {"build": builds["build"]}
    all_of = looks | replay | loads
    splits = {name: f"{name.split()[-1]}-" for name in loads}
    if not quick:
        stopped = unfinish(work / "run", "stopped", "export", "checkpoints/step-00000003")
        runs = [
            Subject(work / "run", looks | replay | later[0] | later[1]),
            Subject(stopped, shows | replay | resume),
            Subject(work / "run" / "export", encode | init),
        ]
    recipe = work / "recipe.toml"
    recipe.write_text(RECIPE.format(output="made", corpus="in"))
    recipes = {"run": run_recipe(work / "corpus", "--until", "build", "--no-report")}
    if not quick:
        recipes["pretrain by run"] = run_recipe(work / "corpus")
    return [
        *[Subject(recipe, recipes)] * (1 if quick else 3),
        *_make_stored(work, build, quick=quick),
        *[Subject(work / "tokens", looks | builds, dict.fromkeys(builds, "shard-"))] * 5,
        *(Subject(work / name, all_of, splits) for name in (*built, *built)),
        *(Subject(work / name, looks | encode) for name in ("tokenizer", *trained)),
        Subject(words, {"train": command(*counts, "-o", "+")}),
        Subject(unfinish(work / "tokens", "begun"), begun, {"resume encode": "shard-"}),
        *([] if quick else runs),
    ]


def unfinish(folder: Path, name: str, *parts: str) -> Path:
    """Copy a folder under another name without these files and folders; return the copy."""
    copy = Path(shutil.copytree(folder, folder.with_name(name)))
    for part in (MANIFEST, *parts):
        shutil.rmtree(copy / part) if (copy / part).is_dir() else (copy / part).unlink()
    return copy


def _make_stored(work: Path, build: list[str], *, quick: bool) -> Iterator[Subject]:
    """Yield folders that are read from a store, and caches of what it has."""
    first = "nsp" if (work / "nsp").is_dir() else "static"
    verify, loads = command("verify", "@"), {"loader": load("padded", "train")}
    readers = {
        "tokens": {"verify": verify, "build": command(*build)},
        first: {"verify": verify, **loads},
        "tokenizer": {
            "encode": command(
                "encode", str(work / "corpus"), "-t", "@", "-o", "+", "--workers", "0"
            )
        },
    }
    prefixes = {"tokens": {"build": "shard-"}, first: {"loader": "train-"}}
    for name, read in readers.items():
        folder = Path(shutil.copytree(work / name, work / f"stored-{name}"))
        stored = {reader: on_store(each) for reader, each in read.items()}
        yield Subject(folder, stored, prefixes.get(name, {}), in_copies=True)
        if quick:
            return
        uri, cache = upload(folder), work / f"cache-of-{name}"
        os.environ["TOKKIT_CACHE"] = str(cache)
        for number, each in enumerate(read.values()):
            ended = start(partial(each, uri, work / f"{name}-{number}")).wait(120)
            assert not ended.status, ended
        cached = {reader: from_cache(uri, each) for reader, each in read.items()}
        yield Subject(cache, cached, dict.fromkeys(prefixes.get(name, {}), "never"), in_copies=True)
