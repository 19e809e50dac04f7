"""Counts what training on a GPU costs beside arithmetic, by hand: it needs a CUDA device.

    python tests/gpu_costs.py INSTANCES --preset base

INSTANCES is a folder that ``tokkit build`` has written. A short run, compiled or not, shows of each
step, evaluation and checkpoint the synchronizations (during which the device may have nothing to do),
the copies (from and to pinned memory a device copies by itself, while the process waits for others),
and the allocator's peak; a compiled one its graphs, too. torch shows no copies while it compiles, so in
compiled runs only a driver that counts does, through ``nullcuda_set_hook``.

Nothing is timed and no result is looked at, so that a driver that only counts does as well. Ends with
status 1 if a steady step or evaluation synchronizes, any copy is of pageable memory, a step copies
other than its batches, more graphs are compiled of a part than ``--max-graphs``, torch ceases to
compile, or the peak exceeds the memory for which the size of micro-batches is chosen.
"""

import argparse
import ctypes
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

from tokkit.pretraining.models.transformer import Inputs, Transformer
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training import loop, train_model
from tokkit.pretraining.training.checkpoint_writer import CheckpointWriter
from tokkit.pretraining.training.device import count_graphs
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.metrics import MetricSums, StepMetrics

FIRST_STEADY_STEP = 2  # the optimizer makes its state in step 0, torch its buffers
SYNCHRONIZATIONS, PAGEABLE, PINNED, PEAK, BATCHES = (
    "synchronizations",
    "pageable copies",
    "pinned copies",
    "peak",
    "micro-batches",
)
SMALLEST_GPU = 8e9  # bytes
DIRECTIONS = {"H2D": "to it", "D2H": "from it"}


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
        in_memory, direction = (target, "from it") if source.is_cuda else (source, "to it")
        self.counts[f"{PINNED if in_memory.is_pinned() else PAGEABLE} {direction}"] += 1


@contextmanager
def copies_of_the_driver(counts: Counter[str]) -> Iterator[None]:
    """Count what a driver that counts copies reports, if this is one."""
    set_hook = getattr(ctypes.CDLL(None), "nullcuda_set_hook", None)
    if set_hook is None:
        yield
        return

    def count(kind: bytes, _: int) -> None:
        direction, *memory = kind.decode().split()
        if direction in DIRECTIONS:
            counts[f"{PINNED if memory == ['pinned'] else PAGEABLE} {DIRECTIONS[direction]}"] += 1

    hook = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)(count)
    set_hook(hook)
    try:
        yield
    finally:
        set_hook(None)


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


class Costs:
    """What a run costs.

    Attributes:
        counts: of each step, evaluation and checkpoint in which nothing was compiled.
        shapes: tokens and predictions of the micro-batches met.
        kinds: by the function that computes a part of the model, the parts that differ in more than
            their weights.
        model: that was trained.
    """

    def __init__(self) -> None:
        self.counts: dict[str, list[Counter[str]]] = defaultdict(list)
        self.shapes: set[tuple[int, int]] = set()
        self.kinds: dict[str, set[str]] = defaultdict(set)
        self.model: Transformer | None = None
        self._running: Counter[str] = Counter()

    def count(self, config: PretrainConfig) -> None:
        """Run, and count."""
        with ExitStack() as stack:
            for owner, name, kind in (
                (Trainer, "step", "step"),
                (Trainer, "_evaluate", "evaluation"),
                (CheckpointWriter, "save", "checkpoint"),
            ):
                method = self._counted(kind, getattr(owner, name), compiled=config.compile == "on")
                stack.enter_context(patch.object(owner, name, method))
            stack.enter_context(patch.object(StepMetrics, "add_to", read_and_forget))
            for module, name in ((loop, "compute_losses"), (train_model, "distribute")):
                watch = self._watched(getattr(self, f"_watch_{name}"), getattr(module, name))
                stack.enter_context(patch.object(module, name, watch))
            pretrain(config)
        self.counts["step"] = self.counts["step"][FIRST_STEADY_STEP:]

    def _counted(
        self, kind: str, method: Callable[..., Any], *, compiled: bool
    ) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            counts: Counter[str] = Counter()
            outer, self._running = self._running, counts
            graphs = count_graphs()
            copies = copies_of_the_driver if compiled else CountedCopies
            with counted_synchronizations(counts), copies(counts):
                result = method(*arguments, **options)
            counts[PEAK] = torch.cuda.max_memory_allocated()
            if count_graphs() == graphs:  # compiling synchronizes
                self.counts[kind].append(counts)
            self._running = outer
            return result

        return call

    @staticmethod
    def _watched(watch: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            watch(*arguments)
            return function(*arguments, **options)

        return call

    def _watch_compute_losses(self, _: Any, batch: Any, *__: Any) -> None:
        self._running[BATCHES] += 1
        self.shapes.add((len(batch.inputs.input_ids_N), len(batch.inputs.labels_M)))

    def _watch_distribute(self, model: Transformer, _: Any) -> None:
        self.model = model
        for part in model.children():
            for module in part if isinstance(part, torch.nn.ModuleList) else [part]:
                code = type(module).forward.__code__
                self.kinds[name_code(code.co_filename, code.co_firstlineno)].add(describe(module))

    def show(self) -> list[str]:
        """Print the costs, and return what should not be."""
        faults = []
        for kind in ("step", "evaluation", "checkpoint"):
            if not (found := self.counts[kind]):
                # Compiling synchronizes, so a step of which a graph is compiled is not counted.
                faults.append(f"{kind}: each compiled something, so none is steady; raise --steps")
                continue
            names = sorted({name for counts in found for name in counts} - {PEAK})
            figures = [
                f"{min(values):,} to {max(values):,} {name}"
                for name in names
                if (values := [counts[name] for counts in found])
            ]
            peak = max(counts[PEAK] for counts in found)
            say(f"  {kind} ({len(found)} seen): {', '.join(figures)}; peak {peak / 1e9:.2f} GB")
            unwanted = {f"{PAGEABLE} {direction}" for direction in DIRECTIONS.values()}
            if kind != "checkpoint":
                unwanted.add(SYNCHRONIZATIONS)
            for counts in found:
                faults += sorted(
                    f"{kind}: {counts[name]} {name}"
                    for name in unwanted & {*counts}
                    if counts[name]
                )
                copied = counts[f"{PINNED} {DIRECTIONS['H2D']}"]
                if copied > len(Inputs._fields) * counts[BATCHES]:
                    faults.append(f"{kind}: {copied} copies for {counts[BATCHES]} micro-batches")
        return faults + self._check_room()

    def _check_room(self) -> list[str]:
        """Return what is wrong with the size of micro-batches that this peak leads to."""
        assert self.model is not None
        tokens = max(tokens for tokens, _ in self.shapes)
        peak = max(counts[PEAK] for found in self.counts.values() for counts in found)
        chosen = train_model.choose_micro_batch_tokens(self.model, peak, torch.device("cuda"))
        say(f"  at most {tokens:,} tokens at once; with this peak {chosen:,} would be chosen")
        # A smaller GPU than any is full of what does not grow with tokens.
        is_wrong = chosen > tokens and peak >= SMALLEST_GPU
        return [f"a peak of {peak:,} for {tokens:,} tokens"] * is_wrong


def name_code(file: str, line: int) -> str:
    return f"{Path(file).name}:{line}"


def describe(module: torch.nn.Module) -> str:
    """Return what a compiled part depends on besides its tensors' values."""
    plain = (bool, int, float, str, tuple, type(None))
    return str(
        [
            (
                name,
                type(part).__name__,
                sorted((k, v) for k, v in vars(part).items() if isinstance(v, plain)),
                [(k, tuple(p.shape)) for k, p in part.named_parameters(recurse=False)],
            )
            for name, part in module.named_modules()
        ]
    )


def count_graphs_of_parts(costs: Costs, max_graphs: int) -> list[str]:
    """Print how many graphs torch has compiled of each function; return where these are too many."""
    graphs = Counter(
        name_code(compiled.co_filename, compiled.co_firstlineno or 0)
        for compiled in torch._dynamo.utils.get_compilation_metrics()
        if compiled.co_filename is not None
    )
    texts, faults = [], []
    for name, count in graphs.items():
        kinds = max(1, len(costs.kinds[name]))
        texts.append(f"{name} {count}" + (f" of {kinds} kinds" if kinds > 1 else ""))
        if count > kinds * max_graphs:
            faults.append(f"{count} graphs of {kinds} kinds of {name}")
    breaks = torch._dynamo.utils.counters["graph_break"]
    say(
        f"  graphs for {len(costs.shapes)} shapes: {', '.join(texts)}; {sum(breaks.values())} breaks"
    )
    return faults + [f"a graph that breaks: {cause}" for cause in breaks]


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
    parser.add_argument("--share-layers", action="store_true")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--compile", choices=["off", "on", "both"], default="both")
    parser.add_argument("--kernels", choices=["plain", "triton"], default="plain")
    parser.add_argument(
        "--max-graphs", type=int, default=2, help="of a part; one of its evaluation"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        say("there is no CUDA device")
        return 2
    faults = []
    for mode in ["off", "on"] if options.compile == "both" else [options.compile]:
        torch.cuda.reset_peak_memory_stats()
        costs = Costs()
        with tempfile.TemporaryDirectory() as folder:
            config = PretrainConfig(
                instances=(options.instances,),
                output=Path(folder) / "run",
                preset=options.preset,
                architecture=options.architecture,
                share_layers=options.share_layers,
                max_steps=options.steps,
                batch_size=options.batch_size,
                micro_batch_tokens=options.micro_batch_tokens,
                eval_every=options.steps // 2,
                checkpoint_every=options.steps // 2,
                device="cuda",
                compile=mode,
                kernels=options.kernels,
                progress=False,
            )
            # Else torch would go on without compiling.
            with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
                costs.count(config)
        say(f"compile {mode}:")
        faults += [f"compile {mode}: {fault}" for fault in costs.show()]
        if mode == "on":
            faults += count_graphs_of_parts(costs, options.max_graphs)
    for fault in faults:
        say(f"should not be: {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
