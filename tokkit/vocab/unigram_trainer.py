"""Learns a unigram vocabulary with sentencepiece's trainer, from our counts.

sentencepiece gets each distinct word once, with its count, so it takes a corpus of any size:

    the<TAB>31201
    theory<TAB>18

and makes ``▁the`` and ``▁theory`` of them. Its sums of floats depend on the number of threads that
add them up, so that number is fixed, and the model is the same on every machine: 2 and 4 threads
gave two models that differ in the last digits of scores, and one that was trained again was equal.

The model is written as sentencepiece has it, and as a ``tokenizer.json`` with the same meaning for
the tokenizers library: the same normalization table, then one space between words and none around
them, ``▁`` for a space, and pieces with their scores. There, special tokens and bytes have a score
so low that no text is cut into them; sentencepiece does not look for them in text either.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile, draft_path
from tokkit.engine.local import run_units
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.engine.unit import Task, Unit, UnitResult
from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import mark_special_tokens, unigram
from tokkit.tokenizer.sentencepiece_model import read_sentencepiece
from tokkit.tokenizer.special_tokens import find_special_ids
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.trainers import read_characters
from tokkit.vocab.word_counts import WordCounts

_NUM_THREADS = 8
_LONGEST_TOKEN = 16
_CHARACTER_COVERAGE = 0.9995
# The largest value that sentencepiece accepts; it leaves out longer lines.
_MAX_LINE_BYTES = 1 << 30
# sentencepiece leaves out a line with this character, by which it marks unknown ones.
_RESERVED = "\u2585".encode()
_LOG_FATAL_ONLY = 4
# So far below any score that a path through such a token is never the best.
_NEVER = -1e6


def train_apart(config: TrainConfig, words: WordCounts) -> bytes:
    """Train in another process, since sentencepiece does not react to Ctrl-C; see ``train_unigram``."""
    unit = Unit(
        name="sentencepiece",
        shard=str(draft_path(Path(STATE_FOLDER, "learned"))),
        identity={},
        stamp=0,
        size=0,
        payload=words,
    )
    task = Task(_write_model, config, config.output)
    for _ in run_units(task, [unit], min(config.workers, 1), lambda _: None):
        pass
    path = config.output / unit.shard
    model = path.read_bytes()
    path.unlink()
    return model


def _write_model(
    config: TrainConfig, words: WordCounts, sink: HashedFile, _report: Callable[[int], None]
) -> UnitResult:
    sink.write(train_unigram(config, words))
    return UnitResult(rows=0, tokens=0, accounts=Accounts())


def train_unigram(config: TrainConfig, words: WordCounts) -> bytes:
    """Train a sentencepiece model of the unigram kind.

    Args:
        config: sizes, special tokens and normalization.
        words: what stands between white space.

    Returns:
        The content of a ``.model``.

    Raises:
        TokkitError: see ``tokkit.vocab.trainers.learn``.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(words),
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            character_coverage=_CHARACTER_COVERAGE,
            required_chars=_required_characters(config),
            normalization_rule_name="nmt_nfkc" if config.cased else "nmt_nfkc_cf",
            max_sentencepiece_length=config.max_token_length or _LONGEST_TOKEN,
            max_sentence_length=_MAX_LINE_BYTES,
            split_digits=config.split_digits,
            byte_fallback=config.byte_fallback,
            num_threads=_NUM_THREADS,
            minloglevel=_LOG_FATAL_ONLY,
            **_control_symbols(config),
        )
    except RuntimeError as error:
        raise TokkitError(_explain(str(error), config)) from error
    return model.getvalue()


def _lines(words: WordCounts) -> Iterator[bytes]:
    """Yield the words as lines of the trainer's table."""
    for word, count in words:
        yield b"%b\t%d" % (word.replace(_RESERVED, b" "), count)


def _required_characters(config: TrainConfig) -> str:
    """Return the characters of ``--initial-alphabet``, normalized."""
    if config.initial_alphabet is None:
        return ""
    rule = "nmt_nfkc" if config.cased else "nmt_nfkc_cf"
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=rule)
    text = normalizer.normalize(read_characters(config.initial_alphabet))
    return "".join(sorted(set(text) - {"\u2581", " "}))


def _control_symbols(config: TrainConfig) -> Mapping[str, Any]:
    """Return the special tokens as options: sentencepiece names four roles, the others follow."""
    tokens = (*config.special_tokens, *config.unused_tokens)
    special_ids = find_special_ids({token: number for number, token in enumerate(tokens)}, {})
    options: dict[str, Any] = {}
    for theirs, role in (("unk", "unk"), ("pad", "pad"), ("bos", "cls"), ("eos", "sep")):
        number = special_ids.get(role, -1)
        options[f"{theirs}_id"] = number
        if number >= 0:
            options[f"{theirs}_piece"] = tokens[number]
    roles = {special_ids.get(role) for role in ("unk", "pad", "cls", "sep")}
    others = [token for number, token in enumerate(tokens) if number not in roles]
    return {**options, "control_symbols": others}


def _explain(fault: str, config: TrainConfig) -> str:
    """Return the trainer's message as one line with a remedy."""
    size = config.vocab_size
    if most := re.search(r"too high .*<= (\d+)", fault):
        return (
            f"--vocab-size {size}: the corpus gives {int(most[1])} tokens; "
            f"pass --vocab-size {int(most[1])} or less, or more text"
        )
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", fault):
        return (
            f"--vocab-size {size}: less than the {int(least[1])} tokens that special tokens and "
            f"single characters take; pass --vocab-size {int(least[1]) + 1} or more"
        )
    return f"sentencepiece cannot learn from these words ({fault.splitlines()[0]})"


def define_unigram(model: bytes, special_tokens: Sequence[str]) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that is equivalent to a sentencepiece model.

    Args:
        model: model of ``train_unigram``.
        special_tokens: special tokens, in addition to those of the usual forms.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = len(processor)
    tokens = [processor.id_to_piece(number) for number in range(size)]
    no_text = (processor.is_control, processor.is_unknown, processor.is_byte)
    scores = [
        _NEVER if any(check(number) for check in no_text) else processor.get_score(number)
        for number in range(size)
    ]
    definition = unigram(
        list(zip(tokens, scores, strict=True)),
        unknown=processor.unk_id(),
        charsmap=read_sentencepiece(model).charsmap,
        byte_fallback=any(processor.is_byte(number) for number in range(size)),
    )
    return mark_special_tokens(definition, special_tokens)
