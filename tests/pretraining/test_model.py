import itertools

import pytest
import torch
import transformers
from flatbatches import pair_batch
from peermodels import (
    assert_padding_changes_nothing,
    assert_same_gradients,
    loss_of,
    peer_of,
)
from randommodels import make_instances, make_model
from torch.nn import functional as F

from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import NO_PADDING, Batch, Padding, lay_out
from tokkit.pretraining.families import PRESETS
from tokkit.pretraining.models.architectures import from_transformers, to_transformers
from tokkit.pretraining.models.attention import attend_flat, attend_padded
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.training.metrics import total_loss

VOCAB_SIZE = 101
TINY = ModelConfig.from_preset("tiny", vocab_size=VOCAB_SIZE, max_seq_length=64, dropout=0.0)


def make_batch(lengths: list[int], padding: Padding = NO_PADDING) -> Batch:
    return lay_out(make_instances(lengths, VOCAB_SIZE), 0, padding)


LENGTHS = pytest.mark.parametrize("lengths", [[16, 16], [5, 40, 33, 8]], ids=["full", "padded"])


@LENGTHS
def test_logits_losses_and_every_gradient_equal_those_of_transformers(lengths: list[int]) -> None:
    model, batch = make_model(TINY), make_batch(lengths)
    peer = peer_of(model)

    padded = pair_batch(make_instances(lengths, VOCAB_SIZE))
    theirs = peer(**padded)
    logits_MV, logits_SC = model.logits(batch.inputs)
    their_logits_MV = theirs.prediction_logits[padded["labels"] != NO_LABEL]
    torch.testing.assert_close(logits_MV, their_logits_MV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits_SC, theirs.seq_relationship_logits, atol=1e-5, rtol=1e-5)

    assert_same_gradients(model, batch, peer, theirs.loss)


@LENGTHS
def test_rounded_sizes_change_neither_loss_nor_gradients(lengths: list[int]) -> None:
    model = make_model(TINY)
    padding = Padding(tokens=100, sequences=16, predictions=64, max_seqlen=48)
    exact, rounded = make_batch(lengths), make_batch(lengths, padding)
    assert (len(rounded.inputs.input_ids_N), len(rounded.inputs.labels_M)) == (100, 64)
    assert len(rounded.inputs.cu_seqlens) == 17
    assert_padding_changes_nothing(model, exact, rounded)


def test_vocabulary_padding_is_never_predicted_nor_learned() -> None:
    model, batch = make_model(TINY), make_batch([16, 16])
    assert isinstance(model, Bert)
    before = loss_of(model, batch).item()
    with torch.no_grad():
        model.masked_token_head.bias[VOCAB_SIZE:] = 1e4
    assert loss_of(model, batch).item() == before
    torch.autograd.backward(loss_of(model, batch))
    for weight in (model.embeddings.words.weight, model.masked_token_head.bias):
        assert weight.grad is not None
        assert not weight.grad[VOCAB_SIZE:].any()


def test_names_of_transformers_lead_back_to_our_weights() -> None:
    model = make_model(TINY)
    back = from_transformers(
        to_transformers(model.state_dict(), model.config), model.config, model.state_dict()
    )
    assert back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        num_rows = VOCAB_SIZE if len(tensor) == model.config.padded_vocab_size else len(tensor)
        assert torch.equal(back[name][:num_rows], tensor[:num_rows]), name


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_as_many_parameters_as_those_of_google(preset: str) -> None:
    layers, hidden, heads, feed_forward = PRESETS[preset]
    config = ModelConfig.from_preset(preset, vocab_size=30528, max_seq_length=128, dropout=0.1)
    with torch.device("meta"):
        model = Bert(config)
        peer = transformers.BertForPreTraining(
            transformers.BertConfig(
                vocab_size=30528,
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=feed_forward,
            )
        )
    assert sum(p.numel() for p in model.parameters()) == peer.num_parameters()


def test_positions_grow_with_the_sequences() -> None:
    for max_seq_length, positions in ((128, 512), (512, 512), (1024, 1024)):
        config = ModelConfig.from_preset(
            "tiny", vocab_size=10, max_seq_length=max_seq_length, dropout=0.0
        )
        assert config.max_position_embeddings == positions


def test_weights_are_drawn_as_bert_draws_them() -> None:
    torch.manual_seed(0)
    model = Bert(TINY)
    model.initialize()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == ("norm.weight" in name)), name
        elif parameter.numel() > 10_000:
            assert parameter.abs().max() <= 0.04, name
            # A normal cut off at two deviations keeps 0.8796 of its deviation.
            assert parameter.std().item() == pytest.approx(0.02 * 0.8796, rel=0.03), name


def test_pairs_without_a_label_do_not_count_in_the_loss() -> None:
    model, batch = make_model(TINY), make_batch([16, 16, 16])

    def loss_with(labels: list[int]) -> torch.Tensor:
        inputs = batch.inputs._replace(pair_labels_S=torch.tensor(labels))
        num_pairs = sum(label != NO_LABEL for label in labels)
        return total_loss(model(inputs), batch.num_predicted, num_pairs)

    _, logits_SC = model.logits(batch.inputs)
    assert logits_SC is not None
    first = F.cross_entropy(logits_SC[:1], torch.tensor([1]))
    difference = loss_with([1, NO_LABEL, NO_LABEL]) - loss_with([NO_LABEL] * 3)
    torch.testing.assert_close(difference, first, atol=1e-5, rtol=1e-5)


@LENGTHS
@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_padding_has_the_shapes_of_attention_with_it(
    lengths: list[int], *, causal: bool
) -> None:
    """The operator for a GPU can be asked for shapes and types on any machine."""
    inputs = make_batch(lengths).inputs
    qkv_N3HK = torch.randn(sum(lengths), 3, 2, 64, requires_grad=True)
    expected = attend_padded(qkv_N3HK, inputs, 0.0, causal=causal)
    on_meta = inputs._replace(cu_seqlens=inputs.cu_seqlens.to("meta"))
    qkv = torch.empty(qkv_N3HK.shape, dtype=torch.bfloat16, device="meta", requires_grad=True)
    found = attend_flat(qkv.unbind(1), on_meta, 0.1, causal=causal)
    assert found.shape == expected.shape
    torch.autograd.backward(found.float().sum())
    assert qkv.grad is not None
    assert qkv.grad.shape == qkv.shape


@pytest.mark.parametrize("causal", [False, True])
def test_a_token_sees_only_its_own_sequence(*, causal: bool) -> None:
    lengths = [5, 3, 40, 8]
    inputs = make_batch(lengths).inputs
    torch.manual_seed(0)
    qkv_N3HK = torch.randn(sum(lengths), 3, 2, 16)
    x_NHK = attend_padded(qkv_N3HK, inputs, 0.0, causal=causal)
    for start, stop in itertools.pairwise(inputs.cu_seqlens.tolist()):
        q, k, v = (part.transpose(0, 1) for part in qkv_N3HK[start:stop].unbind(1))
        scores = q @ k.transpose(1, 2) / 4
        if causal:
            scores += torch.full(scores.shape[1:], -torch.inf).triu(1)
        expected = (scores.softmax(2) @ v).transpose(0, 1)
        torch.testing.assert_close(x_NHK[start:stop], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_computes_what_the_cpu_does() -> None:
    model, batch = make_model(TINY), make_batch([5, 40, 33, 8])
    expected = loss_of(model, batch).item()
    device = torch.device("cuda")
    model.to(device)
    assert loss_of(model, batch.to(device)).item() == pytest.approx(expected, abs=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        rounded = loss_of(model, batch.to(device)).item()
    assert rounded == pytest.approx(expected, rel=0.02)
