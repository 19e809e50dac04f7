"""From words and counts to a tokenizer, whatever its model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokkit import __version__
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import STATE_FOLDER, HashedFile
from tokkit.engine.local import run_units
from tokkit.engine.unit import Task, Unit, UnitResult
from tokkit.vocab.config import TrainConfig
from tokkit.vocab.counts import WordCounts
from tokkit.vocab.trainer import train_bpe, train_wordpiece
from tokkit.vocab.unigram import define_unigram, train_unigram


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        definition: the object of a ``tokenizer.json``.
        trainer: what learned it, with its version.
        model: the bytes of a sentencepiece ``.model``; none of the other kinds.
    """

    definition: dict[str, Any]
    trainer: str
    model: bytes = b""


def learn(config: TrainConfig, words: WordCounts, accounts: Accounts) -> Learned:
    """Learn a vocabulary.

    Args:
        config: which, and how; its output folder is locked by the caller.
        words: to learn from.
        accounts: gets what became of the characters (``wordpiece``).

    Raises:
        TokkitError: where the words do not give as many entries as are asked for, or too many.
    """
    if config.model == "unigram":
        import sentencepiece

        model = _learn_apart(config, words)
        definition = define_unigram(model, config.special_tokens)
        return Learned(definition, f"sentencepiece {sentencepiece.__version__}", model)
    if config.model == "bpe":
        return Learned(train_bpe(config, words), f"tokkit {__version__}")
    definition, alphabet = train_wordpiece(config, words)
    accounts.add("characters", alphabet.num_characters)
    accounts.keep("characters", alphabet.num_characters - alphabet.num_removed)
    accounts.drop("characters", "beyond --limit-alphabet", alphabet.num_removed)
    accounts.count("distinct_characters", alphabet.num_distinct)
    accounts.count("alphabet", len(alphabet.characters))
    return Learned(definition, f"tokkit {__version__}")


def _learn_apart(config: TrainConfig, words: WordCounts) -> bytes:
    """Have sentencepiece learn in a process of its own, since it does not listen to Ctrl-C."""
    unit = Unit(
        name="sentencepiece",
        shard=f"{STATE_FOLDER}/learned.tmp",
        identity={},
        stamp=0,
        size=0,
        payload=words,
    )
    task = Task(_write_unigram, config, config.output)
    for _ in run_units(task, [unit], min(config.workers, 1), lambda _: None):
        pass
    path = config.output / unit.shard
    model = path.read_bytes()
    path.unlink()
    return model


def _write_unigram(
    config: TrainConfig, words: WordCounts, sink: HashedFile, _report: Callable[[int], None]
) -> UnitResult:
    """What that process does."""
    sink.write(train_unigram(config, words))
    return UnitResult(rows=0, tokens=0, accounts=Accounts())
