"""Counts what training on a GPU costs beside arithmetic, by hand: it needs a CUDA device.

    python tests/gpu_costs.py INSTANCES --preset base

INSTANCES is a folder that ``tokkit build`` has written. A short run without compiling shows, of each
step, batch of an evaluation and checkpoint, the synchronizations (during which the device may have
nothing to do) and the copies (from and to pinned memory a device copies by itself, while the process
waits for others). A compiled run shows synchronizations, graphs, and the allocator's peak.

Nothing is timed and no result is looked at, so that a driver that only counts does as well. Ends with
status 1 if a steady step synchronizes, any copy is of pageable memory, or more graphs are compiled of
a function than two for training and two for evaluation, times the kinds of layers that share it.
"""

import argparse
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoint_writer import CheckpointWriter
from tokkit.pretraining.training.device import count_graphs
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.metrics import MetricSums, StepMetrics

FIRST_STEADY_STEP = 2  # the optimizer makes its state in step 0, torch its buffers
SYNCHRONIZATIONS, PAGEABLE, PEAK = "synchronizations", "pageable copies", "peak"


class CountedCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts copies between main memory and a device, by whether they are of pinned memory."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.count(args[0], result)
        elif func is torch.ops.aten.copy_.default:
            self.count(args[1], args[0])
        return result

    def count(self, source: torch.Tensor, target: torch.Tensor) -> None:
        if source.is_cuda == target.is_cuda or not source.numel():
            return
        in_memory, direction = (target, "from") if source.is_cuda else (source, "to")
        kind = f"pinned copies {direction} it" if in_memory.is_pinned() else PAGEABLE
        self.counts[kind] += 1


@contextmanager
def counted_synchronizations(counts: Counter[str]) -> Iterator[None]:
    """Count torch's own synchronizations and those that are asked for.

    Waiting for an event is none: at a steady step it is one of the step before, and the device has
    the next one to do meanwhile.
    """
    synchronize = torch.cuda.synchronize

    def count(*arguments: Any) -> None:
        counts[SYNCHRONIZATIONS] += 1
        synchronize(*arguments)

    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught, patch("torch.cuda.synchronize", count):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    counts[SYNCHRONIZATIONS] += sum("synchronizing CUDA op" in str(w.message) for w in caught)


def read_and_forget(
    metrics: StepMetrics, _: MetricSums, *, read: Callable[..., float] = StepMetrics.add_to
) -> float:
    """Wait for the metrics of a step, which a driver that only counts has not computed."""
    read(metrics, MetricSums())
    return 0.0


def count_costs(config: PretrainConfig) -> dict[str, list[Counter[str]]]:
    """Run, and return the counts of each step, batch of an evaluation, and checkpoint."""
    costs: dict[str, list[Counter[str]]] = defaultdict(list)

    def counted(kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            counts: Counter[str] = Counter()
            graphs = count_graphs()
            with ExitStack() as stack:
                stack.enter_context(counted_synchronizations(counts))
                if config.compile == "off":  # torch does not compile under a mode
                    stack.enter_context(CountedCopies(counts))
                result = method(*arguments, **options)
            counts[PEAK] = torch.cuda.max_memory_allocated()
            if count_graphs() == graphs:  # compiling synchronizes
                costs[kind].append(counts)
            return result

        return call

    with ExitStack() as stack:
        for owner, name, kind in (
            (Trainer, "step", "step"),
            (Trainer, "_evaluate", "evaluation"),
            (CheckpointWriter, "save", "checkpoint"),
        ):
            stack.enter_context(patch.object(owner, name, counted(kind, getattr(owner, name))))
        stack.enter_context(patch.object(StepMetrics, "add_to", read_and_forget))
        pretrain(config)
    costs["step"] = costs["step"][FIRST_STEADY_STEP:]
    return {kind: costs[kind] for kind in ("step", "evaluation", "checkpoint")}


def show(costs: dict[str, list[Counter[str]]]) -> list[str]:
    """Print the costs, and return what should not be."""
    faults = []
    for kind, counts in costs.items():
        if not counts:
            # Compiling synchronizes, so a step of which a graph is compiled is not counted.
            faults.append(f"{kind}: each compiled something, so none is steady; raise --steps")
            continue
        names = sorted({name for found in counts for name in found} - {PEAK})
        figures = [
            f"{min(values):,} to {max(values):,} {name}"
            for name in names
            if (values := [found[name] for found in counts])
        ]
        peak = max(found[PEAK] for found in counts)
        say(f"  {kind} ({len(counts)} seen): {', '.join(figures)}; peak {peak / 1e9:.2f} GB")
        for name in (SYNCHRONIZATIONS, PAGEABLE) if kind != "checkpoint" else (PAGEABLE,):
            faults += [f"{kind}: {name}"] * any(found[name] for found in counts)
    return faults


def graphs_of_functions() -> Counter[str]:
    """Return how many graphs torch has compiled of each function."""
    return Counter(
        f"{Path(compiled.co_filename).name}:{compiled.co_firstlineno}"
        for compiled in torch._dynamo.utils.get_compilation_metrics()
        if compiled.co_filename is not None
    )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("instances", type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--architecture")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--compile", choices=["off", "on", "both"], default="both")
    parser.add_argument("--kernels", choices=["plain", "triton"], default="plain")
    parser.add_argument("--max-graphs", type=int, default=4, help="of a function")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        say("there is no CUDA device")
        return 2
    faults = []
    for mode in ["off", "on"] if options.compile == "both" else [options.compile]:
        torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            costs = count_costs(
                PretrainConfig(
                    instances=(options.instances,),
                    output=Path(folder) / "run",
                    preset=options.preset,
                    architecture=options.architecture,
                    max_steps=options.steps,
                    batch_size=options.batch_size,
                    eval_every=options.steps // 2,
                    checkpoint_every=options.steps // 2,
                    device="cuda",
                    compile=mode,
                    kernels=options.kernels,
                    progress=False,
                )
            )
        say(f"compile {mode}:")
        faults += show(costs)
        if mode == "on":
            graphs = graphs_of_functions()
            say("  graphs: " + ", ".join(f"{name} {count}" for name, count in graphs.items()))
            faults += [
                f"{count} graphs of {name}"
                for name, count in graphs.items()
                if count > options.max_graphs
            ]
    for fault in faults:
        say(f"should not be: {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
