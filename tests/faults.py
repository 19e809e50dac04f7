"""Lets every call that writes fail under a small run of every stage, and runs it again.

    python tests/faults.py [--stage pretrain] [--every 3] [--start 1] [--workers 2]

A stage passes if each failure ends it with status 1 and one line, or is one that it can do without,
and if the same command then gives the bytes of a run that nothing disturbed. Each call fails once
with EIO, and once from there on with ENOSPC.
"""

# ruff: noqa: T201  it prints

import argparse
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from failingdisk import FailingDisk
from forkedcommands import Ended, call_command, import_all, run_command, start
from smallruns import (
    STAGES,
    make_inputs,
    outcome,
    stage_commands,
    temporary_files,
    use_small_batches,
)

COUNTED = "calls that write: "


class DisturbedStage:
    """A stage of a small run, which is repeated with faults.

    Args:
        stage: see ``stage_commands``.
        work: folder of its inputs, to write into.
        workers: number of worker processes; each counts its calls itself.

    Attributes:
        num_calls: how many calls of an undisturbed run write.
        whole: what it wrote.
    """

    def __init__(self, stage: str, work: Path, workers: int = 0) -> None:
        self.stage = stage
        self.output = work / f"disturbed-{stage}"
        *self.steps, self.command = stage_commands(stage, work, self.output, workers)
        ended = self.run(0, lasting=False)
        assert ended.status == 0, ended
        self.num_calls = int(ended.errors.partition(COUNTED)[2] or 0)
        self.whole = outcome(self.output)

    def perform(self) -> None:
        """Run the command in this process, which ends, after the steps that come before it."""
        if ":" in self.stage:  # Ray does not work in a copy
            os.execv(sys.executable, [sys.executable, "-m", "tokkit", *self.command])  # noqa: S606  a command of ours
        for step in self.steps:
            if status := call_command(*step):
                sys.exit(status)
        run_command(*self.command)

    def run(self, first: int, *, lasting: bool) -> Ended:
        """Run the command with the call of a number failing; 0 for none."""

        def run() -> None:
            disk = FailingDisk(self.output, first, lasting=lasting)
            disk.install()
            try:
                self.perform()
            finally:
                if not first:
                    sys.stderr.write(f"{COUNTED}{disk.count}\n")

        return start(run).wait(120)

    def clear(self) -> None:
        """Delete the output."""
        self.output.mkdir(exist_ok=True)
        for path in self.output.iterdir():
            if path.name != "recipe.toml":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def fault_at(self, first: int, *, lasting: bool) -> str:
        """Let a call fail, run the command again, and return what is wrong; "" if nothing is."""
        self.clear()
        ended = self.run(first, lasting=lasting)
        where = f"{self.stage}, {'ENOSPC from' if lasting else 'EIO at'} call {first}"
        if fault := ended.fault():
            return f"{where}: {fault}"
        if ended.status not in (0, 1):
            return f"{where}: ended with {ended.status}: {ended.errors}"
        # A checkpoint that cannot be written does not end a run.
        is_optional = "not written" in ended.errors and ended.status == 0
        if ended.status == 0 and (found := self._differs(is_optional=is_optional)):
            return f"{where}: succeeded with other bytes of {found}: {ended.errors}"
        if not lasting and (left := temporary_files(self.output)):
            return f"{where}: left {left}"
        again = self.run(0, lasting=False)
        if again.status or again.fault():
            return f"{where}: the same command then {again.fault() or again}"
        if found := self._differs(is_optional=is_optional):
            return f"{where}: the same command then gives other bytes of {found}"
        if left := temporary_files(self.output):
            return f"{where}: the same command then left {left}"
        return ""

    def _differs(self, *, is_optional: bool) -> list[str]:
        """Return the files that differ from the undisturbed run's, or of them no checkpoints."""
        found = outcome(self.output)
        names = sorted(found.keys() | self.whole.keys())
        names = [name for name in names if found.get(name) != self.whole.get(name)]
        return [name for name in names if not (is_optional and "checkpoints/" in name)]


def main() -> None:
    """Disturb the stages, and print what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--every", type=int, default=1, help="of how many calls one fails")
    parser.add_argument("--start", type=int, default=1, help="the first call that fails")
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    import_all()
    use_small_batches()
    started, num_faults = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for command in make_inputs(work).values():
            ended = start(partial(run_command, *command)).wait()
            assert ended.status == 0, ended
        for stage in arguments.stage or STAGES:
            disturbed = DisturbedStage(stage, work, arguments.workers)
            calls = range(arguments.start, disturbed.num_calls + 1, arguments.every)
            for first in calls:
                for lasting in (False, True):
                    if fault := disturbed.fault_at(first, lasting=lasting):
                        num_faults += 1
                        print(fault, flush=True)
            print(
                f"{stage}: {2 * len(calls)} of {2 * disturbed.num_calls} faults tried", flush=True
            )
    print(f"{num_faults} went wrong, {time.monotonic() - started:.0f} s")
    sys.exit(1 if num_faults else 0)


if __name__ == "__main__":
    main()
