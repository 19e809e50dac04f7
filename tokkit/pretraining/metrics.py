"""``metrics.jsonl``: how a run went, a line every few steps and a line an evaluation.

    {"kind": "eval", "step": 0, "loss": 9.73, "mlm_loss": 9.04, "perplexity": 8411.2, …}
    {"kind": "train", "step": 10, "epoch": 0.02, "loss": 9.41, …, "learning_rate": 0.0001, …}

An evaluation of step n is of the weights after n updates, and stands before the training that
goes on from them. So a run that resumes at step n keeps the training lines up to n and the
evaluations before n, and writes the rest anew: no line is there twice, none is missing.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokkit.engine.files import write_atomically
from tokkit.errors import os_errors_about

METRICS = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run; none where there is no file. A line cut short by a crash ends them."""
    if not path.is_file():
        return []
    with os_errors_about(path):
        data = path.read_bytes()
    lines = []
    for line in data.split(b"\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class MetricsLog:
    """Appends lines to a run's metrics.

    Args:
        path: of the file.
        step: where the run goes on; what lies behind it is dropped. 0 begins a new file.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [
            line for line in read_metrics(path) if line["step"] + (line["kind"] == "eval") <= step
        ]
        with write_atomically(path) as file:
            file.write("".join(_spell(line) for line in kept).encode())
        with os_errors_about(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line that others can read at once."""
        with os_errors_about(self.path):
            self._file.write(_spell(line))
            self._file.flush()

    def sync(self) -> None:
        """Make the lines safe from a power cut: a checkpoint that relies on them comes next."""
        with os_errors_about(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _spell(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
