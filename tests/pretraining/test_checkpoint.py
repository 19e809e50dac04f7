import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokkit.errors import TokkitError
from tokkit.pretraining.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    write_folder_atomically,
    write_tensors,
)
from tokkit.pretraining.model import Bert, ModelConfig
from tokkit.pretraining.optim import build_optimizer, update


def make_trained(num_steps: int, preset: str = "tiny") -> tuple[Bert, torch.optim.AdamW]:
    """A model and its optimizer after some steps on random gradients."""
    torch.manual_seed(num_steps)
    config = ModelConfig.from_preset(preset, vocab_size=20, max_seq_length=32, dropout=0.0)
    model = Bert(config)
    optimizer = build_optimizer(model, weight_decay=0.01)
    for _ in range(num_steps):
        take_step(model, optimizer)
    return model, optimizer


def take_step(model: Bert, optimizer: torch.optim.AdamW) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    update(optimizer, rate=0.01)


def weights(model: Bert) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_been(tmp_path: Path) -> None:
    model, optimizer = make_trained(3)
    save_checkpoint(tmp_path, model, optimizer, {"step": 3, "note": [1.5]})
    fresh, fresh_optimizer = make_trained(0)
    state = load_checkpoint(tmp_path / "step-00000003", fresh, fresh_optimizer)
    assert state == {"step": 3, "note": [1.5]}
    assert equal(weights(fresh), weights(model))
    for each in ((model, optimizer), (fresh, fresh_optimizer)):
        torch.manual_seed(7)
        take_step(*each)
        take_step(*each)
    assert equal(weights(fresh), weights(model))


def test_the_last_two_are_kept_and_nothing_half(tmp_path: Path) -> None:
    model, optimizer = make_trained(1)
    (tmp_path / "step-00000002.tmp").mkdir()
    (tmp_path / "step-00000002.tmp" / "model.safetensors").touch()
    for step in (998, 999, 1000, 100_000_000):
        save_checkpoint(tmp_path, model, optimizer, {"step": step})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00001000", "step-100000000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00001000", "step-100000000"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make_trained(1)
    save_checkpoint(tmp_path, model, optimizer, {"step": 1})

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(TokkitError, match="no space left on the device"):
        save_checkpoint(tmp_path, model, optimizer, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    model, optimizer = make_trained(1)
    save_checkpoint(tmp_path, model, optimizer, {"step": 1})
    path = tmp_path / "step-00000001" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TokkitError, match=name) as caught:
        load_checkpoint(path.parent, model, optimizer)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model, optimizer = make_trained(1)
    save_checkpoint(tmp_path, model, optimizer, {"step": 1})
    with pytest.raises(TokkitError, match="it belongs to another model"):
        load_checkpoint(tmp_path / "step-00000001", *make_trained(0, preset="mini"))


def test_other_readers_of_the_format_agree(tmp_path: Path) -> None:
    from safetensors import safe_open

    tensors = {"b": torch.randn(3, 5), "a": torch.randn(7).view(7, 1), "ü": torch.randn(1).sum()}
    write_tensors(tmp_path / "x.safetensors", tensors)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert equal({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118  it is no dictionary


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    with write_folder_atomically(folder) as written:
        (written / "old").touch()
    with suppress(KeyError), write_folder_atomically(folder) as written:
        (written / "half").touch()
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["old"]
    with write_folder_atomically(folder) as written:
        (written / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
