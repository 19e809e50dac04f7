"""One update of the weights, and what it says of itself.

The gradients of a step's micro-batches are added up; each loss is divided by the counts of the
whole step, over all processes, so it makes no difference into how many parts a step falls.

What a step found is read one step later where the device works on its own: the copy then waits for
nothing, and the next step is under way before the last one is looked at.

The losses on what is held out, masked the same way at every evaluation.

Processes take turns, so that each micro-batch is looked at once; all of them run the model as often,
because one that is split among them (FSDP) needs them all.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.models.bert import Sums
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import autocast, choose_precision, seed_torch
from tokkit.pretraining.training.distributed import ProcessGroup, accumulate
from tokkit.pretraining.training.metrics import Tally, total_loss
from tokkit.pretraining.training.optimizers import clip_gradients, update


def evaluate(
    stepper: "Stepper", batches: Iterable[Batch], is_stopped: Callable[[], bool]
) -> Tally | None:
    """Add up the losses of the held-out batches.

    Args:
        stepper: with the model.
        batches: on any device, the same for all processes.
        is_stopped: whether all processes should give up; asked by all of them now and then.

    Returns:
        The sums of all processes; None where it was stopped.
    """
    group = stepper.group
    tally, turn, was_training = Tally(), [], stepper.model.training
    stepper.model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                turn.append(batch)
                if len(turn) == group.size:
                    if is_stopped():
                        return None
                    _look(stepper, turn, tally)
                    turn = []
            if turn:
                _look(stepper, turn, tally)
    finally:
        stepper.model.train(was_training)
    return tally.over(group.sum)


def _look(stepper: "Stepper", turn: list[Batch], tally: Tally) -> None:
    """Run the model on this process's batch of a turn; where it has none, on another's in vain."""
    rank, device = stepper.group.rank, stepper.group.device
    batch = turn[min(rank, len(turn) - 1)]
    sums = stepper.compute(batch.to(device))
    if rank < len(turn):
        tally.add(batch, torch.stack([scalar.float() for scalar in sums]).tolist())


def evaluation_figures(tally: Tally, objective: str) -> dict[str, float]:
    """What an evaluation's log line says: the figures of a tally, and the perplexity of tokens."""
    figures = tally.figures(objective)
    loss = tally.token_loss / max(1, tally.num_predicted)
    # A model may give a token no chance at all, and exp has an end.
    return {**figures, "perplexity": math.exp(min(loss, 700.0))}


class Figures:
    """Numbers of a step that may still be on their way from the device.

    Args:
        sums: the four of ``Sums``, of each micro-batch.
        gradient_norm: before clipping, of the whole step.
    """

    def __init__(self, sums: Sequence[Sums], gradient_norm: Tensor) -> None:
        scalars = [scalar.detach().float() for part in sums for scalar in part]
        there = torch.stack([*scalars, gradient_norm.detach().float()])
        self._arrival: torch.cuda.Event | None = None
        self._here = there
        if there.is_cuda:
            self._here = torch.empty(there.shape, pin_memory=True)
            self._here.copy_(there, non_blocking=True)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()

    def read(self) -> tuple[list[list[float]], float]:
        """Wait for them: the sums of each micro-batch, and the norm."""
        if self._arrival is not None:
            self._arrival.synchronize()
        *sums, gradient_norm = self._here.tolist()
        return [sums[i : i + 4] for i in range(0, len(sums), 4)], gradient_norm


@dataclass(frozen=True)
class Stepper:
    """Takes steps.

    Attributes:
        config: of the run.
        model: as trained: distributed, compiled.
        optimizer: of its weights.
        group: the processes that share each step.
    """

    config: PretrainConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    group: ProcessGroup

    def compute(self, batch: Batch) -> Sums:
        """Run the model on a batch that is on its device, in the run's precision."""
        device = self.group.device
        with autocast(choose_precision(self.config.precision, device), device):
            sums: Sums = self.model(batch.inputs)
        return sums

    def take(
        self, step: int, batches: Sequence[Batch], counts: Sequence[float], rate: float
    ) -> Figures:
        """Update the weights once.

        Args:
            step: its number, of which its dropout is a function.
            batches: this process's micro-batches, on the device.
            counts: predicted tokens and labelled pairs of the whole step.
            rate: of learning.
        """
        seed_torch(self.config.seed, f"dropout of {self.group.rank}", step)
        self.model.train()
        found = []
        for number, batch in enumerate(batches, start=1):
            with accumulate(self.model, is_last=number == len(batches)):
                sums = self.compute(batch)
                # Gradients of several processes are averaged, where a sum is wanted.
                torch.autograd.backward(total_loss(sums, *counts) * self.group.size)
            found.append(sums)
        gradient_norm = clip_gradients(self.model, self.config.max_gradient_norm)
        update(self.optimizer, rate)
        return Figures(found, gradient_norm)
