"""The training loop: steps, log lines, evaluations, checkpoints.

What a step does depends on the step's number and the weights alone: the batch, its masks, the
dropout and the learning rate are functions of the number, and no generator carries a state on. So
going on from a checkpoint repeats the unbroken run, on a CPU with the same number of threads to
the last bit (torch splits sums by thread, and a GPU adds in the order in which blocks end).
"""

import logging
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.batch import Batches
from tokkit.pretraining.checkpoint import load_newest_checkpoint
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.device import autocast, choose_precision, seed_torch
from tokkit.pretraining.loss import Tally, compute_losses
from tokkit.pretraining.metrics import METRICS, MetricsLog
from tokkit.pretraining.model import Bert
from tokkit.pretraining.optim import build_optimizer, clip_gradients, scheduled_rate, update
from tokkit.pretraining.snapshot import expect_tensors, name_tensors, restore
from tokkit.pretraining.stopping import StopRequest, hold_signals
from tokkit.pretraining.writer import CheckpointWriter

LOG_EVERY = 10
CHECKPOINTS = "checkpoints"

log = logging.getLogger(__name__)


@dataclass
class State:
    """Where a run stands; JSON, kept in each checkpoint.

    Attributes:
        step: updates taken.
        tokens: seen in all of them, without padding.
        interval: sums since the last log line.
    """

    step: int = 0
    tokens: int = 0
    interval: Tally = field(default_factory=Tally)

    @classmethod
    def from_dict(cls, form: dict[str, Any]) -> "State":
        """Read back what ``asdict`` gave."""
        return cls(form["step"], form["tokens"], Tally(**form["interval"]))


class Trainer:
    """Trains one model on one device.

    Args:
        config: of the run.
        model: its weights drawn, on the device.
        batches: of the run.
        device: where the model is.
    """

    def __init__(
        self, config: PretrainConfig, model: Bert, batches: Batches, device: torch.device
    ) -> None:
        self.config = config
        self.model = model
        self.batches = batches
        self.device = device
        self.precision = choose_precision(config.precision, device)
        self.optimizer = build_optimizer(model, config.weight_decay)
        self.state = State()
        folder = config.output / CHECKPOINTS
        resumed = load_newest_checkpoint(folder, expect_tensors(model))
        if resumed is not None:
            self.state = State.from_dict(resumed.state)
            restore(resumed.tensors, self.state.step, model, self.optimizer)
            log.info("%s: going on from step %d", config.output, self.state.step)
        self.checkpoints = CheckpointWriter(folder, config.keep_checkpoints, resumed)

    def run(self) -> State:
        """Train to the last step.

        Returns:
            The state in the end.

        Raises:
            Interrupted: after a signal; the step it fell into is saved.
            TokkitError: where the loss stops being a number.
        """
        config, state = self.config, self.state
        if not self.batches.num_held_out:
            log.info(
                "%s: holds out no instances, so nothing is evaluated; "
                "build with a larger --eval-fraction to change that",
                ", ".join(map(str, config.instances)),
            )
        with (
            MetricsLog(config.output / METRICS, state.step) as metrics,
            hold_signals() as stop,
            self.checkpoints,
            tqdm(
                desc="pretrain",
                total=config.max_steps,
                initial=state.step,
                unit="step",
                disable=not (config.progress and sys.stderr.isatty()),
            ) as bar,
        ):
            while True:
                self._evaluate_if_due(metrics, stop)
                self._stop_if_asked(metrics, stop)
                if state.step == config.max_steps:
                    return state
                rate = scheduled_rate(state.step, config)
                gradient_norm = self._take_step(rate)
                bar.update()
                if self._is_due(LOG_EVERY):
                    line = self._describe_interval(rate, gradient_norm)
                    metrics.write(line)
                    bar.set_postfix(
                        loss=f"{line['loss']:.3f}", tokens_per_s=f"{line['tokens_per_second']:,.0f}"
                    )
                    state.interval = Tally()
                if self._is_due(config.checkpoint_every):
                    self._save(metrics)

    def _is_due(self, every: int) -> bool:
        """Whether something done every so many steps, and after the last one, is due."""
        return self.state.step % every == 0 or self.state.step == self.config.max_steps

    def _take_step(self, rate: float) -> float:
        """Update the weights once; returns the gradients' norm before clipping."""
        started = time.perf_counter()
        state = self.state
        seed_torch(self.config.seed, "dropout", state.step)
        batch = self.batches.training_batch(state.step).to(self.device)
        self.model.train()
        with autocast(self.precision, self.device):
            losses = compute_losses(self.model, batch)
        torch.autograd.backward(losses.total)
        gradient_norm = float(clip_gradients(self.model))
        state.interval.add(losses, batch.num_tokens)
        # Asked before the weights change, so that no checkpoint ever holds what is not a number.
        if not (state.interval.is_finite and math.isfinite(gradient_norm)):
            raise TokkitError(self._describe_divergence())
        update(self.optimizer, rate)
        state.step += 1
        state.tokens += batch.num_tokens
        state.interval.seconds += time.perf_counter() - started
        return gradient_norm

    def _describe_divergence(self) -> str:
        self.checkpoints.wait()
        return (
            f"{self.config.output}: the loss or its gradient is not finite at step "
            f"{self.state.step}; {self.checkpoints.describe_saved()}; "
            f"lower --learning-rate and pass --overwrite to begin anew"
        )

    def _describe_interval(self, rate: float, gradient_norm: float) -> dict[str, Any]:
        """The log line on the steps since the last one; rate and norm are of the last step."""
        state, interval = self.state, self.state.interval
        return {
            "kind": "train",
            "step": state.step,
            "epoch": state.step * self.config.batch_size / self.batches.num_instances,
            **interval.figures(),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "tokens": state.tokens,
            "tokens_per_second": round(interval.tokens / interval.seconds),
        }

    def _evaluate_if_due(self, metrics: MetricsLog, stop: StopRequest) -> None:
        """Log the losses on what is held out, unless a signal comes first: it is done again."""
        if not (self.batches.num_held_out and self._is_due(self.config.eval_every)):
            return
        tally = Tally()
        self.model.eval()
        with torch.inference_mode(), autocast(self.precision, self.device):
            for batch in self.batches.evaluation_batches():
                if stop.signal is not None:
                    return
                tally.add(compute_losses(self.model, batch.to(self.device)), batch.num_tokens)
        figures = tally.figures()
        # A model may give a token no chance at all, and exp has an end.
        figures["perplexity"] = math.exp(min(figures["mlm_loss"], 700.0))
        metrics.write({"kind": "eval", "step": self.state.step, **figures})
        with tqdm.external_write_mode(file=sys.stderr):
            log.info(
                "step %d, held out: %s",
                self.state.step,
                ", ".join(f"{name} {value:.4g}" for name, value in figures.items()),
            )

    def _save(self, metrics: MetricsLog) -> None:
        metrics.sync()
        self.checkpoints.save(name_tensors(self.model, self.optimizer), asdict(self.state))

    def _stop_if_asked(self, metrics: MetricsLog, stop: StopRequest) -> None:
        if stop.signal is None:
            return
        self.checkpoints.wait()
        if self.state.step > self.checkpoints.saved_step:
            self._save(metrics)
            self.checkpoints.wait()
        fault = self.checkpoints.fault
        unsaved = f", which is not saved ({fault}): {self.checkpoints.describe_saved()}"
        raise Interrupted(
            f"{self.config.output}: stopped by {stop.signal.name} after step {self.state.step}"
            f"{unsaved if fault else ''}; run the same command again to go on",
            exit_status=128 + stop.signal,
        )
