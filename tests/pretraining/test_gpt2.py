import math

import pytest
import torch
import transformers
from peermodels import assert_padding_changes_nothing, assert_same_gradients, loss_of
from randommodels import make_instances, make_model

from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import NO_PADDING, Batch, Padding, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.families import DEFAULT_FAMILIES
from tokkit.pretraining.models.architectures import (
    ARCHITECTURES,
    VOCAB_TENSORS,
    build_model,
    from_transformers,
    to_transformers,
)
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.gpt2 import Gpt2, Gpt2Config
from tokkit.pretraining.models.transformer import Transformer

VOCAB_SIZE = 101
TINY = Gpt2Config.from_preset(
    "tiny", vocab_size=VOCAB_SIZE, max_seq_length=64, dropout=0.0, objective="clm"
)
LENGTHS = pytest.mark.parametrize("lengths", [[16, 16], [5, 40, 33, 8]], ids=["full", "padded"])


def peer_of(model: Transformer) -> transformers.GPT2LMHeadModel:
    """Their model with our weights."""
    config = model.config
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
    )
    missing = peer.load_state_dict(
        to_transformers(model.state_dict(), model.config), strict=False
    ).missing_keys
    assert missing == ["lm_head.weight"]
    peer.tie_weights()
    return peer


def make_batch(lengths: list[int], padding: Padding = NO_PADDING) -> Batch:
    return lay_out(make_instances(lengths, VOCAB_SIZE), 0, padding, causal=True)


@LENGTHS
def test_logits_loss_and_every_gradient_equal_those_of_transformers(lengths: list[int]) -> None:
    model, batch = make_model(TINY), make_batch(lengths)
    assert isinstance(model, Gpt2)
    peer = peer_of(model)

    padded = padded_batch(make_instances(lengths, VOCAB_SIZE), 0)
    is_real_BT = padded["attention_mask"] > 0
    theirs = peer(
        input_ids=padded["input_ids"],
        attention_mask=padded["attention_mask"],
        labels=padded["input_ids"].where(is_real_BT, NO_LABEL),
    )
    is_predicted_BT = is_real_BT.clone()
    is_predicted_BT[:, :-1] &= is_real_BT[:, 1:]
    is_predicted_BT[:, -1] = False
    logits_MV, _ = model.logits(batch.inputs)
    torch.testing.assert_close(logits_MV, theirs.logits[is_predicted_BT], atol=1e-4, rtol=1e-5)

    assert_same_gradients(model, batch, peer, theirs.loss)


@LENGTHS
def test_rounded_sizes_change_neither_loss_nor_gradients(lengths: list[int]) -> None:
    model = make_model(TINY)
    padding = Padding(tokens=100, sequences=16, predictions=128, max_seqlen=48)
    exact, rounded = make_batch(lengths), make_batch(lengths, padding)
    assert len(rounded.inputs.labels_M) == 128 > exact.num_predicted
    assert_padding_changes_nothing(model, exact, rounded)


def test_sums_count_what_was_predicted() -> None:
    model, batch = make_model(TINY), make_batch([5, 40, 33, 8])
    assert batch.num_predicted == 4 + 39 + 32 + 7
    logits_MV, _ = model.logits(batch.inputs)
    sums = model(batch.inputs)
    assert sums.token_correct == (logits_MV.argmax(1) == batch.inputs.labels_M).sum()
    assert (sums.pair_loss, sums.pair_correct) == (0, 0)


def test_names_of_transformers_lead_back_to_our_weights() -> None:
    model = make_model(TINY)
    back = from_transformers(
        to_transformers(model.state_dict(), model.config), model.config, model.state_dict()
    )
    assert back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        num_rows = VOCAB_SIZE if name in VOCAB_TENSORS else len(tensor)
        assert torch.equal(back[name][:num_rows], tensor[:num_rows]), name
        assert not back[name][num_rows:].any(), name


def test_weights_are_drawn_as_gpt2_draws_them() -> None:
    torch.manual_seed(0)
    model = build_model(TINY)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == ("norm.weight" in name)), name
        elif parameter.numel() > 10_000:
            is_added_up = name.endswith(("attention.output.weight", "down.weight"))
            expected = 0.02 / math.sqrt(2 * 2) if is_added_up else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert parameter.abs().max() > 2.5 * expected, name  # it is not cut off


def test_half_precision_of_products_changes_little() -> None:
    model, batch = make_model(TINY), make_batch([5, 40, 33, 8])
    expected = loss_of(model, batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_of(model, batch)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(expected, rel=0.02)


def test_the_objective_decides_the_model() -> None:
    for objective, kind in (("nsp", Bert), ("sop", Bert), ("mlm", Bert), ("clm", Gpt2)):
        shape = ARCHITECTURES[DEFAULT_FAMILIES.get(objective, "bert")].config_class.from_preset(
            "tiny", vocab_size=VOCAB_SIZE, max_seq_length=64, dropout=0.0, objective=objective
        )
        assert isinstance(build_model(shape), kind)
    assert TINY.layer_norm_eps == 1e-5
