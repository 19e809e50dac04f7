"""How fast models are trained on random instances, against transformers' BertForPreTraining.

    python tests/benchmarks/pretrain.py [--presets base,large] [--lengths 128,512] [--steps 100]

One command, without a network, on one GPU or on a CPU. It needs the extra ``pretrain``, and
transformers for the peer, which is left out where it is not installed. Where pip has no network,
install wheels made on another machine with the same Python and platform:

    pip wheel '.[pretrain]' transformers -w wheels     # there, without torch if it is here already
    pip install --no-index --find-links wheels 'tokkit[pretrain]' transformers

Rates are real tokens per second, with loader, clipping and optimizer; padding does not count.
Operations of a token are counted as in ``tokkit.pretraining.training.estimate``. Both train on the
same instances, masks and micro-batches, a micro-batch a step, after a warm-up on every shape. To
limit the time of compilation, only batches of the ``--shapes`` most common shapes are used.

On a GPU: bf16, dropout 0.1, compiled; steps are launched one after the other, as in a run, and
timed from an idle device to an idle device. The bound is that GPU's product of two matrices of
8192 x 8192 in bf16, measured next to each figure. A contestant that would not end before
``--minutes`` is left out. A BERT is measured with Triton's kernels, too; of other architectures there
is no peer. The peer runs in a process of its own, and figures are written as they are found, so that
nothing that the peer ends in costs any.

On a CPU: fp32; contestants take turns, and medians are compared, with and without
``torch.compile``. ``--profile`` prints where the time of tokkit's steps goes.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.kernelprofile import profile_steps
from benchmarks.madeinstances import TINY_NUM_TOKENS, instance_folders
from benchmarks.measuring import write
from benchmarks.training_loops import (
    TrainingLoop,
    choose_steps,
    count_flops,
    count_tokens,
    open_tokkit,
    open_transformers,
    time_steps,
)

from tokkit.pretraining.families import FAMILIES, PRESETS
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import choose_device, count_graphs, describe_device

Row = dict[str, Any]
Opener = Callable[[], AbstractContextManager[TrainingLoop]]
SIDE, NUM_PRODUCTS = 8192, 50
NUM_PROFILED = 3
OUT_OF_MEMORY = "out of memory; lower --micro-batch-tokens"
HAS_PEER = importlib.util.find_spec("transformers") is not None
OURS = "tokkit"
TRITON = f"{OURS}, Triton"
PEER = "transformers"
GPU_DEFAULTS = {"presets": "base,large", "lengths": "128,512", "steps": 100, "micro": 65_536}
CPU_DEFAULTS = {"presets": "tiny,mini", "lengths": "128", "steps": 2, "micro": 4096}
TINY_DEFAULTS = {
    "presets": "tiny",
    "lengths": "32",
    "steps": 1,
    "micro": 512,
    "num_tokens": TINY_NUM_TOKENS,
}
NUM_TOKENS = {"cuda": 8_000_000, "cpu": 500_000}


class Benchmark:
    """Measures all contestants, preset by preset.

    Args:
        options: options of the command line.
        device: device that computes.
        folders: instance folders by the maximum length of their sequences.
        machine: on which it runs, in words.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        device: torch.device,
        folders: dict[int, Path],
        machine: str,
    ) -> None:
        self._rows: list[Row] = []
        self._machine = machine
        self._options = options
        self._device = device
        self._folders = folders
        self._steps: Sequence[int] = ()
        self._longest = 0.0
        self._deadline = time.monotonic() + 60 * options.minutes

    def run(self, preset: str, length: int) -> None:
        """Compare the contestants and print their rates."""
        micro_batch_tokens = self._options.micro
        config = PretrainConfig(
            instances=(self._folders[length],),
            output=self._folders[length],  # nothing is written
            preset=preset,
            architecture=self._options.architecture,
            batch_size=max(1, micro_batch_tokens // length),
            micro_batch_tokens=micro_batch_tokens,
            device=self._device.type,
            threads=self._options.threads,
        )
        self._steps = choose_steps(config, self._options.steps, self._options.shapes)
        (num_tokens, fill), flops = count_tokens(config, self._steps), count_flops(config)
        compare = self._compare_on_gpu if self._device.type == "cuda" else self._compare_on_cpu
        rows = []
        for row in compare(config):
            row |= {"preset": preset, "length": length, "fill": fill, "flops_per_token": flops}
            if "seconds" in row:
                row["tokens_per_second"] = num_tokens / row["seconds"]
                row["flops_per_second"] = flops * row["tokens_per_second"]
            rows.append(row)
            self._rows.append(row)
            self._write_figures()
        write("\n".join(describe_rows(rows)))

    def _write_figures(self) -> None:
        figures = {
            "machine": self._machine,
            "micro_batch_tokens": self._options.micro,
            "steps": self._options.steps,
            "rows": self._rows,
        }
        measuring.write_json(self._options.json, figures)

    def _compare_on_gpu(self, config: PretrainConfig) -> Iterable[Row]:
        """Measure one contestant after the other, each alone in memory."""
        profile = self._options.profile
        measures = {OURS: partial(measure_tokkit, config, self._steps, profile=profile)}
        if config.architecture is None:
            fused = replace(config, kernels="triton")
            measures[TRITON] = partial(measure_tokkit, fused, self._steps, profile=profile)
            peer = partial(measure_transformers, config, self._steps)
            measures[f"{PEER}, compiled"] = partial(run_apart, peer)
        for name, measure_contestant in measures.items():
            yield {"name": name, **self._measure_in_time(name, measure_contestant)}

    def _measure_in_time(self, name: str, measure_contestant: Callable[[], Row]) -> Row:
        if name.startswith(PEER) and not HAS_PEER:
            return {"note": "left out: not installed"}
        started = time.monotonic()
        if self._deadline - started < self._longest:
            return {"note": "left out: not enough of --minutes is left"}
        row = measure_contestant()
        self._longest = max(self._longest, time.monotonic() - started)
        return row

    def _compare_on_cpu(self, config: PretrainConfig) -> Iterable[Row]:
        """Let the contestants take turns."""
        openers: dict[str, Opener] = {
            OURS: partial(open_tokkit, replace(config, compile="auto")),
            f"{OURS}, compiled": partial(open_tokkit, replace(config, compile="on")),
        }
        if HAS_PEER and config.architecture is None:
            for name, compiled in ((PEER, False), (f"{PEER}, compiled", True)):
                openers[name] = partial(open_transformers, config, self._steps, compiled=compiled)
        if self._options.eager:
            openers = {name: opener for name, opener in openers.items() if "," not in name}
        with ExitStack() as stack:
            opened = {name: stack.enter_context(opener()) for name, opener in openers.items()}
            rows = [{"name": n, **warm_up(c, self._steps)} for n, c in opened.items()]
            found: list[list[Row]] = [[] for _ in rows]
            for _ in range(self._options.rounds):
                for measured, contestant in zip(found, opened.values(), strict=True):
                    measured.append(measure(contestant, self._steps))
            for row, measured in zip(rows, found, strict=True):
                row |= {key: statistics.median(m[key] for m in measured) for key in measured[0]}
            if self._options.profile:
                print_profile(opened[OURS], self._steps, self._device)
        return rows


def measure_tokkit(config: PretrainConfig, steps: Sequence[int], *, profile: bool) -> Row:
    try:
        with open_tokkit(config) as loop:
            return measure_on_gpu(loop, steps, profile=profile)
    except torch.OutOfMemoryError:
        return {"note": OUT_OF_MEMORY}


def measure_transformers(config: PretrainConfig, steps: Sequence[int]) -> Row:
    with open_transformers(config, steps, compiled=True) as loop:
        return measure_on_gpu(loop, steps)


def run_apart(function: Callable[[], Row]) -> Row:
    """Run a function in a process of its own; a note says what it ended in, if not in a row."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(function).result()
        except (torch.OutOfMemoryError, MemoryError):
            return {"note": OUT_OF_MEMORY}
        except (Exception, SystemExit) as error:  # noqa: BLE001  it must not cost other figures
            return {"note": f"left out: {type(error).__name__}: {error}"[:200]}


def measure_on_gpu(loop: TrainingLoop, steps: Sequence[int], *, profile: bool = False) -> Row:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    row = warm_up(loop, steps)
    product = measure_product(device)
    row |= measure(loop, steps)
    row |= {"memory": torch.cuda.max_memory_allocated(), "product_flops_per_second": product}
    if profile:
        print_profile(loop, steps, device)
    return row


def print_profile(loop: TrainingLoop, steps: Sequence[int], device: torch.device) -> None:
    """Print where the time of a few steps goes."""
    profiled = [steps[i % len(steps)] for i in range(NUM_PROFILED)]
    write("\n".join(profile_steps(lambda: time_steps(loop, profiled), device)))


def warm_up(loop: TrainingLoop, steps: Sequence[int]) -> Row:
    """Take steps of every shape, so that everything is compiled."""
    before, started = count_graphs(), time.perf_counter()
    loop.warm_up(steps)
    return {"warm_up_seconds": time.perf_counter() - started, "graphs": count_graphs() - before}


def measure(loop: TrainingLoop, steps: Sequence[int]) -> Row:
    before = count_graphs()
    seconds, waited = time_steps(loop, steps)
    # Nothing should be compiled while it is timed.
    graphs = count_graphs() - before
    return {"seconds": seconds, "waiting": waited / seconds, "graphs_while_timed": graphs}


def measure_product(device: torch.device) -> float:
    """Return the operations per second of the product of two large matrices in bf16."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(NUM_PRODUCTS):
            torch.mm(a, b)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    multiply()
    return 2 * SIDE**3 * NUM_PRODUCTS / multiply()


def describe_rows(rows: Sequence[Row]) -> list[str]:
    """Return a line for each contestant, and the ratios of their rates."""
    lines = []
    for row in rows:
        start = f"{row['preset']:<7}{row['length']:>4}  {row['name']:<24}"
        if "note" in row:
            lines.append(f"{start}{row['note']}")
            continue
        line = f"{start}{row['tokens_per_second']:>11,.0f}{row['flops_per_second'] / 1e12:>9.2f}"
        if "product_flops_per_second" in row:
            product = row["product_flops_per_second"]
            line += f"{product / 1e12:>9.1f}{row['flops_per_second'] / product:>8.1%}"
            line += f"{row['memory'] / 1e9:>8.1f}"
        line += f"{row['waiting']:>9.2%}{row['warm_up_seconds']:>9.0f}{row['graphs']:>8}"
        lines.append(line + (" (+ while timed)" if row["graphs_while_timed"] else ""))
    fill = rows[0]["fill"]
    lines.append(f"{'':13}padding would be {1 - fill:.0%} of all tokens")
    rates = {row["name"]: row["tokens_per_second"] for row in rows if "note" not in row}
    for name, rate in rates.items():
        for peer, other in rates.items():
            if name.startswith(OURS) and peer.startswith(PEER):
                lines.append(f"{'':13}{name} is {rate / other:.2f}x as fast as {peer}")
    return lines


def header(*, on_gpu: bool) -> str:
    columns = f"{'preset':<7}{'up to':>5} {'':<24}{'tokens/s':>11}{'TFLOP/s':>9}"
    if on_gpu:
        columns += f"{'product':>9}{'share':>8}{'GB':>8}"
    return f"{columns}{'waiting':>9}{'warm-up':>9}{'graphs':>8}"


def parse(arguments: Sequence[str] | None, *, on_gpu: bool) -> argparse.Namespace:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--architecture", help="bert if left out; it learns mlm")
    parser.add_argument("--presets", help="tiny,mini on a CPU; base,large on a GPU")
    parser.add_argument("--lengths", help="maximum lengths of sequences: 128,512")
    parser.add_argument("--steps", type=int, help="steps that are timed")
    parser.add_argument("--shapes", type=int, default=6, help="shapes that models compile for")
    parser.add_argument("--micro-batch-tokens", dest="micro", type=int)
    parser.add_argument("--num-tokens", type=int, help="of the documents that instances are of")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--minutes", type=float, default=7.5, help="on a GPU: time limit")
    parser.add_argument("--eager", action="store_true", help="on a CPU: do not compile")
    parser.add_argument("--profile", action="store_true", help="print where time goes")
    options = parser.parse_args(arguments)
    defaults = GPU_DEFAULTS if on_gpu else CPU_DEFAULTS
    if options.tiny:
        defaults = TINY_DEFAULTS
        options.rounds, options.eager = 1, True
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.presets = options.presets.split(",")
    options.lengths = measuring.list_of_numbers(options.lengths)
    known = PRESETS if options.architecture is None else FAMILIES[options.architecture].presets
    if unknown := set(options.presets) - set(known):
        parser.error(f"unknown preset {', '.join(sorted(unknown))}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    device = choose_device("auto")
    on_gpu = device.type == "cuda"
    options = parse(arguments, on_gpu=on_gpu)
    machine = f"{describe_device(device)}; torch {torch.__version__}"
    write(machine)
    num_tokens = options.num_tokens or NUM_TOKENS[device.type]
    objective = "nsp" if options.architecture is None else "mlm"
    with instance_folders(
        num_tokens, num_sentences=500, lengths=options.lengths, objective=objective
    ) as folders:
        benchmark = Benchmark(options, device, folders, machine)
        write(header(on_gpu=on_gpu))
        for preset in options.presets:
            for length in options.lengths:
                benchmark.run(preset, length)


if __name__ == "__main__":
    main()
