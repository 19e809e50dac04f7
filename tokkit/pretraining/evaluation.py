"""The losses on what is held out, masked the same way at every evaluation.

Processes take turns, so that each micro-batch is looked at once; all of them run the model as often,
because one that is split among them (FSDP) needs them all.
"""

import math
from collections.abc import Callable, Iterable

import torch

from tokkit.pretraining.batch import Batch
from tokkit.pretraining.step import Stepper
from tokkit.pretraining.tally import Tally


def evaluate(
    stepper: Stepper, batches: Iterable[Batch], is_stopped: Callable[[], bool]
) -> Tally | None:
    """Add up the losses of the held-out batches.

    Args:
        stepper: with the model.
        batches: on any device, the same for all processes.
        is_stopped: whether all processes should give up; asked by all of them now and then.

    Returns:
        The sums of all processes; None where it was stopped.
    """
    world = stepper.world
    tally, turn, was_training = Tally(), [], stepper.model.training
    stepper.model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                turn.append(batch)
                if len(turn) == world.size:
                    if is_stopped():
                        return None
                    _look(stepper, turn, tally)
                    turn = []
            if turn:
                _look(stepper, turn, tally)
    finally:
        stepper.model.train(was_training)
    return tally.over(world.total)


def _look(stepper: Stepper, turn: list[Batch], tally: Tally) -> None:
    """Run the model on this process's batch of a turn; where it has none, on another's in vain."""
    rank, device = stepper.world.rank, stepper.world.device
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
