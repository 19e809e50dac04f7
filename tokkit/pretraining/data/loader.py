"""Which instances make a batch, and what is masked in them: pure functions of the step.

The epochs of a folder, each in its own order, form one endless sequence of instances, and a batch is
the next ``batch_size`` of them. With 10 instances and batches of 4:

    step      0            1            2                     3
    position  0 1 2 3      4 5 6 7      8 9 | 0 1             2 3 4 5
    epoch     0            0            0   | 1               1

No instance is dropped, every batch has the requested size, and step s begins at position
``s * batch_size``, also after a crash: a run resumes from its step alone (see ``BatchSizes`` for sizes
that change). The alternative, a shorter batch at the end of each epoch, would give its instances more
weight. Ranks take consecutive parts of a batch, so the batches are the same for any number of ranks
that divides them.

Mixed folders are interleaved by weight, evenly rather than at random: of the first p positions the
first folder gets p * weight, rounded. With weights 0.7 and 0.3, and 4 instances in the second:

    position        0  1  2  3  4  5  6  7  8  9  10 11 12 13 14 15
    first folder    0     1  2     3  4  5     6  7     8  9     10
    second folder      0        1           2        3        0'       (0' in epoch 1)

The other positions are divided among the remaining folders in the same way. How many instances of a
folder come before a position is a product, so no count is kept, and each folder's share is exact to
one instance. A random draw would be as simple, but would not tell how many came before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokkit.errors import TokkitError, require
from tokkit.kernels.philox import SHUFFLE, permute_range, stream_of
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.pretraining.data.instance_reader import InstanceReader, join_instances
from tokkit.pretraining.data.instance_sources import Sources
from tokkit.pretraining.data.loader_config import BatchSizes, LoaderConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.shards.instances import Instances, Int64

EVALUATION_EPOCH = (1 << 24) - 1  # the last one a stream can name, which no training reaches

_ONE = 1 << 32  # weights in fixed point


class Loader:
    """The instances of each step, masked. It does not depend on torch.

    Args:
        sources: instance folders.
        config: has the seed and the weights.
        sizes: batch sizes; by default that of the config.
        rank: which part of each batch to read.
        world_size: number of equal parts of a batch.
        with_words: whether to read where words start even if masks do not depend on it.

    Attributes:
        max_seq_length: maximum length of an instance.
        max_predictions: maximum number of predictions in an instance.
        rank_sizes: number of instances that this rank reads of a batch, for each batch size.
        pad_id: id of padding.
        is_causal: whether each token is predicted from those before it.
        sizes: batch sizes.

    Raises:
        UsageError: if a batch cannot be divided into that many parts.
        TokkitError: if a folder has no training instances.
    """

    def __init__(
        self,
        sources: Sources,
        config: LoaderConfig | PretrainConfig,
        sizes: BatchSizes | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        with_words: bool = False,
    ) -> None:
        if sizes is None:
            assert isinstance(config.batch_size, int)  # noqa: S101  stages need a schedule
            sizes = BatchSizes(((0, config.batch_size),))
        for size in sizes.sizes:
            require(
                0 <= rank < world_size and size % world_size == 0,
                f"--batch-size {size} cannot be divided among {world_size} ranks, or rank {rank} "
                "is none of them",
            )
        self._training, self._held_out = (
            tuple(
                InstanceReader(
                    folder,
                    prefix,
                    with_words=with_words or (masks is not None and masks.unit != "token"),
                )
                for folder, masks in zip(sources.folders, sources.masks, strict=True)
            )
            for prefix in ("train-", "eval-")
        )
        for folder, reader in zip(sources.folders, self._training, strict=True):
            if not len(reader):
                raise TokkitError(
                    f"{folder.path}: holds no training instance; build it from more text"
                )
        self.max_seq_length = sources.max_seq_length
        self.max_predictions = sources.max_predictions
        self.pad_id = sources.pad_id
        self.is_causal = sources.is_causal
        self.rank_sizes = tuple(size // world_size for size in sizes.sizes)
        self.sizes = sizes
        self._masks, self._held_out_masks = sources.masks, sources.held_out_masks
        self._weights = config.weights
        self._rank, self._world_size = rank, world_size
        self._seed = np.uint64(config.seed)

    @property
    def num_instances(self) -> int:
        """Number of training instances in all folders, which is an epoch."""
        return sum(map(len, self._training))

    @property
    def num_held_out(self) -> int:
        """Number of held-out instances in all folders."""
        return sum(map(len, self._held_out))

    def training_instances(self, step: int) -> Instances:
        """Return this rank's instances of a step, counted from 0."""
        position, size = self.sizes.at(step)
        size //= self._world_size
        counts = tuple(map(len, self._training))
        parts = split_epochs(position + self._rank * size, size, counts, self._weights)
        return join_instances([self._read_part(part) for part in parts], [p.rows for p in parts])

    def held_out_instances(self, size: int) -> Iterator[Instances]:
        """Yield the held-out instances in order, folder by folder, always masked the same way.

        15% are masked, whatever training masks, so that losses are comparable.

        Args:
            size: number of instances at a time; at the end of a folder there may be fewer.
        """
        for folder, (reader, masks) in enumerate(
            zip(self._held_out, self._held_out_masks, strict=True)
        ):
            for start in range(0, len(reader), size):
                numbers = np.arange(start, min(start + size, len(reader)), dtype=np.uint64)
                yield self._mask(reader.gather(numbers), masks, EVALUATION_EPOCH - folder)

    def _read_part(self, part: "EpochPart") -> Instances:
        reader, masks = self._training[part.folder], self._masks[part.folder]
        epoch = part.epoch * len(self._training) + part.folder  # no two folders share a draw
        numbers = np.empty(len(part.rows), np.uint64)
        permute_range(part.start, len(reader), self._seed, stream_of(SHUFFLE, epoch), numbers)
        return self._mask(reader.gather(numbers), masks, epoch)

    def _mask(self, instances: Instances, masks: MaskOptions | None, epoch: int) -> Instances:
        if masks is None:
            return instances
        return mask_instances(instances, masks, seed=self._seed, epoch=epoch)


@dataclass(frozen=True)
class EpochPart:
    """Consecutive instances of one epoch of one folder.

    Attributes:
        folder: number of the folder.
        epoch: epoch of the folder.
        start: position of the first instance in the order of the epoch.
        rows: int64, ascending, their rows in the batch.
    """

    folder: int
    epoch: int
    start: int
    rows: Int64


def split_epochs(
    start: int, size: int, num_instances: tuple[int, ...], weights: tuple[float, ...] = ()
) -> list[EpochPart]:
    """Split positions ``start`` to ``start + size`` by folder and epoch.

    Args:
        start: first position.
        size: number of positions.
        num_instances: number of instances in each folder.
        weights: weight of each folder; empty for a single folder.

    Example:
        >>> [(part.epoch, part.start, part.rows.tolist()) for part in split_epochs(8, 4, (10,))]
        [(0, 8, [0, 1]), (1, 0, [2, 3])]
    """
    parts = []
    for folder, (before, rows) in enumerate(interleave(start, size, weights)):
        done = 0
        while done < len(rows):
            epoch, position = divmod(before + done, num_instances[folder])
            stop = min(len(rows), done + num_instances[folder] - position)
            parts.append(EpochPart(folder, epoch, position, rows[done:stop]))
            done = stop
    return parts


def interleave(start: int, size: int, weights: tuple[float, ...]) -> list[tuple[int, Int64]]:
    """Assign the positions from ``start`` on to folders.

    Args:
        start: first position.
        size: number of positions.
        weights: weight of each folder; empty for a single folder.

    Returns:
        For each folder the number of its positions before ``start``, and which of the ``size`` rows
        it gets.
    """
    assigned = []
    rows = np.arange(size)
    for number in range(len(weights) - 1):
        share = round(weights[number] / sum(weights[number:]) * _ONE)
        reached = start * share + _ONE // 2
        places = np.arange(len(rows) + 1, dtype=np.uint64)
        steps = np.uint64(reached % _ONE) + places * np.uint64(share)
        is_own = np.diff(steps >> np.uint64(32)) == 1
        assigned.append((reached // _ONE, rows[is_own]))
        start -= reached // _ONE
        rows = rows[~is_own]
    return [*assigned, (start, rows)]
