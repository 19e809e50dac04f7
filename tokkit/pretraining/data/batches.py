"""How the instances that a rank has of a step fall into micro-batches, and to what sizes.

A micro-batch has room for so many instances of the greatest length. A step's instances are cut into
as few nearly equal runs as have room: 10 instances with room for 4 make runs of 3, 3 and 4. So how
many there are depends on the options alone, and ranks that wait for each other agree on it.

A compiled model is compiled anew for each shape that it meets, so its sizes are rounded up: tokens
to 32nds of the room for them, predictions to 16ths of the most there can be. Measured on pairs of
segments from English books, for --max-seq-length and --micro-batch-tokens:

                      shapes met    of them nine tenths meet    tokens wasted    if all were padded
    128    16,384         5                    4                     1.7%               8.3%
           65,536         4                    2                     1.6%               8.3%
    512    16,384        16                    6                     1.9%              19.9%
           65,536         7                    3                     1.8%              19.9%

With 64ths 0.9% are wasted, and there are up to twice as many shapes; with 16ths 2 to 4% and, where
there were 16, 11.

Batches as the model takes them: sequences one after the other, and nothing between them.

Two instances of 3 and 5 tokens, one token masked in each, make N = 8 and S = 2:

    input_ids_N            2 9 3 2 4 3 5 3      cu_seqlens             0 3 8
    token_type_ids_N       0 0 0 0 0 0 1 1      predicted_positions_M  1 6
    position_ids_N         0 1 2 0 1 2 3 4
    row_ids_N              0 0 0 1 1 1 1 1

A compiled model wants few shapes. So sizes may be rounded up: tokens by sequences of padding after
the others, sequences by empty ones, predictions by some that have no label. None of them has a part
in the loss or in a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokkit.kernels.instances.flatten import flatten_batches
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.models.bert import Inputs
from tokkit.shards.instances import Instances

LENGTH_MULTIPLE = 8  # of the padded block that attention may need

Int64 = npt.NDArray[np.int64]
Number = TypeVar("Number", int, Int64)


@dataclass(frozen=True)
class Rounding:
    """To multiples of what the sizes of batches are rounded up.

    Attributes:
        tokens: N.
        sequences: S.
        predictions: M.
        max_seqlen: what all batches give for it; None goes by the longest sequence of each.
    """

    tokens: int = 1
    sequences: int = 1
    predictions: int = 1
    max_seqlen: int | None = None


EXACT = Rounding()


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: of the model.
        num_tokens: without padding.
        num_predicted: tokens that have a label.
        num_pairs: that have a label.
    """

    inputs: Inputs
    num_tokens: int
    num_predicted: int
    num_pairs: int

    def to(self, device: torch.device) -> Self:
        """The batch on another device; copies from pinned memory do not wait."""
        return replace(self, inputs=Inputs(*(_move(part, device) for part in self.inputs)))


def _move(part: Any, device: torch.device) -> Any:
    if not isinstance(part, torch.Tensor):
        return part
    return part.to(device, non_blocking=True)


@dataclass(frozen=True)
class Sizes:
    """The sizes of consecutive batches that instances are cut into.

    Attributes:
        bounds: int64 ``[4, num_batches + 1]``: where each begins among the instances, the tokens,
            the sequences and the predictions, rounded sizes all but the first.
        num_tokens: of each, without padding.
        num_predicted: of each, that have a label.
        max_seqlen: of each.
    """

    bounds: Int64
    num_tokens: list[int]
    num_predicted: list[int]
    max_seqlen: list[int]

    @classmethod
    def measure(
        cls, instances: Instances, bounds: Sequence[int], rounding: Rounding, *, causal: bool
    ) -> Self:
        """Measure batches.

        Args:
            instances: all of them.
            bounds: where each batch begins, and their number.
            rounding: of the sizes.
            causal: all tokens but the first of each instance are predicted.
        """
        rows = np.array(bounds)
        num_rows = np.diff(rows)
        num_tokens = np.diff(instances.offsets[rows])
        num_predicted = np.diff(instances.masks.offsets[rows])
        if causal:
            num_predicted = num_tokens - num_rows
        longest = _longest_of(instances.offsets, bounds, rounding)
        tokens = round_up(num_tokens, rounding.tokens)
        num_padding = -(-(tokens - num_tokens) // np.array(longest))
        sequences = round_up(num_rows + num_padding, rounding.sequences)
        predictions = round_up(num_predicted, rounding.predictions)
        starts = np.zeros((4, len(rows)), np.int64)
        starts[0] = rows
        np.cumsum([tokens, sequences, predictions], axis=1, out=starts[1:, 1:])
        return cls(starts, num_tokens.tolist(), num_predicted.tolist(), longest)


class Buffers:
    """Memory that batches are laid out in.

    Args:
        tokens: of all batches together.
        sequences: likewise.
        predictions: likewise.
        num_batches: how many there may be.
        pin: page-locked, so that a GPU copies from it by itself.
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

    def fill(self, instances: Instances, sizes: Sizes, pad_id: int, *, causal: bool) -> None:
        """Lay batches out: one call of a kernel, which lets other threads run."""
        flatten_batches(
            instances.input_ids,
            instances.offsets,
            instances.segment_lengths,
            instances.next_sentence_labels,
            instances.masks.positions,
            instances.masks.labels,
            instances.masks.offsets,
            sizes.bounds,
            np.array(sizes.max_seqlen),
            pad_id,
            causal,
            *self._arrays,
        )

    def batches(self, sizes: Sizes) -> tuple[Batch, ...]:
        """The batches that were laid out last, as views."""
        views = []
        for number, ends in enumerate(pairwise(sizes.bounds.T.tolist())):
            (_, *starts), (_, *stops) = ends
            tokens, sequences, predictions = map(slice, starts, stops)
            ids, types, positions, rows, cu_seqlens, predicted, labels, pairs = self._tensors
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
                        predicted_positions_M=predicted[predictions],
                        labels_M=labels[predictions],
                        pair_labels_S=pairs[sequences],
                        max_seqlen=sizes.max_seqlen[number],
                    ),
                    num_tokens=sizes.num_tokens[number],
                    num_predicted=sizes.num_predicted[number],
                    num_pairs=int(self._num_pairs[number]),
                )
            )
        return tuple(views)


def lay_out(
    instances: Instances, pad_id: int, rounding: Rounding = EXACT, *, causal: bool = False
) -> Batch:
    """Lay ragged instances out as one batch.

    Args:
        instances: a few.
        pad_id: the id of ``[PAD]``, or any other where there is none.
        rounding: of the sizes.
        causal: each token but the first of its instance is to be predicted, from those before it.
    """
    bounds = (0, len(instances.offsets) - 1)
    sizes = Sizes.measure(instances, bounds, rounding, causal=causal)
    _, tokens, sequences, predictions = sizes.bounds[:, -1].tolist()
    buffers = Buffers(tokens, sequences, predictions, 1)
    buffers.fill(instances, sizes, pad_id, causal=causal)
    return buffers.batches(sizes)[0]


def _longest_of(offsets: Int64, bounds: Sequence[int], rounding: Rounding) -> list[int]:
    if rounding.max_seqlen is not None:
        return [rounding.max_seqlen] * (len(bounds) - 1)
    longest = np.maximum.reduceat(np.diff(offsets), bounds[:-1])
    rounded: list[int] = round_up(longest, LENGTH_MULTIPLE).tolist()
    return rounded


def round_up(number: Number, multiple: int) -> Number:
    """The next multiple of a number, or of each of several."""
    return -(-number // multiple) * multiple


PARTS = 32  # of the room for tokens: to multiples of one their number is rounded up
PREDICTION_PARTS = 16
TOKEN_FLOOR = 64  # what tokens are rounded up to at least


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a number of instances.

    Attributes:
        bounds: where each begins among the instances, and their number.
        rounding: of the sizes of each.
        room: tokens, sequences and predictions of all, at most, and how many batches there are.
    """

    bounds: tuple[int, ...]
    rounding: Rounding
    room: tuple[int, int, int, int]

    @classmethod
    def plan(cls, loader: Loader, num_rows: int, micro_batch_tokens: int, *, static: bool) -> Self:
        """Cut instances into micro-batches.

        Args:
            loader: for the longest of its instances, and the most predictions in one.
            num_rows: instances.
            micro_batch_tokens: most tokens in a micro-batch of more than one instance.
            static: for a compiled model: sizes are rounded.
        """
        longest = loader.max_seq_length
        number = -(-num_rows // most_rows(loader, micro_batch_tokens))
        bounds = tuple(num_rows * part // number for part in range(number + 1))
        largest = -(-num_rows // number)
        tokens, predictions = largest * longest, largest * loader.max_predictions
        if not static:
            room = (number * tokens, number * largest, number * predictions, number)
            return cls(bounds, EXACT, room)
        unit = max(TOKEN_FLOOR, tokens // PARTS)
        rounding = Rounding(
            tokens=unit,
            sequences=largest + -(-unit // longest),
            predictions=max(1, predictions // PREDICTION_PARTS),
            max_seqlen=longest,
        )
        room = (
            number * round_up(tokens, rounding.tokens),
            number * rounding.sequences,
            number * round_up(predictions, rounding.predictions),
            number,
        )
        return cls(bounds, rounding, room)


def most_rows(loader: Loader, micro_batch_tokens: int) -> int:
    """How many instances a micro-batch has room for."""
    return max(1, micro_batch_tokens // loader.max_seq_length)
