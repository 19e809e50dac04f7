import dataclasses

import pytest
import torch
import transformers
from torch.nn import functional as F

from tokkit.pretraining.batch import Batch
from tokkit.pretraining.config import PRESETS
from tokkit.pretraining.data import NO_LABEL
from tokkit.pretraining.export import from_transformers, to_transformers
from tokkit.pretraining.loss import compute_losses
from tokkit.pretraining.model import SIZES, Bert, ModelConfig, initialize

VOCAB_SIZE = 101
TINY = ModelConfig.from_preset("tiny", vocab_size=VOCAB_SIZE, max_seq_length=64, dropout=0.0)


def peer_of(model: Bert) -> transformers.BertForPreTraining:
    """Their model with our weights."""
    config = transformers.BertConfig(
        **dataclasses.asdict(model.config), attn_implementation="eager", pad_token_id=0
    )
    peer = transformers.BertForPreTraining(config)
    missing = peer.load_state_dict(to_transformers(model.state_dict()), strict=False).missing_keys
    assert set(missing) == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    peer.tie_weights()
    return peer


def make_model(config: ModelConfig, seed: int = 0) -> Bert:
    """A model none of whose parameters is 0 or 1, so that every one of them shows."""
    torch.manual_seed(seed)
    model = Bert(config)
    initialize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def make_batch(lengths: list[int], seed: int = 0) -> Batch:
    """Padded sequences of random ids, three masked positions in each."""
    generator = torch.Generator().manual_seed(seed)
    B, T = len(lengths), -(-max(lengths) // 8) * 8
    mask_BT = torch.arange(T) < torch.tensor(lengths)[:, None]
    positions = [b * T + torch.randperm(n, generator=generator)[:3] for b, n in enumerate(lengths)]
    positions_M = torch.cat(positions).sort().values
    return Batch(
        input_ids_BT=torch.randint(1, VOCAB_SIZE, (B, T), generator=generator) * mask_BT,
        token_type_ids_BT=(torch.arange(T) >= max(lengths) // 3).long() * mask_BT,
        attention_mask_BT=None if mask_BT.all() else mask_BT,
        masked_positions_M=positions_M,
        masked_labels_M=torch.randint(VOCAB_SIZE, positions_M.shape, generator=generator),
        next_sentence_labels_B=torch.randint(2, (B,), generator=generator),
        num_tokens=sum(lengths),
        num_pairs=B,
    )


def peer_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """The batch as theirs takes it, with labels everywhere."""
    labels_BT = torch.full_like(batch.input_ids_BT, -100)
    labels_BT.view(-1)[batch.masked_positions_M] = batch.masked_labels_M
    mask_BT = batch.attention_mask_BT
    return {
        "input_ids": batch.input_ids_BT,
        "token_type_ids": batch.token_type_ids_BT,
        "attention_mask": torch.ones_like(labels_BT) if mask_BT is None else mask_BT.long(),
        "labels": labels_BT,
        "next_sentence_label": batch.next_sentence_labels_B,
    }


@pytest.mark.parametrize("lengths", [[16, 16], [5, 40, 33, 8]], ids=["full", "padded"])
def test_logits_losses_and_every_gradient_equal_those_of_transformers(lengths: list[int]) -> None:
    model, batch = make_model(TINY), make_batch(lengths)
    peer = peer_of(model)

    theirs = peer(**peer_inputs(batch))
    logits_MV, logits_BC = model(
        batch.input_ids_BT,
        batch.token_type_ids_BT,
        batch.attention_mask_BT,
        batch.masked_positions_M,
    )
    their_logits_MV = theirs.prediction_logits.flatten(0, 1)[batch.masked_positions_M]
    torch.testing.assert_close(logits_MV, their_logits_MV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits_BC, theirs.seq_relationship_logits, atol=1e-5, rtol=1e-5)

    loss = compute_losses(model, batch).total
    torch.testing.assert_close(loss, theirs.loss, atol=1e-5, rtol=1e-5)
    torch.autograd.backward(loss)
    theirs.loss.backward()
    gradients = to_transformers(
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    )
    their_gradients = {name: p.grad for name, p in peer.named_parameters()}
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, their_gradients[name], atol=1e-5, rtol=1e-4), name


def test_names_of_transformers_lead_back_to_our_weights() -> None:
    model = make_model(TINY)
    back = from_transformers(to_transformers(model.state_dict()), model)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_as_many_parameters_as_those_of_google(preset: str) -> None:
    layers, hidden, heads = SIZES[preset]
    config = ModelConfig.from_preset(preset, vocab_size=30522, max_seq_length=128, dropout=0.1)
    with torch.device("meta"):
        model = Bert(config)
        peer = transformers.BertForPreTraining(
            transformers.BertConfig(
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * hidden,
            )
        )
    assert sum(p.numel() for p in model.parameters()) == peer.num_parameters()


def test_positions_grow_with_the_sequences() -> None:
    for max_seq_length, positions in ((128, 512), (512, 512), (1024, 1024)):
        config = ModelConfig.from_preset(
            "tiny", vocab_size=10, max_seq_length=max_seq_length, dropout=0.0
        )
        assert config.max_position_embeddings == positions


def test_padding_changes_nothing() -> None:
    model = make_model(TINY).eval()
    ids_BT = torch.randint(1, VOCAB_SIZE, (1, 16))
    positions_M = torch.tensor([3, 15])
    short = model(ids_BT, torch.zeros_like(ids_BT), None, positions_M)
    padded_BT = F.pad(ids_BT, (0, 8))
    mask_BT = torch.arange(24)[None] < 16
    padded = model(padded_BT, torch.zeros_like(padded_BT), mask_BT, positions_M)
    for ours, theirs in zip(short, padded, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_weights_are_drawn_as_bert_draws_them() -> None:
    torch.manual_seed(0)
    model = Bert(TINY)
    initialize(model)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == ("norm.weight" in name)), name
        elif parameter.numel() > 10_000:
            assert parameter.abs().max() <= 0.04, name
            # A normal cut off at two deviations keeps 0.8796 of its deviation.
            assert parameter.std().item() == pytest.approx(0.02 * 0.8796, rel=0.03), name


def test_pairs_without_a_label_have_no_part_in_the_loss() -> None:
    model, batch = make_model(TINY), make_batch([16, 16, 16])
    some = dataclasses.replace(
        batch,
        next_sentence_labels_B=torch.tensor([1, NO_LABEL, NO_LABEL]),
        num_pairs=1,
    )
    none = dataclasses.replace(
        batch, next_sentence_labels_B=torch.full((3,), NO_LABEL), num_pairs=0
    )
    logits_BC = model(batch.input_ids_BT, batch.token_type_ids_BT, None, batch.masked_positions_M)[
        1
    ]
    first = F.cross_entropy(logits_BC[:1], torch.tensor([1]))
    difference = compute_losses(model, some).total - compute_losses(model, none).total
    torch.testing.assert_close(difference, first, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_computes_what_the_cpu_does() -> None:
    model, batch = make_model(TINY), make_batch([5, 40, 33, 8])
    expected = compute_losses(model, batch).total.item()
    device = torch.device("cuda")
    model.to(device)
    assert compute_losses(model, batch.to(device)).total.item() == pytest.approx(expected, abs=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        rounded = compute_losses(model, batch.to(device)).total.item()
    assert rounded == pytest.approx(expected, rel=0.02)
