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
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tokkit.errors import require
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import LENGTH_MULTIPLE, lay_out, round_up
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.shards.instances import Instances
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
    ragged = ragged_batch(instances, causal=causal)
    is_real = is_target = _find_cells(ragged["cu_seqlens"])
    if "target_cu_seqlens" in ragged:
        is_target = _find_cells(ragged["target_cu_seqlens"])
    batch = {
        "attention_mask": torch.from_numpy(is_real.astype(np.int64)),
        "input_ids": _pad(ragged["input_ids"], is_real, pad_id),
        "token_type_ids": _pad(ragged["token_type_ids"], is_real, 0),
        "labels": _pad(ragged["labels"], is_target, NO_LABEL),
    }
    if "target_positions" in ragged:
        positions = _pad(ragged["target_positions"], is_target, NO_LABEL)
        mapping = (positions[..., None] == torch.arange(is_real.shape[1])).float()
        ranks = torch.arange(1.0, is_target.shape[1] + 1)
        order = torch.einsum("smt,m->st", mapping, ranks)
        is_hidden = (order[:, None] > 0) & (order[:, None] >= order[..., None])
        batch |= {"target_mapping": mapping, "perm_mask": is_hidden.float()}
    return batch


def _find_cells(ends: Tensor) -> npt.NDArray[np.bool_]:
    """Return which cells of a padded block are no padding."""
    lengths = np.diff(ends.numpy())
    return np.arange(round_up(int(lengths.max()), LENGTH_MULTIPLE)) < lengths[:, None]


def _pad(values: Tensor, is_real: npt.NDArray[np.bool_], padding: int) -> Tensor:
    block = np.full(is_real.shape, padding)
    block[is_real] = values.numpy()
    return torch.from_numpy(block)


def ragged_batch(instances: Instances, *, causal: bool = False) -> TensorBatch:
    """Lay instances out without padding: tensors of shape [tokens], and where instances begin."""
    inputs, predicted = lay_out(instances, 0, causal=causal).inputs, instances.predictions
    batch = {
        "input_ids": inputs.input_ids_N,
        "token_type_ids": inputs.token_type_ids_N,
        "position_ids": inputs.position_ids_N,
        "cu_seqlens": inputs.cu_seqlens,
        "max_seqlen": int(np.diff(instances.offsets).max()),
        "labels": inputs.labels_M,
    }
    if predicted.targets is not None:
        batch["target_cu_seqlens"] = inputs.target_cu_seqlens
    else:  # where causal models are to predict a token they find it, and not at the one before
        places = inputs.predicted_positions_M + int(causal)
        labels = torch.full_like(inputs.input_ids_N, NO_LABEL)
        batch["labels"] = labels.index_copy_(0, places, inputs.labels_M)
    if predicted.targets == "target_positions":
        batch["target_positions"] = torch.from_numpy(predicted.positions.astype(np.int64))
    return batch
