"""How fast models are trained, beside transformers and, on a GPU, beside its matrix product.

    python tests/benchmarks/pretrain.py [--presets base large] [--lengths 128 512] [--steps 100]
        [--micro-batch-tokens 32768] [--json FILE] [--profile]

On a GPU: BERT-base at 128 and 512 tokens, MLM and NSP, bf16, dropout 0.1, compiled, the loader
included; steps are timed after a warm-up in which all shapes are compiled. Operations a token are
counted by ``tokkit.pretraining.flops`` over real tokens, and put beside the rate of that GPU's own
8192 x 8192 x 8192 product in bf16, measured in the same run. Beside it transformers'
``BertForPreTraining``, compiled, with sdpa, padded to the longest: the same instances, masks,
micro-batches and optimizer.

On a CPU: ``tiny`` and ``mini`` at 128 tokens in fp32, eager and compiled, taking turns for a few
rounds; medians and their ratio.

Instances are made here, of random words in documents and sentences of usual lengths, over 30,522
entries. Without transformers its part is left out. ``--profile`` says where a GPU's time goes.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loading import instance_folders
from benchmarks.trainers import Task, Tokkit, Transformers, open_tokkit

from tokkit.pretraining.forecast import flops_per_token, sample_instances

WARM_UP = 10
PRODUCT_SIZE = 8192
CPU_THREADS = 2

Contestant = Tokkit | Transformers


@dataclass(frozen=True)
class Row:
    """What was measured of one contestant.

    Attributes:
        preset: of the model.
        length: of the longest instance.
        name: of the contestant.
        tokens_per_second: real ones.
        flops: operations a second that these make.
        waited: share of the time that was spent on waiting for data.
        peak_bytes: of GPU memory.
    """

    preset: str
    length: int
    name: str
    tokens_per_second: float
    flops: float
    waited: float
    peak_bytes: int


def measure_product(device: torch.device) -> float:
    """Operations a second of the GPU's own product of large matrices in bf16."""
    a, b = (
        torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    for _ in range(10):
        a @ b
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(50):
        a @ b
    torch.cuda.synchronize(device)
    return 50 * 2 * PRODUCT_SIZE**3 / (time.perf_counter() - started)


def run_steps(contestant: Contestant, first: int, number: int) -> tuple[int, float]:
    """Take steps; returns their tokens and seconds."""
    contestant.waited = 0.0
    started = time.perf_counter()
    tokens = sum(contestant.step(first + step) for step in range(number))
    contestant.finish()
    return tokens, time.perf_counter() - started


def on_gpu(task: Task, contestant: Contestant, flops: float, num_steps: int) -> Row:
    """Warm up on the very steps that are timed then, so that no shape is compiled meanwhile."""
    run_steps(contestant, 0, num_steps)
    run_steps(contestant, 0, WARM_UP)
    torch.cuda.reset_peak_memory_stats()
    tokens, seconds = run_steps(contestant, 0, num_steps)
    return Row(
        preset=task.preset,
        length=task.length,
        name=contestant.name,
        tokens_per_second=tokens / seconds,
        flops=flops * tokens / seconds,
        waited=contestant.waited / seconds,
        peak_bytes=torch.cuda.max_memory_allocated(),
    )


def on_cpu(
    task: Task, contestants: list[Contestant], flops: float, rounds: int, num_steps: int
) -> Iterator[Row]:
    """Let contestants take turns, and compare medians."""
    rates: list[list[float]] = [[] for _ in contestants]
    waits: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds + 1):
        for contestant, own, waited in zip(contestants, rates, waits, strict=True):
            tokens, seconds = run_steps(contestant, 0, num_steps)
            if number:  # the first compiles
                own.append(tokens / seconds)
                waited.append(contestant.waited / seconds)
    for contestant, own, waited in zip(contestants, rates, waits, strict=True):
        rate = statistics.median(own)
        share = statistics.median(waited)
        yield Row(task.preset, task.length, contestant.name, rate, rate * flops, share, 0)


@contextmanager
def opened(task: Task, *, compiled: bool) -> Iterator[list[Contestant]]:
    """tokkit, and transformers where it is."""
    with open_tokkit(task, compiled=compiled) as ours:
        contestants: list[Contestant] = [ours]
        config = task.config(compiled=compiled)
        try:
            contestants.append(Transformers(config, ours.setup, compiled=compiled))
        except ImportError as error:
            sys.stderr.write(f"transformers is left out: {error}\n")
        yield contestants


def count_flops(contestant: Contestant, batch_size: int) -> float:
    assert isinstance(contestant, Tokkit)
    sample = sample_instances(contestant.setup.loaders[0], batch_size)
    return flops_per_token(contestant.setup.model.config, sample)


def measure_task(task: Task, options: argparse.Namespace) -> list[Row]:
    """All contestants of a task."""
    if task.device == "cpu":
        with ExitStack() as stack:
            pairs = [
                stack.enter_context(opened(task, compiled=compiled)) for compiled in (False, True)
            ]
            contestants = [contestant for pair in pairs for contestant in pair]
            flops = count_flops(contestants[0], task.batch_size)
            return list(on_cpu(task, contestants, flops, options.rounds, options.steps))
    with opened(task, compiled=True) as contestants:
        flops = count_flops(contestants[0], task.batch_size)
        rows = [on_gpu(task, contestant, flops, options.steps) for contestant in contestants]
        if options.profile:
            profile(contestants[0])
    torch.cuda.empty_cache()
    return rows


def profile(contestant: Contestant) -> None:
    """Print what three steps spend the device's time on."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as recorded:
        run_steps(contestant, 0, 3)
    table = recorded.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=30, max_name_column_width=80
    )
    sys.stdout.write(f"{table}\n")


def describe_machine(device: str) -> str:
    """The machine, and the versions of everything that matters."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{CPU_THREADS} threads of a CPU"
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    try:
        import transformers
    except ImportError:
        return f"{name}; {versions}, no transformers"
    return f"{name}; {versions}, transformers {transformers.__version__}"


def format_table(rows: list[Row], product: float | None) -> str:
    """The table, of ratios against transformers under the same compiler."""
    lines = [
        "model  length  contestant              tokens/s   TFLOP/s  of the product  waiting   ratio"
    ]
    for row in rows:
        others = [
            other
            for other in rows
            if (other.preset, other.length) == (row.preset, row.length)
            and other.name == row.name.replace("tokkit", "transformers")
        ]
        ratio = f"{row.tokens_per_second / others[0].tokens_per_second:.2f}x" if others else ""
        share = "" if product is None else f"{row.flops / product:.1%}"
        lines.append(
            f"{row.preset:<6} {row.length:>6}  {row.name:<22} {row.tokens_per_second:>9,.0f} "
            f"{row.flops / 1e12:>9.3f}  {share:>14}  {row.waited:>7.2%}  {ratio:>6}"
        )
    return "\n".join(lines)


def read_options() -> argparse.Namespace:
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    presets = ["base"] if has_gpu else ["tiny", "mini"]
    parser.add_argument("--presets", nargs="+", default=presets)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512] if has_gpu else [128])
    parser.add_argument("--steps", type=int, default=100 if has_gpu else 3, help="that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="on a CPU")
    parser.add_argument("--batch-tokens", type=int, default=65_536 if has_gpu else 4096)
    parser.add_argument("--micro-batch-tokens", type=int, default=32_768)
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--json", type=Path, help="file to write the figures into")
    parser.add_argument("--profile", action="store_true", help="of a GPU")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    product = None
    if options.device == "cuda":
        product = measure_product(torch.device("cuda"))
    else:
        torch.set_num_threads(CPU_THREADS)
    rows: list[Row] = []
    with instance_folders(options.lengths) as folders:
        for preset in options.presets:
            for length in options.lengths:
                task = Task(
                    preset=preset,
                    length=length,
                    folder=folders[length],
                    batch_size=max(1, options.batch_tokens // length),
                    micro_batch_tokens=options.micro_batch_tokens,
                    device=options.device,
                )
                rows += measure_task(task, options)
    machine = describe_machine(options.device)
    sys.stdout.write(f"{machine}\n{format_table(rows, product)}\n")
    if product is not None:
        sys.stdout.write(f"the product of {PRODUCT_SIZE}: {product / 1e12:.0f} TFLOP/s\n")
    if options.json is not None:
        form: dict[str, Any] = {"machine": machine, "product_flops": product}
        form["rows"] = [asdict(row) for row in rows]
        options.json.write_text(json.dumps(form, indent=2) + "\n")


if __name__ == "__main__":
    main()
