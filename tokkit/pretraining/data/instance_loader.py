"""The loader for your own training loop: batches as dictionaries of tensors.

The names are those that the models of ``transformers`` take. Two instances of 3 and 5 tokens, one
token masked in each:

    padded    input_ids        2 9 3 0 0 0 0 0      labels    -100    7 -100 -100 -100 -100 ...
                               2 4 3 9 3 0 0 0                -100 -100 -100    6 -100 -100 ...
              token_type_ids   0 0 0 0 0 0 0 0      attention_mask    1 1 1 0 0 0 0 0
                               0 0 0 1 1 0 0 0                        1 1 1 1 1 0 0 0

    ragged    input_ids        2 9 3 2 4 3 9 3      position_ids      0 1 2 0 1 2 3 4
              token_type_ids   0 0 0 0 0 0 1 1      labels as input_ids
              cu_seqlens       0 3 8                max_seqlen        5

Padded batches are as wide as their longest instance, rounded up to 8 tokens. Ragged ones are what
attention kernels for packed sequences take. ``labels`` is -100, which cross-entropy ignores, except
where a token is predicted. ``next_sentence_label`` [instances] is there for objectives with pairs.

For ``clm``, ``labels`` equals ``input_ids``: causal models of ``transformers`` compare the
prediction at each position with the label at the next one. The first token of an instance has no
label, so that ragged instances are not predicted from each other. There are no ``token_type_ids``,
which GPT-2 would take for words.

For objectives with targets, ``labels`` are these: of a width of their own, or one after the other,
where ``target_cu_seqlens`` marks where those of an instance begin. For ``plm``, ``target_mapping`` and
``perm_mask`` say where they are and which tokens a token does not see; ragged, ``target_positions``
are their positions in the order of factorization.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tokkit.errors import require
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import LENGTH_MULTIPLE, round_up
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.shards.instances import Instances, Int64, Predictions
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.shard_file import protect_maps

LAYOUTS = ("padded", "ragged")
SPLITS = ("train", "eval")
TensorBatch = dict[str, Any]


class InstanceLoader(IterableDataset[TensorBatch]):
    """The batches of instance folders: an endless sequence that is known at every step.

    Iterate it directly, or through ``DataLoader(loader, batch_size=None, num_workers=…)``: workers
    take turns, so the order is the same for any number of them. Its state is the step alone: to
    resume, start at ``start_step``.

    Args:
        instances: the folder that ``build`` wrote, or several of them.
        batch_size: instances in a batch, of all ranks together.
        start_step: the first step, from 0.
        num_steps: number of steps; None never stops. Evaluation takes neither.
        rank: which part of each batch to read.
        world_size: number of equal parts that batches are divided into.
        layout: ``padded`` or ``ragged``.
        split: ``train``, or ``eval`` for what is held out: in order, once, masked the same way
            every time.
        options: ``weights``, ``seed`` and those of masking, as ``tokkit pretrain`` takes them; see
            ``LoaderConfig``. The same options give the batches that ``pretrain`` sees.

    Raises:
        UsageError: an option is out of range, or the batch cannot be divided among the ranks.
        TokkitError: a folder is damaged, or the folders do not match.
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
            "start_step, num_steps and world_size require split='train'",
        )
        folders = [instances] if isinstance(instances, str | Path) else instances
        config = LoaderConfig(instances=tuple(map(Path, folders)), batch_size=batch_size, **options)
        self._config = config
        self._rank, self._world_size = rank, world_size
        self._layout = layout
        self._split = split
        self._steps = (start_step, num_steps)
        self._open()

    def _open(self) -> None:
        sources = open_sources(self._config)
        self._loader = Loader(sources, self._config, rank=self._rank, world_size=self._world_size)
        self._objective = OBJECTIVES[sources.objective]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open: a copy opens the folders itself."""
        return {name: value for name, value in vars(self).items() if name != "_loader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def num_instances(self) -> int:
        """Instances in an epoch: of the split, in all folders."""
        loader = self._loader
        return loader.num_instances if self._split == "train" else loader.num_held_out

    def batch(self, step: int) -> TensorBatch:
        """The batch of a step, found without looking at earlier ones."""
        return self._lay_out(self._loader.training_instances(step))

    def __iter__(self) -> Iterator[TensorBatch]:
        """Iterate over the steps; a worker process yields every num_workers-th of them."""
        protect_maps()  # torch has set its own handler in a worker process
        worker = get_worker_info()
        turn, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if self._split == "eval":
            for number, instances in enumerate(
                self._loader.held_out_instances(self._config.batch_size)
            ):
                if number % num_workers == turn:
                    yield self._lay_out(instances)
            return
        start, num_steps = self._steps
        for step in count(start + turn, num_workers):
            if num_steps is not None and step >= start + num_steps:
                return
            yield self.batch(step)

    def _lay_out(self, instances: Instances) -> TensorBatch:
        causal = self._objective.is_causal
        if self._layout == "ragged":
            batch = ragged_batch(instances, causal=causal)
        else:
            batch = padded_batch(instances, self._loader.pad_id, causal=causal)
        if causal or self._objective.targets == "target_ids":
            del batch["token_type_ids"]
        if self._objective.has_pairs:
            batch["next_sentence_label"] = torch.from_numpy(instances.next_sentence_labels)
        return batch


def padded_batch(instances: Instances, pad_id: int, *, causal: bool = False) -> TensorBatch:
    """Lay instances out as tensors of shape [instances, longest]."""
    lengths = np.diff(instances.offsets)
    is_real = np.arange(round_up(int(lengths.max()), LENGTH_MULTIPLE)) < lengths[:, None]
    batch = {"attention_mask": torch.from_numpy(is_real.astype(np.int64))}
    padding = {"input_ids": pad_id, "token_type_ids": 0, "labels": NO_LABEL}
    for name, values in _token_columns(instances, instances.positions, causal=causal).items():
        block = np.full(is_real.shape, padding[name], np.int64)
        block[is_real] = values
        batch[name] = torch.from_numpy(block)
    if instances.predictions.targets is not None:
        batch |= _pad_targets(instances.predictions, is_real.shape[1])
    return batch


def _pad_targets(targets: Predictions, num_columns: int) -> TensorBatch:
    """Return targets as tensors; those of a permutation with where they are, and what sees them."""
    lengths = np.diff(targets.offsets)
    is_real = np.arange(round_up(int(lengths.max()), LENGTH_MULTIPLE)) < lengths[:, None]
    labels = np.full(is_real.shape, NO_LABEL, np.int64)
    labels[is_real] = targets.labels
    padded = {"labels": torch.from_numpy(labels)}
    if targets.targets == "target_positions":
        rows, ranks = is_real.nonzero()
        mapping = torch.zeros(*is_real.shape, num_columns)
        mapping[rows, ranks, targets.positions.astype(np.int64)] = 1
        order = torch.einsum("smt,m->st", mapping, torch.arange(1.0, is_real.shape[1] + 1))
        is_hidden = (order[:, None] > 0) & (order[:, None] >= order[..., None])
        padded |= {"target_mapping": mapping, "perm_mask": is_hidden.float()}
    return padded


def ragged_batch(instances: Instances, *, causal: bool = False) -> TensorBatch:
    """Lay instances out without padding: tensors of shape [tokens], and where instances begin."""
    positions, predicted = instances.positions, instances.predictions
    columns = _token_columns(instances, positions, causal=causal) | {"position_ids": positions}
    of_targets = {}
    if predicted.targets is not None:
        columns["labels"] = predicted.labels.astype(np.int64)
        if predicted.targets == "target_positions":
            columns["target_positions"] = predicted.positions.astype(np.int64)
        of_targets["target_cu_seqlens"] = torch.from_numpy(predicted.offsets.astype(np.int32))
    return {
        **{name: torch.from_numpy(values) for name, values in columns.items()},
        "cu_seqlens": torch.from_numpy(instances.offsets.astype(np.int32)),
        "max_seqlen": int(np.diff(instances.offsets).max()),
        **of_targets,
    }


def _token_columns(instances: Instances, positions: Int64, *, causal: bool) -> dict[str, Int64]:
    """Return the columns of a batch that have a value for each token."""
    input_ids = instances.input_ids.astype(np.int64)
    is_second = positions >= np.repeat(instances.segment_lengths, np.diff(instances.offsets))
    if causal:
        labels = np.where(positions > 0, input_ids, NO_LABEL)
    else:
        labels = np.full_like(input_ids, NO_LABEL)
        if instances.predictions.targets is None:
            labels[instances.masked_tokens] = instances.predictions.labels
    return {"input_ids": input_ids, "token_type_ids": is_second.astype(np.int64), "labels": labels}
