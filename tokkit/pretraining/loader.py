"""Which instances make a batch, and what is masked in them: pure functions of the step.

The epochs, each in its own order, are one endless sequence of instances, and a batch is the next
``batch_size`` of it. With 10 instances and batches of 4:

    step      0            1            2                     3
    position  0 1 2 3      4 5 6 7      8 9 | 0 1             2 3 4 5
    epoch     0            0            0   | 1               1

So no instance is dropped, every batch has the same size, and step s begins at position
``s * batch_size`` whoever asks, and after whatever crash: a run resumes by its step alone. (The
alternative, a shorter batch at the end of each epoch, would give its instances more weight.)
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError
from tokkit.kernels.philox import SHUFFLE, stream_of
from tokkit.kernels.shuffle import permute_range
from tokkit.pretraining.batch import Batch, pad_instances
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.data import InstanceReader
from tokkit.pretraining.epochs import EVALUATION_EPOCH, EpochPart, split_epochs
from tokkit.pretraining.masker import Masker
from tokkit.shards.reader import ShardFolder
from tokkit.vocab.tokenizer import Tokenizer


class Loader:
    """The batches of a run.

    Args:
        folder: of instances.
        tokenizer: that made their ids.
        config: of the run.
    """

    def __init__(self, folder: ShardFolder, tokenizer: Tokenizer, config: PretrainConfig) -> None:
        self._training = InstanceReader(folder, "train-")
        self._held_out = InstanceReader(folder, "eval-")
        if not len(self._training):
            raise TokkitError(f"{folder.path}: holds no training instance; build it from more text")
        self._batch_size = config.batch_size
        self._seed = np.uint64(config.seed)
        self._pad_id = tokenizer.special_ids["pad"]
        self._masker = None
        if folder.manifest.options["masking"] == "dynamic":
            self._masker = Masker(folder, tokenizer, config)

    @property
    def num_instances(self) -> int:
        """Training instances in an epoch."""
        return len(self._training)

    @property
    def num_held_out(self) -> int:
        """Instances that evaluations look at."""
        return len(self._held_out)

    def training_batch(self, step: int) -> Batch:
        """The batch of a step, which counts from 0: found without looking at earlier ones."""
        start = step * self._batch_size
        parts = split_epochs(start, self._batch_size, self.num_instances)
        numbers = np.empty(self._batch_size, np.uint64)
        for part in parts:
            stream = stream_of(SHUFFLE, part.epoch)
            permute_range(part.start, self.num_instances, self._seed, stream, numbers[part.rows])
        return self._make_batch(self._training, numbers, parts)

    def evaluation_batches(self) -> Iterator[Batch]:
        """The held-out instances in order, masked the same way every time."""
        for start in range(0, self.num_held_out, self._batch_size):
            stop = min(start + self._batch_size, self.num_held_out)
            numbers = np.arange(start, stop, dtype=np.uint64)
            part = EpochPart(EVALUATION_EPOCH, start, slice(0, stop - start))
            yield self._make_batch(self._held_out, numbers, [part])

    def _make_batch(
        self, reader: InstanceReader, numbers: npt.NDArray[np.uint64], parts: list[EpochPart]
    ) -> Batch:
        instances = reader.gather(numbers)
        if self._masker is not None:
            instances = self._masker.mask(instances, numbers, parts)
        return pad_instances(instances, self._pad_id)
