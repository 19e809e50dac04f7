"""The stage ``train``: text in, a tokenizer folder out.

count    the words of the corpus, in one pass
learn    a vocabulary from words and counts
write    the tokenizer, then training.json, which says that the folder is finished
"""

import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

from tokkit.corpus.units import plan_units
from tokkit.engine.files import FolderLock, write_atomically
from tokkit.engine.folder import (
    clear_folder,
    refuse_foreign,
    refuse_inputs,
    remove_leftovers,
)
from tokkit.engine.journal import Journal
from tokkit.engine.signals import interruptible
from tokkit.engine.stage import Bar, Plan, refuse_other_run
from tokkit.engine.unit import Unit
from tokkit.errors import TokkitError
from tokkit.tokenizer.loading import TRAINING, TokenizerFiles
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import load_tokenizer, make_tokenizer
from tokkit.vocab.learn import learn
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.trainers import read_characters
from tokkit.vocab.training_record import Training

log = logging.getLogger(__name__)

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
        done = find_done(config, stage)
        if done is not None and _has_counts(config):
            log.info("%s: up to date", config.output)
            return _compare_again(config, stage, done)
    refuse_foreign(config.output)
    with FolderLock(config.output), interruptible(config.output):
        if config.overwrite:
            clear_folder(config.output)
        refuse_other_run(stage)
        remove_leftovers(config.output)
        (config.output / TRAINING).unlink(missing_ok=True)
        Journal.read(config.output).begin(stage.describe())
        return _make(config, stage)


def _has_counts(config: TrainConfig) -> bool:
    """Whether the file of counts is there, if one is asked for; without it words are counted anew."""
    return config.save_counts is None or config.save_counts.is_file()


def _compare_again(config: TrainConfig, stage: Plan, training: Training) -> Training:
    """The record of a finished folder, with the figures of other tokenizers."""
    if not config.compare:
        return training
    from tokkit.vocab.held_out import find_held_out  # compiles kernels: only when it is needed
    from tokkit.vocab.measure import compare

    held_out = find_held_out(config, [unit.payload for unit in stage.units])
    return replace(training, compared=compare(config.compare, held_out))


def plan(config: TrainConfig) -> Plan:
    """The inputs and options as a stage, whose key tells one training from another."""
    options = {name: value for name, value in asdict(config).items() if name not in _WITHOUT_EFFECT}
    options["special_tokens"] = list(config.special_tokens)
    options["weights"] = dict(config.weights)
    if config.initial_alphabet is not None:  # its characters count, wherever the file lies
        characters = set(read_characters(config.initial_alphabet))
        options["initial_alphabet"] = "".join(sorted(characters))
    return Plan(
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
            for unit in plan_units(config)
        ],
    )


def find_done(config: TrainConfig, stage: Plan) -> Training | None:
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
        elif _digest(unit, config) != line["input_sha256"]:
            fault = f"{unit.name} has changed since"
        else:
            continue
        raise TokkitError(
            f"{stage.output}: holds another run ({fault}); "
            f"choose another folder, or pass --overwrite to make it anew"
        )
    return training


def _digest(unit: Unit, config: TrainConfig) -> str:
    """SHA-256 of an input whose time stamp is another than it was."""
    from tokkit.corpus.readers import digest_unit  # compiles kernels: only when it is needed

    log.info("%s: its time stamp has changed; comparing its content", unit.name)
    return digest_unit(unit.payload, config)


def _make(config: TrainConfig, stage: Plan) -> Training:
    """Count, learn and write."""
    from tokkit.vocab.count_files import write_counts
    from tokkit.vocab.counting import count_corpus  # these compile kernels
    from tokkit.vocab.measure import compare, make_report

    with Bar(
        desc="count",
        total=sum(unit.size for unit in stage.units),
        unit="B",
        unit_scale=True,
        disable=not (config.progress and sys.stderr.isatty()),
    ) as bar:
        counted = count_corpus(config, [unit.payload for unit in stage.units], bar.update)
    if config.save_counts is not None:
        write_counts(config.save_counts, counted.words)
    log.info("%s: learning from %d distinct words", config.output, len(counted.words))
    learned = learn(config, counted.words, counted.accounts)
    tokenizer = make_tokenizer(TokenizerFiles(config.output / "tokenizer.json", learned.definition))
    if learned.model:
        with write_atomically(config.output / "tokenizer.model") as file:
            file.write(learned.model)
    save_tokenizer(tokenizer, config.output)
    journal = Journal.read(config.output)
    for unit, key, row in zip(stage.units, stage.unit_keys(), counted.inputs, strict=True):
        journal.append({"unit": key, "stamp": unit.stamp, "input_sha256": row["sha256"]})
    training = Training(
        key=stage.key,
        options=stage.options,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        inputs=counted.inputs,
        accounts=counted.accounts.as_dict(),
        trainer=learned.trainer,
        report=asdict(make_report(tokenizer, counted.held_out, counted.removed)),
    )
    training.write(config.output)
    return replace(training, compared=compare(config.compare, counted.held_out))
