"""Where a run stands."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tokkit.pretraining.tally import Tally


@dataclass
class State:
    """All that a run goes on from, beside its tensors; JSON, kept in each checkpoint.

    There is no state of a random generator in it: order, masks and dropout are functions of the
    seed and the step, which is also the position in the data.

    Attributes:
        step: updates taken.
        tokens: seen in all of them, without padding.
        elapsed: seconds since the run began, without those in which it was stopped.
        phase_starts: the step at which each phase began, as far as the run has got.
        evaluated_step: the last step that was evaluated.
        best_loss: the lowest held-out loss.
        interval: sums since the last log line.
    """

    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    phase_starts: list[int] = field(default_factory=lambda: [0])
    evaluated_step: int | None = None
    best_loss: float | None = None
    interval: Tally = field(default_factory=Tally)

    @classmethod
    def from_dict(cls, form: dict[str, Any]) -> "State":
        """Read back what ``as_dict`` gave."""
        return cls(**{**form, "interval": Tally(**form["interval"])})

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON."""
        return asdict(self)

    def take_evaluation(self, loss: float) -> bool:
        """Note the held-out loss of the weights after ``step``; whether it is the lowest yet."""
        self.evaluated_step = self.step
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_loss = loss
        return is_best
