import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from instancefolders import write_instance_folder
from peermodels import assert_padding_changes_nothing, assert_same_gradients, gradients_of, loss_of
from randommodels import make_instances, make_model
from realcommands import outcome, timeless_lines
from tokenfolders import toy_tokenizer, write_token_folder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokkit.errors import Interrupted, UsageError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import NO_PADDING, Batch, Padding, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.families import MODERNBERT_PRESETS
from tokkit.pretraining.models.architectures import (
    build_meta_model,
    build_model,
    from_transformers,
    to_transformers,
)
from tokkit.pretraining.models.attention import (
    attend,
    attend_blocks,
    attend_flat,
    attend_padded,
)
from tokkit.pretraining.models.export import describe_model
from tokkit.pretraining.models.modernbert import ModernBertConfig
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.metrics import Sample, count_flops_per_token
from tokkit.pretraining.training.optimizers import update_weights

VOCAB_SIZE = 101
PEERS = {
    "mlm": (transformers.ModernBertForMaskedLM, transformers.ModernBertConfig),
    "clm": (transformers.ModernBertDecoderForCausalLM, transformers.ModernBertDecoderConfig),
}
OBJECTIVES = pytest.mark.parametrize("objective", PEERS)


def make_shape(objective: str, **fields: Any) -> ModernBertConfig:
    """Four layers, of which the first and the last are global."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return ModernBertConfig(objective=objective, **(sizes | fields))


def peer_of(model: Transformer) -> Any:
    """Their model with our weights."""
    kind, config_kind = PEERS[model.config.objective]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    ids = ("pad", "bos", "eos", "cls", "sep")
    config = config_kind(
        vocab_size=VOCAB_SIZE,
        attn_implementation="sdpa",
        **{name: getattr(model.config, name) for name in names},
        **{f"{name}_token_id": 0 for name in ids},
    )
    peer = kind(config)
    loaded = peer.load_state_dict(to_transformers(model.state_dict(), model.config), strict=False)
    assert loaded.missing_keys == ["decoder.weight"]
    assert loaded.unexpected_keys == []
    peer.tie_weights()
    return peer


def make_batch(objective: str, lengths: list[int], padding: Padding = NO_PADDING) -> Batch:
    instances = make_instances(lengths, VOCAB_SIZE)
    return lay_out(instances, 0, padding, causal=objective == "clm")


@OBJECTIVES
@pytest.mark.parametrize(
    "lengths",
    [[128, 128], [5, 128, 33, 100], [1024], [70, 1024, 300]],
    ids=["full", "ragged", "long", "long and ragged"],
)
def test_logits_loss_and_every_gradient_equal_those_of_transformers(
    objective: str, lengths: list[int]
) -> None:
    model, batch = make_model(make_shape(objective)), make_batch(objective, lengths)
    peer = peer_of(model)
    padded = padded_batch(make_instances(lengths, VOCAB_SIZE), 0)
    is_real_BT = padded["attention_mask"] > 0
    del padded["token_type_ids"]
    if objective == "clm":
        padded["labels"] = padded["input_ids"].where(is_real_BT, NO_LABEL)
    theirs = peer(**padded)
    everywhere = torch.arange(len(batch.inputs.input_ids_N))
    with torch.inference_mode():
        logits_NV, _ = model.logits(batch.inputs._replace(predicted_positions_M=everywhere))
    torch.testing.assert_close(logits_NV, theirs.logits[is_real_BT], atol=1e-4, rtol=0)

    assert_same_gradients(model, batch, peer, theirs.loss, atol=1e-6)


@OBJECTIVES
@pytest.mark.parametrize("lengths", [[5, 40, 33, 8], [300, 500]], ids=["short", "blocks"])
def test_rounded_sizes_change_neither_loss_nor_gradients(
    objective: str, lengths: list[int]
) -> None:
    model = make_model(make_shape(objective))
    padding = Padding(tokens=1000, sequences=16, predictions=1000, max_seqlen=max(lengths))
    exact, rounded = make_batch(objective, lengths), make_batch(objective, lengths, padding)
    assert len(rounded.inputs.input_ids_N) == 1000
    assert_padding_changes_nothing(model, exact, rounded)


@pytest.mark.parametrize("lengths", [[5, 3, 40, 8], [64], [65, 200, 4, 127]], ids=str)
@pytest.mark.parametrize("window", [(64, 64), (63, 0), (3, 5), (0, 0), (130, 7)], ids=str)
def test_a_token_sees_the_window_of_its_own_sequence(
    window: tuple[int, int], lengths: list[int]
) -> None:
    inputs = make_batch("mlm", lengths).inputs
    torch.manual_seed(0)
    qkv_N3HK = torch.randn(sum(lengths), 3, 2, 16)
    found = [attend_blocks(qkv_N3HK, inputs, 0.0, window)]
    found.append(attend_padded(qkv_N3HK, inputs, 0.0, causal=window[1] == 0, window=window))
    for start, stop in itertools.pairwise(inputs.cu_seqlens.tolist()):
        q, k, v = (part.transpose(0, 1) for part in qkv_N3HK[start:stop].unbind(1))
        places = torch.arange(stop - start)
        after = places - places[:, None]
        is_seen = (after >= -window[0]) & (after <= window[1])
        scores = (q @ k.transpose(1, 2) / 4).masked_fill(~is_seen, -torch.inf)
        expected = (scores.softmax(2) @ v).transpose(0, 1)
        for x_NHK in found:
            torch.testing.assert_close(x_NHK[start:stop], expected)


def test_attention_to_a_window_costs_the_same_at_any_length() -> None:
    """The products of matrices are counted, for as many tokens."""

    def count(length: int, window: tuple[int, int] | None) -> int:
        inputs = make_batch("mlm", [length] * (2048 // length)).inputs
        qkv_N3HK = torch.zeros(2048, 3, 1, 16, requires_grad=True)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            x_NHK = attend(qkv_N3HK, inputs, 0.0, causal=False, window=window)
            torch.autograd.backward(x_NHK.sum())
        return int(counter.get_total_flops())

    assert count(512, (64, 64)) == count(1024, (64, 64)) == count(2048, (64, 64))
    assert count(2048, (32, 32)) < count(2048, (64, 64)) < count(2048, None) / 10
    assert count(2048, None) == 4 * count(512, None)


@pytest.mark.parametrize("window", [None, (64, 64), (63, 0)], ids=str)
def test_windows_reach_flash_attention_and_its_backward_pass(
    window: tuple[int, int] | None,
) -> None:
    """The operator for a GPU can be asked for what it was given on any machine."""
    inputs = make_batch("mlm", [5, 40]).inputs
    on_meta = inputs._replace(cu_seqlens=inputs.cu_seqlens.to("meta"))
    qkv = torch.empty(45, 3, 2, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    found: Any = attend_flat(qkv.unbind(1), on_meta, 0.0, causal=window == (63, 0), window=window)
    assert found.shape == (45, 2, 64)
    node = found.grad_fn
    saved = (node._saved_window_size_left, node._saved_window_size_right)
    assert saved == (window or (None, None))
    torch.autograd.backward(found.float().sum())
    assert qkv.grad is not None
    assert qkv.grad.shape == qkv.shape


@OBJECTIVES
def test_names_of_transformers_lead_back_to_our_weights(objective: str) -> None:
    model = make_model(make_shape(objective))
    named = to_transformers(model.state_dict(), model.config)
    back = from_transformers(named, model.config, model.state_dict())
    assert back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        num_rows = VOCAB_SIZE if len(tensor) == model.config.padded_vocab_size else len(tensor)
        assert torch.equal(back[name][:num_rows], tensor[:num_rows]), name


@OBJECTIVES
@pytest.mark.parametrize(
    ("preset", "millions"), [("17m", 17), ("32m", 32), ("68m", 68), ("base", 150), ("large", 395)]
)
def test_presets_have_as_many_parameters_as_those_of_ettin(
    objective: str, preset: str, millions: int
) -> None:
    config = ModernBertConfig.from_preset(
        preset, vocab_size=50368, max_seq_length=128, dropout=0.0, objective=objective
    )
    assert config.hidden_size == 64 * config.num_attention_heads
    model = build_meta_model(config)
    kind, config_kind = PEERS[objective]
    layers, hidden, heads, feed_forward = MODERNBERT_PRESETS[preset]
    with torch.device("meta"):
        peer = kind(
            config_kind(
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=feed_forward,
            )
        )
    num_parameters = sum(p.numel() for p in model.parameters())
    assert num_parameters == peer.num_parameters()
    assert num_parameters == pytest.approx(millions * 1e6, rel=0.02)


def test_weights_are_drawn_as_transformers_draws_them() -> None:
    torch.manual_seed(0)
    model = build_model(make_shape("mlm", hidden_size=128, intermediate_size=192))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == ("norm.weight" in name)), name
        else:
            is_small = name.endswith(("attention.output.weight", "down.weight", "transform.weight"))
            deviation = 0.02 / 8**0.5 if is_small else 0.02
            assert parameter.abs().max() <= 2 * deviation, name
            # A normal cut off at two deviations keeps 0.8796 of its deviation.
            assert parameter.std().item() == pytest.approx(deviation * 0.8796, rel=0.03), name


def test_a_config_speaks_both_dialects_of_transformers() -> None:
    """Version 5 reads layer_types and rope_parameters; 4.48 the other three."""
    path = Path(transformers.__file__).parent / "models/modernbert/configuration_modernbert.py"
    assert "rope_parameters" in path.read_text()
    config = make_shape("mlm", global_rope_theta=5e5, local_rope_theta=2e4, local_attention=32)
    data = describe_model(config, toy_tokenizer())
    old = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "norm_eps")
    assert [data[name] for name in old] == [3, 5e5, 2e4, 1e-5]
    for kept in (old, ("layer_types", "rope_parameters")):
        rest = {name: value for name, value in data.items() if name not in kept}
        read = transformers.ModernBertConfig(**rest | {name: data[name] for name in kept})
        assert read.layer_types == ["full_attention", *["sliding_attention"] * 2, "full_attention"]
        thetas = {name: rope["rope_theta"] for name, rope in read.rope_parameters.items()}
        assert thetas == {"full_attention": 5e5, "sliding_attention": 2e4}
        assert (read.local_attention, read.sliding_window) == (32, 16)


def test_a_token_costs_the_window_and_not_the_sequence() -> None:
    def flops(length: float, **fields: Any) -> float:
        model = build_meta_model(make_shape("mlm", **fields))
        sample = Sample(
            num_instances=1, num_held_out=0, tokens=length, length=length, masked_share=0.0
        )
        return count_flops_per_token(model, sample)

    attention = 12 * 32  # of a layer, per token that is attended to
    assert flops(8192) - flops(0) == attention * (2 * 8192 + 2 * 129)
    assert flops(100) - flops(0) == attention * 4 * 100
    parameters = sum(p.numel() for p in build_meta_model(make_shape("mlm")).layers.parameters())
    assert flops(0) == 6 * parameters


@OBJECTIVES
def test_sequences_of_8192_tokens_are_built_and_trained_on(objective: str, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    documents = [
        [torch.randint(10, 1000, (20,), generator=rng).tolist() for _ in range(num_sentences)]
        for num_sentences in (300, 200, 40)
    ]
    tokenizer = toy_tokenizer()
    tokens = write_token_folder(tmp_path / "tokens", documents, tokenizer=tokenizer)
    build(
        BuildConfig(
            tokens=tokens,
            output=tmp_path / "instances",
            objective=objective,
            max_seq_length=8192,
            eval_fraction=0.0,
            workers=0,
            progress=False,
        )
    )
    config = PretrainConfig(
        instances=(tmp_path / "instances",), output=tmp_path / "run", batch_size=1
    )
    loader = Loader(open_sources(config), config)
    assert loader.max_seq_length == 8192
    instances = max(
        (loader.training_instances(step) for step in range(2)), key=lambda i: len(i.input_ids)
    )
    assert 8192 - 20 < len(instances.input_ids) <= 8192  # mlm has whole sentences
    batch = lay_out(instances, loader.pad_id, causal=loader.is_causal)
    model = make_model(make_shape(objective, vocab_size=1000, num_hidden_layers=2))
    gradients = gradients_of(model, batch)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert loss_of(model, batch).item() == pytest.approx(6.9, abs=0.5)  # the logarithm of 1,000


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes 17m much smaller, so that runs take no time."""
    monkeypatch.setattr("tokkit.pretraining.training.run_plan.MODERNBERT_WINDOW", 32)
    monkeypatch.setitem(MODERNBERT_PRESETS, "17m", (4, 32, 2, 48))


@OBJECTIVES
@pytest.mark.usefixtures("small_preset")
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = write_instance_folder(tmp_path / "instances", objective=objective, labels=False)

    def train(name: str) -> PretrainConfig:
        config = PretrainConfig(
            instances=(instances,),
            output=tmp_path / name,
            architecture="modernbert",
            preset="17m",
            max_steps=20,
            batch_size=8,
            learning_rate=5e-3,
            dropout=0.1,
            eval_every=4,
            device="cpu",
            threads=1,
        )
        pretrain(config)
        return config

    steps = 0

    def stop(optimizer: torch.optim.Optimizer, rate: float) -> None:
        nonlocal steps
        update_weights(optimizer, rate)
        steps += 1
        if steps == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = train("whole")
    with monkeypatch.context() as patched:
        patched.setattr("tokkit.pretraining.training.loop.update_weights", stop)
        with pytest.raises(Interrupted):
            train("stopped")
    assert outcome(train("stopped").output) == outcome(whole.output)
    evaluations = [line for line in timeless_lines(whole.output) if line["kind"] == "eval"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"] - 0.01


@pytest.mark.parametrize(
    ("objective", "options", "said"),
    [
        ("mlm", {"architecture": "modernbert", "preset": "mini"}, "mini is no size of modernbert"),
        ("mlm", {"preset": "17m"}, "--preset 17m is no size of bert; use one of tiny, mini"),
        ("clm", {"architecture": "gpt2", "preset": "68m"}, "--preset 68m is no size of gpt2"),
        ("mlm", {"architecture": "modernbert"}, "has windows of 128 tokens, .* have at most 32;"),
        ("clm", {"architecture": "modernbert"}, "has windows of 64 tokens, .* have at most 32;"),
        ("nsp", {"architecture": "modernbert"}, "modernbert learns from mlm, clm, but the"),
        ("clm", {"architecture": "bert"}, "bert learns from nsp, sop, mlm, but the instances"),
        ("mlm", {"architecture": "gpt2"}, "gpt2 learns from clm, but the instances"),
        ("mlm", {"architecture": "modernbert", "share_layers": True}, "--share-layers has no eff"),
        ("mlm", {"architecture": "modernbert", "init_from": "x"}, "--architecture has no effect"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(
    tmp_path: Path, objective: str, options: dict[str, Any], said: str
) -> None:
    instances = write_instance_folder(
        tmp_path / "instances", objective=objective, num_training=8, num_held_out=0
    )
    with pytest.raises(UsageError, match=said) as refused:
        pretrain(PretrainConfig(instances=(instances,), output=tmp_path / "run", **options))
    assert ("\n" in str(refused.value), refused.value.exit_status) == (False, 2)
    assert not (tmp_path / "run").exists()
