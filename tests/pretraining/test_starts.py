"""Runs that start from any model that ``transformers`` has and we train (``--init-from``)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from instancefolders import SPECIAL, write_counting_tokenizer, write_instance_folder
from randommodels import make_instances, make_model
from safetensors.torch import load_file, save_file

from tokkit.errors import TokkitError, UsageError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.models.architectures import ARCHITECTURES, VOCAB_TENSORS, build_model
from tokkit.pretraining.models.export import read_export, write_export
from tokkit.pretraining.models.initial_weights import lengthen, read_initial_weights
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.metrics import total_loss
from tokkit.shards.instances import Instances
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

pytestmark = pytest.mark.usefixtures("small_presets")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 40}
ROBERTA_SIZES = SIZES | {"type_vocab_size": 1, "max_position_embeddings": 42, "pad_token_id": 1}
ALBERT_SIZES = SIZES | {"embedding_size": 16}
MODERN_IDS = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
# Each class of transformers: its config, its sizes, and the objective of our instances.
STARTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "BertForPreTraining": ("BertConfig", SIZES, "sop"),
    "AlbertForPreTraining": ("AlbertConfig", ALBERT_SIZES, "sop"),
    "AlbertForMaskedLM": ("AlbertConfig", ALBERT_SIZES | {"hidden_act": "gelu"}, "mlm"),
    "RobertaForMaskedLM": ("RobertaConfig", ROBERTA_SIZES, "mlm"),
    "XLMRobertaForMaskedLM": ("XLMRobertaConfig", ROBERTA_SIZES, "mlm"),
    "GPT2LMHeadModel": ("GPT2Config", GPT2_SIZES, "clm"),
    "ModernBertForMaskedLM": ("ModernBertConfig", SIZES | MODERN_IDS, "mlm"),
    "ModernBertDecoderForCausalLM": ("ModernBertDecoderConfig", SIZES | MODERN_IDS, "clm"),
}
# What an export of each is loaded as, where it is not the same class.
EXPORTED = {"XLMRobertaForMaskedLM": "RobertaForMaskedLM"}
ROTARY = ("ModernBertForMaskedLM", "ModernBertDecoderForCausalLM")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """The tokenizer of the language of counting, with padding where RoBERTa has it."""
    special = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    return write_counting_tokenizer(tmp_path / "tokenizer", special)


def write_model(folder: Path, tokenizer: Tokenizer, name: str, **options: Any) -> Any:
    """Save a model with random weights, none of them 0, and a tokenizer; return the model."""
    kind, sizes, _ = STARTS[name]
    fields = {"vocab_size": tokenizer.vocab_size, **sizes, **options}
    torch.manual_seed(0)
    peer = getattr(transformers, name)(getattr(transformers, kind)(**fields)).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    peer.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return peer


def start(
    folder: Path,
    tokenizer: Tokenizer,
    objective: str,
    max_seq_length: int = 32,
    extend_positions: str | None = None,
) -> Transformer:
    """The model with which a run begins."""
    initial = read_initial_weights(
        folder,
        tokenizer,
        objective=objective,
        max_seq_length=max_seq_length,
        dropout=0.0,
        extend_positions=extend_positions,
    )
    torch.manual_seed(1)
    model = build_model(initial.config)
    initial.load_into(model)
    return model.eval()


def our_loss(model: Transformer, instances: Instances) -> float:
    batch = lay_out(instances, 0, causal=model.config.task.is_causal)
    with torch.inference_mode():
        return total_loss(model(batch.inputs), batch.num_predicted, batch.num_pairs).item()


def their_loss(peer: Any, instances: Instances, objective: str, pad_id: int) -> float:
    batch = padded_batch(instances, pad_id)
    if peer.config.to_dict().get("type_vocab_size", 1) < 2:
        del batch["token_type_ids"]
    if objective == "clm":
        batch["labels"] = batch["input_ids"].where(batch["attention_mask"] > 0, NO_LABEL)
    if objective == "sop":
        name = "next_sentence_label" if "Bert" in type(peer).__name__ else "sentence_order_label"
        name = "sentence_order_label" if "Albert" in type(peer).__name__ else name
        batch[name] = torch.from_numpy(instances.next_sentence_labels)
    with torch.inference_mode():
        return float(peer(**batch).loss)


def make_texts(tokenizer: Tokenizer, lengths: list[int]) -> Instances:
    """Instances without padding among their tokens, which a RoBERTa would not count."""
    instances = make_instances(lengths, tokenizer.vocab_size)
    instances.input_ids[instances.input_ids == 1] = 2
    return instances


@pytest.mark.parametrize("name", STARTS)
def test_the_first_loss_is_the_one_that_transformers_computes(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    objective, instances = STARTS[name][2], make_texts(tokenizer, [32, 7, 19])
    peer = write_model(tmp_path / "model", tokenizer, name)
    model = start(tmp_path / "model", tokenizer, objective)
    expected = their_loss(peer, instances, objective, 1)
    assert our_loss(model, instances) == pytest.approx(expected, abs=1e-5)

    write_export(tmp_path / "export", model.state_dict(), model.config, tokenizer)
    kind = getattr(transformers, EXPORTED.get(name, name))
    exported, info = kind.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not any(info.values()), info
    assert their_loss(exported.eval(), instances, objective, 1) == pytest.approx(expected, abs=1e-5)
    again = start(tmp_path / "export", tokenizer, objective)
    assert our_loss(again, instances) == pytest.approx(expected, abs=1e-5)
    assert again.config == model.config
    assert read_export(tmp_path / "export").config == model.config


@pytest.mark.parametrize(
    "name", ["AlbertForPreTraining", "RobertaForMaskedLM", "ModernBertForMaskedLM"]
)
def test_a_vocabulary_with_other_ids_has_the_same_loss(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    """Padding has another id there, on which the positions of a RoBERTa depend."""
    objective, texts = STARTS[name][2], make_texts(tokenizer, [32, 7, 19])
    peer = write_model(tmp_path / "model", tokenizer, name)
    ours = write_counting_tokenizer(tmp_path / "ours")
    ids = torch.tensor([ours.tokens.index(token) for token in tokenizer.tokens]).numpy()
    expected = their_loss(peer, texts, objective, 1)
    texts.input_ids[:] = ids[texts.input_ids]
    texts.predictions.labels[:] = ids[texts.predictions.labels]
    model = start(tmp_path / "model", ours, objective)
    assert our_loss(model, texts) == pytest.approx(expected, abs=1e-5)
    write_export(tmp_path / "export", model.state_dict(), model.config, ours)
    kind = getattr(transformers, EXPORTED.get(name, name))
    exported = kind.from_pretrained(tmp_path / "export").eval()
    assert exported.config.pad_token_id == SPECIAL.index("[PAD]")
    assert their_loss(exported, texts, objective, 0) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", STARTS)
def test_a_bare_model_has_all_but_its_heads(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    peer = write_model(tmp_path / "model", tokenizer, name)
    path = tmp_path / "model" / "model.safetensors"
    base = f"{peer.base_model_prefix}."
    tensors = load_file(path)
    bare = {n.removeprefix(base): t for n, t in tensors.items() if n.startswith(base)}
    assert 0 < len(bare) <= len(tensors)
    save_file(bare, path, metadata={"format": "pt"})
    model, objective = start(tmp_path / "model", tokenizer, STARTS[name][2]), STARTS[name][2]
    instances = make_texts(tokenizer, [32, 7, 19])
    batch = padded_batch(instances, 1)
    del batch["labels"]
    if peer.config.to_dict().get("type_vocab_size", 1) < 2:
        del batch["token_type_ids"]
    inputs = lay_out(instances, 0, causal=objective == "clm").inputs
    with torch.inference_mode():
        theirs = peer.base_model(**batch).last_hidden_state[batch["attention_mask"] > 0]
        torch.testing.assert_close(model.encode(inputs), theirs, atol=1e-4, rtol=0)


LEARNED = [name for name in STARTS if name not in ROTARY]


@pytest.mark.parametrize("name", LEARNED)
def test_repeated_positions_leave_short_sequences_as_they_are(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    objective = STARTS[name][2]
    peer = write_model(tmp_path / "model", tokenizer, name)
    with pytest.raises(TokkitError, match="has 40 positions, but instances have up to 96 tokens"):
        start(tmp_path / "model", tokenizer, objective, 96)
    model = start(tmp_path / "model", tokenizer, objective, 96, "repeat")
    short, long = make_texts(tokenizer, [40, 7]), make_texts(tokenizer, [96, 41])
    assert our_loss(model, short) == pytest.approx(their_loss(peer, short, objective, 1), abs=1e-5)
    write_export(tmp_path / "export", model.state_dict(), model.config, tokenizer)
    kind = getattr(transformers, EXPORTED.get(name, name))
    exported = kind.from_pretrained(tmp_path / "export").eval()
    expected = their_loss(exported, long, objective, 1)
    assert our_loss(model, long) == pytest.approx(expected, abs=1e-5)


def test_positions_are_repeated_and_interpolated() -> None:
    rows = torch.arange(4.0)[:, None].repeat(1, 3)
    assert lengthen(rows, 7, "repeat")[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2]
    between = lengthen(rows, 7, "interpolate")[:, 2]
    assert between.tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_positions_get_a_larger_base(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    objective = STARTS[name][2]
    peer = write_model(tmp_path / "model", tokenizer, name)
    with pytest.raises(TokkitError, match="are rotary, which cannot be repeated"):
        start(tmp_path / "model", tokenizer, objective, 80, "repeat")
    model = start(tmp_path / "model", tokenizer, objective, 80, "interpolate")
    theta = model.config.global_rope_theta  # type: ignore[attr-defined]
    # Heads of 16: dimension 14 turns by 1 / theta^(14 / 16) each position, half as much as before.
    assert theta ** (14 / 16) == pytest.approx(2 * 160_000 ** (14 / 16))
    peer.config.rope_parameters["full_attention"]["rope_theta"] = theta
    stretched = type(peer)(peer.config).eval()
    stretched.load_state_dict(peer.state_dict())
    long = make_texts(tokenizer, [80, 41])
    expected = their_loss(stretched, long, objective, 1)
    assert our_loss(model, long) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "albert", "roberta", "gpt2", "modernbert"])
def test_a_run_starts_from_each_of_our_own_exports(tmp_path: Path, kind: str) -> None:
    objective = "clm" if kind == "gpt2" else "mlm"
    folder = write_instance_folder(tmp_path / "instances", objective=objective, labels=False)
    tokenizer = load_tokenizer(folder / "tokenizer")
    shape = ARCHITECTURES[kind].config_class.from_preset(
        "17m" if kind == "modernbert" else "tiny",
        vocab_size=tokenizer.vocab_size,
        max_seq_length=32,
        dropout=0.0,
        objective=objective,
    )
    model = make_model(shape.fit(tokenizer))
    write_export(tmp_path / "export", model.state_dict(), model.config, tokenizer)
    back = start(tmp_path / "export", tokenizer, objective)
    assert back.config == model.config
    for name, tensor in model.state_dict().items():
        rows = tokenizer.vocab_size if name in VOCAB_TENSORS else len(tensor)
        assert torch.equal(back.state_dict()[name][:rows], tensor[:rows]), name

    config = PretrainConfig(
        instances=(folder,),
        output=tmp_path / "run",
        init_from=tmp_path / "export",
        max_steps=1,
        batch_size=4,
        dropout=0.0,
        device="cpu",
        threads=1,
    )
    loader = Loader(open_sources(LoaderConfig(instances=(folder,), batch_size=4)), config)
    expected = our_loss(model, loader.training_instances(0))
    pretrain(config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first = next(line for line in map(json.loads, lines) if line["kind"] == "train")
    assert first["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("AlbertForMaskedLM", {"num_hidden_groups": 2}, "num_hidden_groups is 2, but"),
        ("AlbertForMaskedLM", {"hidden_act": "relu"}, "hidden_act is relu, but"),
        ("AlbertForMaskedLM", {"embedding_size": 0}, "Expected `int` >= 1"),
        ("RobertaForMaskedLM", {"pad_token_id": None}, "Expected `int`, got `null`"),
        ("RobertaForMaskedLM", {"max_position_embeddings": 2}, "Expected `int` >= 1"),
        ("GPT2LMHeadModel", {"activation_function": "gelu"}, "activation_function is gelu, but"),
        ("GPT2LMHeadModel", {"n_embd": None}, "Expected `int`, got `null`"),
        ("GPT2LMHeadModel", {"n_inner": 2**50}, "parameters, but the weights have"),
        ("ModernBertForMaskedLM", {"norm_bias": True}, "norm_bias is True, but"),
        ("ModernBertForMaskedLM", {"layer_types": ["full_attention"]}, "layer_types must name"),
        ("ModernBertForMaskedLM", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "default rope_type"),
        ("ModernBertForMaskedLM", {"num_attention_heads": 32}, "32 attention heads of an even size"),
    ],
)  # fmt: skip
def test_what_we_do_not_compute_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, name: str, change: dict[str, Any], fault: str
) -> None:
    write_model(tmp_path / "model", tokenizer, name)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TokkitError, match=fault) as caught:
        start(tmp_path / "model", tokenizer, STARTS[name][2])
    assert "\n" not in str(caught.value)


def test_instances_of_another_objective_and_options_without_effect_are_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    write_model(tmp_path / "model", tokenizer, "GPT2LMHeadModel")
    with pytest.raises(TokkitError, match="is a gpt2, which learns from clm, but the instances"):
        start(tmp_path / "model", tokenizer, "mlm")
    with pytest.raises(UsageError, match=r"--extend-positions has no effect: .* 40 positions"):
        start(tmp_path / "model", tokenizer, "clm", 40, "repeat")
    with pytest.raises(UsageError, match="--extend-positions has no effect without --init-from"):
        PretrainConfig(
            instances=(tmp_path,), output=tmp_path / "run", extend_positions="interpolate"
        )
