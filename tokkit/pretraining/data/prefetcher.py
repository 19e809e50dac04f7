"""Micro-batches, prepared by a thread while the caller computes the previous step.

After step s of a phase the thread prepares step s + 1; if another one is requested, that work is
dropped. Batches are written to three sets of buffers, which are allocated once:

    next_batches(0, 0)    in A    the thread writes step 1 to B
    next_batches(0, 1)    in B                      step 2 to C
    next_batches(0, 2)    in C                      step 3 to A, over the batches of step 0

Almost all of the thread's work is done in kernels, five calls a step, which release the interpreter
lock.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch

from tokkit.pretraining.data.batches import Batch, Buffers, Layout, MicroBatches, lay_out, max_rows
from tokkit.pretraining.data.loader import Loader

NUM_SETS = 3

Prepared = tuple[Buffers, tuple[Batch, ...]]


class Prefetcher:
    """The micro-batches of each step, prefetched by one thread.

    Args:
        loaders: loader of each phase, all with the same tokenizer and objective.
        micro_batch_tokens: maximum number of tokens in a micro-batch of more than one instance.
        static: whether sizes are rounded up, for a compiled model.
        pin: whether batches are in page-locked memory, for asynchronous copies. Requires CUDA.

    Attributes:
        micro_batch_tokens: same as the argument.
        waited: seconds that the last ``next_batches`` took.
    """

    def __init__(
        self,
        loaders: Sequence[Loader],
        *,
        micro_batch_tokens: int,
        static: bool = False,
        pin: bool = False,
    ) -> None:
        self.waited = 0.0
        self._loaders = tuple(loaders)
        self.micro_batch_tokens = micro_batch_tokens
        self._static, self._pin = static, pin
        self._plans = {
            (phase, size): self._plan(loader, size)
            for phase, loader in enumerate(loaders)
            for size in loader.rank_sizes
        }
        capacities = (plan.capacity for plan in self._plans.values())
        capacity = [max(sizes) for sizes in zip(*capacities, strict=True)]
        self._sets = [Buffers(*capacity, pin=pin) for _ in range(NUM_SETS)]
        self._held: deque[Buffers] = deque(maxlen=NUM_SETS - 1)  # of the last steps returned
        self._next: tuple[int, int, Future[Prepared]] | None = None
        # By default a thread creates its context on the first GPU when it waits.
        device = (torch.cuda.set_device, (torch.cuda.current_device(),)) if pin else (None, ())
        self._executor = ThreadPoolExecutor(1, "prefetcher", *device)

    def __enter__(self) -> Self:
        """Return the prefetcher, whose thread ends with the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def next_batches(self, phase: int, step: int) -> tuple[Batch, ...]:
        """Return the rank's micro-batches of a step; the thread continues with the next step.

        They are views of buffers, valid until the second call after this one.

        Raises:
            TokkitError: a shard is damaged.
        """
        started = time.perf_counter()
        prefetched, self._next = self._next, None
        if prefetched is not None and prefetched[:2] == (phase, step):
            future = prefetched[2]
        else:
            future = self._submit(phase, step)
        held, batches = future.result()
        self._held.append(held)
        self._next = (phase, step + 1, self._submit(phase, step + 1))
        self.waited = time.perf_counter() - started
        return batches

    def mark_copied(self) -> None:
        """Record that the last step's batches have been enqueued for copying to a GPU.

        With ``pin``, call this once after each ``next_batches``, on the stream that copies: the
        thread overwrites the buffers only after the GPU has reached this point.
        """
        if self._held and (copied := self._held[-1].copied) is not None:
            copied.record()

    def held_out(self, phase: int) -> Iterator[Batch]:
        """Yield micro-batches of the held-out instances, in order and always masked the same way.

        They are the same on all ranks, for any number of ranks. Each has memory of its own.
        """
        loader = self._loaders[phase]
        size = max_rows(loader, self.micro_batch_tokens)
        padding = self._plan(loader, size).padding
        for instances in loader.held_out_instances(size):
            causal, pin = loader.is_causal, self._pin
            yield lay_out(instances, loader.pad_id, padding, causal=causal, pin=pin)

    def _plan(self, loader: Loader, num_rows: int) -> MicroBatches:
        tokens = self.micro_batch_tokens
        return MicroBatches.plan(loader, num_rows, tokens, static=self._static)

    def _submit(self, phase: int, step: int) -> Future[Prepared]:
        """Have the thread prepare a step, in the set of buffers that is not in use."""
        free = next(buffers for buffers in self._sets if buffers not in self._held)
        return self._executor.submit(self._prepare, free, phase, step)

    def _prepare(self, free: Buffers, phase: int, step: int) -> Prepared:
        loader = self._loaders[phase]
        instances = loader.training_instances(step)
        plan = self._plans[phase, len(instances)]
        layout = Layout.measure(instances, plan.bounds, plan.padding, causal=loader.is_causal)
        if free.copied is not None:
            free.copied.synchronize()
        return free, free.lay_out(instances, layout, loader.pad_id, causal=loader.is_causal)
