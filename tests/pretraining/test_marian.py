"""The Transformer of 2017 computes what ``MarianMTModel`` does, and learns to translate."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peermodels import gradients_of, loss_of, make_targets
from randommodels import make_model
from realcommands import timeless_lines
from safetensors.torch import load_file, save_file
from tokenfolders import toy_tokenizer, write_token_folder

from tokkit import InstanceLoader
from tokkit.errors import TokkitError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.data.batches import NO_PADDING, Padding, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.families import MARIAN_PRESETS
from tokkit.pretraining.models.architectures import build_meta_model, build_model
from tokkit.pretraining.models.export import read_export, write_export
from tokkit.pretraining.models.initial_weights import InitialWeights, read_initial_weights
from tokkit.pretraining.models.marian import MarianConfig
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig

VOCAB_SIZE = 101
SHAPE = MarianConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_hidden_layers=2,
    num_decoder_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    objective="translation",
)
LENGTHS = [([32, 32], [16, 16]), ([5, 40, 33, 8], [3, 11, 16, 1])]


@pytest.fixture
def model() -> Transformer:
    """Has random weights."""
    return make_model(SHAPE)


@pytest.fixture
def folder(tmp_path: Path, model: Transformer) -> Path:
    """Its export."""
    write_export(tmp_path / "export", model.state_dict(), model.config, toy_tokenizer(VOCAB_SIZE))
    return tmp_path / "export"


def start(folder: Path) -> InitialWeights:
    """What a run on long texts would start from."""
    return read_initial_weights(
        folder,
        toy_tokenizer(VOCAB_SIZE),
        objective="translation",
        max_seq_length=2048,
        dropout=0.0,
    )


def test_it_computes_what_transformers_computes(folder: Path, model: Transformer) -> None:
    peer, info = transformers.MarianMTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    for lengths in LENGTHS:
        instances = make_targets(lengths, VOCAB_SIZE)
        batch, padded = lay_out(instances, 0), padded_batch(instances, 0)
        del padded["token_type_ids"]
        peer.zero_grad()
        theirs = peer.eval()(**padded)
        with torch.inference_mode():
            logits_MV, _ = model.logits(batch.inputs)
        expected_MV = theirs.logits[padded["labels"] >= 0]
        torch.testing.assert_close(logits_MV, expected_MV, atol=1e-4, rtol=0)
        torch.testing.assert_close(loss_of(model, batch), theirs.loss, atol=1e-5, rtol=1e-5)
        gradients = gradients_of(model, batch)
        theirs.loss.backward()
        expected = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, expected[name], atol=1e-5, rtol=1e-4), name

        padding = Padding(tokens=128, sequences=8, predictions=64, max_seqlen=40, max_target_len=16)
        rounded = lay_out(instances, 0, padding)
        assert len(rounded.inputs.labels_M) == 64
        for name, gradient in gradients_of(model, rounded).items():
            torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=1e-5, msg=name)


def test_an_export_is_a_start(
    folder: Path, model: Transformer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert read_export(folder).config == model.config
    transformers.MarianMTModel.from_pretrained(folder).save_pretrained(folder)
    initial = start(folder)
    assert not [line for line in caplog.messages if "ignores" in line or "lacks" in line]
    begun = build_model(initial.config)
    initial.load_into(begun)
    batch = lay_out(make_targets(LENGTHS[1], VOCAB_SIZE), 0, NO_PADDING)
    torch.testing.assert_close(loss_of(begun, batch), loss_of(model, batch))
    tensors = load_file(folder / "model.safetensors")
    tensors["final_logits_bias"] = torch.ones(1, VOCAB_SIZE)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TokkitError, match="final_logits_bias is not 0"):
        start(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_ffn_dim": 64}))
    with pytest.raises(TokkitError, match="decoder_ffn_dim and encoder_ffn_dim differ"):
        start(folder)


def test_presets_have_the_parameters_of_the_paper() -> None:
    for preset, millions in (("base", 63), ("big", 214)):
        config = MarianConfig.from_preset(
            preset, vocab_size=37000, max_seq_length=512, dropout=0.1, objective="translation"
        )
        number = sum(p.numel() for p in build_meta_model(config).parameters())
        assert number == pytest.approx(millions * 1e6, rel=0.01)


def test_it_learns_to_copy_and_to_reverse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first word says which: 60 to copy the others, 61 to reverse them."""
    monkeypatch.setitem(MARIAN_PRESETS, "tiny", (1, 32, 2, 128))
    rng = np.random.default_rng(1)
    texts = [rng.integers(62, 70, rng.integers(2, 5)).tolist() for _ in range(2000)]
    how = rng.integers(60, 62, 2000).tolist()
    translations = [
        text[:: -1 if first == 61 else 1] for first, text in zip(how, texts, strict=True)
    ]
    sides = {
        "texts": [[[first, *text]] for first, text in zip(how, texts, strict=True)],
        "translations": [[text] for text in translations],
    }
    tokens, targets = (
        write_token_folder(tmp_path / name, documents, tokenizer=toy_tokenizer(VOCAB_SIZE))
        for name, documents in sides.items()
    )
    instances, run = tmp_path / "instances", tmp_path / "run"
    options: dict[str, Any] = {"objective": "translation", "max_seq_length": 8, "workers": 0}
    build(BuildConfig(tokens=tokens, targets=targets, output=instances, **options))
    config = PretrainConfig(
        instances=(instances,),
        output=run,
        preset="tiny",
        batch_size=64,
        max_steps=200,
        learning_rate=1e-2,
        dropout=0.0,
        device="cpu",
        threads=1,
    )
    pretrain(config)
    *_, last = (line for line in timeless_lines(run) if line["kind"] == "eval")
    assert last["loss"] == last["translation_loss"] < 0.3
    peer = transformers.MarianMTModel.from_pretrained(run / "export").eval()
    (batch,) = InstanceLoader(instances, batch_size=100, split="eval")
    with torch.inference_mode():
        assert float(peer(**batch).loss) == pytest.approx(last["loss"], abs=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "export")
    asked = tokenizer([f"word{how} word57 word58 word56" for how in (53, 54)], return_tensors="pt")
    answers = peer.generate(**asked, max_new_tokens=6, num_beams=1)
    assert tokenizer.batch_decode(answers, skip_special_tokens=True) == [
        "word57 word58 word56",
        "word56 word58 word57",
    ]
