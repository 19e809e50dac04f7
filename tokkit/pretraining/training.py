"""One process of a run: all that needs torch, from the instances to the exported model."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import FolderLock, write_json
from tokkit.engine.folder import refuse_foreign
from tokkit.engine.manifest import Manifest
from tokkit.engine.signals import interruptible
from tokkit.pretraining.batch import EXACT
from tokkit.pretraining.config import DEFAULT_PRESET, PretrainConfig
from tokkit.pretraining.device import seed_torch, torch_settings
from tokkit.pretraining.distribute import distribute, full_tensors
from tokkit.pretraining.export import build_model, write_export
from tokkit.pretraining.facts import describe_run
from tokkit.pretraining.feed import Feed
from tokkit.pretraining.initial import read_initial
from tokkit.pretraining.loop import Trainer
from tokkit.pretraining.model import ModelConfig
from tokkit.pretraining.optim import build_optimizer
from tokkit.pretraining.pretrain import EXPORT, KIND, RUN, Plan, prepare_folder
from tokkit.pretraining.reporting import Reporter, Scale
from tokkit.pretraining.sources import Sources, open_sources
from tokkit.pretraining.state import State
from tokkit.pretraining.step import Stepper
from tokkit.pretraining.world import World, open_world


def train(plan: Plan) -> Manifest:
    """Train this process's part of a run.

    Returns:
        The run folder's manifest.

    Raises:
        TokkitError: see ``pretrain``.
        Interrupted: likewise.
    """
    ...
