"""The sums from which every figure is made.

What is minimized is the mean cross-entropy over the batch's predicted tokens plus the mean over its
labelled pairs. Logs and evaluations keep sums and counts, and divide at the end, so that figures
over several batches, or over the parts of one that several processes had, weigh each token alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from tokkit.pretraining.batch import Batch
from tokkit.pretraining.model import PAIR_OBJECTIVES, Sums

TOKEN_NAMES = {"clm": "clm"}  # every other objective predicts masked tokens


def total_loss(sums: Sums, num_predicted: float, num_pairs: float) -> Tensor:
    """What is minimized, or a part of it; the counts are those of the whole step.

    Instances without a label have no part in the second term.
    """
    return sums.token_loss / max(1.0, num_predicted) + sums.pair_loss / max(1.0, num_pairs)


@dataclass
class Tally:
    """Sums over batches: of the steps since the last log line, or of an evaluation.

    They are numbers of Python, so they pass through a checkpoint's JSON unchanged.

    Attributes:
        tokens: without padding.
        seconds: that the steps took.
        waited: of them, waiting for data.
        num_predicted: tokens that have a label.
        num_pairs: that have a label.
        token_loss: sums, as of ``Sums``.
        token_correct: likewise.
        pair_loss: likewise.
        pair_correct: likewise.
    """

    tokens: float = 0
    seconds: float = 0.0
    waited: float = 0.0
    num_predicted: float = 0
    num_pairs: float = 0
    token_loss: float = 0.0
    token_correct: float = 0
    pair_loss: float = 0.0
    pair_correct: float = 0

    def add(self, batch: Batch, sums: Sequence[float]) -> None:
        """Add one batch and what a model made of it: the numbers of a ``Sums``."""
        self.tokens += batch.num_tokens
        self.num_predicted += batch.num_predicted
        self.num_pairs += batch.num_pairs
        self.token_loss += sums[0]
        self.token_correct += sums[1]
        self.pair_loss += sums[2]
        self.pair_correct += sums[3]

    def over(self, total: Callable[[Sequence[float]], Sequence[float]]) -> "Tally":
        """The tally of all processes together; seconds are this one's."""
        sums = Tally(*total(astuple(self)))
        sums.seconds, sums.waited = self.seconds, self.waited
        return sums

    def figures(self, objective: str) -> dict[str, float]:
        """Means over predicted tokens and over labelled pairs; of the latter where there are any."""
        tokens = TOKEN_NAMES.get(objective, "mlm")
        loss = self.token_loss / max(1, self.num_predicted)
        figures = {
            "loss": loss,
            f"{tokens}_loss": loss,
            f"{tokens}_accuracy": self.token_correct / max(1, self.num_predicted),
        }
        if self.num_pairs and objective in PAIR_OBJECTIVES:
            figures[f"{objective}_loss"] = self.pair_loss / self.num_pairs
            figures[f"{objective}_accuracy"] = self.pair_correct / self.num_pairs
            figures["loss"] += figures[f"{objective}_loss"]
        return figures
