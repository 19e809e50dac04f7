"""Changes folders at random, and looks at what every reader makes of them.

    python tests/fuzz.py --mutants 5000 [--seed N] [--start N] [--number N] [--keep FOLDER]

Each mutant is read in a process of its own by every command that reads its kind of folder. It
passes if each ends with its result, or with status 1 and one line, within bounds of time and
memory. Where a shard was rewritten and the manifest agrees with it, ``verify`` must accept what the
loader and ``build`` accept; of other mutants, those that it accepts must give the result of the
sound folder. ``--number`` repeats one mutant, and prints all that its readers print; ``--start``
leaves out those before it.
"""

# ruff: noqa: T201  it prints

import argparse
import gc
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from forkedcommands import Ended, import_all, start
from fuzzsubjects import Subject, make_subjects
from mutating import mutate
from smallruns import use_small_batches

MEMORY = 3 << 30  # bytes of address space beyond what the process has
SECONDS = 40.0
MUTATION = "mutation"
MARK = "\x01"
# What verify alone looks for: stray files, and what was counted when the folder was made.
OF_VERIFY_ALONE = ("but the shards hold", "but instances use", "is not in the manifest")


@dataclass(frozen=True)
class Outcome:
    """What a reader made of a folder: how it ended, and what identifies its result."""

    ended: Ended
    result: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it succeeded."""
        return self.ended.status == 0


class Fuzzer:
    """Makes mutants of sound folders, and compares what their readers do.

    Args:
        work: folder to write into.
        seed: random seed.
        quick: leave out runs and other kinds that take long to make.

    Attributes:
        counts: how often readers ended in each way.
    """

    def __init__(self, work: Path, seed: int, *, quick: bool = False) -> None:
        self.work = work
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.subjects = make_subjects(work / "sound", quick=quick)
        others = [subject.path for subject in self.subjects]
        self._others = sorted(set(others))
        # The first call of each reader loads its kernels, which copies then have.
        for subject in {subject.path: subject for subject in self.subjects}.values():
            for name, read in subject.readers.items():
                # Torch's threads do not survive a copy, and what resumes finishes the folder.
                if not subject.in_copies and not name.startswith(("pretrain", "resume")):
                    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                        read(subject.path, self._empty_output())
        self._sound = {subject.path: self.read_all(subject, None)[1] for subject in self.subjects}
        for path, outcomes in self._sound.items():
            for name, outcome in outcomes.items():
                assert outcome.accepted, (path, name, outcome)
        gc.collect()
        gc.freeze()

    def _empty_output(self) -> Path:
        output = self.work / "output"
        shutil.rmtree(output, ignore_errors=True)
        output.unlink(missing_ok=True)
        return output

    def read_all(self, subject: Subject, number: int | None) -> tuple[str, dict[str, Outcome]]:
        """Make a mutant, or with None a sound copy, and read it; return what was done to it."""
        mutant = self.work / "mutants" / "one" / subject.path.name
        outcomes: dict[str, Outcome] = {}
        done = ""
        while len(outcomes) < 1 + len(subject.readers):
            ended = start(
                lambda: self._read_missing(subject, mutant, number, outcomes), memory=MEMORY
            ).wait(SECONDS)
            outputs, errors = (text.split(MARK)[1:] for text in (ended.output, ended.errors))
            for number_read, (output, error) in enumerate(zip(outputs, errors, strict=True), 1):
                name, _, shown = output.partition("\n")
                shown, _, status = shown.removesuffix("\n").rpartition("\n")
                fate = ended if number_read == len(outputs) and ended.status else None
                one = Ended(
                    fate.status if fate else int(status),
                    shown,
                    error.partition("\n")[2],
                    ended.seconds,
                    hung=ended.hung and fate is not None,
                )
                results = [line for line in shown.split("\n") if line.startswith("result ")]
                outcomes[name] = Outcome(one, *results[-1:])
        done = outcomes.pop(MUTATION).ended.output
        return done, outcomes

    def _read_missing(
        self, subject: Subject, mutant: Path, number: int | None, outcomes: dict[str, Outcome]
    ) -> int:
        """In a copy: make the mutant if it is not there, and call the readers that have not ended."""
        readers = {MUTATION: lambda *_: self._make(subject, mutant, number), **subject.readers}
        for name, read in readers.items():
            if name in outcomes:
                continue
            for stream in (sys.stdout, sys.stderr):
                stream.write(f"{MARK}{name}\n")
                stream.flush()
            status = read(mutant, self._empty_output())
            print(status, flush=True)
        return 0

    def _make(self, subject: Subject, mutant: Path, number: int | None) -> int:
        shutil.rmtree(mutant.parent, ignore_errors=True)
        mutant.parent.mkdir(parents=True)
        copy = shutil.copyfile if subject.path.is_file() else shutil.copytree
        copy(subject.path, mutant)
        if number is not None:
            rng = random.Random(f"{self.seed} {number}")  # noqa: S311
            done, agrees = mutate(mutant, rng, self._others)
            print("agrees" if agrees else "", done.replace(MARK, ""))
        return 0

    def try_mutant(self, number: int, *, verbose: bool = False) -> list[str]:
        """Make and read the mutant of a number; return what is wrong."""
        subject = self.subjects[number % len(self.subjects)]
        done, outcomes = self.read_all(subject, number)
        done = done.strip()
        faults = []
        for name, outcome in outcomes.items():
            ended = outcome.ended
            if verbose:
                print(name, ended)
            self.counts[f"{name}: {'accepted' if outcome.accepted else 'refused'}"] += 1
            if fault := fault_of(ended):
                faults.append(f"{name}: {fault}")
        if not faults:
            faults = [*self._compare(subject, outcomes, agrees=done.startswith("agrees"))]
        return [
            f"mutant {number} of {subject.path.name}, {done[:400]}: {fault}" for fault in faults
        ]

    def _compare(
        self, subject: Subject, outcomes: dict[str, Outcome], *, agrees: bool
    ) -> list[str]:
        """Compare what verify says with what others accept, and their results with the sound ones."""
        faults = []
        for name, prefix in subject.accepting.items():
            verify = outcomes["verify"]
            lines = [
                line
                for line in verify.ended.lines
                if f"/{prefix}" in line and not any(fault in line for fault in OF_VERIFY_ALONE)
            ]
            outcome, sound = outcomes[name], self._sound[subject.path][name]
            if agrees and outcome.accepted and lines:
                faults.append(f"{name} accepts what verify refuses: {lines}")
            is_other = outcome.accepted and outcome.result != sound.result
            if not agrees and verify.accepted and is_other:
                faults.append(f"verify accepts it, and {name} has another result")
        return faults


def fault_of(ended: Ended) -> str:
    """Return what is wrong with how a reader ended; "" if nothing is."""
    if fault := ended.fault():
        return fault
    others = [line for line in ended.lines if not line.startswith("tokkit: ")]
    if ended.status not in (0, 1) or (ended.status and others):
        return f"ended with {ended.status}: {ended.errors}"
    return ""


def main() -> None:
    """Make mutants, and print what is wrong with them and how often readers ended in each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--start", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--number", type=int, help="make this mutant alone, and show what is read")
    parser.add_argument("--keep", type=Path, help="work here, and leave the last mutant")
    parser.add_argument("--quick", action="store_true", help="leave out runs and most tokenizers")
    arguments = parser.parse_args()
    import_all()
    use_small_batches()
    numbers = range(arguments.start, arguments.start + arguments.mutants)
    if arguments.number is not None:
        numbers = range(arguments.number, arguments.number + 1)
    started, faults = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        fuzzer = Fuzzer(folder, arguments.seed, quick=arguments.quick)
        print(f"seed {arguments.seed}; sound folders in {time.monotonic() - started:.1f} s")
        for number in numbers:
            for fault in fuzzer.try_mutant(number, verbose=arguments.number is not None):
                faults += 1
                print(fault, flush=True)
    for outcome, count in sorted(fuzzer.counts.items()):
        print(f"{count:8,} {outcome}")
    seconds = time.monotonic() - started
    print(f"{len(numbers):,} mutants, {faults} faults, {seconds:.0f} s")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
