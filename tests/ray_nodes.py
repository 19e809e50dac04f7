"""Runs the stages on real clusters of Ray, to be called by hand: it takes minutes.

    python tests/ray_nodes.py FOLDER              same bytes for any number of workers and nodes, also
                                                  if a node is lost or the driver is killed
    python tests/ray_nodes.py FOLDER --cost 500   what Ray costs: encode of 500 MB, and of tiny units
    python tests/ray_nodes.py FOLDER --cost 0     of tiny units alone

FOLDER is for scratch. Every figure of a cost is the time of a whole command less that of one with
little to do: starts are left out. Commands take turns.
"""

import argparse
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = 80 << 20


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tokkit(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tokkit", *map(str, arguments), "--no-progress"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@contextmanager
def cluster(num_nodes: int, num_processors: int = 1) -> Iterator[Any]:
    node = {"num_cpus": num_processors, "memory": 4 << 30, "object_store_memory": OBJECTS}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(num_nodes - 1):
            made.add_node(**node)
        yield made
    finally:
        made.shutdown()
        ray.shutdown()


def write_corpus(path: Path, num_bytes: int) -> Path:
    """Write random words of a vocabulary of 30,000, the frequent ones as often as in a language."""
    draw = np.random.default_rng(1)
    letters = draw.choice([*"abcdefghijklmnopqrstuvwxyz"], (30_000, 8))
    words = np.array(["".join(row[: 2 + n % 7]) for n, row in enumerate(letters)])
    weights = 1 / np.arange(1, len(words) + 1)
    drawn = draw.choice(words, (40_000, 15), p=weights / weights.sum())
    block = "".join(
        " ".join(row) + (".\n\n" if n % 5 == 0 else ".\n") for n, row in enumerate(drawn)
    )
    with path.open("w") as file:
        for start in range(0, num_bytes, len(block)):
            file.write(f"Part {start}.\n\n{block[: num_bytes - start]}\n\n")
    return path


def run_stages(corpus: Path, folder: Path, *options: object) -> str:
    """Run train, encode and build; return the SHA-256 of all files but those of the engine."""
    tokenizer, tokens = folder / "tokenizer", folder / "tokens"
    finish(tokkit("train", corpus, "-o", tokenizer, "--vocab-size", 3000, *options))
    unit = ("--unit-bytes", 300_000)
    finish(tokkit("encode", corpus, "-t", tokenizer, "-o", tokens, *unit, *options))
    unit = ("--unit-tokens", 200_000)
    finish(tokkit("build", tokens, "-o", folder / "instances", *unit, *options))
    return digest(folder)


def digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".tokkit" not in p.parts)
    hashes = [
        f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files
    ]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16] + f", {len(files)} files"


def shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}


def wait_for_shards(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    while len(shards(folder)) < number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def check_bytes(scratch: Path) -> None:
    corpus = write_corpus(scratch / "corpus.txt", 12_000_000)
    found = {}
    for workers in (0, 1, 4):
        name = f"{workers} workers"
        found[name] = run_stages(corpus, scratch / name, "--workers", workers)
        say(f"{name}: {found[name]}")
    for num_nodes in (1, 2, 4):
        with cluster(num_nodes) as made:
            name = f"{num_nodes} nodes"
            on_ray = ("--engine", "ray", "--ray-address", made.address)
            found[name] = run_stages(corpus, scratch / name, *on_ray)
            say(f"{name}: {found[name]}")
            if num_nodes == 4:
                check_losses(corpus, scratch, made, on_ray)
    assert len(set(found.values())) == 1


def check_losses(corpus: Path, scratch: Path, made: Any, on_ray: tuple[object, ...]) -> None:
    encode = ("encode", corpus, "-t", scratch / "0 workers/tokenizer", "--unit-bytes", 100_000)
    expected = scratch / "expected"
    finish(tokkit(*encode, "-o", expected))
    total = len(shards(expected))

    output = scratch / "lost"
    process = tokkit(*encode, "-o", output, *on_ray)
    wait_for_shards(output, total // 3, process)
    node = min(made.worker_nodes, key=str)
    threading.Thread(
        target=made.remove_node, args=(node,), kwargs={"allow_graceful": False}
    ).start()
    finish(process)
    assert digest(output) == digest(expected)
    say(f"a node lost after a third of {total} units: {digest(output)}")

    output = scratch / "killed"
    process = tokkit(*encode, "-o", output, *on_ray)
    wait_for_shards(output, total // 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(2)
    before = shards(output)
    finish(tokkit(*encode, "-o", output, *on_ray))
    after = shards(output)
    again = sum(before[name] != after[name] for name in before)
    assert digest(output) == digest(expected)
    say(
        f"driver killed when {len(before)} of {total} shards were there: {again} of them done again"
    )


def check_cost(scratch: Path, megabytes: int, rounds: int) -> None:
    little = write_corpus(scratch / "little.txt", 2_000_000)
    tokenizer = scratch / "tokenizer"
    finish(tokkit("train", little, "-o", tokenizer, "--vocab-size", 8000))
    with cluster(1, 2) as made:
        engines = {
            "local": ("--workers", 2),
            "ray": ("--engine", "ray", "--ray-address", made.address),
        }
        works = {"little": (little, 1 << 20), "tiny": (little, 1024)}
        if megabytes:
            works["large"] = (write_corpus(scratch / "corpus.txt", megabytes * 1_000_000), 32 << 20)
        seconds: dict[tuple[str, str], list[float]] = {}
        num_tiny = 0
        for _ in range(rounds):
            for work, (text, unit_bytes) in works.items():
                for name, options in engines.items():
                    unit = ("--unit-bytes", unit_bytes, "--overwrite")
                    started = time.monotonic()
                    finish(
                        tokkit(
                            "encode", text, "-t", tokenizer, "-o", scratch / name, *unit, *options
                        )
                    )
                    seconds.setdefault((work, name), []).append(time.monotonic() - started)
                num_units = len(shards(scratch / "ray"))
                num_tiny = num_units if work == "tiny" else num_tiny
                say(
                    f"{work}, {num_units} units: "
                    + ", ".join(f"{e} {seconds[work, e][-1]:.1f} s" for e in engines)
                )
    least = {case: min(taken) for case, taken in seconds.items()}
    net = {(w, e): least[w, e] - least["little", e] for w in works for e in engines}
    say(f"load {os.getloadavg()[0]:.1f}; least of {rounds}, less the time of 2 MB:")
    for name in engines:
        tiny = net["tiny", name]
        say(f"{name}: {num_tiny} tiny units in {tiny:.1f} s, {num_tiny / tiny:.0f} a second")
    if megabytes:
        pairs = zip(seconds["large", "ray"], seconds["large", "local"], strict=True)
        ratio = statistics.median(r / o for r, o in pairs)
        net_ray, net_local = net["large", "ray"], net["large", "local"]
        say(f"{megabytes} MB: local {net_local:.1f} s, ray {net_ray:.1f} s")
        say(f"ray takes {net_ray / net_local:.2f} times as long; with starts {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cost", type=int, metavar="MB")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    if arguments.cost is not None:
        check_cost(arguments.folder, arguments.cost, arguments.rounds)
    else:
        check_bytes(arguments.folder)


if __name__ == "__main__":
    main()
