"""Measures where the time of training steps goes, by kernel and by kind of work."""

import re
from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

NUM_KERNELS = 15
NAME_WIDTH = 80
# The first pattern found in the name of a kernel (on a GPU) or an operator (on a CPU) is its kind.
KINDS = (
    ("attention", r"flash|fmha|attention|softmax_warp"),
    ("optimizer", r"adam|multi_tensor|foreach|lpnorm"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|splitk|::(add|b|badd)?mm|linear"),
    ("copies between devices", r"memcpy"),
    ("compiled kernels: norms, GELU, dropout, embeddings, losses", r"triton|cpp_fused|graph_"),
    ("other elementwise, reductions, lookups", r""),
)


def profile_steps(run_steps: Callable[[], Any], device: torch.device) -> list[str]:
    """Profile some training steps; return lines of text.

    Args:
        run_steps: runs the steps and waits for them.
        device: device that computes.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        run_steps()
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = [
        (event.key, float(getattr(event, attribute)), int(event.count))
        for event in profiler.key_averages()
        if not on_gpu or _is_kernel(event)
    ]
    total = sum(time for _, time, _ in times) or 1.0
    kinds: dict[str, float] = defaultdict(float)
    for name, time, _ in times:
        kinds[next(kind for kind, held in KINDS if re.search(held, name, re.IGNORECASE))] += time
    lines = [f"  {'share':>6}  kind of work"]
    lines += [
        f"  {time / total:6.1%}  {kind}"
        for kind, time in sorted(kinds.items(), key=_last, reverse=True)
    ]
    lines.append(f"  {'share':>6} {'ms':>9} {'calls':>7}  {'kernel' if on_gpu else 'operator'}")
    lines += [
        f"  {time / total:6.1%} {time / 1e3:9.2f} {count:7}  {name[:NAME_WIDTH]}"
        for name, time, count in sorted(times, key=itemgetter(1), reverse=True)[:NUM_KERNELS]
    ]
    return lines


def _is_kernel(event: Any) -> bool:
    """Return whether an event ran on the GPU, and is not the operator that launched it."""
    return str(event.device_type) != "DeviceType.CPU"


def _last(pair: tuple[str, float]) -> float:
    return pair[1]
