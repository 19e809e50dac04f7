"""Runs that start from a ModernBERT: transformers' own folder, in either dialect, or an export."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from instancefolders import write_counting_tokenizer
from peermodels import assert_export_is_a_start, begin
from randommodels import make_instances

from tokkit.errors import TokkitError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.models.model_files import read_family
from tokkit.pretraining.models.modernbert import ModernBertConfig
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.training.metrics import total_loss
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer

LENGTHS = [32, 8, 30]
KINDS = {"mlm": "ModernBertForMaskedLM", "clm": "ModernBertDecoderForCausalLM"}
OBJECTIVES = pytest.mark.parametrize("objective", KINDS)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """The tokenizer of the language of counting."""
    return write_counting_tokenizer(tmp_path / "tokenizer")


def write_peer(folder: Path, tokenizer: Tokenizer, kind: str, **fields: Any) -> Any:
    """Save a model of transformers with random weights and a tokenizer, and return it."""
    peer_class = getattr(transformers, kind)
    config = peer_class.config_class(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        local_attention=8,
        layer_types=["full_attention", "sliding_attention"] * 2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 7e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
        **{f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")},
        **fields,
    )
    torch.manual_seed(0)
    peer = peer_class(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    peer.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return peer


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    data = {**json.loads(path.read_text()), **fields}
    path.write_text(
        json.dumps({name: value for name, value in data.items() if value != "leave out"})
    )


def losses(model: Transformer, peer: Any) -> tuple[float, float]:
    """Of random instances, ours and theirs."""
    is_causal = model.config.task.is_causal
    instances = make_instances(LENGTHS, model.config.vocab_size)
    batch = lay_out(instances, 0, causal=is_causal)
    padded = padded_batch(instances, 0)
    del padded["token_type_ids"]
    if is_causal:
        padded["labels"] = padded["input_ids"].where(padded["attention_mask"] > 0, NO_LABEL)
    with torch.inference_mode():
        ours = total_loss(model(batch.inputs), batch.num_predicted, batch.num_pairs)
        return ours.item(), peer(**padded).loss.item()


@OBJECTIVES
@pytest.mark.parametrize("dialect", ["today's", "4.48's"])
def test_the_first_loss_is_that_of_transformers(
    tmp_path: Path, tokenizer: Tokenizer, objective: str, dialect: str
) -> None:
    peer = write_peer(tmp_path / "peer", tokenizer, KINDS[objective])
    if dialect == "4.48's":
        change_config(
            tmp_path / "peer",
            layer_types="leave out",
            rope_parameters="leave out",
            global_attn_every_n_layers=2,
            global_rope_theta=7e4,
            local_rope_theta=500.0,
        )
    assert read_family(tmp_path / "peer") == "modernbert"
    ours, theirs = losses(begin(tmp_path / "peer", tokenizer, objective), peer)
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_model_without_its_head_is_a_start(tmp_path: Path, tokenizer: Tokenizer) -> None:
    peer = write_peer(tmp_path / "peer", tokenizer, "ModernBertModel")
    model = begin(tmp_path / "peer", tokenizer, "mlm")
    inputs = lay_out(make_instances(LENGTHS, 48), 0).inputs
    padded = padded_batch(make_instances(LENGTHS, 48), 0)
    with torch.inference_mode():
        theirs = peer(padded["input_ids"], padded["attention_mask"]).last_hidden_state
        x_ND = model.encode(inputs)
    torch.testing.assert_close(x_ND, theirs[padded["attention_mask"] > 0], atol=1e-4, rtol=0)


@OBJECTIVES
def test_an_export_is_a_start(tmp_path: Path, tokenizer: Tokenizer, objective: str) -> None:
    config = ModernBertConfig.from_preset(
        "17m", vocab_size=48, max_seq_length=32, dropout=0.0, objective=objective
    )
    assert_export_is_a_start(tmp_path / "export", config, tokenizer)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"hidden_activation": "silu"}, "hidden_activation is silu, but --init-from requires"),
        ({"mlp_bias": True}, "mlp_bias is True, but"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types must name a global layer"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types must name a global layer"),
        ({"layer_types": []}, "layer_types must name a global layer"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "only the default rope"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 0}}}, "> 0.0 - at .*rope_theta"),
        ({"local_attention": 1}, "Expected `int` >= 2 - at .*local_attention"),
        ({"num_attention_heads": 32}, "32 attention heads of an even size"),
        ({"num_hidden_layers": 1 << 40, "layer_types": None}, "layers; at most 10,000 are"),
        ({"num_hidden_layers": 5, "layer_types": None}, r"lack model\.layers\.4"),
        ({"vocab_size": 47}, r"tok_embeddings\.weight has shape \(48, 32\), but .* \(47, 32\)"),
        ({"model_type": "modernbert-decoder"}, "a modernbert-decoder, which learns from clm, but"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_other_models_are_refused_in_one_line(
    tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any], fault: str
) -> None:
    write_peer(tmp_path / "peer", tokenizer, "ModernBertForMaskedLM")
    change_config(tmp_path / "peer", **change)
    with pytest.raises(TokkitError, match=fault) as refused:
        begin(tmp_path / "peer", tokenizer, "mlm")
    assert "\n" not in str(refused.value)
