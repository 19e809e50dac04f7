"""Which recipe learns faster on a CPU: BERT's or ModernBERT's, with AdamW, Muon or StableAdamW.

    OMP_NUM_THREADS=1 python tests/benchmarks/learning.py [--seconds 600] [--sweep-seconds 60]

All train on the same English books: a WordPiece vocabulary learned from them, sequences of 128 tokens
of whole paragraphs without padding, ``mlm``, the same order and seeds. Both models have the width and
depth of ``--preset``; GeGLU has a third more matrices than GELU and two thirds of its size, so their
layers have equally many parameters. Dropout is 0, since no text is seen twice; weight decay is 0.01,
and the betas are RoBERTa's (0.9, 0.98).

First {bert, modernbert} x {adamw, muon} with 30% masks, then the best of them with 15%, and with
StableAdamW. A second is one of processor time of the training process, with one thread, so other
work on the machine costs little; loading data counts, evaluations do not. The rate falls linearly to
0 at the last second, after a tenth of warm-up. Each contestant has the best of ``--rates`` by the loss
of a whole run of ``--sweep-seconds``. The held-out loss is that of the same 15% masks for all.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.measuring import write
from benchmarks.texts import Texts

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.families import MODERNBERT_PRESETS, PRESETS
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import torch_settings
from tokkit.pretraining.training.distributed import join_process_group
from tokkit.pretraining.training.launch_info import SINGLE_PROCESS
from tokkit.pretraining.training.metrics import count_parameters
from tokkit.pretraining.training.train_model import open_trainer
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

VOCAB_SIZE, TINY_VOCAB_SIZE = 8192, 1500
MAX_SEQ_LENGTH = 128
EVAL_FRACTION, TINY_EVAL_FRACTION = 0.001, 0.1
NUM_EVALUATIONS = 5
MORE_MASKS, FEWER_MASKS = 0.3, 0.15


class Recipe(NamedTuple):
    """A contestant."""

    architecture: str
    optimizer: str
    masked: float

    def __str__(self) -> str:
        """Return its name in the table."""
        return f"{self.architecture}, {self.optimizer}, {self.masked:.0%} masks"


FIRST = [
    Recipe(architecture, optimizer, MORE_MASKS)
    for architecture in ("bert", "modernbert")
    for optimizer in ("adamw", "muon")
]


def make_instances(texts: Sequence[Path], folder: Path, *, tiny: bool) -> Path:
    """Return a folder of instances of some texts, which have a document on each line."""
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer, tokens, instances = (folder / name for name in ("tokenizer", "tokens", "instances"))
    inputs, workers = tuple(map(str, texts)), 0 if tiny else measuring.NUM_THREADS
    shared: dict[str, Any] = {"workers": workers, "progress": False}
    lines: dict[str, Any] = {"inputs": inputs, "documents": "line", **shared}
    vocab_size = TINY_VOCAB_SIZE if tiny else VOCAB_SIZE
    train(TrainConfig(output=tokenizer, vocab_size=vocab_size, **lines))
    encode(EncodeConfig(output=tokens, tokenizer=tokenizer, sentences="none", **lines))
    build(
        BuildConfig(
            tokens=tokens,
            output=instances,
            objective="mlm",
            max_seq_length=MAX_SEQ_LENGTH,
            eval_fraction=TINY_EVAL_FRACTION if tiny else EVAL_FRACTION,
            **shared,
        )
    )
    return instances


@contextmanager
def equal_parameters(preset: str) -> Iterator[None]:
    """Give ModernBERT the preset of a BERT, with layers of equally many parameters."""
    layers, hidden, heads, _ = PRESETS[preset]
    sizes = (layers, hidden, heads, hidden * 8 // 3 // 8 * 8)
    with patch.dict(MODERNBERT_PRESETS, {preset: sizes}):
        yield


def learn(
    recipe: Recipe, instances: Path, options: argparse.Namespace, *, seconds: float, rate: float
) -> dict[str, Any]:
    """Train for some seconds of processor time; return the held-out losses on the way."""
    config = PretrainConfig(
        instances=(instances,),
        output=instances,  # nothing is written
        architecture=recipe.architecture,
        preset=options.preset,
        optimizer=recipe.optimizer,
        learning_rate=rate,
        masked_lm_prob=recipe.masked,
        max_time=seconds,
        batch_size=options.batch_size,
        betas=(0.9, 0.98),
        dropout=0.0,
        device="cpu",
        threads=1,
    )
    losses: list[float | None] = []
    tokens: list[int] = []
    with (
        join_process_group(config, SINGLE_PROCESS) as group,
        torch_settings(config, group.device),
        open_trainer(config, open_sources(config), group) as trainer,
    ):
        state = trainer.state
        trainer.prefetcher.next_batches(0, 0)  # what is compiled first is not on the clock
        trainer.prefetcher.mark_copied()
        num_evaluations = NUM_EVALUATIONS if seconds == options.seconds else 1
        started = time.process_time()
        while len(losses) < num_evaluations:
            state.elapsed = time.process_time() - started
            if state.elapsed >= seconds * (len(losses) + 1) / num_evaluations:
                losses.append(trainer._evaluate())
                tokens.append(state.tokens)
                started = time.process_time() - state.elapsed
            else:
                trainer.step()
        parameters = count_parameters(trainer.model)
    return {"rate": rate, "losses": losses, "tokens": tokens, "parameters": parameters}


def compete(recipe: Recipe, instances: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Choose a contestant's rate, let it learn, and print what it has learned."""
    write(f"\n{recipe}")
    sweep = {
        rate: learn(recipe, instances, options, seconds=options.sweep_seconds, rate=rate)
        for rate in options.rates
    }
    ends = {rate: found["losses"][-1] for rate, found in sweep.items()}
    write("  rates: " + ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in ends.items()))
    rate = min(ends, key=ends.__getitem__)
    found = learn(recipe, instances, options, seconds=options.seconds, rate=rate)
    parameters = found["parameters"]
    write(
        f"  rate {rate:g}; {parameters['total']:,} parameters, {parameters['layers']:,} in layers"
    )
    for number, (loss, tokens) in enumerate(zip(found["losses"], found["tokens"], strict=True), 1):
        seconds = options.seconds * number / NUM_EVALUATIONS
        write(f"  {seconds:>7,.0f} s  {tokens:>11,} tokens  held-out loss {loss:.3f}")
    return {**recipe._asdict(), **found, "sweep": ends}


def parse_rates(text: str) -> list[float]:
    """Parse comma-separated rates."""
    return [float(rate) for rate in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Let all contestants learn, one after the other."""
    parser = measuring.make_parser(__doc__ or "", rounds=1)
    measuring.add_folders(parser)
    parser.add_argument("texts", nargs="*", type=Path, help="a document a line; else the books")
    parser.add_argument("--preset", default="mini", choices=tuple(PRESETS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=600.0, help="of one core, each")
    parser.add_argument("--sweep-seconds", type=float, default=60.0, help="of one core, each rate")
    parser.add_argument("--rates", type=parse_rates, default=[1e-3, 2e-3, 4e-3])
    options = parser.parse_args(arguments)
    if options.tiny:
        options.preset, options.rates = "tiny", options.rates[:1]
        options.seconds, options.sweep_seconds = 0.1, 0.05
    write(measuring.describe_machine())
    texts = options.texts or [Texts(options.shared, options.cache, tiny=options.tiny).books()]
    instances = make_instances(texts, options.cache / "learning", tiny=options.tiny)
    with equal_parameters(options.preset):
        rows = [compete(recipe, instances, options) for recipe in FIRST]
        best = FIRST[min(range(len(FIRST)), key=lambda number: rows[number]["losses"][-1])]
        variants = best._replace(masked=FEWER_MASKS), best._replace(optimizer="stable-adamw")
        rows += [compete(recipe, instances, options) for recipe in variants]
    measuring.write_json(options.json, rows)


if __name__ == "__main__":
    main()
