"""T5 computes what ``transformers`` does, on any lengths, and learns what span corruption teaches."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peermodels import (
    assert_padding_changes_nothing,
    assert_same_as_export,
    loss_of,
    make_targets,
)
from randommodels import make_model
from realcommands import outcome
from safetensors.torch import load_file, save_file
from tokenfolders import toy_tokenizer, write_token_folder

from tokkit import InstanceLoader
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.data.batches import NO_PADDING, Padding, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.families import T5_PRESETS
from tokkit.pretraining.models.architectures import (
    build_meta_model,
    build_model,
    from_transformers,
    to_transformers,
)
from tokkit.pretraining.models.export import fill_mask, read_export, write_export
from tokkit.pretraining.models.initial_weights import read_initial_weights
from tokkit.pretraining.models.t5 import T5Config
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain import estimate_run, pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.metrics import Sample, count_flops_per_token
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.shards.instances import Instances
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

VOCAB_SIZE = 101
SHAPE = T5Config(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_hidden_layers=2,
    num_decoder_layers=3,
    num_attention_heads=3,
    d_kv=8,
    intermediate_size=48,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    relative_attention_num_buckets=16,
    relative_attention_max_distance=24,
    objective="span-corruption",
)
FULL = [32, 32], [16, 16]
RAGGED = [5, 40, 33, 8], [3, 11, 16, 1]
LENGTHS = pytest.mark.parametrize("lengths", [FULL, RAGGED], ids=["full", "ragged"])


def pad(instances: Instances) -> dict[str, Any]:
    """A batch as keyword arguments of a model of transformers."""
    batch = padded_batch(instances, 0)
    del batch["token_type_ids"]
    return batch


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Has as many tokens as the model, of which some can stand for spans."""
    return toy_tokenizer(VOCAB_SIZE, num_unused=20)


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
    folder: Path, model: Transformer, lengths: tuple[list[int], list[int]]
) -> None:
    instances = make_targets(lengths, VOCAB_SIZE)
    assert_same_as_export(folder, model, instances, "T5ForConditionalGeneration")


@LENGTHS
def test_rounded_sizes_change_neither_loss_nor_gradients(
    model: Transformer, lengths: tuple[list[int], list[int]]
) -> None:
    padding = Padding(tokens=128, sequences=8, predictions=64, max_seqlen=40, max_target_len=16)
    exact, rounded = (
        lay_out(make_targets(lengths, VOCAB_SIZE), 0, r) for r in (NO_PADDING, padding)
    )
    assert len(rounded.inputs.input_ids_N) == 128 > len(exact.inputs.input_ids_N)
    assert_padding_changes_nothing(model, exact, rounded)


def test_an_export_is_read_back_as_it_was_and_is_a_start(
    folder: Path, model: Transformer, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert read_export(folder).config == model.config
    initial = read_initial_weights(
        folder, tokenizer, objective="span-corruption", max_seq_length=2048, dropout=0.0
    )
    begun = build_model(initial.config)
    initial.load_into(begun)
    batch = lay_out(make_targets(RAGGED, VOCAB_SIZE), 0)
    torch.testing.assert_close(loss_of(begun, batch), loss_of(model, batch))
    named = to_transformers(model.state_dict(), model.config)
    back = from_transformers(named, model.config, model.state_dict())
    for name, tensor in model.state_dict().items():
        rows = VOCAB_SIZE if len(tensor) == model.config.padded_vocab_size else len(tensor)
        assert torch.equal(back[name][:rows], tensor[:rows]), name
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    # What the folders on the Hub have as well: copies, and a table that no attention looks up.
    for stack in ("encoder", "decoder"):
        tensors[f"{stack}.embed_tokens.weight"] = tensors["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file({**tensors, unused: torch.zeros(16, 3)}, weights, metadata={"format": "pt"})
    again = read_initial_weights(
        folder, tokenizer, objective="span-corruption", max_seq_length=32, dropout=0.0
    )
    assert again.tensors.keys() == initial.tensors.keys()
    assert not [line for line in caplog.messages if "ignores" in line or "lacks" in line]
    with pytest.raises(TokkitError, match="fills no masks"):
        fill_mask(folder, "word1 [MASK]")
    with pytest.raises(UsageError, match=r"--extend-positions has no effect: .* any length"):
        read_initial_weights(
            folder,
            tokenizer,
            objective="span-corruption",
            max_seq_length=2048,
            dropout=0.0,
            extend_positions="repeat",
        )
    transformers.T5ForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)
    path = folder / "config.json"
    assert json.loads(path.read_text())["tie_word_embeddings"]
    saved = read_initial_weights(
        folder, tokenizer, objective="span-corruption", max_seq_length=32, dropout=0.0
    )
    assert torch.equal(saved.tensors["lm_head.weight"], initial.tensors["lm_head.weight"])
    path.write_text(json.dumps({**json.loads(path.read_text()), "feed_forward_proj": "relu"}))
    with pytest.raises(TokkitError, match="feed_forward_proj is relu, but"):
        read_initial_weights(
            folder, tokenizer, objective="span-corruption", max_seq_length=32, dropout=0.0
        )


def test_weights_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    config = T5Config.from_preset(
        "t5-small", vocab_size=1000, max_seq_length=512, dropout=0.1, objective="span-corruption"
    )
    model = build_model(config)
    layer: Any = model.layers[0]
    q, k, _ = layer.attention.qkv.weight.chunk(3)
    found = {
        "words": (model.embeddings.words.weight, 1.0),
        "q": (q, (512 * 64) ** -0.5),
        "k": (k, 512**-0.5),
        "o": (layer.attention.output.weight, 384**-0.5),
        "up": (layer.feed_forward.up.weight, 512**-0.5),
        "down": (layer.feed_forward.down.weight, 1024**-0.5),
    }
    for name, (weight, deviation) in found.items():
        assert weight.std().item() == pytest.approx(deviation, rel=0.03), name


@pytest.mark.parametrize(
    ("preset", "millions"), [("t5-small", 77), ("t5-base", 248), ("t5-large", 783)]
)
def test_presets_have_the_parameters_of_version_1_1(preset: str, millions: int) -> None:
    config = T5Config.from_preset(
        preset, vocab_size=32128, max_seq_length=512, dropout=0.1, objective="span-corruption"
    )
    num_parameters = sum(p.numel() for p in build_meta_model(config).parameters())
    assert num_parameters == pytest.approx(millions * 1e6, rel=0.005)


def test_operations_are_those_of_both_stacks() -> None:
    model = build_meta_model(SHAPE)
    sample = Sample(num_instances=1, num_held_out=0, tokens=8, length=0, masked_share=0.5)
    layers: Any = model
    encoder = sum(p.numel() for p in model.layers.parameters())
    decoder = sum(p.numel() for p in layers.decoder_layers.parameters())
    cross = 3 * 2 * 24 * 32  # keys and values of the inputs
    head = VOCAB_SIZE * 32
    expected = 6 * (encoder + cross) + 3 * (decoder - cross + head)
    assert count_flops_per_token(model, sample) == expected


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes t5-small much smaller, so that runs take no time."""
    monkeypatch.setitem(T5_PRESETS, "t5-small", (2, 64, 2, 128))


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of text that counts up, in which a missing span follows from what is around it."""
    folder = tmp_path_factory.mktemp("t5")
    words = range(60, 99)
    documents = [
        [[words[(start + place) % len(words)] for place in range(40)] for start in starts]
        for starts in (range(first, first + 8 * 40, 40) for first in range(40))
    ]
    tokenizer = toy_tokenizer(VOCAB_SIZE, num_unused=40)
    write_token_folder(folder / "tokens", documents, tokenizer=tokenizer)
    build(
        BuildConfig(
            tokens=folder / "tokens",
            output=folder / "instances",
            objective="span-corruption",
            max_seq_length=32,
            eval_fraction=0.1,
            workers=0,
            progress=False,
        )
    )
    return folder / "instances"


def make_config(instances: Path, output: Path, **options: Any) -> PretrainConfig:
    given: dict[str, Any] = {
        "preset": "t5-small",
        "batch_size": 16,
        "max_steps": 12,
        "device": "cpu",
        "threads": 1,
        **options,
    }
    return PretrainConfig(instances=(instances,), output=output, **given)


def read_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.usefixtures("small_preset")
def test_it_learns_to_fill_in_spans(instances: Path, tmp_path: Path) -> None:
    config = make_config(
        instances, tmp_path / "run", max_steps=120, learning_rate=3e-3, dropout=0.0
    )
    pretrain(config)
    first, *_, last = read_lines(tmp_path / "run", "eval")
    # Of 8 targets 5 are one of 39 words, the others known: without the inputs 0.39 could be right.
    assert first["loss"] > 4
    assert last["loss"] == last["span_corruption_loss"] < 1.4 < 5 / 8 * np.log(39)
    assert last["span_corruption_accuracy"] > 0.55
    peer = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "run" / "export")
    loss_sum = num_targets = 0.0
    for batch in InstanceLoader(instances, batch_size=8, split="eval"):
        with torch.inference_mode():
            loss = peer.eval()(**batch).loss
        number = int((batch["labels"] >= 0).sum())
        loss_sum, num_targets = loss_sum + float(loss) * number, num_targets + number
    assert loss_sum / num_targets == pytest.approx(last["loss"], abs=1e-4)


def test_the_loader_gives_what_build_made(instances: Path) -> None:
    config = PretrainConfig(instances=(instances,), output=Path("run"), batch_size=4)
    made = Loader(open_sources(config), config).training_instances(0)
    assert made.predictions.targets == "target_ids"
    tokenizer = load_tokenizer(instances / "tokenizer")
    sentinels = set(tokenizer.sentinel_ids(2))
    loader = InstanceLoader(instances, batch_size=4)
    batch = loader.batch(0)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    for inputs, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        found = [token for token in labels if token >= 0]
        assert found[0] == next(token for token in inputs if token in sentinels)
        assert found[-1] == tokenizer.end_of_text_id()
        rest = [token for token in (*inputs, *found) if token >= 60]
        assert len(rest) == len(inputs) - 3 + len(found) - 3  # two sentinels and an end in each
    ragged = InstanceLoader(instances, batch_size=4, layout="ragged").batch(0)
    ends = ragged["target_cu_seqlens"].tolist()
    assert ragged["labels"].tolist() == made.predictions.labels.tolist()
    assert ends == made.predictions.offsets.tolist()


@pytest.mark.usefixtures("small_preset")
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def stop(optimizer: Any, rate: float) -> None:
        nonlocal steps
        update_weights(optimizer, rate)
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    whole, stopped = (
        make_config(instances, tmp_path / name, dropout=0.1) for name in ("whole", "stopped")
    )
    pretrain(whole)
    with monkeypatch.context() as patched:
        patched.setattr("tokkit.pretraining.training.loop.update_weights", stop)
        with pytest.raises(Interrupted):
            pretrain(stopped)
    pretrain(stopped)
    assert outcome(stopped.output) == outcome(whole.output)


@pytest.mark.usefixtures("small_preset")
def test_a_dry_run_measures_it(instances: Path, tmp_path: Path) -> None:
    figures = estimate_run(make_config(instances, tmp_path / "run"))
    assert figures["timed_steps"] == 3
    assert figures["parameters"]["layers"] > 0
    assert figures["flops"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preset": "tiny"}, "--preset tiny is no size of t5; use one of t5-small, t5-base"),
        ({"preset": None, "architecture": "bert"}, "bert learns from nsp, sop, mlm, but"),
        ({"share_layers": True}, "--share-layers has no effect"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    instances: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        pretrain(make_config(instances, tmp_path / "run", **options))
