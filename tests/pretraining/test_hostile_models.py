"""Models of strangers (``--init-from``): each fault is one line, before anything is built."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from instancefolders import write_counting_tokenizer
from peermodels import begin, write_bert
from safetensors.torch import load_file, save_file

from tokkit.errors import TokkitError
from tokkit.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """The tokenizer of the language of counting."""
    return write_counting_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"num_hidden_layers": 0}, "Expected `int` >= 1 - at .*num_hidden_layers"),
        ({"num_hidden_layers": -3}, "Expected `int` >= 1 - at .*num_hidden_layers"),
        ({"num_hidden_layers": True}, "Expected `int`, got `bool` - at .*num_hidden_layers"),
        (
            {"num_hidden_layers": 5_000_000_000},
            "5,000,000,000 layers; at most 10,000 are supported",
        ),
        ({"num_attention_heads": 7}, "hidden_size 64 cannot be divided among 7 attention heads"),
        (
            {"hidden_size": 1, "num_attention_heads": 1, "num_hidden_layers": 900},
            "lack .*layer.899",
        ),
        ({"hidden_size": 1 << 40}, "parameters, but the weights have"),
        ({"vocab_size": 10**30}, "parameters, but the weights have"),
        ({"max_position_embeddings": 1 << 50}, "parameters, but the weights have"),
        ({"layer_norm_eps": float("nan")}, "JSON is malformed"),
        ({"layer_norm_eps": "1e-12"}, "Expected `float`, got `str` - at .*layer_norm_eps"),
        ({"initializer_range": 0}, "Expected `float` > 0.0 - at .*initializer_range"),
        ({"model_type": "x" * 10_000}, "model_type is x{100}, but"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_sizes_that_no_model_has_are_refused_before_it_is_built(
    tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any], fault: str
) -> None:
    write_bert(tmp_path / "bert", tokenizer)
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TokkitError, match=fault) as caught:
        begin(tmp_path / "bert", tokenizer)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda bias: bias.fill_(math.nan),
            "cls.predictions.bias holds numbers that are not finite",
        ),
        (
            lambda bias: bias.fill_(math.inf),
            "cls.predictions.bias holds numbers that are not finite",
        ),
        (
            lambda bias: bias.double() + 1e300,
            "cls.predictions.bias holds numbers that are not finite",
        ),
        (
            lambda bias: bias.to(torch.float8_e4m3fn),
            "holds torch.float8_e4m3fn, not floating-point",
        ),
        (lambda bias: bias.long(), "cls.predictions.bias holds torch.int64, not floating-point"),
        (lambda bias: bias.bool(), "cls.predictions.bias holds torch.bool, not floating-point"),
        (lambda bias: bias[:-1], r"cls.predictions.bias has shape \(47,\), but config.json makes"),
    ],
    ids=["NaN", "infinite", "beyond fp32", "fp8", "int64", "bool", "shape"],
)
def test_weights_that_cannot_be_those_of_a_model_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, change: Callable[[torch.Tensor], torch.Tensor], fault: str
) -> None:
    write_bert(tmp_path / "bert", tokenizer)
    path = tmp_path / "bert" / "model.safetensors"
    tensors = load_file(path)
    name = "cls.predictions.bias"
    save_file({**tensors, name: change(tensors[name])}, path, metadata={"format": "pt"})
    with pytest.raises(TokkitError, match=fault):
        begin(tmp_path / "bert", tokenizer)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, {"a": {"b": torch.zeros(1)}}], ids=str
)
def test_files_of_other_things_than_named_tensors_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, content: Any
) -> None:
    write_bert(tmp_path / "bert", tokenizer)
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(content, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(TokkitError, match=r"pytorch_model\.bin: contains objects other than named"):
        begin(tmp_path / "bert", tokenizer)


def test_compressed_weights_are_refused_before_they_are_unpacked(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Torch would unpack them, and never compresses any itself."""
    write_bert(tmp_path / "bert", tokenizer)
    (tmp_path / "bert" / "model.safetensors").unlink()
    path = tmp_path / "bert" / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.bin")
    with (
        zipfile.ZipFile(tmp_path / "plain.bin") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(TokkitError, match=r"damaged, .*it unpacks to 4,0.* bytes"):
        begin(tmp_path / "bert", tokenizer)
