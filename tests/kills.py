"""Kills runs of every stage at random moments, runs them again, and compares the bytes.

    python tests/kills.py [--kills 100] [--seed N] [--stage train] [--workers 2]

Besides the stages there are ``parts``, of an array job, and ``ray``, on a cluster of this machine.

A run gets SIGKILL, SIGTERM or SIGINT, at a moment up to the time that an undisturbed run takes, and
the same command is run again, which may be killed, too. The last one is not, and must give the
bytes of the undisturbed run. A run that got a signal which it can handle must end with the status
of that signal, or with 0, and at most one line of its own that says so.
"""

# ruff: noqa: T201  it prints

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from faults import DisturbedStage
from forkedcommands import Ended, import_all, run_command, start
from smallruns import STAGES, make_inputs, outcome, temporary_files, use_small_batches

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Killer:
    """Kills a stage, and runs it again.

    Args:
        disturbed: the stage, which has run once.
        rng: draws signals and moments.

    Attributes:
        counts: how often runs ended in each way.
    """

    def __init__(self, disturbed: DisturbedStage, rng: random.Random) -> None:
        self.disturbed = disturbed
        self.rng = rng
        self.counts: Counter[str] = Counter()
        disturbed.clear()
        self._seconds = self._run_again().seconds  # the first run may have compiled kernels

    def kill(self, most: int) -> tuple[int, str]:
        """Kill a run and its repetitions at most some times; return how often, and what is wrong."""
        disturbed, num_killed = self.disturbed, 0
        disturbed.clear()
        moments = []
        while num_killed < most:
            number = self.rng.choice(SIGNALS)
            moment = self.rng.uniform(0, self._seconds)
            moments.append(f"{number.name} after {moment:.3f} s")
            where = f"{disturbed.stage}, {', '.join(moments)}"
            copy = start(disturbed.perform)
            time.sleep(moment)
            has_group = os.getpgid(copy.pid) == copy.pid  # which it makes when it starts
            if self.rng.random() < 0.5 and number == signal.SIGKILL and has_group:
                os.killpg(copy.pid, number)  # with its workers, as when memory is short or power
            else:
                copy.send_signal(number)
            ended = copy.wait(120)
            self.counts[f"{disturbed.stage}: {number.name}, status {ended.status}"] += 1
            if fault := fault_of(ended, number):
                return num_killed, f"{where}: {fault}"
            if ended.status == 0:
                break
            num_killed += 1
            if self.rng.random() < 0.5:
                break
        where = f"{disturbed.stage}, {', '.join(moments)}"
        ended = self._run_again()
        if ended.status or ended.fault():
            return num_killed, f"{where}: the same command then {ended.fault() or ended}"
        found = outcome(disturbed.output)
        whole = disturbed.whole
        names = sorted(found.keys() | whole.keys())
        if differing := [name for name in names if found.get(name) != whole.get(name)]:
            return num_killed, f"{where}: other bytes of {differing}"
        if left := temporary_files(disturbed.output):
            return num_killed, f"{where}: left {left}"
        return num_killed, ""

    def _run_again(self) -> Ended:
        """Run the command to its end; workers that lost their parent may still hold the lock."""
        while True:
            ended = start(self.disturbed.perform).wait(120)
            if "is writing this folder" not in ended.errors:
                return ended
            time.sleep(0.1)


def fault_of(ended: Ended, number: signal.Signals) -> str:
    """Return what is wrong with how a run ended that got a signal; "" if nothing is."""
    allowed = {-number} if number == signal.SIGKILL else {128 + number}
    if number == signal.SIGTERM:
        allowed.add(-number)  # before a stage has begun
    if ended.status not in {0, *allowed}:
        return f"ended with {ended.status}: {ended.errors}"
    if ended.hung or "Traceback" in ended.errors:
        return f"{ended.fault() or ended.errors}"
    own = [line for line in ended.lines if "interrupted" in line or "stopped by" in line]
    return f"says it in {len(own)} lines: {ended.errors}" if len(own) > 1 else ""


def main() -> None:
    """Kill the stages in turn, and print how often."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--stage", choices=(*STAGES, "parts", "ray"), action="append")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    import_all()
    use_small_batches()
    rng = random.Random(arguments.seed)  # noqa: S311
    started, num_killed, num_faults = time.monotonic(), 0, 0
    stages = arguments.stage or [*STAGES, "parts"]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
        work = Path(temporary)
        if "ray" in stages:
            from ray_nodes import cluster  # imports Ray

            stages[stages.index("ray")] = opened.enter_context(cluster(2)).address
        for command in make_inputs(work).values():
            ended = start(partial(run_command, *command)).wait()
            assert ended.status == 0, ended
        killers = [Killer(DisturbedStage(stage, work, arguments.workers), rng) for stage in stages]
        while num_killed < arguments.kills:
            killer = killers.pop(0)
            killers.append(killer)
            number, fault = killer.kill(min(4, arguments.kills - num_killed))
            num_killed += number
            if fault:
                num_faults += 1
                print(fault, flush=True)
    for killer in killers:
        for outcome_, count in sorted(killer.counts.items()):
            print(f"{count:6} {outcome_}")
    print(
        f"seed {arguments.seed}: {num_killed} killed, {num_faults} faults, {time.monotonic() - started:.0f} s"
    )
    sys.exit(1 if num_faults else 0)


if __name__ == "__main__":
    main()
