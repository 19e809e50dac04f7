"""XLNet computes what ``transformers`` does, on any lengths, and learns to fill in what is missing."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peermodels import assert_padding_changes_nothing, assert_same_as_export, loss_of
from randommodels import make_instances, make_model
from realcommands import timeless_lines
from tokenfolders import toy_tokenizer, write_token_folder

from tokkit import InstanceLoader
from tokkit.errors import TokkitError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.data.batches import NO_PADDING, Padding, lay_out
from tokkit.pretraining.families import PRESETS
from tokkit.pretraining.models.architectures import build_meta_model, build_model
from tokkit.pretraining.models.export import fill_mask, read_export, write_export
from tokkit.pretraining.models.initial_weights import read_initial_weights
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.models.xlnet import XlnetConfig
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.shards.instances import Instances, Predictions
from tokkit.tokenizer.tokenizer import Tokenizer

VOCAB_SIZE = 101
SHAPE = XlnetConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    objective="plm",
)
LENGTHS = pytest.mark.parametrize("lengths", [[32, 32], [5, 40, 33, 8]], ids=["full", "ragged"])


def permute(lengths: list[int], seed: int = 0) -> Instances:
    """Instances of two segments, a quarter of whose tokens is predicted in random order."""
    instances, random = make_instances(lengths, VOCAB_SIZE, seed), np.random.default_rng(seed)
    orders = [random.permutation(n)[: 1 + n // 4] for n in lengths]
    values = np.concatenate(orders).astype(np.uint16)
    offsets = np.cumsum([0, *map(len, orders)])
    targets = Predictions.of_positions(values, offsets, instances.input_ids, instances.offsets)
    return replace(instances, predictions=targets)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Has as many tokens as the model."""
    return toy_tokenizer(VOCAB_SIZE)


@pytest.fixture
def model() -> Transformer:
    """Has random weights."""
    return make_model(SHAPE)


@pytest.fixture
def folder(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> Path:
    """Its export."""
    write_export(tmp_path / "export", model.state_dict(), model.config, tokenizer)
    return tmp_path / "export"


@LENGTHS
def test_logits_loss_and_every_gradient_equal_those_of_transformers(
    folder: Path, model: Transformer, lengths: list[int]
) -> None:
    assert_same_as_export(folder, model, permute(lengths), "XLNetLMHeadModel")


@LENGTHS
def test_rounded_sizes_change_neither_loss_nor_gradients(
    model: Transformer, lengths: list[int]
) -> None:
    padding = Padding(tokens=128, sequences=8, predictions=32, max_seqlen=40, max_target_len=16)
    exact, rounded = (lay_out(permute(lengths), 0, r) for r in (NO_PADDING, padding))
    assert len(rounded.inputs.input_ids_N) == 128 > len(exact.inputs.input_ids_N)
    assert len(rounded.inputs.labels_M) == 32 > len(exact.inputs.labels_M)
    assert_padding_changes_nothing(model, exact, rounded)


def test_an_export_is_a_start(
    folder: Path, model: Transformer, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert read_export(folder).config == model.config
    transformers.XLNetLMHeadModel.from_pretrained(folder).save_pretrained(folder)
    initial = read_initial_weights(
        folder, tokenizer, objective="plm", max_seq_length=2048, dropout=0.0
    )
    assert not [line for line in caplog.messages if "ignores" in line or "lacks" in line]
    begun = build_model(initial.config)
    initial.load_into(begun)
    batch = lay_out(permute([5, 40]), 0)
    torch.testing.assert_close(loss_of(begun, batch), loss_of(model, batch))
    with pytest.raises(TokkitError, match="fills no masks; use AutoModelForCausalLM"):
        fill_mask(folder, "word1 [MASK]")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attn_type": "uni"}))
    with pytest.raises(TokkitError, match="attn_type is uni, but"):
        read_initial_weights(folder, tokenizer, objective="plm", max_seq_length=32, dropout=0.0)


def test_presets_have_the_parameters_of_the_release() -> None:
    for preset, millions in (("base", 117), ("large", 361)):
        config = XlnetConfig.from_preset(
            preset, vocab_size=32000, max_seq_length=512, dropout=0.1, objective="plm"
        )
        number = sum(p.numel() for p in build_meta_model(config).parameters())
        assert number == pytest.approx(millions * 1e6, rel=0.005)


def test_it_learns_to_fill_in_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that counts up: a missing word follows from those around it."""
    monkeypatch.setitem(PRESETS, "tiny", (1, 32, 1, 128))
    words = range(60, 99)
    documents = [
        [[words[(start + place) % len(words)] for place in range(40)] for start in starts]
        for starts in (range(first, first + 8 * 40, 40) for first in range(40))
    ]
    write_token_folder(tmp_path / "tokens", documents, tokenizer=toy_tokenizer(VOCAB_SIZE))
    instances = tmp_path / "instances"
    given: dict[str, Any] = {"objective": "plm", "max_seq_length": 16, "eval_fraction": 0.1}
    build(BuildConfig(tokens=tmp_path / "tokens", output=instances, workers=0, **given))
    config = PretrainConfig(
        instances=(instances,),
        output=tmp_path / "run",
        preset="tiny",
        batch_size=16,
        max_steps=150,
        learning_rate=1e-2,
        dropout=0.0,
        device="cpu",
        threads=1,
    )
    pretrain(config)
    first, *_, last = (line for line in timeless_lines(config.output) if line["kind"] == "eval")
    assert first["loss"] > 4
    assert last["loss"] == last["plm_loss"] < 2 < np.log(39)
    assert last["plm_accuracy"] > 0.4
    peer = transformers.XLNetLMHeadModel.from_pretrained(config.output / "export").eval()
    loss_sum = num_targets = 0.0
    for batch in InstanceLoader(instances, batch_size=8, split="eval"):
        with torch.inference_mode():
            loss = peer(**batch).loss
        number = int((batch["labels"] >= 0).sum())
        loss_sum, num_targets = loss_sum + float(loss) * number, num_targets + number
    assert loss_sum / num_targets == pytest.approx(last["loss"], abs=1e-4)
