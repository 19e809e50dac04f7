"""How fast one thread makes batches: for loops of one's own, and for pretraining.

    python tests/benchmarks/loading.py [--rounds 5]

Instances are pairs of segments of made-up documents, masked dynamically, from mapped shards that
are in memory. Batches have 256 instances. The feed is asked for step after step by a caller that
does nothing else, so its thread works all the time; sizes are exact, or rounded for a compiled
model. Rates are in million real tokens per second.

Then the caller is busy, in Python that never lets the feed's thread run of itself, and in calls of
torch, which do: how fast batches are made, and how much slower the caller gets.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.madeinstances import instance_folders

STEPS = range(40)
MICRO_BATCH_TOKENS = 16_384
Contestant = tuple[int, Callable[[], Any]]  # tokens that it handles, and what it does


@contextmanager
def loading_contestants() -> Iterator[dict[str, Contestant]]:
    """The feed of pretraining, then the loader for loops of one's own, at both lengths."""
    from tokkit import InstanceLoader

    contestants: dict[str, Contestant] = {}
    with instance_folders() as folders:
        for length, folder in folders.items():
            for unit in ("token", "word"):
                for static in (False, True):
                    sizes = "rounded sizes" if static else "exact sizes"
                    label = f"feed, up to {length} tokens, {sizes}, masked by {unit}"
                    read = partial(read_feed, open_feed(folder, unit, static=static))
                    contestants[label] = (read(), read)
            for layout, unit in (("padded", "token"), ("ragged", "token"), ("padded", "word")):
                loader = InstanceLoader(folder, batch_size=256, layout=layout, mask_unit=unit)
                label = f"loader, up to {length} tokens, {layout}, masked by {unit}"
                read = partial(read_loader, loader)
                contestants[label] = (read(), read)
        yield contestants


def open_feed(folder: Path, unit: str = "token", *, static: bool = True) -> Any:
    from tokkit.pretraining.data.loader import Loader
    from tokkit.pretraining.data.prefetcher import Feed
    from tokkit.pretraining.data.sources import open_sources
    from tokkit.pretraining.pretrain_config import LoaderConfig

    config = LoaderConfig(instances=(folder,), batch_size=256, mask_unit=unit)
    loader = Loader(open_sources(config), config)
    return Feed([loader], 0, micro_batch_tokens=MICRO_BATCH_TOKENS, static=static)


def read_feed(feed: Any) -> int:
    """Take all steps; returns how many tokens they have."""
    return sum(batch.num_tokens for step in STEPS for batch in feed.take(0, step))


def read_loader(loader: Any) -> int:
    num_tokens = 0
    for step in STEPS:
        batch = loader.batch(step)
        mask = batch.get("attention_mask")
        num_tokens += len(batch["input_ids"]) if mask is None else int(mask.sum())
    return num_tokens


def measure_sharing(rounds: int) -> str:
    """The feed's thread beside a caller that is busy: a line for each kind of work."""
    import torch

    tensor = torch.zeros(8)

    def call_torch() -> None:
        for _ in range(1000):
            torch.add(tensor, 1)

    def run_python() -> None:
        for _ in range(100_000):
            pass

    lines = ["the feed's thread beside a busy caller, up to 128 tokens"]
    with instance_folders() as folders, ThreadPoolExecutor(1) as executor:
        feed = open_feed(folders[128])
        read_feed(feed)
        for name, work in (("calls of torch", call_torch), ("Python alone", run_python)):
            alone = statistics.median(_time(work) for _ in range(20))
            rates, slower = [], []
            for _ in range(rounds):
                start = time.perf_counter()
                future = executor.submit(read_feed, feed)
                times = [_time(work)]
                while not future.done():
                    times.append(_time(work))
                rates.append(future.result() / (time.perf_counter() - start) / 1e6)
                slower.append(statistics.mean(times) / alone)
            lines.append(
                f"  {name:<54} {statistics.median(rates):>9.2f} Mtokens/s    caller takes "
                f"{statistics.median(slower):>5.2f}x"
            )
    return "\n".join(lines)


def _time(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(title: str, contestants: dict[str, Contestant], rounds: int) -> None:
    """Let the contestants take turns, and print median rates and how the first compares."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (_, work) in contestants.items():
            seconds[name].append(_time(work))
    rates = {
        name: num_tokens / statistics.median(seconds[name]) / 1e6
        for name, (num_tokens, _) in contestants.items()
    }
    first = next(iter(rates.values()))
    lines = [title]
    for name, rate in rates.items():
        lines.append(f"  {name:<54} {rate:>9.2f} Mtokens/s    {first / rate:>8.2f}x")
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    import torch

    torch.set_num_threads(1)
    with loading_contestants() as contestants:
        compare("batches: gather, mask, pack", contestants, rounds)
    sys.stdout.write(measure_sharing(rounds) + "\n")


if __name__ == "__main__":
    main()
