"""Weights of strangers (``--init-from``): each fault of each architecture is one line, and restoring helps.

No model is built but those whose exports are changed.
"""

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from instancefolders import write_counting_tokenizer
from randommodels import make_model
from safetensors.torch import load_file, save_file

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.models.architectures import ARCHITECTURES
from tokkit.pretraining.models.export import write_export
from tokkit.pretraining.models.initial_weights import InitialWeights, read_initial_weights
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

# Names of layers, width, heads and feed-forward width in a config.json.
BERT = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
NAMES = {
    "gpt2": ("n_layer", "n_embd", "n_head", "n_inner"),
    "xlnet": ("n_layer", "d_model", "n_head", "d_inner"),
    "t5": ("num_layers", "d_model", "num_heads", "d_ff"),
    "marian": ("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim"),
}
LAYERS, WIDTH, HEADS, INNER = range(4)
Tensors = dict[str, torch.Tensor]
POSITIVE = "Expected `int` >= 1 - at "
TOO_LARGE = "|".join(  # noqa: FLY002  each is a part of a message
    (
        "{}: describes a model of {} parameters, but the weights have only {} bytes; download both again",
        "{}: {} layers; at most {} are supported; ",
        "an even size",
    )
)
# What a number of the config is replaced by, and what the error says.
CONFIG_FAULTS: dict[str, tuple[int, Any, str]] = {
    "no layers": (LAYERS, 0, POSITIVE),
    "fewer than no layers": (LAYERS, -3, POSITIVE),
    "billions of layers": (LAYERS, 5_000_000_000, TOO_LARGE),
    "a layer more": (LAYERS, "more", "parameters, but|the weights lack "),
    "layers that are no number": (LAYERS, "2", "Expected `int`, got `str`"),
    "half a layer": (LAYERS, 1.5, "Expected `int`, got `float`"),
    "heads that do not divide": (HEADS, 7, "cannot be divided among 7|{} has shape {}|even size"),
    "no heads": (HEADS, 0, POSITIVE),
    "terabytes of width": (WIDTH, 1 << 40, TOO_LARGE),
    "a number of 30 digits": (WIDTH, 10**30, TOO_LARGE),
    "another width": (INNER, 8, "{}: {} has shape {}, but {} makes it {}; download both again"),
    "no width": (INNER, 0, POSITIVE),
}
# What a matrix of a layer is replaced by, and what the error says.
WEIGHT_FAULTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NaN": (lambda t: t.fill_(math.nan), "not finite; download the weights again, or use others"),
    "infinite": (lambda t: t.fill_(math.inf), "{} holds numbers that are not finite; download"),
    "beyond fp32": (lambda t: t.double() + 1e300, "holds numbers that are not finite"),
    "int64": (
        lambda t: t.long(),
        "{} holds {}, not floating-point numbers; use weights that are not quantized",
    ),
    "fp8": (lambda t: t.to(torch.float8_e4m3fn), "use weights that are not quantized"),
    "fewer rows": (lambda t: t[:-1].clone(), "has shape {}, but {} makes it {}"),
    "no shape": (lambda t: t.sum(), "has shape {}, but {} makes it {}"),
    "nothing": (lambda t: t[:0].clone(), "has shape {}, but {} makes it {}"),
}
FAULTS = {**CONFIG_FAULTS, **WEIGHT_FAULTS}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The tokenizer of the language of counting, with padding where RoBERTa has it."""
    special = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    return write_counting_tokenizer(tmp_path_factory.mktemp("of") / "tokenizer", special)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with the export of a small model of each architecture."""
    folder = tmp_path_factory.mktemp("exports")
    for name, architecture in ARCHITECTURES.items():
        kind = architecture.config_class
        size = "tiny" if "tiny" in kind.presets else "small"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(kind.presets, size, (2, 32, 2, 48))
            config = kind.from_preset(
                size,
                vocab_size=tokenizer.vocab_size,
                max_seq_length=32,
                dropout=0.1,
                objective=architecture.objectives[0],
            )
        write_export(folder / name, make_model(config).state_dict(), config, tokenizer)
    return folder


def read(folder: Path, name: str, **options: Any) -> InitialWeights:
    options = {"max_seq_length": 32, "objective": ARCHITECTURES[name].objectives[0], **options}
    return read_initial_weights(folder, load_tokenizer(folder), dropout=0.0, **options)


def fail(folder: Path, name: str, fault: str, **options: Any) -> None:
    """Check that a folder is refused, with what one of several texts says; {} is filled in."""
    with pytest.raises((TokkitError, UsageError)) as caught:
        read(folder, name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    one_of = (text.split("{}") for text in fault.split("|"))
    assert any(all(part in message for part in parts) for parts in one_of), message


def copy(exports: Path, name: str, folder: Path) -> None:
    """Download an export again."""
    folder.mkdir(exist_ok=True)
    for path in (exports / name).iterdir():
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).hardlink_to(path)


def change_config(path: Path, changes: dict[str, Any]) -> None:
    data = {**json.loads(path.read_text()), **changes}
    data.pop("layer_types", None)  # of ModernBERT, which may leave it out
    path.unlink()
    path.write_text(json.dumps(data))


def change_tensors(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(path))
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "fault"),
    # The layers of an ALBERT are one layer.
    [pair for pair in product(ARCHITECTURES, FAULTS) if pair != ("albert", "a layer more")],
)
def test_a_model_of_a_stranger_is_refused_until_it_is_downloaded_again(
    tmp_path: Path, exports: Path, name: str, fault: str
) -> None:
    copy(exports, name, tmp_path)
    if fault in CONFIG_FAULTS:
        place, value, line = CONFIG_FAULTS[fault]
        key = NAMES.get(name, BERT)[place]
        if value == "more":
            value = json.loads((tmp_path / "config.json").read_text())[key] + 1
        keys = (key, key.replace("encoder", "decoder"))
        change_config(tmp_path / "config.json", dict.fromkeys(keys, value))
    else:
        change, line = WEIGHT_FAULTS[fault]

        def change_one(tensors: Tensors) -> Tensors:
            chosen = next(n for n in tensors if tensors[n].dim() == 2 and any(map(str.isdigit, n)))
            return {**tensors, chosen: change(tensors[chosen])}

        change_tensors(tmp_path / "model.safetensors", change_one)
    fail(tmp_path, name, line)
    copy(exports, name, tmp_path)
    read(tmp_path, name)


def test_other_files_than_weights_are_downloaded_again(tmp_path: Path, exports: Path) -> None:
    copy(exports, "bert", tmp_path)
    model, other = tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin"
    model.unlink()
    for content, fault in (
        ([1], "{}: contains objects other than named tensors; download it again"),
        (Path, "{}: damaged, or not a file of tensors alone ({}); download it again"),
    ):
        torch.save(content, other)
        fail(tmp_path, "bert", fault)
    torch.save(load_file(exports / "bert" / "model.safetensors"), other)
    read(tmp_path, "bert")


def test_another_model_is_chosen(tmp_path: Path, exports: Path) -> None:
    copy(exports, "marian", tmp_path)
    bias = {"final_logits_bias": torch.ones(1, 48)}
    change_tensors(tmp_path / "model.safetensors", lambda tensors: {**tensors, **bias})
    fail(tmp_path, "marian", "{}: {} is not 0, which is not supported; choose another model")
    read(exports / "t5", "t5", objective="translation")
    copy(exports, "bert", tmp_path)
    change_config(tmp_path / "config.json", {"type_vocab_size": 1})
    fail(tmp_path, "bert", "but instances have two segments; choose another model")
    fail(
        exports / "gpt2",
        "gpt2",
        "{}: the model is a {}, which learns from {}, but the instances were built with --objective {}; "
        "choose another model, or build again",
        objective="mlm",
    )
    read(exports / "roberta", "roberta", objective="mlm")


def test_positions_are_extended_as_the_model_allows(exports: Path) -> None:
    fail(
        exports / "t5",
        "t5",
        "--extend-positions has no effect: the model has positions for any length; leave it out",
        extend_positions="repeat",
    )
    read(exports / "t5", "t5", max_seq_length=20_000)
    fail(
        exports / "modernbert",
        "modernbert",
        "{}, and its positions are rotary, which cannot be repeated; pass --extend-positions interpolate",
        max_seq_length=20_000,
        extend_positions="repeat",
    )
    options: dict[str, Any] = {"max_seq_length": 20_000, "extend_positions": "interpolate"}
    read(exports / "modernbert", "modernbert", **options)
