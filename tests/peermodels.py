"""Models of transformers with the weights of tokkit's models, and the other way round."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from randommodels import make_instances, make_model

from tokkit.pretraining.data.batches import Batch, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.models.architectures import VOCAB_TENSORS, build_model, to_transformers
from tokkit.pretraining.models.export import write_export
from tokkit.pretraining.models.initial_weights import read_initial_weights
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.training.metrics import total_loss
from tokkit.shards.instances import Instances, Predictions
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer


def peer_of(model: Transformer, attention: str = "eager") -> transformers.BertForPreTraining:
    """Return the model of transformers with the weights of ``model``."""
    config = transformers.BertConfig(
        **dataclasses.asdict(model.config), attn_implementation=attention, pad_token_id=0
    )
    peer = transformers.BertForPreTraining(config)
    missing = peer.load_state_dict(
        to_transformers(model.state_dict(), model.config), strict=False
    ).missing_keys
    assert set(missing) == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    peer.tie_weights()
    return peer


def write_bert(
    folder: Path, tokenizer: Tokenizer, kind: str = "BertForPreTraining", **options: Any
) -> Any:
    """Save a model of transformers with random weights and a tokenizer, and return it."""
    config = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 40,
        "layer_norm_eps": 1e-6,
        **options,
    }
    torch.manual_seed(0)
    peer = getattr(transformers, kind)(transformers.BertConfig(**config)).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    peer.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return peer


def begin(folder: Path, tokenizer: Tokenizer, objective: str = "nsp") -> Any:
    """The model with which a run begins."""
    initial = read_initial_weights(
        folder, tokenizer, objective=objective, max_seq_length=32, dropout=0.0
    )
    torch.manual_seed(1)
    model = build_model(initial.config)
    initial.load_into(model)
    return model


def make_targets(lengths: tuple[list[int], list[int]], vocab_size: int, seed: int = 0) -> Instances:
    """Instances of random inputs and targets of these lengths."""
    of_inputs, of_targets = lengths
    instances = make_instances(of_inputs, vocab_size, seed)
    values = np.random.default_rng(seed).integers(1, vocab_size, sum(of_targets))
    targets = Predictions.of_ids(values.astype(np.uint16), np.cumsum([0, *of_targets]))
    return dataclasses.replace(instances, predictions=targets)


def loss_of(model: Transformer, batch: Batch) -> torch.Tensor:
    """The loss of a step."""
    return total_loss(model(batch.inputs), batch.num_predicted, batch.num_pairs)


def gradients_of(model: Transformer, batch: Batch) -> dict[str, torch.Tensor]:
    """The gradients of a step, under their names."""
    model.zero_grad()
    torch.autograd.backward(loss_of(model, batch))
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return to_transformers(gradients, model.config)


def assert_same_gradients(
    model: Transformer, batch: Batch, peer: Any, their_loss: torch.Tensor, atol: float = 1e-5
) -> None:
    """Compare the loss of a step, and the gradient of every parameter, with those of a peer."""
    torch.testing.assert_close(loss_of(model, batch), their_loss, atol=1e-5, rtol=1e-5)
    gradients = gradients_of(model, batch)
    their_loss.backward()  # type: ignore[no-untyped-call]  # torch's
    expected = {name: p.grad for name, p in peer.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, expected[name], atol=atol, rtol=1e-4), name


def assert_same_as_export(
    folder: Path, model: Transformer, instances: Instances, kind: str
) -> None:
    """Compare logits, loss and gradients with those of an export that a class of transformers loads."""
    peer, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    batch, padded = lay_out(instances, 0), padded_batch(instances, 0)
    if instances.predictions.targets == "target_ids":
        del padded["token_type_ids"]
    theirs = peer.eval()(**padded)
    with torch.inference_mode():
        logits, _ = model.logits(batch.inputs)
    torch.testing.assert_close(logits, theirs.logits[padded["labels"] >= 0], atol=1e-4, rtol=0)
    assert_same_gradients(model, batch, peer, theirs.loss)


def assert_export_is_a_start(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Export a model with random weights, and compare it with what a run starts with from there."""
    model = make_model(config)
    write_export(folder, model.state_dict(), config, tokenizer)
    back = begin(folder, tokenizer, config.objective)
    assert back.config == config
    for name, tensor in model.state_dict().items():
        rows = config.vocab_size if name in VOCAB_TENSORS else len(tensor)
        assert torch.equal(back.state_dict()[name][:rows], tensor[:rows]), name


def assert_padding_changes_nothing(model: Transformer, exact: Batch, padded: Batch) -> None:
    """Compare the loss and the gradients of the same instances in batches of other sizes."""
    torch.testing.assert_close(loss_of(model, padded), loss_of(model, exact))
    expected = gradients_of(model, exact)
    for name, gradient in gradients_of(model, padded).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)
