"""Batches as the model takes them, and how a step's instances are cut into micro-batches.

Sequences follow each other without padding between them. Two instances of 3 and 5 tokens,
one token masked in each, make N = 8 and S = 2:

    input_ids_N            2 9 3 2 4 3 5 3      cu_seqlens             0 3 8
    token_type_ids_N       0 0 0 0 0 0 1 1      predicted_positions_M  1 6
    position_ids_N         0 1 2 0 1 2 3 4
    row_ids_N              0 0 0 1 1 1 1 1

A micro-batch has room for ``micro_batch_tokens // max_seq_length`` instances, and at least for one. A step's instances are cut into
as few nearly equal runs as have room: 10 instances with room for 4 make runs of 3, 3 and 4. So the
number of runs depends on the options alone, and ranks that wait for each other agree on it.

For a compiled model, whose graphs are for any size, sizes are rounded up to what suits matrix units:
tokens to multiples of 64, by sequences of padding after the others, and predictions to multiples of 8,
by some without a label. The number of sequences is made constant by empty ones. None of these
contributes to the loss or to a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from tokkit.kernels.instances.flatten import flatten_batches
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.models.dropout import key_sequences
from tokkit.pretraining.models.transformer import NO_TARGETS, Inputs
from tokkit.shards.instances import Instances, Int64

LENGTH_MULTIPLE = 8  # of padded blocks: matrix units want it, and there are fewer shapes
TOKEN_MULTIPLE = 64  # of the sizes for a compiled model
PREDICTION_MULTIPLE = 8

Number = TypeVar("Number", int, Int64)


@dataclass(frozen=True)
class Padding:
    """How batches are padded, so that a compiled model meets few sizes.

    Attributes:
        tokens: N is a multiple of it.
        sequences: same for S.
        predictions: same for M.
        max_seqlen: of all batches; None for the longest sequence of each.
        max_target_len: the same of targets.
    """

    tokens: int = 1
    sequences: int = 1
    predictions: int = 1
    max_seqlen: int | None = None
    max_target_len: int | None = None


NO_PADDING = Padding()


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: of the model.
        num_tokens: without padding.
        num_predicted: tokens that have a label.
        num_pairs: instances whose pair has a label.
        first_row: number of the first instance among those that were cut into batches.
    """

    inputs: Inputs
    num_tokens: int
    num_predicted: int
    num_pairs: int
    first_row: int = 0

    def to(self, device: torch.device) -> Self:
        """The batch on another device; copies from pinned memory do not wait."""
        return replace(self, inputs=Inputs(*(_move(part, device) for part in self.inputs)))

    def key_dropout(self, step_key: int, first_row: int) -> Self:
        """The batch with keys for dropout, on its device.

        Args:
            step_key: of the step, see ``key_step``.
            first_row: number of this process's first instance among those of all.
        """
        keys = key_sequences(
            step_key,
            first_row + self.first_row,
            len(self.inputs.cu_seqlens) - 1,
            self.inputs.cu_seqlens.device,
        )
        return replace(self, inputs=self.inputs._replace(dropout_keys=keys))


def _move(part: Any, device: torch.device) -> Any:
    return part.to(device, non_blocking=True) if isinstance(part, Tensor) else part


@dataclass(frozen=True)
class Sizes:
    """The sizes of consecutive batches that instances are cut into.

    Attributes:
        bounds: int64 ``[4, num_batches + 1]``: where each begins among the instances, the tokens,
            the sequences and the predictions; sizes are rounded except for the instances.
        num_tokens: of each, without padding.
        num_predicted: of each, tokens that have a label.
        max_seqlen: of each.
        max_target_len: of each; None for the longest of each.
    """

    bounds: Int64
    num_tokens: list[int]
    num_predicted: list[int]
    max_seqlen: list[int]
    max_target_len: int | None

    @classmethod
    def measure(
        cls, instances: Instances, bounds: Sequence[int], padding: Padding, *, causal: bool
    ) -> Self:
        """Measure batches.

        Args:
            instances: of all batches.
            bounds: where each batch begins among the instances, and their number.
            padding: of each batch.
            causal: all tokens but the first of each instance are predicted.
        """
        rows = np.array(bounds)
        num_rows = np.diff(rows)
        num_tokens = np.diff(instances.offsets[rows])
        num_predicted = np.diff(instances.predictions.offsets[rows])
        if causal:
            num_predicted = num_tokens - num_rows
        if padding.max_seqlen is None:
            longest = np.maximum.reduceat(np.diff(instances.offsets), rows[:-1])
            max_seqlen = round_up(longest, LENGTH_MULTIPLE)
        else:
            max_seqlen = np.full(len(num_rows), padding.max_seqlen)
        tokens = round_up(num_tokens, padding.tokens)
        num_padding = -(-(tokens - num_tokens) // max_seqlen)
        predictions = round_up(num_predicted, padding.predictions)
        if padding.max_target_len is not None:
            rest = -(-(predictions - num_predicted) // padding.max_target_len)
            num_padding = np.maximum(num_padding, rest)
        sequences = round_up(num_rows + num_padding, padding.sequences)
        starts = np.zeros((4, len(rows)), np.int64)
        starts[0] = rows
        np.cumsum([tokens, sequences, predictions], axis=1, out=starts[1:, 1:])
        return cls(
            starts,
            num_tokens.tolist(),
            num_predicted.tolist(),
            max_seqlen.tolist(),
            padding.max_target_len,
        )


class Buffers:
    """Memory that batches are laid out in.

    Args:
        tokens: of all batches together.
        sequences: of all batches together.
        predictions: of all batches together.
        num_batches: most batches.
        pin: page-locked, so that a GPU copies from it by itself.

    Attributes:
        copied: with ``pin``, the event after which the memory may be written again.
    """

    def __init__(
        self, tokens: int, sequences: int, predictions: int, num_batches: int, *, pin: bool = False
    ) -> None:
        def allocate(size: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.empty(size, dtype=dtype, pin_memory=pin)

        self._tensors = (
            *(allocate(tokens) for _ in range(4)),
            allocate(sequences + num_batches, torch.int32),
            *(allocate(predictions) for _ in range(2)),
            allocate(sequences),
        )
        self._num_pairs = np.empty(num_batches, np.int64)
        self._arrays = (*(tensor.numpy() for tensor in self._tensors), self._num_pairs)
        self.copied: torch.cuda.Event | None = None
        if pin:
            self.copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def lay_out(
        self, instances: Instances, sizes: Sizes, pad_id: int, *, causal: bool
    ) -> tuple[Batch, ...]:
        """Lay batches out in one call of a kernel, and return them as views of the memory."""
        predicted = instances.predictions
        flatten_batches(
            instances.input_ids,
            instances.offsets,
            instances.segment_lengths,
            instances.next_sentence_labels,
            predicted.positions,
            predicted.labels,
            predicted.offsets,
            sizes.bounds,
            np.array(sizes.max_seqlen),
            pad_id,
            causal,
            *self._arrays,
        )
        views = []
        for number, ends in enumerate(pairwise(sizes.bounds.T.tolist())):
            (first_row, *starts), (last_row, *stops) = ends
            tokens, sequences, predictions = map(slice, starts, stops)
            ids, types, positions, rows, cu_seqlens, places, labels, pairs = self._tensors
            target_cu_seqlens, max_target_len = NO_TARGETS, sizes.max_target_len or 0
            if predicted.targets is not None:
                bounds = predicted.offsets[first_row : last_row + 1]
                if not max_target_len:
                    max_target_len = round_up(int(np.diff(bounds).max()), LENGTH_MULTIPLE)
                # Sequences of padding take the targets of padding.
                padded = np.full(stops[1] - starts[1] + 1, max_target_len, np.int64)
                padded[: len(bounds)] = np.diff(bounds, prepend=bounds[0])
                padded = padded.cumsum().clip(max=stops[2] - starts[2])
                target_cu_seqlens = torch.from_numpy(padded.astype(np.int32))
                if self.copied is not None:
                    target_cu_seqlens = target_cu_seqlens.pin_memory()
            views.append(
                Batch(
                    inputs=Inputs(
                        input_ids_N=ids[tokens],
                        token_type_ids_N=types[tokens],
                        position_ids_N=positions[tokens],
                        row_ids_N=rows[tokens],
                        cu_seqlens=cu_seqlens[
                            sequences.start + number : sequences.stop + number + 1
                        ],
                        predicted_positions_M=places[predictions],
                        labels_M=labels[predictions],
                        pair_labels_S=pairs[sequences],
                        max_seqlen=sizes.max_seqlen[number],
                        target_cu_seqlens=target_cu_seqlens,
                        max_target_len=max_target_len,
                    ),
                    num_tokens=sizes.num_tokens[number],
                    num_predicted=sizes.num_predicted[number],
                    num_pairs=int(self._num_pairs[number]),
                    first_row=first_row,
                )
            )
        return tuple(views)


def lay_out(
    instances: Instances,
    pad_id: int,
    padding: Padding = NO_PADDING,
    *,
    causal: bool = False,
    pin: bool = False,
) -> Batch:
    """Lay instances out as one batch, in memory of its own.

    Args:
        instances: of the batch.
        pad_id: id of ``[PAD]``, or any other where there is none.
        padding: of each batch.
        causal: each token but the first of its instance is predicted, from those before it.
        pin: in page-locked memory.
    """
    sizes = Sizes.measure(instances, (0, len(instances)), padding, causal=causal)
    _, tokens, sequences, predictions = sizes.bounds[:, -1].tolist()
    buffers = Buffers(tokens, sequences, predictions, 1, pin=pin)
    return buffers.lay_out(instances, sizes, pad_id, causal=causal)[0]


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a number of instances.

    Attributes:
        bounds: where each begins among the instances, and their number.
        padding: of each.
        room: most tokens, sequences and predictions of all batches, and their number.
    """

    bounds: tuple[int, ...]
    padding: Padding
    room: tuple[int, int, int, int]

    @classmethod
    def plan(cls, loader: Loader, num_rows: int, micro_batch_tokens: int, *, static: bool) -> Self:
        """Cut instances into micro-batches.

        Args:
            loader: with the longest instance, and the most predictions in one.
            num_rows: number of instances.
            micro_batch_tokens: most tokens in a micro-batch of more than one instance.
            static: round sizes up, for a compiled model.
        """
        longest = loader.max_seq_length
        number = -(-num_rows // max_rows(loader, micro_batch_tokens))
        bounds = tuple(num_rows * part // number for part in range(number + 1))
        rows = -(-num_rows // number)
        tokens, predictions = rows * longest, rows * loader.max_predictions
        padding = NO_PADDING
        if static:
            padding = Padding(
                tokens=TOKEN_MULTIPLE,
                sequences=rows + -(-TOKEN_MULTIPLE // longest),
                predictions=PREDICTION_MULTIPLE,
                max_seqlen=longest,
                max_target_len=round_up(loader.max_predictions, LENGTH_MULTIPLE),
            )
        room = (
            number * round_up(tokens, padding.tokens),
            number * round_up(rows, padding.sequences),
            number * round_up(predictions, padding.predictions),
            number,
        )
        return cls(bounds, padding, room)


def max_rows(loader: Loader, micro_batch_tokens: int) -> int:
    """Number of instances that a micro-batch has room for."""
    return max(1, micro_batch_tokens // loader.max_seq_length)


def round_up(number: Number, multiple: int) -> Number:
    """The next multiple of a number, or of each of several."""
    return -(-number // multiple) * multiple
