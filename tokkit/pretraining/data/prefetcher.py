"""Batches, each made ready by a thread while the caller computes on the one before it.

The thread guesses that after step s of a phase step s + 1 is wanted; if not, what it made is
dropped. Batches are laid out in three sets of buffers, which are allocated once:

    take(0, 0)    lies in A    the thread lays step 1 out in B
    take(0, 1)    lies in B                         2 in C
    take(0, 2)    lies in C                         3 in A: the batches of step 0 are gone

All but a little of what the thread does is done by kernels, five calls a step, which let other
threads run.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from tokkit.pretraining.data.batches import Batch, Buffers, MicroBatches, Sizes, lay_out, most_rows
from tokkit.pretraining.data.loader import Loader

NUM_SETS = 3


@dataclass(eq=False)
class BufferSet:
    """What the batches of one step lie in.

    Attributes:
        buffers: the memory.
        copied: after which it may be written again, where a GPU copies from it.
    """

    buffers: Buffers
    copied: torch.cuda.Event | None


Prepared = tuple[BufferSet, Sizes]


class Feed:
    """The micro-batches of each step, prefetched by one thread from when the first is taken.

    Args:
        loaders: one for each phase.
        pad_id: what fills up.
        micro_batch_tokens: most tokens in a micro-batch of more than one instance.
        static: for a compiled model: sizes are rounded, so that there are few shapes.
        causal: each token is predicted from those before it.
        pin: batches lie in page-locked memory, from which a GPU copies by itself. Needs CUDA.

    Attributes:
        waited: seconds that the last ``take`` took.
    """

    def __init__(
        self,
        loaders: Sequence[Loader],
        pad_id: int,
        *,
        micro_batch_tokens: int,
        static: bool = False,
        causal: bool = False,
        pin: bool = False,
    ) -> None:
        self.waited = 0.0
        self._loaders = tuple(loaders)
        self._pad_id = pad_id
        self._micro_batch_tokens = micro_batch_tokens
        self._static = static
        self._causal = causal
        self._plans = [self._plan(loader, loader.rank_size) for loader in loaders]
        room = [max(sizes) for sizes in zip(*(plan.room for plan in self._plans), strict=True)]
        self._sets = [
            BufferSet(Buffers(*room, pin=pin), _make_event() if pin else None)
            for _ in range(NUM_SETS)
        ]
        self._held: deque[BufferSet] = deque(maxlen=NUM_SETS - 1)  # what was taken last
        self._next: tuple[int, int, Future[Prepared]] | None = None
        # A thread of its own would make its context on the first GPU when it waits.
        device = (torch.cuda.set_device, (torch.cuda.current_device(),)) if pin else (None, ())
        self._executor = ThreadPoolExecutor(1, "feed", *device)

    def __enter__(self) -> Self:
        """Begin; the thread ends with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def take(self, phase: int, step: int) -> tuple[Batch, ...]:
        """The rank's micro-batches of a step; the thread goes on with the step after it.

        They are views into buffers, and hold until the second ``take`` after this one begins.

        Raises:
            TokkitError: where a shard is damaged.
        """
        started = time.perf_counter()
        guess, self._next = self._next, None
        if guess is not None and guess[:2] == (phase, step):
            future = guess[2]
        else:
            future = self._begin(phase, step)
        taken, sizes = future.result()
        self._held.append(taken)
        batches = taken.buffers.batches(sizes)
        self._next = (phase, step + 1, self._begin(phase, step + 1))
        self.waited = time.perf_counter() - started
        return batches

    def release(self) -> None:
        """Say that all copies of the last step's batches to a GPU are under way.

        With ``pin``, call it once after each ``take``, on the stream that copies: before those
        buffers are written again, the thread waits until the GPU has got here.
        """
        if self._held and (copied := self._held[-1].copied) is not None:
            copied.record()

    def held_out(self, phase: int) -> Iterator[Batch]:
        """The micro-batches of what is held out: in order, masked the same way every time.

        They are the same for any number of ranks and each of them, made as they are asked for, and
        lie in memory of their own.
        """
        loader = self._loaders[phase]
        size = most_rows(loader, self._micro_batch_tokens)
        rounding = self._plan(loader, size).rounding
        for instances in loader.held_out_instances(size):
            yield lay_out(instances, self._pad_id, rounding, causal=self._causal)

    def _plan(self, loader: Loader, num_rows: int) -> MicroBatches:
        tokens = self._micro_batch_tokens
        return MicroBatches.plan(loader, num_rows, tokens, static=self._static)

    def _begin(self, phase: int, step: int) -> Future[Prepared]:
        """Let the thread prepare a step, in the set that nobody holds."""
        free = next(one for one in self._sets if one not in self._held)
        return self._executor.submit(self._prepare, free, phase, step)

    def _prepare(self, free: BufferSet, phase: int, step: int) -> Prepared:
        """What the thread does."""
        plan = self._plans[phase]
        instances = self._loaders[phase].training_instances(step)
        sizes = Sizes.measure(instances, plan.bounds, plan.rounding, causal=self._causal)
        if free.copied is not None:
            free.copied.synchronize()
        free.buffers.fill(instances, sizes, self._pad_id, causal=self._causal)
        return free, sizes


def _make_event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    return event
