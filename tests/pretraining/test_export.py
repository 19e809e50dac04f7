from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from instancefolders import write_counting_tokenizer
from randommodels import make_instances, make_model

from tokkit.errors import TokkitError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.models.architectures import (
    ARCHITECTURES,
    VOCAB_TENSORS,
    to_transformers,
)
from tokkit.pretraining.models.export import read_export, write_export
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.training.metrics import total_loss
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

pytestmark = pytest.mark.usefixtures("small_presets")

NUM_ENTRIES = 48
INSTANCES = make_instances([24, 9, 17], NUM_ENTRIES)
POOLER = {"pooler.dense.bias", "pooler.dense.weight"}, {"pooler.bias", "pooler.weight"}

# Objective and model: what loads all of it, and what loads a part of it.
KINDS = {
    "nsp": ("BertForPreTraining", "BertForMaskedLM"),
    "sop": ("BertForPreTraining", "BertForMaskedLM"),
    "mlm": ("BertForMaskedLM", "AutoModelForMaskedLM"),
    "sop-shared": ("AlbertForPreTraining", "AlbertForMaskedLM"),
    "mlm-shared": ("AlbertForMaskedLM", "AutoModelForMaskedLM"),
    "mlm-roberta": ("RobertaForMaskedLM", "AutoModelForMaskedLM"),
    "clm": ("GPT2LMHeadModel", "AutoModelForCausalLM"),
    "mlm-modern": ("ModernBertForMaskedLM", "AutoModelForMaskedLM"),
    "clm-modern": ("ModernBertDecoderForCausalLM", "AutoModelForCausalLM"),
}
ARCHITECTURE_OF = {"clm": "gpt2", "shared": "albert", "modern": "modernbert", "roberta": "roberta"}
DECODERS = pytest.mark.parametrize("kind", ["clm", "clm-modern"], indirect=True)


@pytest.fixture(autouse=True)
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers says of loading."""
    transformers.logging.enable_propagation()
    yield caplog
    transformers.logging.disable_propagation()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """The tokenizer of the language of counting."""
    return write_counting_tokenizer(tmp_path / "tokenizer")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which of all models there are."""
    return str(request.param)


@pytest.fixture
def model(kind: str) -> Transformer:
    """A model with random weights; what fills up its vocabulary is random too."""
    is_modern = kind.endswith("-modern")
    objective, _, changed = kind.partition("-")
    return make_model(
        ARCHITECTURES[ARCHITECTURE_OF.get(changed or objective, "bert")].config_class.from_preset(
            "17m" if is_modern else "tiny",
            vocab_size=NUM_ENTRIES,
            max_seq_length=32,
            dropout=0.1,
            objective=objective,
        )
    ).eval()


@pytest.fixture
def folder(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> Path:
    """Its export."""
    write_export(tmp_path / "export", model.state_dict(), model.config, tokenizer)
    return tmp_path / "export"


def load_peer(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model of transformers, and what it said of loading."""
    kind = getattr(transformers, name)
    peer, info = kind.from_pretrained(folder, output_loading_info=True)
    return peer.eval(), info


def run_theirs(peer: Any) -> tuple[Any, torch.Tensor]:
    """A peer's output, and where its tokens are real."""
    batch = padded_batch(INSTANCES, 0)
    del batch["labels"]
    if peer.config.to_dict().get("type_vocab_size", 1) < 2:
        del batch["token_type_ids"]
    with torch.inference_mode():
        return peer(**batch), batch["attention_mask"] > 0


def run_ours(model: Transformer) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of all positions and of the pairs."""
    inputs = lay_out(INSTANCES, 0).inputs
    everywhere = inputs._replace(predicted_positions_M=torch.arange(len(inputs.input_ids_N)))
    with torch.inference_mode():
        return model.logits(everywhere)


def test_transformers_loads_the_whole_model_with_the_same_logits(
    folder: Path, kind: str, model: Transformer, messages: pytest.LogCaptureFixture
) -> None:
    peer, info = load_peer(KINDS[kind][0], folder)
    assert not any(info.values()), info
    assert peer.config.architectures == [KINDS[kind][0]]
    theirs, is_real_BT = run_theirs(peer)
    logits_MV, logits_SC = run_ours(model)
    their_logits_BTV = theirs.prediction_logits if logits_SC is not None else theirs.logits
    torch.testing.assert_close(logits_MV, their_logits_BTV[is_real_BT], atol=1e-4, rtol=0)
    if logits_SC is not None:
        their_logits_SC = theirs.sop_logits if "shared" in kind else theirs.seq_relationship_logits
        torch.testing.assert_close(logits_SC, their_logits_SC, atol=1e-4, rtol=0)
    assert not messages.records


def test_transformers_computes_the_same_loss_and_gradients(
    folder: Path, kind: str, model: Transformer
) -> None:
    peer, _ = load_peer(KINDS[kind][0], folder)
    batch = padded_batch(INSTANCES, 0)
    is_causal = kind.startswith("clm")
    if peer.config.to_dict().get("type_vocab_size", 1) < 2:
        del batch["token_type_ids"]
    if is_causal:
        batch["labels"] = batch["input_ids"].where(batch["attention_mask"] > 0, NO_LABEL)
    if model.config.task.has_pairs:
        label = "sentence_order_label" if "shared" in kind else "next_sentence_label"
        batch[label] = torch.from_numpy(INSTANCES.next_sentence_labels)
    theirs = peer(**batch).loss
    theirs.backward()

    ours = lay_out(INSTANCES, 0, causal=is_causal)
    loss = total_loss(model(ours.inputs), ours.num_predicted, ours.num_pairs)
    torch.autograd.backward(loss)
    torch.testing.assert_close(loss, theirs, atol=1e-5, rtol=1e-5)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    named = to_transformers(gradients, model.config)
    expected = {n: p.grad for n, p in peer.named_parameters()}
    assert named.keys() == expected.keys()
    for name, gradient in named.items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, expected[name], atol=1e-5, rtol=1e-4), name


def test_transformers_loads_the_head_alone_with_the_same_logits(
    folder: Path, kind: str, model: Transformer
) -> None:
    peer, info = load_peer(KINDS[kind][1], folder)
    assert not info["missing_keys"]
    theirs, is_real_BT = run_theirs(peer)
    torch.testing.assert_close(run_ours(model)[0], theirs.logits[is_real_BT], atol=1e-4, rtol=0)


def test_transformers_loads_the_encoder_with_the_same_output(
    folder: Path, kind: str, model: Transformer
) -> None:
    peer, info = load_peer("AutoModel", folder)
    if kind in {"mlm", "mlm-shared", "mlm-roberta"}:
        assert info["missing_keys"] in POOLER
    else:
        assert not info["missing_keys"]
    theirs, is_real_BT = run_theirs(peer)
    with torch.inference_mode():
        x_ND = model.encode(lay_out(INSTANCES, 0).inputs)
    torch.testing.assert_close(x_ND, theirs.last_hidden_state[is_real_BT], atol=1e-4, rtol=0)


def test_an_export_has_exactly_the_vocabulary(
    folder: Path, kind: str, tokenizer: Tokenizer
) -> None:
    peer, _ = load_peer(KINDS[kind][0], folder)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert peer.get_input_embeddings().weight.shape[0] == NUM_ENTRIES == len(loaded)
    assert peer.config.pad_token_id == loaded.pad_token_id
    assert loaded.model_max_length == 512
    assert peer.config.max_position_embeddings == 512 + (kind == "mlm-roberta")
    assert load_tokenizer(folder).fingerprint == tokenizer.fingerprint


def test_an_export_is_read_back_as_it_was(folder: Path, model: Transformer) -> None:
    back = read_export(folder)
    assert back.config == model.config
    assert not back.training
    for name, tensor in model.state_dict().items():
        read = back.state_dict()[name]
        num_rows = NUM_ENTRIES if name in VOCAB_TENSORS else len(tensor)
        assert torch.equal(read[:num_rows], tensor[:num_rows]), name
        assert not read[num_rows:].any(), name


@DECODERS
def test_a_decoder_generates_the_most_likely_tokens(folder: Path, model: Transformer) -> None:
    peer, _ = load_peer("AutoModelForCausalLM", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert peer.config.bos_token_id == peer.config.eos_token_id == tokenizer.eos_token_id == 3
    prompt = tokenizer("word1 word2 word3", return_tensors="pt")
    assert prompt["input_ids"].tolist() == [[6, 7, 8]]  # no [CLS], no [SEP]
    assert set(prompt) == {"input_ids", "attention_mask"}  # token types would count as words
    with torch.inference_mode():
        (ids,) = peer.generate(**prompt, max_new_tokens=6, do_sample=False).tolist()
    assert len(ids) > 3
    instances = make_instances([len(ids)], NUM_ENTRIES)
    instances.input_ids[:] = ids
    with torch.inference_mode():
        logits_MV, _ = model.logits(lay_out(instances, 0, causal=True).inputs)
    assert logits_MV.argmax(1)[2:].tolist() == ids[3:]


@pytest.mark.parametrize("kind", ["nsp"], indirect=True)
def test_a_damaged_export_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TokkitError, match=r"model\.safetensors: damaged"):
        read_export(folder)
    weights.unlink()
    with pytest.raises(TokkitError, match=r"model\.safetensors: no such file"):
        read_export(folder)


@pytest.mark.parametrize("kind", ["nsp"], indirect=True)
def test_an_export_of_another_shape_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 48', '"vocab_size": 47'))
    with pytest.raises(
        TokkitError, match=r"word_embeddings\.weight should have the shape \(47, 32\)"
    ):
        read_export(folder)
    config.write_text('{"model_type": "bert"}')
    with pytest.raises(TokkitError, match=r"config\.json: vocab_size is missing"):
        read_export(folder)
    config.write_text('{"model_type": "llama"}')
    with pytest.raises(TokkitError, match=r"config\.json: model_type is llama, not bert"):
        read_export(folder)


@pytest.mark.parametrize("kind", ["mlm-modern"], indirect=True)
def test_a_modernbert_gets_no_segments_from_its_tokenizer(folder: Path) -> None:
    """4.48 refuses them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("word1 [MASK] word3", return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert encoded["input_ids"].tolist() == [[2, 6, 4, 8, 3]]
