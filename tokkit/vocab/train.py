"""The stage ``train``: text in, a tokenizer folder out.

    count    the words of the corpus, unit by unit, kept in .tokkit/counts until the stage is finished
    learn    a vocabulary from words and counts
    write    the tokenizer, then training.json, which makes the folder finished

The counts do not depend on the options of learning, so an unfinished folder can be resumed with a
different ``--vocab-size``.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokkit.corpus.file_systems import printable
from tokkit.corpus.units import (
    UNIT_BYTES,
    Group,
    find_known_types,
    hash_group,
    list_left_out,
    plan_groups,
)
from tokkit.engine.files import remove_folder, write_atomically
from tokkit.engine.folder import refuse_overlap
from tokkit.engine.manifest import TRAINING
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.engine.spec import shared_folder
from tokkit.engine.stage import Stage
from tokkit.engine.stage_config import StageConfig
from tokkit.engine.stage_plan import StagePlan, read_plan, require_same_inputs
from tokkit.engine.unit import content_key
from tokkit.errors import TokkitError
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import load_tokenizer, make_tokenizer
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.training_record import TrainingRecord

log = logging.getLogger(__name__)

# The counts of a unit are a file, so that a large corpus must have larger units.
MAX_UNITS = 1024
COUNTS_FOLDER = f"{STATE_FOLDER}/counts"

# Options that do not change the vocabulary, or of which only the content is in the key.
OPTIONS_OUTSIDE_KEY = frozenset(
    ("inputs", "output", "memory", "save_counts", "compare", *StageConfig.options)
)
# Options that do not affect the counts, only what is learned from them.
_LEARNING_OPTIONS = frozenset(
    (
        "score",
        "vocab_size",
        "min_frequency",
        "min_word_count",
        "limit_alphabet",
        "initial_alphabet",
        "max_token_length",
        "special_tokens",
        "unused",
        "byte_fallback",
    )
)


def train(config: TrainConfig) -> TrainingRecord:
    """Learn a vocabulary and write its tokenizer folder, unless it is up to date.

    Args:
        config: what to read and what to learn; the vocabulary does not depend on ``workers`` and
            ``memory``.

    Returns:
        The folder's record.

    Raises:
        TokkitError: on invalid input or an environment error; finished units are kept.
        Interrupted: after SIGINT or SIGTERM; finished units are kept.
    """
    config.require_finish()
    plan = plan_training(config)
    for name in config.compare:
        load_tokenizer(find_folder(Path(name)))  # fail before training
    if not config.overwrite and (finished := _find_finished(config, plan)) is not None:
        require_same_inputs(plan, finished.inputs)
        return replace(finished, compared=_compare_again(config, plan))
    with shared_folder(plan, overwrite=config.overwrite, planned=config.commit):
        try:
            return _count_and_learn(config, plan)
        except (TokkitError, OSError):
            # Another process with the same command has removed the counts when it was finished.
            if (finished := _find_finished(config, plan)) is None:
                raise
            return replace(finished, compared=_compare_again(config, plan))


def make_train_stage(config: TrainConfig) -> Stage:
    """Return the counting stage, whose units an array job can process."""
    from tokkit.vocab.counting import make_counting_stage  # compiles kernels

    return make_counting_stage(config, plan_training(config), config.output / COUNTS_FOLDER)


def plan_training(config: TrainConfig) -> StagePlan:
    """Return the stage's options, and its counting units, which a step after the plan reads."""
    for output in filter(None, (config.output, config.save_counts)):
        refuse_overlap(output, config.inputs, cache=config.cache)
    config.pull_folders()
    options = config.describe(OPTIONS_OUTSIDE_KEY)
    options["weights"] = {printable(name): weight for name, weight in config.weights.items()}
    if config.initial_alphabet is not None:  # the key depends on the characters, not the path
        from tokkit.vocab.trainers import read_characters

        options["initial_alphabet"] = "".join(sorted(set(read_characters(config.initial_alphabet))))
    unit_options = {n: value for n, value in options.items() if n not in _LEARNING_OPTIONS}
    if config.is_planned:
        units = read_plan(config.output, Group)
    else:
        known = find_known_types(config.output, unit_options)
        shard = COUNTS_FOLDER + "/{:07}"
        units = plan_groups(config, UNIT_BYTES, shard, known=known, max_units=MAX_UNITS)
    inputs = [part.identity for unit in units for part in unit.payload]
    if config.sample is not None:  # the share that is counted of each unit depends on all of them
        corpus = content_key(inputs)
        units = [replace(unit, identity={**unit.identity, "corpus": corpus}) for unit in units]
    return StagePlan(
        kind="tokenizer",
        output=config.output,
        options=options,
        tokenizer_fingerprint="",
        seed=None,
        inputs=inputs,
        flags={name: option.flag for name, option in config.options.items()},
        fingerprints=frozenset({"initial_alphabet"}),
        units=units,
        left_out=list_left_out(units),
        unit_options=unit_options,
        hash_inputs=partial(hash_group, config),
    )


def _find_finished(config: TrainConfig, plan: StagePlan) -> TrainingRecord | None:
    """Return the record of a folder if the folder is complete, else None.

    If the ``--save-counts`` file is missing, words are counted again.
    """
    if not (plan.output / TRAINING).is_file():
        return None
    training = TrainingRecord.read(plan.output)
    files = [plan.output / "tokenizer.json", *filter(None, [config.save_counts])]
    if training.key != plan.key or not all(path.is_file() for path in files):
        return None
    return training


def _compare_again(config: TrainConfig, plan: StagePlan) -> list[dict[str, Any]]:
    """Measure other tokenizers on the held-out text of a finished folder."""
    if not config.compare:
        return []
    from tokkit.vocab.drawn_documents import find_held_out  # these compile kernels
    from tokkit.vocab.measure import compare

    return compare(
        config.compare,
        find_held_out(config, [part for unit in plan.units for part in unit.payload]),
    )


def _count_and_learn(config: TrainConfig, plan: StagePlan) -> TrainingRecord:
    """Count the units that are left, learn, and write the folder."""
    from tokkit.vocab.counting import count_corpus
    from tokkit.vocab.measure import compare, make_report
    from tokkit.vocab.trainers import learn
    from tokkit.vocab.word_counts import write_counts  # these compile kernels

    folder = config.output / COUNTS_FOLDER
    corpus = count_corpus(config, plan, folder)
    if config.save_counts is not None:
        write_counts(config.save_counts, corpus.words)
    log.info("%s: learning from %d distinct words", config.output, len(corpus.words))
    learned = learn(config, corpus.words, corpus.accounts)
    tokenizer = make_tokenizer(TokenizerFiles(config.output / "tokenizer.json", learned.definition))
    if learned.model:
        with write_atomically(config.output / "tokenizer.model") as file:
            file.write(learned.model)
    save_tokenizer(tokenizer, config.output)
    if tokenizer.splits_digits:
        log.warning(
            "%s: load it with AutoTokenizer; BertTokenizer or GPT2Tokenizer takes no more than its "
            "tokens, and does not split digits",
            config.output,
        )
    training = TrainingRecord(
        key=plan.key,
        options=plan.options,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        inputs=corpus.inputs,
        accounts=corpus.accounts.as_dict(),
        trainer=learned.trainer,
        report=make_report(tokenizer, corpus.held_out, corpus.removed),
        left_out=plan.left_out,
    )
    training.write(config.output)
    remove_folder(folder)
    return replace(training, compared=compare(config.compare, corpus.held_out))
