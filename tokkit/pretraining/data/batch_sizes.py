"""How many instances each step of a phase takes, and at which position it begins.

The position is the only state of the data. With batches of 4 for three steps and then of 8:

    step      0  1  2  3   4   5
    size      4  4  4  8   8   8
    position  0  4  8  12  20  28
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """The batch sizes of a phase.

    Attributes:
        stages: first step, counted from that of the phase, and size of each stage.
        start: position at which step 0 begins.
    """

    stages: tuple[tuple[int, int], ...]
    start: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of all stages."""
        return tuple(size for _, size in self.stages)

    def at(self, step: int) -> tuple[int, int]:
        """Return the position at which a step begins, and its size."""
        reached = [stage for stage in self.stages if stage[0] <= step]
        ends = [first for first, _ in reached[1:]] + [step]
        taken = ((end - first) * size for (first, size), end in zip(reached, ends, strict=True))
        return self.start + sum(taken), reached[-1][1]

    def find_step(self, position: int) -> int:
        """Return the first step that begins at a position or after it."""
        reached = [stage for stage in self.stages if self.at(stage[0])[0] <= position]
        first, size = (reached or self.stages)[-1 if reached else 0]
        return first + max(0, -(-(position - self.at(first)[0]) // size))
