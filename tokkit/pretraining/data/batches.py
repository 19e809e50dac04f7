"""Batches as the model takes them, and how the instances of a step are split into micro-batches.

Sequences are concatenated without padding. Two instances of 3 and 5 tokens, with one masked token
each, give N = 8 and S = 2:

    input_ids_N            2 9 3 2 4 3 5 3      cu_seqlens             0 3 8
    token_type_ids_N       0 0 0 0 0 0 1 1      predicted_positions_M  1 6
    position_ids_N         0 1 2 0 1 2 3 4
    row_ids_N              0 0 0 1 1 1 1 1

A micro-batch holds up to ``micro_batch_tokens // max_seq_length`` instances, and at least one. The
instances of a step are split into as few micro-batches as possible, of nearly equal size: 10 instances,
at most 4 at a time, become 3, 3 and 4. The number of micro-batches depends on the options alone, so all
ranks agree on it.

For a compiled model, whose graphs accept any size, sizes are rounded up to what matrix units prefer:
tokens to multiples of 64, by appending sequences of padding, and predictions to multiples of 8, by
appending some without a label. Empty sequences make the number of sequences constant. None of this
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

LENGTH_MULTIPLE = 8  # of padded blocks: matrix units prefer it, and there are fewer shapes
TOKEN_MULTIPLE = 64  # for a compiled model
PREDICTION_MULTIPLE = 8

Number = TypeVar("Number", int, Int64)


@dataclass(frozen=True)
class Padding:
    """How batches are padded, so that a compiled model sees few sizes.

    Attributes:
        tokens: N is a multiple of this.
        sequences: S is a multiple of this.
        predictions: M is a multiple of this.
        max_seqlen: ``max_seqlen`` of all batches; None for the longest sequence of each.
        max_target_len: same as ``max_seqlen``, for targets.
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
        inputs: inputs of the model.
        num_tokens: number of tokens without padding.
        num_predicted: number of predictions with a label.
        num_pairs: number of pairs with a label.
        first_row: number of the first instance among those of the process in this step.
    """

    inputs: Inputs
    num_tokens: int
    num_predicted: int
    num_pairs: int
    first_row: int = 0

    def to(self, device: torch.device) -> Self:
        """Return the batch on another device; copies from pinned memory are asynchronous."""
        return replace(self, inputs=Inputs(*(_move(part, device) for part in self.inputs)))

    def key_dropout(self, step_key: int, first_row: int) -> Self:
        """Return the batch with keys for dropout.

        Args:
            step_key: see ``key_step``.
            first_row: number of this process's first instance among those of all processes.
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
class Layout:
    """Where the consecutive batches that instances are split into lie in memory, and their sizes.

    Attributes:
        bounds: int64 ``[4, num_batches + 1]``, where each batch begins among the instances, tokens,
            sequences and predictions; all but the instances are rounded up.
        num_tokens: tokens of each batch, without padding.
        num_predicted: predictions of each batch that have a label.
        max_seqlen: ``max_seqlen`` of each batch.
        max_target_len: ``max_target_len`` of all batches; None for the longest target of each.
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
            instances: instances of all batches.
            bounds: where each batch begins among the instances; the last is their number.
            padding: how each batch is padded.
            causal: whether all tokens but the first of each instance are predicted.
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
    """Memory for the batches of a step.

    Args:
        tokens: maximum number of tokens in all batches together.
        sequences: maximum number of sequences in all batches together.
        predictions: maximum number of predictions in all batches together.
        num_batches: maximum number of batches.
        pin: whether the memory is page-locked, so that copies to a GPU are asynchronous.

    Attributes:
        copied: with ``pin``, the event after which the memory may be overwritten.
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
        self, instances: Instances, layout: Layout, pad_id: int, *, causal: bool
    ) -> tuple[Batch, ...]:
        """Write the batches with one call of a kernel, and return views of the memory."""
        predicted = instances.predictions
        flatten_batches(
            instances.input_ids,
            instances.offsets,
            instances.segment_lengths,
            instances.next_sentence_labels,
            predicted.positions,
            predicted.labels,
            predicted.offsets,
            layout.bounds,
            np.array(layout.max_seqlen),
            pad_id,
            causal,
            *self._arrays,
        )
        views = []
        for number, ends in enumerate(pairwise(layout.bounds.T.tolist())):
            (first_row, *starts), (last_row, *stops) = ends
            tokens, sequences, predictions = map(slice, starts, stops)
            ids, types, positions, rows, cu_seqlens, places, labels, pairs = self._tensors
            target_cu_seqlens, max_target_len = NO_TARGETS, layout.max_target_len or 0
            if predicted.targets is not None:
                bounds = predicted.offsets[first_row : last_row + 1]
                if not max_target_len:
                    max_target_len = round_up(int(np.diff(bounds).max()), LENGTH_MULTIPLE)
                # The targets of padding belong to the sequences of padding.
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
                        max_seqlen=layout.max_seqlen[number],
                        target_cu_seqlens=target_cu_seqlens,
                        max_target_len=max_target_len,
                    ),
                    num_tokens=layout.num_tokens[number],
                    num_predicted=layout.num_predicted[number],
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
    """Return instances as one batch, in newly allocated memory.

    Args:
        instances: instances of the batch.
        pad_id: id of ``[PAD]``, or any id if there is none.
        padding: how the batch is padded.
        causal: whether each token but the first of its instance is predicted from those before it.
        pin: whether the memory is page-locked.
    """
    layout = Layout.measure(instances, (0, len(instances)), padding, causal=causal)
    _, tokens, sequences, predictions = layout.bounds[:, -1].tolist()
    buffers = Buffers(tokens, sequences, predictions, 1, pin=pin)
    return buffers.lay_out(instances, layout, pad_id, causal=causal)[0]


@dataclass(frozen=True)
class MicroBatches:
    """How a number of instances is split into micro-batches.

    Attributes:
        bounds: where each micro-batch begins among the instances; the last is their number.
        padding: how each is padded.
        capacity: maximum tokens, sequences and predictions of all together, and their number.
    """

    bounds: tuple[int, ...]
    padding: Padding
    capacity: tuple[int, int, int, int]

    @classmethod
    def plan(cls, loader: Loader, num_rows: int, micro_batch_tokens: int, *, static: bool) -> Self:
        """Split instances into micro-batches.

        Args:
            loader: knows the maximum length and number of predictions of an instance.
            num_rows: number of instances.
            micro_batch_tokens: maximum number of tokens in a micro-batch of more than one instance.
            static: whether sizes are rounded up, for a compiled model.
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
        capacity = (
            number * round_up(tokens, padding.tokens),
            number * round_up(rows, padding.sequences),
            number * round_up(predictions, padding.predictions),
            number,
        )
        return cls(bounds, padding, capacity)


def max_rows(loader: Loader, micro_batch_tokens: int) -> int:
    """Return the maximum number of instances in a micro-batch."""
    return max(1, micro_batch_tokens // loader.max_seq_length)


def round_up(number: Number, multiple: int) -> Number:
    """Round a number, or each element of an array, up to a multiple."""
    return -(-number // multiple) * multiple
