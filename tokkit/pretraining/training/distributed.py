"""Several processes that train one model: what they exchange, and how the model is distributed.

Each process, or rank, computes a part of every batch. torch exchanges the gradients:

    one rank    the model itself
    several     DistributedDataParallel: replicas; gradients are averaged during the backward pass
    fsdp        FSDP2: each rank stores 1/size of every weight, gradient and moment; layers are gathered
                when needed, and their gradients are averaged and scattered

Both *average* gradients over ranks, but each rank divides its loss by the counts of the whole batch, so
the gradients must be summed: multiply the loss by ``group.size`` before the backward pass. With counts
of 3 and 1 and losses of 6 and 4 the mean is 10 / 4; the ranks compute 2 * 6 / 4 and 2 * 4 / 4, whose
average is 2.5.

FSDP gathers weights in fp32, and bf16 is left to autocast as on one rank, so the numbers are the same.
FSDP's own mixed precision would round biases and norms, and with them the logits.

``ProcessGroup`` exchanges the few numbers that all ranks must agree on: counts of the whole batch,
whether to stop, what rank 0 has read. They are exchanged between CPUs, over gloo, without waiting for a
GPU. All ranks call its methods, in the same order. When a rank ends, its connections break, and the
next call of the others raises ``RankLost``; the cause is the error that the ended rank has reported.
"""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tokkit.errors import TokkitError
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import choose_device
from tokkit.pretraining.training.launch_info import LaunchInfo, RankLost

# Longer than anything that other ranks wait for, such as an export.
TIMEOUT = timedelta(minutes=30)
PAUSE_SECONDS = 0.1
CPU = torch.device("cpu")
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class ProcessGroup(LaunchInfo):
    """The processes of a run, as one of them sees them.

    Attributes:
        device: on which this process computes.
    """

    device: torch.device = CPU

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over ranks, in float64, identical on all ranks."""
        if self.size == 1:
            return [float(number) for number in numbers]
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        reduced: list[float] = sums.tolist()
        return reduced

    def broadcast(self, data: Any) -> Any:
        """Return what rank 0 passes; what other ranks pass is ignored."""
        if self.size == 1:
            return data
        received = [data]
        dist.broadcast_object_list(received, src=0, device=CPU)
        return received[0]

    def barrier(self) -> None:
        """Wait until all ranks have called this method."""
        self.sum([0.0])


@contextmanager
def join_process_group(config: PretrainConfig, launch_info: LaunchInfo) -> Iterator[ProcessGroup]:
    """Connect to the other ranks of a run, if there are any.

    If the block succeeds, all ranks disconnect together. If it fails, the connections stay open until
    the process ends: closing them needs the other ranks, which may be waiting for this one.

    Raises:
        TokkitError: if there is no device for this rank.
        RankLost: if another rank cannot be reached, or ends.
    """
    device = choose_rank_device(config.device, launch_info)
    group = ProcessGroup(**vars(launch_info), device=device)
    if group.size == 1:
        yield group
        return
    _join(group)
    try:
        yield group
        group.barrier()
    except RuntimeError as error:
        if not _is_disconnect(error):
            raise
        raise RankLost(
            f"rank {group.rank}: lost the connection to another rank; see the error of that rank"
        ) from error
    # gloo's thread releases the tensors of the last collective, for which it needs the interpreter's
    # lock; destroying the group before that would wait for the thread with the lock held, forever.
    time.sleep(PAUSE_SECONDS)
    dist.destroy_process_group()


def choose_rank_device(name: str, launch_info: LaunchInfo) -> torch.device:
    """Return the device of one rank: the GPU with its local rank, or the CPU.

    Raises:
        TokkitError: if there are fewer GPUs than ranks.
    """
    device = choose_device(name)
    if launch_info.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise TokkitError(
            f"--device {device.type}: {launch_info.size} processes cannot share it; train with a single process"
        )
    num_devices = torch.cuda.device_count()
    if num_devices == 1 and launch_info.by_slurm:  # with --gpus-per-task each task has its own
        return torch.device("cuda", 0)
    if launch_info.local_rank >= num_devices:
        raise TokkitError(
            f"rank {launch_info.rank}: local rank {launch_info.local_rank} needs a GPU of its own, but "
            f"this machine has {num_devices}; start one process per GPU, or pass --device cpu"
        )
    return torch.device("cuda", launch_info.local_rank)


def _join(group: ProcessGroup) -> None:
    if dist.is_initialized():
        raise TokkitError(
            "torch.distributed is already initialized in this process; pretrain in another process"
        )
    if group.device.type == "cuda":
        torch.cuda.set_device(group.device)
    host, port = group.master_addr, group.master_port
    try:
        socket.getaddrinfo(host, port)  # torch would retry until the timeout
        dist.init_process_group(
            BACKENDS[group.device.type],
            init_method=f"tcp://{f'[{host}]' if ':' in host else host}:{port}",
            rank=group.rank,
            world_size=group.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, OSError) as error:
        raise RankLost(
            f"rank {group.rank}: cannot connect to rank 0 at {host}:{port} "
            f"({str(error).splitlines()[0]}); set MASTER_ADDR to its host and MASTER_PORT to a "
            f"free port there"
        ) from error


def _is_disconnect(error: RuntimeError) -> bool:
    """Return whether an error is about another rank, for which gloo has no exception type."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def distribute(model: Transformer, group: ProcessGroup, *, fsdp: bool = False) -> nn.Module:
    """Distribute a model over the ranks, which all have the same weights.

    FSDP replaces parameters, so call this before the optimizer is built. DistributedDataParallel wraps
    ``model`` and FSDP changes it in place, so its parameters keep their names.

    Returns:
        The module to call with inputs.
    """
    if group.size == 1:
        return model
    if not fsdp:
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    mesh = init_device_mesh(group.device.type, (group.size,))
    for layer in model.list_layers():
        fully_shard(layer, mesh=mesh)
    # By default the root stays gathered until the backward pass, which an evaluation does not have.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def compile_model(model: Transformer) -> None:
    """Compile the parts of a model in place, when they are first called; call before ``distribute``.

    Layers are compiled separately, so all share one graph; there is nothing to fuse between layers.
    ``medium``, with 8 layers, was compiled for a CPU in 22 seconds, and as a whole in 51; it was no
    faster. Sizes are dynamic: there are one or two graphs of each part, for any batches.

    CUDA graphs are not used: they hide kernel launches, but with 16,384 tokens a layer of BERT-base
    computes for about a millisecond, much longer than its launches take, and the graph of each shape
    would keep its own activations (calculated, not measured).
    """
    for part in model.children():
        for module in part if isinstance(part, nn.ModuleList) else [part]:
            module.compile(dynamic=True)


@contextmanager
def accumulate(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Exchange the gradients of the block only for the last micro-batch of a step.

    With FSDP each pass through a layer is collective, so all ranks must have the same number of
    micro-batches, even if some are empty.

    Args:
        model: returned by ``distribute``.
        is_last: whether the block computes the last micro-batch of a step.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
    if isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield


def gather_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather tensors on rank 0; all ranks call this.

    Args:
        tensors: tensors of a model or an optimizer, sharded or not.

    Returns:
        The whole tensors on rank 0, and nothing on others. Sharded ones are on the CPU, since a GPU has
        no room for all of them; others are neither moved nor copied.
    """
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    full = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if is_first:
            full[name] = whole.detach()
    return full


def shard_tensors(full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return this rank's part of the tensors of rank 0; all ranks call this.

    Args:
        full: whole tensors; ignored on ranks other than 0.
        like: tensors with the same names, in the same order on all ranks, that have the layout of the
            result, such as a model's parameters.
    """
    parts = {}
    for name, template in like.items():
        if not dist.is_initialized():
            parts[name] = full[name].to(template.device)
            continue
        if dist.get_rank() == 0:
            whole = full[name].to(template.device, template.dtype).contiguous()
        else:
            whole = torch.empty(template.shape, dtype=template.dtype, device=template.device)
        dist.broadcast(whole, 0)
        if isinstance(template, DTensor):
            whole = distribute_tensor(
                whole, template.device_mesh, template.placements, src_data_rank=None
            )
        parts[name] = whole
    return parts
