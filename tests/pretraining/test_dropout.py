"""What is dropped depends on the step, the instance and the place alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peermodels import loss_of, make_targets
from randommodels import make_instances, make_model, share_layers
from torch import Tensor

from tokkit.pretraining.data.batches import NO_PADDING, Buffers, Layout, lay_out
from tokkit.pretraining.models.dropout import (
    HIDDEN,
    OUTPUT,
    drop,
    key_sequences,
    key_step,
    key_tokens,
)
from tokkit.pretraining.models.gpt2 import Gpt2Config
from tokkit.pretraining.models.marian import MarianConfig
from tokkit.pretraining.models.modernbert import ModernBertConfig
from tokkit.pretraining.models.t5 import T5Config
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.models.xlnet import XlnetConfig
from tokkit.shards.instances import Instances, Predictions

VOCAB_SIZE = 300
LENGTHS, TARGETS = [5, 40, 33, 8], [3, 11, 16, 1]
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.2,
}
BERT = ModelConfig(**SIZES)
STACKS: dict[str, Any] = SIZES | {"num_decoder_layers": 2}
CONFIGS = {
    "bert": BERT,
    "albert": share_layers(BERT),
    "gpt2": Gpt2Config(objective="clm", **SIZES),
    "modernbert": ModernBertConfig(objective="mlm", local_attention=8, **SIZES),
    "t5": T5Config(objective="span-corruption", d_kv=16, **STACKS),
    "marian": MarianConfig(objective="translation", **STACKS),
    "xlnet": XlnetConfig(objective="plm", **SIZES),
}


def make_rows(config: ModelConfig) -> Instances:
    if config.objective in {"span-corruption", "translation"}:
        return make_targets((LENGTHS, TARGETS), VOCAB_SIZE)
    instances = make_instances(LENGTHS, VOCAB_SIZE)
    if config.objective != "plm":
        return instances
    random = np.random.default_rng(0)
    orders = [random.permutation(n)[:m] for n, m in zip(LENGTHS, TARGETS, strict=True)]
    values, offsets = np.concatenate(orders).astype(np.uint16), np.cumsum([0, *TARGETS])
    targets = Predictions.of_positions(values, offsets, instances.input_ids, instances.offsets)
    return replace(instances, predictions=targets)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sequence_drops_the_same_in_any_micro_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ModernBERT's windows are computed in blocks for the longer ones alone."""
    monkeypatch.setattr("tokkit.pretraining.models.attention.BLOCK", 8)
    model, instances = make_model(CONFIGS[name]), make_rows(CONFIGS[name])
    causal = model.config.task.is_causal

    def follow(bounds: list[int], key: int) -> tuple[float, Tensor]:
        model.zero_grad()
        layout = Layout.measure(instances, bounds, NO_PADDING, causal=causal)
        tokens, sequences, predictions = layout.bounds[1:, -1].tolist()
        buffers = Buffers(tokens, sequences, predictions, len(bounds))
        laid_out = buffers.lay_out(instances, layout, 0, causal=causal)
        batches = [batch.key_dropout(key, 0) for batch in laid_out]
        num_predicted, num_pairs = (
            sum(getattr(batch, count) for batch in batches)
            for count in ("num_predicted", "num_pairs")
        )
        losses = [
            loss_of(model, replace(batch, num_predicted=num_predicted, num_pairs=num_pairs))
            for batch in batches
        ]
        torch.autograd.backward(torch.stack(losses).sum())
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return sum(loss.item() for loss in losses), torch.cat(gradients)

    whole = lay_out(instances, 0, causal=causal)
    undropped = replace(model.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert loss_of(model, whole) == loss_of(make_model(undropped), whole)  # as in an evaluation
    loss, gradient = follow([0, 4], 1)
    for bounds in ([0, 1, 4], [0, 1, 2, 3, 4]):
        found, of_parts = follow(bounds, 1)
        assert found == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(of_parts, gradient, atol=1e-5, rtol=1e-4)
    other, of_other = follow([0, 4], 2)
    assert abs(other - loss) > 1e-3
    assert (of_other - gradient).norm() > 0.1 * gradient.norm()


def test_elements_are_dropped_independently_in_their_share() -> None:
    """Deviations of means of n draws are those of independent ones, by rows, columns, steps, places."""
    keys_S = key_sequences(key_step(0, 0), 0, 40, torch.device("cpu"))[1:, None]
    others_S = key_sequences(key_step(0, 1), 0, 40, torch.device("cpu"))[1:, None]
    positions = torch.arange(50)
    x = torch.ones(2000, 768)
    share = 0.1
    found = [
        drop(x, key_tokens(keys, positions, place).flatten(), share) == 0
        for keys, place in ((keys_S, HIDDEN), (keys_S, OUTPUT), (others_S, HIDDEN))
    ]
    values = torch.unique(drop(x, key_tokens(keys_S, positions, HIDDEN).flatten(), share))
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / (1 - share)]))
    deviation = (share * (1 - share)) ** 0.5
    for dropped in found:
        values = dropped.double() - share
        assert abs(values.mean()) < 4 * deviation / values.numel() ** 0.5
        for size, axis in zip(values.shape, (1, 0), strict=True):
            means = values.mean(axis) * values.shape[axis] ** 0.5 / deviation
            assert means.square().mean().item() == pytest.approx(1, abs=5 * (2 / size) ** 0.5)
        for shift, axis in ((1, 0), (50, 0), (1, 1), (2, 1), (256, 1)):
            product = (values * values.roll(shift, axis)).mean() / deviation**2
            assert abs(product) < 4 / values.numel() ** 0.5
    for other in found[1:]:
        product = ((found[0].double() - share) * (other.double() - share)).mean() / deviation**2
        assert abs(product) < 4 / x.numel() ** 0.5
