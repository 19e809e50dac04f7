"""Losses over 100 steps go where those of transformers' padded model in fp32 go.

Both have the same weights, instances, masks, optimizer and rates. Without dropout the curves are
one curve at first; then roundings grow apart, as they do between any two ways to add numbers up.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flatbatches import pair_batch
from instancefolders import PAD, write_instance_folder
from peermodels import peer_of
from randommodels import make_trainer

from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import seed_torch
from tokkit.pretraining.training.metrics import MetricSums
from tokkit.pretraining.training.optimizers import build_optimizer, clip_gradients, update_weights
from tokkit.pretraining.training.schedule import Schedule
from tokkit.shards.instances import Instances

NUM_STEPS = 100
NUM_STEPS_WITH_DROPOUT = 40  # of six runs, with a model of one layer
Curve = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    folder = write_instance_folder(
        tmp_path_factory.mktemp("curves") / "instances", num_training=2000, max_seq_length=20
    )
    return PretrainConfig(
        instances=(folder,),
        output=Path(),
        batch_size=16,
        max_steps=NUM_STEPS,
        learning_rate=3e-3,
    )


@pytest.fixture(scope="module")
def batches(config: PretrainConfig) -> list[Instances]:
    loader = Loader(open_sources(config), config)
    return [loader.training_instances(step) for step in range(NUM_STEPS)]


def make_model(dropout: float) -> Bert:
    torch.manual_seed(0)
    model = Bert(
        ModelConfig(
            vocab_size=48,
            hidden_size=64,
            num_hidden_layers=1 if dropout else 2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=24,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )
    model.initialize()
    return model


def follow_ours(
    config: PretrainConfig, batches: Sequence[Instances], dropout: float, seed: int = 0
) -> Curve:
    """What our step makes of flat batches."""
    batches = batches[:NUM_STEPS_WITH_DROPOUT] if dropout else batches
    model = make_model(dropout)
    config = dataclasses.replace(config, seed=seed)
    trainer = make_trainer(config, model, [[lay_out(instances, PAD)] for instances in batches])
    losses = []
    for _ in batches:
        trainer.state.interval = MetricSums()
        trainer.step()
        losses.append(trainer.state.interval.means("nsp")["loss"])
    return np.array(losses)


def follow_theirs(
    config: PretrainConfig, batches: Sequence[Instances], dropout: float, seed: int = 0
) -> Curve:
    """What a plain loop makes of padded batches with their model, in fp32."""
    batches = batches[:NUM_STEPS_WITH_DROPOUT] if dropout else batches
    model = peer_of(make_model(dropout), "sdpa")
    model.train()
    optimizer, schedule = build_optimizer(model, config), Schedule.from_config(config)
    losses = []
    for step, instances in enumerate(batches):
        seed_torch(seed, "their dropout", step)
        loss = model(**pair_batch(instances, PAD)).loss
        loss.backward()
        clip_gradients(model, config.max_gradient_norm)
        update_weights(optimizer, schedule.rate(step, 0.0))
        losses.append(loss.item())
    return np.array(losses)


@pytest.fixture(scope="module")
def with_dropout(config: PretrainConfig, batches: list[Instances]) -> Curve:
    """What our step makes of the batches in fp32, with dropout and the first seed."""
    return follow_ours(dataclasses.replace(config, precision="fp32"), batches, 0.1)


def windows(curve: Curve) -> Curve:
    """Means of 20 steps each."""
    return np.asarray(curve.reshape(-1, 20).mean(1))


def test_without_dropout_there_is_one_curve(
    config: PretrainConfig, batches: list[Instances]
) -> None:
    ours, theirs = (follow(config, batches, 0.0) for follow in (follow_ours, follow_theirs))
    assert windows(theirs)[-1] < windows(theirs)[0] - 0.5  # there is a curve
    np.testing.assert_allclose(ours[:80], theirs[:80], atol=1e-4)
    np.testing.assert_allclose(windows(ours), windows(theirs), atol=1e-2)


def test_with_dropout_losses_differ_no_more_than_between_seeds(
    config: PretrainConfig, batches: list[Instances], with_dropout: Curve
) -> None:
    ours = [with_dropout, *(follow_ours(config, batches, 0.1, seed) for seed in (1, 2))]
    theirs = [follow_theirs(config, batches, 0.1, seed) for seed in range(3)]
    ends = [np.array([curve[-20:].mean() for curve in curves]) for curves in (ours, theirs)]
    assert abs(ends[0].mean() - ends[1].mean()) < max(np.ptp(end) for end in ends)


def test_in_bf16_the_curve_is_that_of_fp32(
    config: PretrainConfig, batches: list[Instances], with_dropout: Curve
) -> None:
    """On a CPU both drop the same."""
    rounded = follow_ours(dataclasses.replace(config, precision="bf16"), batches, 0.1)
    assert not np.array_equal(rounded, with_dropout)
    np.testing.assert_allclose(rounded[:20], with_dropout[:20], atol=2e-3)
    np.testing.assert_allclose(windows(rounded), windows(with_dropout), atol=0.1)
