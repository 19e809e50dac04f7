"""What all benchmarks share: their options, the machine, and how time and memory are measured.

Contestants take turns, round by round, and medians are compared, so that a machine that slows down
slows down all of them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NUM_THREADS = 2
ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARIES = ("tokkit", "numba", "numpy", "pyarrow", "tokenizers", "nanotoken", "gigatoken")
Command = list[str | Path]

# A function and the number of tokens that it handles.
Work = tuple[int, Callable[[], Any]]

# Runs a command and prints its time and memory. It is a small process of its own, since the peak
# memory of a process includes that of its parent at the time of the fork.
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: processor time of all its processes.
        megabytes: peak memory of its largest process.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float = 0.0


def tokkit(*arguments: str | Path) -> Command:
    """Return a command of the tokkit that this file belongs to."""
    return [sys.executable, "-c", "from tokkit.__main__ import main; main()", *arguments]


def run_measured(command: Command) -> Usage:
    """Run a command and measure it; end the benchmark if it fails."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {ended.stderr.strip()}")
    seconds, cpu_seconds, peak = map(float, ended.stdout.split()[-3:])
    # Linux reports KB, macOS bytes.
    return Usage(seconds, cpu_seconds, peak / (1e6 if sys.platform == "darwin" else 1e3))


def time_call(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(title: str, contestants: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Let contestants take turns; print and return their rates in million tokens per second."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (_, work) in contestants.items():
            seconds[name].append(time_call(work))
    rates = {
        name: num_tokens / statistics.median(seconds[name]) / 1e6
        for name, (num_tokens, _) in contestants.items()
    }
    first = next(iter(rates.values()))
    write(title)
    for name, rate in rates.items():
        write(f"  {name:<54} {rate:>9.2f} Mtokens/s    {first / rate:>8.2f}x")
    return rates


def limit_cores() -> None:
    """Let this process and its children use two cores, however many threads they start."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_THREADS])
    os.environ["RAYON_NUM_THREADS"] = str(NUM_THREADS)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"


def describe_machine() -> str:
    """Return the processor and the versions of all libraries."""
    model = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = [f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    cores = f"{NUM_THREADS} of {os.cpu_count()} cores"
    return f"{model}, {cores}, {platform.system()}\n{', '.join(versions)}"


def make_parser(description: str, *, rounds: int = 5) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="of which medians are taken")
    parser.add_argument("--tiny", action="store_true", help="try everything on very little data")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the folders that texts are read from and kept in."""
    parser.add_argument(
        "--shared",
        type=Path,
        default=ROOT.parent / "shared",
        help="folder with corpora and vocabularies (%(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tokkit-benchmarks",
        help="where texts and learned vocabularies are kept (%(default)s)",
    )


def list_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names that are all known."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"choose from {', '.join(known)}")
        return names

    return parse


def list_of_numbers(text: str) -> list[int]:
    """Parse comma-separated integers."""
    return [int(number) for number in text.split(",")]


def write(text: str) -> None:
    """Print a text at once, so that a pipe shows how far the benchmark is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_json(path: Path | None, figures: Any) -> None:
    """Write all figures to the file of ``--json``, if there is one."""
    if path:
        path.write_text(json.dumps(figures, indent=1, default=str) + "\n")
