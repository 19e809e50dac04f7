"""The stage ``train``: text in, a tokenizer folder out.

read     the corpus, once for byte-level BPE, twice for WordPiece (alphabet, then words)
learn    in a process of its own, since the trainer does not listen to Ctrl-C
write    the tokenizer, then training.json, which says that the folder is finished
"""

import logging
import os
import shutil
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from tokkit.corpus.units import CorpusUnit, plan_units
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import STATE_FOLDER, FolderLock, read_json, write_atomically
from tokkit.engine.folder import (
    clear_folder,
    refuse_foreign,
    refuse_inputs,
    remove_leftovers,
)
from tokkit.engine.journal import Journal
from tokkit.engine.local import run_units
from tokkit.engine.signals import interruptible
from tokkit.engine.stage import Stage, refuse_other_run
from tokkit.engine.unit import Task, Unit
from tokkit.errors import TokkitError, os_errors_about
from tokkit.vocab.alphabet import read_characters
from tokkit.vocab.config import TrainConfig
from tokkit.vocab.forms import TRAINING, Form
from tokkit.vocab.learning import Job, learn
from tokkit.vocab.tokenizer import from_definition, load_tokenizer
from tokkit.vocab.training import Training

log = logging.getLogger(__name__)

HELD_OUT = "held-out.arrow"
# A file is read whole, so that its row in training.json has the SHA-256 of the file.
_WHOLE_FILE = 1 << 62
_WITHOUT_EFFECT = frozenset(
    ("inputs", "output", "workers", "memory", "save_counts", "compare", "overwrite", "progress")
)


def train(config: TrainConfig) -> Training:
    """Learn a vocabulary and write its tokenizer folder, unless it is there already.

    Args:
        config: what is read, and what is learned; the vocabulary does not depend on ``workers``.

    Returns:
        The folder's record.

    Raises:
        TokkitError: a fault in data or environment; the folder then is unfinished, or as it was.
    """
    refuse_inputs(config.output, config.inputs)
    stage = plan(config)
    for name in config.compare:
        load_tokenizer(Path(name))  # a wrong name is told now, not when all is learned
    if not config.overwrite:
        done = find_done(stage)
        if done is not None and _has_counts(config):
            log.info("%s: up to date", config.output)
            return _with_compared(config, done)
    refuse_foreign(config.output)
    with FolderLock(config.output), interruptible(config.output):
        if config.overwrite:
            clear_folder(config.output)
        refuse_other_run(stage)
        remove_leftovers(config.output)
        (config.output / TRAINING).unlink(missing_ok=True)
        Journal.read(config.output).begin(stage.statement)
        with spooled(stage.units, config.output) as units:
            learned = _learn(config, units)
        return _with_compared(config, _write(config, stage, learned))


def _has_counts(config: TrainConfig) -> bool:
    """Whether the file of counts is there, if one is asked for; without it words are counted anew."""
    return config.save_counts is None or config.save_counts.is_file()


def _with_compared(config: TrainConfig, training: Training) -> Training:
    """The record with the figures of other tokenizers, on the text that was held out."""
    if not config.compare:
        return training
    from tokkit.vocab.report import compare  # compiles kernels: only when it is needed

    return replace(training, compared=compare(config.compare, read_held_out(config.output)))


def plan(config: TrainConfig) -> Stage:
    """The inputs and options as a stage, whose key tells one training from another."""
    options = {name: value for name, value in asdict(config).items() if name not in _WITHOUT_EFFECT}
    options["special_tokens"] = list(config.special_tokens)
    options["weights"] = dict(config.weights)
    if config.initial_alphabet is not None:  # its characters count, wherever the file lies
        characters = set(read_characters(config.initial_alphabet))
        options["initial_alphabet"] = "".join(sorted(characters))
    return Stage(
        kind="tokenizer",
        output=config.output,
        options=options,
        tokenizer_fingerprint="",
        seed=None,
        units=[
            Unit(
                name=unit.name,
                shard="tokenizer.json",
                identity=unit.identity,
                stamp=unit.source.mtime_ns,
                size=unit.size,
                payload=unit,
                local=unit.is_stdin,
            )
            for unit in plan_units(config, _WHOLE_FILE)
        ],
        function=learn,
        context=config,
    )


def read_held_out(folder: Path) -> pa.LargeStringArray:
    """The documents that were held out: counting leaves them in the state folder."""
    path = folder / STATE_FOLDER / HELD_OUT
    if not path.is_file():
        return pa.array([], pa.large_string())
    with os_errors_about(path), pa.ipc.open_file(path) as reader:
        return reader.read_all().column(0).combine_chunks()


def find_done(stage: Stage) -> Training | None:
    """The record of a folder that holds just what the stage would make; None without one.

    Raises:
        TokkitError: where an input is another than it was, or cannot be compared.
    """
    training = Training.read(stage.output)
    if training is None or training.key != stage.key:
        return None
    if not (stage.output / "tokenizer.json").is_file():
        return None
    lines = Journal.read(stage.output).units
    for unit, key in zip(stage.units, stage.unit_keys(), strict=True):
        line = lines.get(key)
        if unit.local:
            fault = "standard input cannot be compared with what it was made from"
        elif line is None or line["stamp"] == unit.stamp:
            continue
        elif _digest(unit, stage) != line["input_sha256"]:
            fault = f"{unit.name} has changed since"
        else:
            continue
        raise TokkitError(
            f"{stage.output}: holds another run ({fault}); "
            f"choose another folder, or pass --overwrite to make it anew"
        )
    return training


def _digest(unit: Unit, stage: Stage) -> str:
    """SHA-256 of an input whose time stamp is another than it was."""
    from tokkit.corpus.readers import digest_unit  # compiles kernels: only when it is needed

    log.info("%s: its time stamp has changed; comparing its content", unit.name)
    return digest_unit(unit.payload, stage.context)


@contextmanager
def spooled(units: Sequence[Unit], folder: Path) -> Iterator[tuple[CorpusUnit, ...]]:
    """The files to read, standard input as one that can be read twice, by another process.

    Args:
        units: of the plan.
        folder: the copy of standard input is in its state folder while the block runs.
    """
    path = folder / STATE_FOLDER / f"stdin.{os.getpid()}.tmp"
    files = []
    try:
        for unit in units:
            file: CorpusUnit = unit.payload
            if file.is_stdin:
                with write_atomically(path) as copy:
                    shutil.copyfileobj(sys.stdin.buffer, copy)
                source = replace(
                    file.source,
                    path=str(path),
                    bytes=copy.size,
                    mtime_ns=path.stat().st_mtime_ns,
                )
                file = CorpusUnit(source, 0, copy.size, copy.size)
            files.append(file)
        yield tuple(files)
    finally:
        path.unlink(missing_ok=True)


def _learn(config: TrainConfig, units: tuple[CorpusUnit, ...]) -> dict[str, Any]:
    """Have a process learn, and read what it left."""
    num_passes = 2 if config.model == "wordpiece" else 1
    unit = Unit(
        name=units[0].name if len(units) == 1 else f"{len(units)} files",
        shard=f"{STATE_FOLDER}/learned.json",
        identity={},
        stamp=0,
        size=num_passes * sum(file.size for file in units),
        payload=None,
    )
    task = Task(learn, Job(config, units), config.output)
    with tqdm(
        desc="train",
        total=unit.size,
        unit="B",
        unit_scale=True,
        disable=not (config.progress and sys.stderr.isatty()),
    ) as bar:
        for _ in run_units(task, [unit], min(config.workers, 1), bar.update):
            pass
    learned: dict[str, Any] = read_json(config.output / unit.shard)
    (config.output / unit.shard).unlink()
    return learned


def _write(config: TrainConfig, stage: Stage, learned: dict[str, Any]) -> Training:
    """Write the folder: the tokenizer, the journal's stamps, and last the record."""
    from tokkit.vocab.report import make_report  # compiles kernels: only when it is needed

    held_out = read_held_out(config.output)
    path = config.output / "tokenizer.json"
    tokenizer = from_definition(Form(path, learned["definition"]))
    if "model" in learned:
        with write_atomically(config.output / "tokenizer.model") as file:
            file.write(b64decode(learned["model"]))
    tokenizer.save(config.output)
    if tokenizer.vocab_size < config.vocab_size:
        log.info(
            "%s: %d entries, not %d: no further pair occurs %d times",
            config.output,
            tokenizer.vocab_size,
            config.vocab_size,
            config.min_frequency,
        )
    journal = Journal.read(config.output)
    for unit, key, row in zip(stage.units, stage.unit_keys(), learned["inputs"], strict=True):
        line = {"unit": key, "stamp": unit.stamp, "input_sha256": row["sha256"]}
        journal.append(line)
    training = Training(
        key=stage.key,
        options=stage.options,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        inputs=learned["inputs"],
        accounts=Accounts.from_dict(learned["accounts"]).as_dict(),
        trainer=learned["trainer"],
        report=asdict(make_report(tokenizer, held_out, learned.get("removed", {}))),
    )
    training.write(config.output)
    return training
