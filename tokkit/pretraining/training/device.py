"""Where a run computes, in which precision, and how torch's generators are kept stateless."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from tokkit.errors import TokkitError
from tokkit.pretraining.pretrain_config import PretrainConfig

# That a model is compiled for. Batches of one phase have 4 to 16 (tokkit.pretraining.data.batches),
# evaluations as many again. After more, torch warns and runs the model as it is; its own limit is 8.
MAX_SHAPES = 64


def choose_device(name: str) -> torch.device:
    """The device that an option names.

    Raises:
        TokkitError: where it is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there)
    if not there[name]:
        raise TokkitError(
            f"--device {name}: torch {torch.__version__} finds none here; "
            f"install a build of torch for it, or pass --device auto"
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device in words, for ``run.json``."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return device.type


def choose_precision(name: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` is bf16 on a GPU that has units for it: Ampere and newer."""
    if name == "auto":
        has_units = device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return "bf16" if has_units else "fp32"
    return name


def is_compiled(choice: str, device: torch.device) -> bool:
    """Whether models are compiled; ``auto`` does so where it pays for itself soon: on a GPU."""
    return device.type == "cuda" if choice == "auto" else choice == "on"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Compute matrix products in ``precision``; weights, sums and norms stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def seed_torch(seed: int, purpose: str, step: int = 0) -> None:
    """Set torch's generators, on every device, from what they will be used for.

    torch draws dropout from generators with a state. Setting them before each use makes what
    they give a function of (seed, purpose, step) after all: nothing of them has to be saved, and a
    resumed run drops what the unbroken one dropped. The key is hashed, since neighbouring seeds
    of torch's CPU generator, a Mersenne twister, need not give unrelated numbers.
    """
    digest = hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))


@contextmanager
def torch_settings(config: PretrainConfig, device: torch.device) -> Iterator[None]:
    """Set what torch keeps for the whole process, and put it back when the block ends.

    It is the threads, the generators, for how many shapes a model is compiled, and how exact the
    products in fp32 are that bf16 leaves over.
    """
    threads, exactness = torch.get_num_threads(), torch.get_float32_matmul_precision()
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.callback(torch.set_num_threads, threads)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if is_compiled(config.compile, device):
            compiler = torch._dynamo.config  # noqa: SLF001  its documented name
            stack.enter_context(compiler.patch(recompile_limit=MAX_SHAPES))
        if device.type == "cuda" and choose_precision(config.precision, device) == "bf16":
            stack.callback(torch.set_float32_matmul_precision, exactness)
            torch.set_float32_matmul_precision("high")  # by TF32: more exact than bf16
        yield
