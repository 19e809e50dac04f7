"""One model on several ranks: replicas whose gradients are averaged, or parts of one model.

    one rank    the model itself
    several     DistributedDataParallel: a replica each; gradients go while the backward pass runs
    fsdp        FSDP2: of each tensor a rank has 1/size, of weights, gradients and moments alike; a
                layer is put together when it is needed, and its gradient is summed and split

Both *average* gradients over ranks. A rank's loss is its sum over the whole batch's count, so what
is wanted is their sum: multiply the loss by ``group.size`` before the backward pass. With counts of
3 and 1 and losses of 6 and 4, the mean is 10 / 4: ranks give 2 * 6 / 4 and 2 * 4 / 4, whose average
is 2.5.

Parts of a model are gathered in fp32, and bf16 is left to autocast as on one rank: so numbers are
the same, where FSDP's own mixed precision would round biases and norms, and with them the logits.

The processes that train one model together, and the few numbers they tell each other.

Each has a part of every batch. Gradients go by ``tokkit.pretraining.training.distributed``; what is here goes
between CPUs, over gloo, so that it does not wait for a GPU, and it is what all must agree on:
counts of the whole batch, whether to stop, what rank 0 has read. Each method is called by all
ranks, in the same order.

Where a rank ends, its connections break, and the others' next call ends with ``RankLost``: a
consequence that says to look for its cause, which the rank that ended has told.
"""

import json
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

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.models.build_model import Model
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import choose_device
from tokkit.pretraining.training.launch_info import LaunchInfo, RankLost

# Longer than anything that one rank does while the others wait for it, such as an export.
TIMEOUT = timedelta(minutes=30)
PAUSE_SECONDS = 0.1
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class ProcessGroup:
    """One rank's view of all.

    Attributes:
        rank: of this process, from 0.
        size: ranks there are.
        local_rank: of this process on its machine.
        device: on which it computes.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes into the run folder, logs and shows a bar."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sums over ranks, in float64; to the bit the same on all of them."""
        if self.size == 1:
            return [float(number) for number in numbers]
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        reduced: list[float] = sums.tolist()
        return reduced

    def broadcast(self, form: Any) -> Any:
        """What rank 0 gives, to all: a form of JSON. What the others give is not looked at."""
        if self.size == 1:
            return form
        spelled = bytearray(json.dumps(form).encode() if self.is_first else b"")
        (length,) = self.sum([len(spelled)])
        text = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            text = torch.frombuffer(spelled, dtype=torch.uint8)
        dist.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum([0.0])


@contextmanager
def join_process_group(config: PretrainConfig, launch_info: LaunchInfo) -> Iterator[ProcessGroup]:
    """Join the other ranks; alone there is nobody to join.

    When the block ends well, all ranks leave together. When it does not, the connections are left
    to the end of the process: to close them in order takes the others, who may be waiting for us.

    Args:
        config: of the run.
        launch_info: which of the processes this one is.

    Raises:
        TokkitError: where there is no device for this rank.
        RankLost: where the others are not there, or one of them ends.
    """
    device = choose_rank_device(config.device, launch_info)
    group = ProcessGroup(launch_info.rank, launch_info.size, launch_info.local_rank, device)
    if launch_info.size == 1:
        yield group
        return
    _join(launch_info, device)
    try:
        yield group
        group.barrier()
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise RankLost(
            f"rank {launch_info.rank}: lost the connection to another rank; what that one says is why"
        ) from error
    # gloo's thread lets go of the last collective's tensors, for which it needs the interpreter's
    # lock; a group that goes first waits for that thread with the lock held, for ever.
    time.sleep(PAUSE_SECONDS)
    dist.destroy_process_group()


def choose_rank_device(name: str, launch_info: LaunchInfo) -> torch.device:
    """The device of one rank: of several GPUs, the one of its number on its machine.

    Raises:
        TokkitError: where there are fewer devices than ranks.
    """
    device = choose_device(name)
    if launch_info.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise TokkitError(
            f"--device {device.type}: {launch_info.size} processes cannot share it; train with one"
        )
    num_devices = torch.cuda.device_count()
    if num_devices == 1 and launch_info.by_slurm:  # --gpus-per-task shows each task its own
        return torch.device("cuda", 0)
    if launch_info.local_rank >= num_devices:
        raise TokkitError(
            f"rank {launch_info.rank} would be process {launch_info.local_rank + 1} of its machine, which has "
            f"{num_devices} GPU{'s' if num_devices > 1 else ''}; start one process a GPU, "
            f"or pass --device cpu"
        )
    return torch.device("cuda", launch_info.local_rank)


def _join(launch_info: LaunchInfo, device: torch.device) -> None:
    if dist.is_initialized():
        raise TokkitError(
            "torch.distributed is in use in this process already; pretrain in one of its own"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    host, port = launch_info.master_addr, launch_info.master_port
    try:
        socket.getaddrinfo(host, port)  # torch would try for as long as the timeout is
        dist.init_process_group(
            BACKENDS[device.type],
            init_method=f"tcp://{f'[{host}]' if ':' in host else host}:{port}",
            rank=launch_info.rank,
            world_size=launch_info.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, OSError) as error:
        raise RankLost(
            f"rank {launch_info.rank}: cannot join the others at {host}:{port} "
            f"({str(error).splitlines()[0]}); set MASTER_ADDR and MASTER_PORT to a free port "
            f"of rank 0's host"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    """Whether this is about another rank; gloo has no type of its own for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def distribute(model: Model, group: ProcessGroup, *, fsdp: bool = False) -> nn.Module:
    """Make a model one of all ranks; all of them have drawn or read the same weights.

    To be called before the optimizer is built, since FSDP replaces parameters. Names of parameters
    are those of ``model``, which DistributedDataParallel wraps and FSDP changes in place.

    Returns:
        What is called with inputs.

    Raises:
        UsageError: where there is nothing to split among.
    """
    if group.size == 1:
        if fsdp:
            raise UsageError("--fsdp splits the model among processes, but there is only one")
        return model
    if not fsdp:
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    mesh = init_device_mesh(group.device.type, (group.size,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    # By default the root's stay whole until the backward pass, which does not follow an evaluation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def compile_model(model: Model) -> None:
    """Have a model compiled when it is first called: in place, before it is distributed.

    Part by part, since all layers are one graph then, and between them there is nothing to fuse:
    ``medium``, of 8 layers, was compiled for a CPU in 22 seconds, and in 9 for a further shape, where
    the whole took 51 and 48 and was no faster then. Shapes are static, of which there are a few
    (see ``tokkit.pretraining.data.batches``).

    CUDA graphs are left out: they hide the time that launches take, and with 16,384 tokens a layer
    of BERT-base computes for about a millisecond, which is far more than its launches take; in
    exchange each shape would keep its activations. (By reckoning; not measured.)
    """
    for part in model.children():
        for module in part if isinstance(part, nn.ModuleList) else [part]:
            module.compile(dynamic=False)


@contextmanager
def accumulate(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Run a micro-batch; only the last of a step exchanges gradients.

    Under FSDP each pass through a layer is a collective, so all ranks must have the same number of
    micro-batches, be some of them empty.

    Args:
        model: as ``distribute`` gave it.
        is_last: of the step.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
    if isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors together on the CPU of rank 0; all ranks call it.

    Args:
        tensors: of a model or an optimizer, split or not.

    Returns:
        Rank 0: the whole tensors; copies only of what is split or elsewhere. Others: nothing.
    """
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    full = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_first:
            full[name] = whole.detach().cpu()
    return full


def split_tensors(full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse: give each rank its part of rank 0's tensors; all ranks call it.

    Args:
        full: whole tensors; what others than rank 0 give is not looked at.
        like: tensors of the same names, in the same order on all ranks, that lie as the result is
            to lie: such as a model's parameters.
    """
    parts = {}
    for name, model in like.items():
        if not dist.is_initialized():
            parts[name] = full[name].to(model.device)
            continue
        if dist.get_rank() == 0:
            whole = full[name].to(model.device, model.dtype).contiguous()
        else:
            whole = torch.empty(model.shape, dtype=model.dtype, device=model.device)
        dist.broadcast(whole, 0)
        if isinstance(model, DTensor):
            whole = distribute_tensor(
                whole, model.device_mesh, model.placements, src_data_rank=None
            )
        parts[name] = whole
    return parts
