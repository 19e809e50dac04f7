"""Batches, each made ready by a thread while the caller computes on the one before it."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tokkit.pretraining.batch import Batch, lay_out
from tokkit.pretraining.data import slice_instances
from tokkit.pretraining.loader import Loader
from tokkit.pretraining.microbatches import MicroBatches, plan_micro_batches, room_of

Place = tuple[int, int]  # phase and step


class Feed:
    """The micro-batches of each step, prefetched.

    Args:
        loaders: one for each phase.
        pad_id: what fills up.
        micro_batch_tokens: most tokens in a micro-batch of more than one instance.
        static: for a compiled model: sizes are rounded, so that there are few shapes.
        causal: each token is predicted from those before it.
        pin: batches lie in page-locked memory, which a GPU copies from by itself.

    Attributes:
        waited: seconds that the last ``take`` waited.
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
        self._pin = pin
        self._executor = ThreadPoolExecutor(1, "feed")
        self._place: Place | None = None
        self._future: Future[tuple[Batch, ...]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def take(self, phase: int, step: int) -> tuple[Batch, ...]:
        """The rank's micro-batches of a step; the thread goes on with the next step.

        They are valid until the second ``take`` after this one.

        Raises:
            TokkitError: where a shard is damaged.
        """
        started = time.perf_counter()
        if self._place != (phase, step) or self._future is None:
            self._future = self._executor.submit(self._prepare, phase, step)
        batches = self._future.result()
        self._place = (phase, step + 1)
        self._future = self._executor.submit(self._prepare, *self._place)
        self.waited = time.perf_counter() - started
        return batches

    def release(self) -> None:
        """Say that the copies of the last step's batches to a GPU are under way."""

    def held_out(self, phase: int) -> Iterator[Batch]:
        """The micro-batches of what is held out, the same for any rank and any number of them."""
        loader = self._loaders[phase]
        room = room_of(loader.max_seq_length, self._micro_batch_tokens)
        plan = self._plan(loader, room)
        for instances in loader.held_out_instances(room):
            yield lay_out(instances, self._pad_id, plan.rounding, causal=self._causal)

    def _prepare(self, phase: int, step: int) -> tuple[Batch, ...]:
        loader = self._loaders[phase]
        instances = loader.training_instances(step)
        plan = self._plan(loader, loader.rank_size)
        return tuple(
            lay_out(
                slice_instances(instances, start, stop),
                self._pad_id,
                plan.rounding,
                causal=self._causal,
            )
            for start, stop in zip(plan.bounds, plan.bounds[1:], strict=False)
        )

    def _plan(self, loader: Loader, num_rows: int) -> MicroBatches:
        return plan_micro_batches(
            num_rows,
            max_seq_length=loader.max_seq_length,
            max_predictions=loader.max_predictions,
            micro_batch_tokens=self._micro_batch_tokens,
            static=self._static,
        )
