"""The loader for training loops of one's own: batches as dictionaries of tensors.

The names are those that the models of ``transformers`` take. Two instances of 3 and 5 tokens, one
token masked in each, padded to 8 columns, and ragged:

    padded    input_ids [2, 8], attention_mask, token_type_ids, labels likewise
    ragged    input_ids [8], token_type_ids, position_ids, labels likewise
              cu_seqlens [0, 3, 8], max_seqlen 5: as attention kernels for packed sequences want it

``labels`` is -100, which cross-entropy leaves out, but where a token is to be predicted.
``next_sentence_label`` [2] is there where the objective has one.

Where each token is predicted from those before it, as GPT does, ``labels`` is ``input_ids`` itself:
causal models of ``transformers`` compare what they predict at each place with the label one place
on. The first token of an instance has no label, so that ragged instances are not predicted from
each other. There are no ``token_type_ids``, which GPT-2 would take for words.

Padded batches, for training loops of one's own: to the longest instance, rounded up to 8 tokens.

Two instances of 3 and 5 tokens, one token masked in each, make B = 2 and T = 8:

    input_ids_BT         2 9 3 0 0 0 0 0      attention_mask_BT    1 1 1 0 0 0 0 0
                         2 4 3 5 3 0 0 0                           1 1 1 1 1 0 0 0
    token_type_ids_BT    0 0 0 0 0 0 0 0      masked_positions_M   1 11
                         0 0 0 1 1 0 0 0      (row 0 column 1, row 1 column 3)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tokkit.errors import require
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.sources import open_sources
from tokkit.pretraining.pretrain_config import LoaderConfig
from tokkit.shards.instances import Instances, Int64, Masks
from tokkit.shards.objectives import PAIRED

LENGTH_MULTIPLE = 8  # matrix units want it, and it keeps the number of shapes small


@dataclass(frozen=True)
class PaddedBatch:
    """One batch; B instances of T tokens, M masked ones.

    Attributes:
        input_ids_BT: int64, padded with the id of ``[PAD]``.
        token_type_ids_BT: int64, 0 in the first segment, 1 in the second, 0 in the padding.
        attention_mask_BT: bool, false in the padding; None where nothing is padded.
        masked_positions_M: int64, ``b * T + t``, ascending.
        masked_labels_M: int64, the ids to be predicted there.
        next_sentence_labels_B: int64; ``NO_LABEL`` where there is none.
        num_tokens: without padding.
        num_pairs: that have a label.
    """

    input_ids_BT: Tensor
    token_type_ids_BT: Tensor
    attention_mask_BT: Tensor | None
    masked_positions_M: Tensor
    masked_labels_M: Tensor
    next_sentence_labels_B: Tensor
    num_tokens: int
    num_pairs: int

    @property
    def num_masked(self) -> int:
        """Predictions, M."""
        return len(self.masked_positions_M)


def pad_instances(instances: Instances, pad_id: int) -> PaddedBatch:
    """Lay ragged instances out as one batch."""
    lengths = np.diff(instances.offsets)
    num_rows, longest = len(lengths), int(lengths.max())
    width = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    num_tokens = int(instances.offsets[-1])
    positions = np.arange(num_tokens) - np.repeat(instances.offsets[:-1], lengths)
    cells = positions + np.repeat(np.arange(num_rows) * width, lengths)

    input_ids = np.full(num_rows * width, pad_id, np.int64)
    input_ids[cells] = instances.input_ids
    token_type_ids = np.zeros(num_rows * width, np.int64)
    token_type_ids[cells] = positions >= np.repeat(instances.segment_lengths, lengths)
    attention_mask = np.zeros(num_rows * width, np.bool_)
    attention_mask[cells] = True
    num_masked = np.diff(instances.masks.offsets)
    masked_rows = np.repeat(np.arange(num_rows) * width, num_masked)

    def tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        return torch.from_numpy(values.reshape(num_rows, width))

    return PaddedBatch(
        input_ids_BT=tensor(input_ids),
        token_type_ids_BT=tensor(token_type_ids),
        attention_mask_BT=None if num_tokens == num_rows * width else tensor(attention_mask),
        masked_positions_M=torch.from_numpy(instances.masks.positions + masked_rows),
        masked_labels_M=torch.from_numpy(instances.masks.labels.astype(np.int64)),
        next_sentence_labels_B=torch.from_numpy(instances.next_sentence_labels),
        num_tokens=num_tokens,
        num_pairs=int((instances.next_sentence_labels != NO_LABEL).sum()),
    )


LAYOUTS = ("padded", "ragged")
SPLITS = ("train", "eval")

TensorBatch = dict[str, Any]


class InstanceLoader(IterableDataset[TensorBatch]):
    """The batches of instance folders, an endless sequence that is known at every step.

    Iterate it as it is, or through ``DataLoader(loader, batch_size=None, num_workers=…)``: workers
    take turns, so the order is the same for any number of them. The state is the step alone: to
    resume, begin at ``start_step``.

    Args:
        instances: the folder that ``build`` wrote, or several of them.
        batch_size: instances in a batch, of all ranks together.
        start_step: the first step, which counts from 0.
        num_steps: how many steps; None goes on for ever. Evaluation takes neither.
        rank: which part of each batch to read.
        world_size: into how many equal parts batches fall.
        layout: ``padded`` or ``ragged``.
        split: ``train``, or ``eval`` for what is held out: in order, once, masked the same way
            every time.
        options: ``weights``, ``seed`` and those of masking, as ``tokkit pretrain`` takes them; see
            ``LoaderConfig``. The same options give the batches that ``pretrain`` sees.

    Raises:
        UsageError: where an option is out of range, or ranks do not divide the batch.
        TokkitError: where the folders are damaged or do not go together.
    """

    def __init__(
        self,
        instances: str | Path | Sequence[str | Path],
        *,
        batch_size: int,
        start_step: int = 0,
        num_steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        layout: str = "padded",
        split: str = "train",
        **options: Any,
    ) -> None:
        require(layout in LAYOUTS, f"layout must be one of {', '.join(LAYOUTS)}")
        require(split in SPLITS, f"split must be one of {', '.join(SPLITS)}")
        require(start_step >= 0, "start_step must be 0 or more")
        require(num_steps is None or num_steps >= 0, "num_steps must be 0 or more")
        require(
            split == "train" or (start_step, num_steps, world_size) == (0, None, 1),
            "start_step, num_steps and world_size go with split='train'",
        )
        folders = [instances] if isinstance(instances, str | Path) else instances
        config = LoaderConfig(instances=tuple(map(Path, folders)), batch_size=batch_size, **options)
        sources = open_sources(config)
        self._loader = Loader(sources, config, rank=rank, world_size=world_size)
        self._pad_id = sources.pad_id
        self._has_pairs = sources.objective in PAIRED
        self._causal = sources.is_causal
        self._batch_size = batch_size
        self._ragged = layout == "ragged"
        self._split = split
        self._steps = (start_step, num_steps)

    @property
    def num_instances(self) -> int:
        """Instances in an epoch: of the split, in all folders."""
        loader = self._loader
        return loader.num_instances if self._split == "train" else loader.num_held_out

    def batch(self, step: int) -> TensorBatch:
        """The batch of a step, found without looking at earlier ones."""
        return self._lay_out(self._loader.training_instances(step))

    def __iter__(self) -> Iterator[TensorBatch]:
        """Go through the steps; in a worker process, through those that are its turn."""
        worker = get_worker_info()
        turn, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if self._split == "eval":
            for place, instances in enumerate(self._loader.held_out_instances(self._batch_size)):
                if place % num_workers == turn:
                    yield self._lay_out(instances)
            return
        start, number = self._steps
        for step in count(start + turn, num_workers):
            if number is not None and step >= start + number:
                return
            yield self.batch(step)

    def _lay_out(self, instances: Instances) -> TensorBatch:
        if self._causal:
            instances = label_all_tokens(instances)
        if self._ragged:
            batch = ragged_batch(instances)
        else:
            batch = padded_batch(pad_instances(instances, self._pad_id))
        if self._causal:
            del batch["token_type_ids"]
        if self._has_pairs:
            labels = torch.from_numpy(instances.next_sentence_labels)
            batch["next_sentence_label"] = labels
        return batch


def label_all_tokens(instances: Instances) -> Instances:
    """Make every token but the first of its instance one to be predicted."""
    positions = _positions(instances)
    is_labelled = positions > 0
    num_labelled = np.diff(instances.offsets) - 1
    return replace(
        instances,
        masks=Masks(
            positions=positions[is_labelled].astype(np.uint16),
            labels=instances.input_ids[is_labelled],
            offsets=np.concatenate([[0], np.cumsum(num_labelled)]),
        ),
    )


def padded_batch(batch: PaddedBatch) -> TensorBatch:
    """A batch by the names of ``transformers``: tensors of shape [instances, longest]."""
    labels_BT = torch.full_like(batch.input_ids_BT, NO_LABEL)
    labels_BT.view(-1)[batch.masked_positions_M] = batch.masked_labels_M
    mask_BT: Tensor | None = batch.attention_mask_BT
    return {
        "input_ids": batch.input_ids_BT,
        "attention_mask": torch.ones_like(labels_BT) if mask_BT is None else mask_BT.long(),
        "token_type_ids": batch.token_type_ids_BT,
        "labels": labels_BT,
    }


def ragged_batch(instances: Instances) -> TensorBatch:
    """A batch without padding: tensors of shape [tokens], and where instances begin."""
    offsets = instances.offsets
    lengths = np.diff(offsets)
    positions = _positions(instances)
    labels = np.full(offsets[-1], NO_LABEL, np.int64)
    rows = np.repeat(offsets[:-1], np.diff(instances.masks.offsets))
    labels[rows + instances.masks.positions] = instances.masks.labels
    types = positions >= np.repeat(instances.segment_lengths, lengths)
    return {
        "input_ids": torch.from_numpy(instances.input_ids.astype(np.int64)),
        "token_type_ids": torch.from_numpy(types.astype(np.int64)),
        "position_ids": torch.from_numpy(positions),
        "labels": torch.from_numpy(labels),
        "cu_seqlens": torch.from_numpy(offsets.astype(np.int32)),
        "max_seqlen": int(lengths.max()),
    }


def _positions(instances: Instances) -> Int64:
    """Each token's place in its instance."""
    offsets = instances.offsets
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
