"""What is seen of a run while it goes on: the bar, and the figures of speed in its log lines.

    12%|██▍               | 12010/100000 2:31:07 left, loss 2.13 mlm 58.1% nsp 97.2% 802k tokens/s mfu 55.3% wait 0.2%

A run that ends by the clock has its bar in seconds of the limit. The same figures stand in
``metrics.jsonl``, by these names:

    tokens_per_second   tokens without padding, of all processes
    data_wait           share of the seconds in which the step waited for its batch
    mfu                 see tokkit.pretraining.flops; left out where the device's peak is not known
    elapsed             seconds since the run began, without those in which it was stopped
"""

import math
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} {remaining} left{postfix}"


def describe_speed(
    *,
    num_tokens: int,
    seconds: float,
    data_seconds: float,
    elapsed: float,
    flops: float = 0.0,
    peak_flops: float | None = None,
) -> dict[str, float]:
    """The figures of speed of the steps since the last log line.

    Args:
        num_tokens: without padding, of all processes.
        seconds: that the steps took.
        data_seconds: of them, those spent on waiting for a batch.
        elapsed: seconds since the run began.
        flops: operations of those tokens, see ``count_flops_per_token``.
        peak_flops: what the devices of all processes could do in a second; None where that is
            not known, or not known for the precision in use.
    """
    seconds = max(seconds, 1e-9)  # a clock may stand still
    figures = {
        "tokens_per_second": round(num_tokens / seconds),
        "data_wait": min(data_seconds / seconds, 1.0),
        "elapsed": elapsed,
    }
    if peak_flops is not None:
        figures["mfu"] = flops / seconds / peak_flops
    return figures


class Progress:
    """A bar on standard error, where that is a terminal.

    Args:
        step: where the run goes on.
        num_steps: of the run; with ``max_time`` it does not matter.
        max_time: seconds after which the run ends; None where it ends by its steps.
        elapsed: seconds since the run began.
        enabled: whether a bar is wanted at all: of several processes, by the first.
    """

    def __init__(
        self,
        *,
        step: int,
        num_steps: int,
        max_time: float | None = None,
        elapsed: float = 0.0,
        enabled: bool = True,
    ) -> None:
        self._by_clock = max_time is not None
        self._bar = tqdm(
            total=num_steps if max_time is None else math.ceil(max_time),
            initial=step if max_time is None else int(elapsed),
            unit="" if max_time is None else " s",
            bar_format=_FORMAT,
            dynamic_ncols=True,
            smoothing=0.05,  # over about 20 redraws: an evaluation in between is soon forgotten
            disable=not (enabled and sys.stderr.isatty()),
        )

    def advance(self, step: int, elapsed: float) -> None:
        """Move the bar: after each step."""
        reached = min(int(elapsed), self._bar.total) if self._by_clock else step
        self._bar.update(reached - self._bar.n)

    def show(self, step: int, line: Mapping[str, Any]) -> None:
        """Show the figures of a training line of ``metrics.jsonl``; move the bar to it."""
        words = describe_line(line)
        self._bar.set_postfix_str(
            f"step {step} {words}" if self._by_clock else words, refresh=False
        )
        self.advance(step, line["elapsed"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


def describe_line(line: Mapping[str, Any]) -> str:
    """A training line in a few words, the most telling first: a narrow terminal cuts off the rest."""
    words = [f"loss {line['loss']:.4g}"]
    words += [
        f"{name.removesuffix('_accuracy')} {value:.1%}"
        for name, value in line.items()
        if name.endswith("_accuracy")
    ]
    words.append(f"{tqdm.format_sizeof(line['tokens_per_second'])} tokens/s")
    if "mfu" in line:
        words.append(f"mfu {line['mfu']:.1%}")
    words.append(f"wait {line['data_wait']:.1%}")
    return " ".join(words)
