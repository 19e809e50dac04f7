"""The device of a run: its precision, memory and peak, torch's settings and generators, and loss scale.

fp16 has no numbers below 6e-8, which many gradients are. So the loss is multiplied by a scale before
the backward pass, and the gradients are divided by it before they are clipped. A scale that is too
large makes a gradient infinite. Then the step does not change the weights, counts as skipped, and the
scale is halved; after 2,000 steps without a skip it is doubled (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2). This is torch's ``GradScaler``, whose state a checkpoint holds as two
numbers. Other precisions have no scale.

Several processes multiply their losses by their number, because torch averages their gradients; see
``tokkit.pretraining.training.distributed``. The scale of each process is divided by that number, so
that the same gradients overflow for any number of processes.

Fused AdamW decides on the device whether to skip; for any other optimizer the process waits for the
device.
"""

import hashlib
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokkit.errors import TokkitError, UsageError, require, require_library
from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.models.transformer import Sums
from tokkit.pretraining.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from tokkit.pretraining.training.distributed import ProcessGroup

# Graphs of one part of a model: one or two for training, as many for evaluation, and three kinds of
# layers in a ModernBERT. Beyond the limit torch stops compiling; its own limit is 8.
MAX_GRAPHS = 64
INITIAL_SCALE = 2.0**16  # of the loss in fp16

# Dense bf16 operations per second with sums in fp32, by a pattern of the name that
# ``torch.cuda.get_device_name`` returns. It matches whole names, because the name of a slice of a
# card (MIG) or of a cut-down one starts the same way. Rates that data sheets give with sparsity only
# are halved. What is missing, such as the A10G, for which NVIDIA publishes no such figure, has no MFU.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    # NVIDIA Blackwell Architecture technical brief and DGX/HGX B200, GB200 NVL72 data sheets
    (r"NVIDIA B200", 2250e12),
    (r"NVIDIA GB200", 2500e12),
    # NVIDIA H100 and H200 Tensor Core GPU data sheets; H100 architecture white paper, table 2
    (r"NVIDIA H100 80GB HBM3|NVIDIA H200|NVIDIA GH200 480GB", 989.4e12),
    (r"NVIDIA H100 PCIe", 756e12),
    (r"NVIDIA H100 NVL|NVIDIA H200 NVL", 835.5e12),
    # NVIDIA A100, A40, A30 and A10 Tensor Core GPU data sheets
    (r"(NVIDIA )?A100-(SXM4|SXM|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe", 312e12),
    (r"NVIDIA A40", 149.7e12),
    (r"NVIDIA A30", 165e12),
    (r"NVIDIA A10", 125e12),
    # NVIDIA L4, L40 and L40S data sheets
    (r"NVIDIA L4", 121e12),
    (r"NVIDIA L40", 181.05e12),
    (r"NVIDIA L40S", 362.05e12),
    # NVIDIA RTX A6000 data sheet; Ada GPU architecture white paper, RTX 6000
    (r"NVIDIA RTX A6000", 154.8e12),
    (r"NVIDIA RTX 6000 Ada Generation", 364.2e12),
    # NVIDIA V100, V100S and T4 data sheets: of fp16, since they have no units for bf16
    (r"Tesla V100-SXM[23]-(16|32)GB(-LS)?", 125e12),
    (r"Tesla V100-PCIE-(16|32)GB", 112e12),
    (r"Tesla V100S-PCIE-32GB", 130e12),
    (r"Tesla T4", 65e12),
    # NVIDIA GA102, Ada and RTX Blackwell GPU architecture white papers: with sums in fp32, at
    # half the rate of sums in fp16
    (r"NVIDIA GeForce RTX 3090", 71e12),
    (r"NVIDIA GeForce RTX 3090 Ti", 80e12),
    (r"NVIDIA GeForce RTX 4090", 165.2e12),
    (r"NVIDIA GeForce RTX 5090", 209.5e12),
    # AMD Instinct MI210, MI250X, MI300X and MI325X data sheets; of the two dies of an MI250X,
    # each is a device
    (r"AMD Instinct MI210", 181e12),
    (r"AMD Instinct MI250X", 191.5e12),
    (r"AMD Instinct MI300X|AMD Instinct MI325X", 1307.4e12),
)


def choose_device(name: str) -> torch.device:
    """Return the device that ``--device`` names; ``auto`` is a GPU if there is one.

    Raises:
        TokkitError: if torch has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
    if not available[name]:
        raise TokkitError(
            f"--device {name}: torch {torch.__version__} finds no such device; "
            f"install a build of torch for it, or pass --device auto"
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Return the device in words, for ``run.json``."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return device.type


def find_peak_flops(device: torch.device) -> float | None:
    """Return the dense bf16 operations per second of a device's data sheet; None if not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for pattern, peak in PEAK_FLOPS if re.fullmatch(pattern, name)), None)


def find_available_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, or the machine's memory for a CPU; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def find_peak_memory(device: torch.device) -> int | None:
    """Return the largest number of bytes that the process has used; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return None


def choose_precision(name: str, device: torch.device) -> str:
    """Return ``bf16``, ``fp16`` or ``fp32``.

    ``auto`` is what a GPU has hardware for, bf16 from Ampere and fp16 from Volta, and fp32 elsewhere.
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if torch.cuda.get_device_properties(device).major >= 7 else "fp32"


def is_compiled(choice: str, device: torch.device) -> bool:
    """Return whether models are compiled; ``auto`` compiles on a GPU, where it pays off quickly."""
    return device.type == "cuda" if choice == "auto" else choice == "on"


def require_triton(device: torch.device, *, compiled: bool) -> None:
    """Refuse ``--kernels triton`` if Triton is not installed or does not support the device.

    Its interpreter, which ``TRITON_INTERPRET=1`` enables, runs the kernels on a CPU.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        require(
            not compiled,
            "--kernels triton cannot be compiled with TRITON_INTERPRET=1; pass --compile off",
        )
    elif device.type != "cuda" or torch.cuda.get_device_properties(device).major < 8:
        raise UsageError(
            f"--kernels triton is for GPUs from Ampere, and has no effect on {describe_device(device)}; "
            f"leave it out"
        )
    require_library("triton", "--kernels triton", "triton")


def count_graphs() -> int:
    """Return how many graphs torch has compiled in this process."""
    compiler = sys.modules.get("torch._dynamo.utils")  # which takes a second to import
    return compiler.counters["stats"]["unique_graphs"] if compiler else 0


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context for matrix products in ``precision``; weights, sums and norms stay fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def compute_losses(model: nn.Module, batch: Batch, precision: str, device: torch.device) -> Sums:
    """Run the model on a batch that is on ``device``, in ``precision``."""
    with autocast(choose_precision(precision, device), device):
        sums: Sums = model(batch.inputs)
    return sums


def seed_torch(seed: int, purpose: str, step: int = 0) -> None:
    """Seed torch's generators on all devices.

    torch's generators have a state. Seeding them before each use makes their numbers a function of
    (seed, purpose, step): no state has to be saved, and a resumed run drops the same activations as an
    uninterrupted one. The key is hashed, because neighboring seeds of torch's CPU generator, a Mersenne
    twister, can give correlated numbers.
    """
    digest = hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))


@contextmanager
def torch_settings(config: PretrainConfig, device: torch.device) -> Iterator[None]:
    """Change torch's global settings within the block, and restore them after it.

    These are the number of threads, the generators, the limit of compiled graphs, the precision of the
    fp32 products that remain under bf16, and cuDNN's attention, which is disabled: torch prefers it for
    attention with a mask, but it takes about a second to build a plan for each new number of sequences
    (https://github.com/modelscope/FunASR/issues/3704, not measured here).
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.callback(torch.set_num_threads, threads)
        cuda: Any = torch.backends.cuda  # whose functions have no types
        stack.callback(cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled())
        cuda.enable_cudnn_sdp(enabled=False)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if is_compiled(config.compile, device):
            compiler = torch._dynamo.config  # noqa: SLF001  its documented name
            stack.enter_context(compiler.patch(recompile_limit=MAX_GRAPHS))
        if device.type == "cuda" and choose_precision(config.precision, device) != "fp32":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("high")  # TF32, which is more precise than bf16
        yield


class ScaledOptimizer:
    """An optimizer whose gradients are those of a scaled loss.

    Args:
        optimizer: optimizer of the weights.
        group: processes of the run.
        precision: precision of matrix products; only for fp16 is the loss scaled.
    """

    def __init__(self, optimizer: Optimizer, group: "ProcessGroup", precision: str) -> None:
        self._optimizer = optimizer
        self._size = group.size
        self._scaler = torch.amp.GradScaler(
            group.device.type,
            init_scale=INITIAL_SCALE / group.size,
            enabled=choose_precision(precision, group.device) == "fp16",
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        return self._optimizer.param_groups

    @property
    def state(self) -> tuple[float, int] | None:
        """The scale and the number of steps since it last changed; None if nothing is scaled."""
        if not self._scaler.is_enabled():
            return None
        state = self._scaler.state_dict()
        return state["scale"] * self._size, state["_growth_tracker"]

    def restore(self, state: tuple[float, int] | None) -> None:
        """Continue with a saved scale, if the loss is scaled."""
        if state is not None and self._scaler.is_enabled():
            scale, steps = state
            saved = {"scale": scale / self._size, "_growth_tracker": steps}
            self._scaler.load_state_dict({**self._scaler.state_dict(), **saved})

    @property
    def can_shrink(self) -> bool:
        """Whether gradients that are not finite may be due to the scale."""
        return self._scaler.is_enabled() and self._scaler.get_scale() * self._size >= 1

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss, times the scale."""
        torch.autograd.backward(self._scaler.scale(loss))

    def unscale(self) -> None:
        """Divide the gradients by the scale."""
        self._scaler.unscale_(self._optimizer)

    def step(self) -> None:
        """Update the weights, unless a gradient is not finite, and then the scale."""
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def zero_grad(self, *, set_to_none: bool) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none=set_to_none)
