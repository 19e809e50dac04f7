"""The processes that train one model together, and the few numbers they tell each other.

Each has a part of every batch. Gradients go by ``tokkit.pretraining.distribute``; what is here goes
between CPUs, over gloo, so that it does not wait for a GPU, and it is what all must agree on:
counts of the whole batch, whether to stop, what rank 0 has read. Each method is called by all
ranks, in the same order.

Where a rank ends, its connections break, and the others' next call ends with ``RankLost``: a
consequence that says to look for its cause, which the rank that ended has told.
"""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tokkit.errors import TokkitError
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.device import choose_device
from tokkit.pretraining.place import Place, RankLost

# Longer than anything that one rank does while the others wait for it, such as an export.
TIMEOUT = timedelta(minutes=30)
PAUSE_SECONDS = 0.1
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class World:
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

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over ranks, in float64; to the bit the same on all of them."""
        if self.size == 1:
            return [float(number) for number in numbers]
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        reduced: list[float] = sums.tolist()
        return reduced

    def share(self, form: Any) -> Any:
        """What rank 0 gives, to all: a form of JSON. What the others give is not looked at."""
        if self.size == 1:
            return form
        spelled = bytearray(json.dumps(form).encode() if self.is_first else b"")
        (length,) = self.total([len(spelled)])
        text = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            text = torch.frombuffer(spelled, dtype=torch.uint8)
        dist.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.total([0.0])


@contextmanager
def open_world(config: PretrainConfig, place: Place) -> Iterator[World]:
    """Join the other ranks; alone there is nobody to join.

    When the block ends well, all ranks leave together. When it does not, the connections are left
    to the end of the process: to close them in order takes the others, who may be waiting for us.

    Args:
        config: of the run.
        place: of this process.

    Raises:
        TokkitError: where there is no device for this rank.
        RankLost: where the others are not there, or one of them ends.
    """
    device = choose_rank_device(config.device, place)
    world = World(place.rank, place.size, place.local_rank, device)
    if place.size == 1:
        yield world
        return
    _join(place, device)
    try:
        yield world
        world.barrier()
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise RankLost(
            f"rank {place.rank}: lost the connection to another rank; what that one says is why"
        ) from error
    # gloo's thread lets go of the last collective's tensors, for which it needs the interpreter's
    # lock; a group that goes first waits for that thread with the lock held, for ever.
    time.sleep(PAUSE_SECONDS)
    dist.destroy_process_group()


def choose_rank_device(name: str, place: Place) -> torch.device:
    """The device of one rank: of several GPUs, the one of its number on its machine.

    Raises:
        TokkitError: where there are fewer devices than ranks.
    """
    device = choose_device(name)
    if place.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise TokkitError(
            f"--device {device.type}: {place.size} processes cannot share it; train with one"
        )
    num_devices = torch.cuda.device_count()
    if num_devices == 1 and place.by_slurm:  # --gpus-per-task shows each task its own
        return torch.device("cuda", 0)
    if place.local_rank >= num_devices:
        raise TokkitError(
            f"rank {place.rank} would be process {place.local_rank + 1} of its machine, which has "
            f"{num_devices} GPU{'s' if num_devices > 1 else ''}; start one process a GPU, "
            f"or pass --device cpu"
        )
    return torch.device("cuda", place.local_rank)


def _join(place: Place, device: torch.device) -> None:
    if dist.is_initialized():
        raise TokkitError(
            "torch.distributed is in use in this process already; pretrain in one of its own"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    host, port = place.master_addr, place.master_port
    try:
        socket.getaddrinfo(host, port)  # torch would try for as long as the timeout is
        dist.init_process_group(
            BACKENDS[device.type],
            init_method=f"tcp://{f'[{host}]' if ':' in host else host}:{port}",
            rank=place.rank,
            world_size=place.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, OSError) as error:
        raise RankLost(
            f"rank {place.rank}: cannot join the others at {host}:{port} "
            f"({str(error).splitlines()[0]}); set MASTER_ADDR and MASTER_PORT to a free port "
            f"of rank 0's host"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    """Whether this is about another rank; gloo has no type of its own for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
