import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flatbatches import make_batch

from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.models.bert import Bert, ModelConfig
from tokkit.pretraining.training import estimate as memory
from tokkit.pretraining.training.estimate import (
    Memory,
    count_parameters,
    estimate_memory,
    mean_length,
)

VOCAB_SIZE = 1000


def make_model(preset: str, dropout: float = 0.0) -> Bert:
    return Bert(
        ModelConfig.from_preset(preset, vocab_size=VOCAB_SIZE, max_seq_length=128, dropout=dropout)
    )


def estimate(model: Bert, lengths: list[int], batch: Batch, *, is_half: bool = False) -> Memory:
    return estimate_memory(
        model.config,
        count_parameters(model),
        num_tokens=batch.num_tokens,
        num_predicted=batch.num_predicted,
        mean_length=mean_length(np.array(lengths)),
        is_half=is_half,
        on_gpu=False,
    )


def count_saved(model: Bert, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """What autograd keeps for the backward pass, each storage once and no weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return result, sum(sizes.values())


@pytest.mark.parametrize("share_layers", [False, True])
def test_weights_gradients_and_moments_are_exact(*, share_layers: bool) -> None:
    config = dataclasses.replace(make_model("tiny").config, share_layers=share_layers)
    model, batch = Bert(config), make_batch([32, 20])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    sums = model(batch.inputs)
    torch.autograd.backward(sums.token_loss + sums.pair_loss)
    optimizer.step()
    expected = estimate(model, [32, 20], batch)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    moments = [
        tensor
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if name != "step"
    ]
    for tensors, number in (
        (list(model.parameters()), expected.weights),
        (gradients, expected.gradients),
        (moments, expected.moments),
    ):
        assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == number


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_those_that_autograd_keeps(dropout: float, *, is_half: bool) -> None:
    """Within 10%: padding, statistics of norms and the head for pairs are left out."""
    lengths = [128, 128, 120, 104, 128, 128]
    model, batch = make_model("mini", dropout), make_batch(lengths)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        _, saved = count_saved(model, lambda: model(batch.inputs).token_loss)
    expected = estimate(model, lengths, batch, is_half=is_half)
    decoder = 4 * model.config.num_entries * (model.config.hidden_size + 1)
    copies = 2 * sum(p.numel() for p in model.parameters() if p.dim() > 1) if is_half else 0
    assert saved - decoder - copies == pytest.approx(expected.activations, rel=0.1)


def test_logits_are_those_of_a_part_of_the_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make_model("tiny"), make_batch([128] * 8)
    decoder = 4 * model.config.num_entries * (model.config.hidden_size + 1)
    all_at_once = estimate(model, [128] * 8, batch).logits - decoder
    assert all_at_once == 12 * batch.num_predicted * VOCAB_SIZE
    monkeypatch.setattr(memory, "CHUNK_LOGITS", 10 * VOCAB_SIZE)
    assert estimate(model, [128] * 8, batch).logits - decoder == 12 * 10 * VOCAB_SIZE


def test_what_is_split_is_as_much_less() -> None:
    config = ModelConfig.from_preset("large", vocab_size=30522, max_seq_length=512, dropout=0.1)
    with torch.device("meta"):
        parameters = count_parameters(Bert(config))
    assert parameters["total"] == pytest.approx(336e6, rel=0.01)
    whole, split = (
        estimate_memory(
            config,
            parameters,
            num_tokens=8192,
            num_predicted=1229,
            mean_length=500.0,
            is_half=True,
            on_gpu=True,
            num_shards=num_shards,
        )
        for num_shards in (1, 8)
    )
    kept = split.weights + split.gradients + split.moments
    assert kept == pytest.approx(16 * parameters["total"] / 8)
    assert split.activations == whole.activations
    assert split.copies < whole.copies
