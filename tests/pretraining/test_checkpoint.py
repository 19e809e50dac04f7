"""Snapshots and checkpoint folders; who writes them is tested in test_writer."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokkit.engine.files import write_folder_atomically
from tokkit.errors import TokkitError
from tokkit.pretraining.models.model_files import MODEL, write_tensors
from tokkit.pretraining.training.checkpoint_writer import SnapshotBuffer
from tokkit.pretraining.training.checkpoints import (
    OPTIMIZER,
    load_checkpoint,
    load_newest_checkpoint,
    name_tensors,
    remove_incomplete_checkpoints,
    remove_old_checkpoints,
    restore_tensors,
    write_checkpoint,
)
from tokkit.pretraining.training.run_record import (
    STATE,
    BestCheckpoint,
    checkpoint_path,
    list_checkpoints,
)


class Tied(nn.Module):
    """A weight under two names, a layer that comes twice, and a buffer."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, size)
        layer = nn.Linear(size, size)
        self.layers = nn.ModuleList([layer, layer])
        self.decoder = nn.Linear(size, 7)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("scale", torch.full((1,), 2.0))


def make_trained(
    num_steps: int, size: int = 5, *, fused: bool = True
) -> tuple[Tied, torch.optim.AdamW]:
    """A model and its optimizer after some steps on random gradients."""
    torch.manual_seed(num_steps)
    model = Tied(size)
    groups = [{"params": [p]} for p in reversed(list(model.parameters()))]
    optimizer = torch.optim.AdamW(groups, lr=0.01, fused=fused)
    for _ in range(num_steps):
        take_step(model, optimizer)
    return model, optimizer


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def save(folder: Path, step: int, best: BestCheckpoint | None = None) -> None:
    state = {"step": step, "elapsed": 1.5}
    write_checkpoint(folder, name_tensors(*make_trained(1)), state, best)


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


EXPECTED = name_tensors(*make_trained(0))


@pytest.mark.parametrize("fused", [False, True])
def test_training_resumed_from_a_checkpoint_gives_the_same_weights(
    tmp_path: Path, *, fused: bool
) -> None:
    model, optimizer = make_trained(3, fused=fused)
    write_checkpoint(tmp_path, name_tensors(model, optimizer), {"step": 3, "note": [1.5]}, None)
    fresh, fresh_optimizer = make_trained(0, fused=fused)
    loaded = load_newest_checkpoint(tmp_path, EXPECTED)
    assert loaded is not None
    assert loaded.state == {"step": 3, "note": [1.5]}
    restore_tensors(loaded.tensors, 3, fresh, fresh_optimizer)
    assert equal(weights(fresh), weights(model))
    for each in ((model, optimizer), (fresh, fresh_optimizer)):
        torch.manual_seed(7)
        take_step(*each)
        take_step(*each)
    assert equal(weights(fresh), weights(model))
    assert fresh.decoder.weight is fresh.embedding.weight


def test_a_shared_tensor_is_stored_once() -> None:
    tensors = name_tensors(*make_trained(1))
    parts = ["embedding.weight", "layers.0.weight", "layers.0.bias", "decoder.bias"]
    assert set(tensors[MODEL]) == {*parts, "scale"}
    moments = {f"{part}.{moment}" for part in parts for moment in ("exp_avg", "exp_avg_sq")}
    assert set(tensors[OPTIMIZER]) == moments
    assert set(EXPECTED[OPTIMIZER]) == moments


def test_a_copy_stays_while_training_continues_and_its_memory_is_reused() -> None:
    model, optimizer = make_trained(1)
    buffer = SnapshotBuffer()
    first = buffer.copy(name_tensors(model, optimizer))
    before = weights(model)
    take_step(model, optimizer)
    assert equal({name: before[name] for name in first[MODEL]}, dict(first[MODEL]))
    second = buffer.copy(name_tensors(model, optimizer))
    assert equal(dict(name_tensors(model, optimizer)[MODEL]), dict(second[MODEL]))
    for one, other in ((first[MODEL], second[MODEL]), (first[OPTIMIZER], second[OPTIMIZER])):
        assert [t.data_ptr() for t in one.values()] == [t.data_ptr() for t in other.values()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_copy_from_a_gpu_stays_and_goes_back_to_one() -> None:
    model, optimizer = make_trained(0, size=2048)
    model.cuda()
    take_step(model, optimizer)
    taken = SnapshotBuffer().copy(name_tensors(model, optimizer))
    before = weights(model)
    take_step(model, optimizer)
    assert all(tensor.is_pinned() for tensor in taken[MODEL].values())
    assert all(torch.equal(before[name].cpu(), tensor) for name, tensor in taken[MODEL].items())
    after = weights(model)
    restore_tensors(taken, 1, model, optimizer)
    assert equal(weights(model), before)
    assert optimizer.state[model.embedding.weight]["step"].is_cuda
    assert not equal(before, after)


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (2, 998, 999, 1000, 100_000_000):
        save(tmp_path, step)
    (tmp_path / "step-of-mine").mkdir()
    remove_old_checkpoints(tmp_path, 100_000_000, 3, BestCheckpoint(2, 1.0))
    assert steps(tmp_path) == [2, 999, 1000, 100_000_000]
    remove_old_checkpoints(tmp_path, 1000, 1, BestCheckpoint(1000, 0.5))
    assert steps(tmp_path) == [1000]
    assert {path.name for path in tmp_path.iterdir()} == {"step-00001000", "step-of-mine"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-00000002.tmp").mkdir()
    (tmp_path / "step-00000002.tmp" / "model.safetensors").touch()
    assert steps(tmp_path) == [1]
    remove_incomplete_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def misspell(path: Path) -> None:
    path.write_text(path.read_text().replace('"elapsed"', '"elapsee"'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in (MODEL, OPTIMIZER) for damage in (cut, flip, Path.unlink)),
        *((STATE, damage) for damage in (cut, misspell, Path.unlink)),
    ],
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Any
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = checkpoint_path(tmp_path, 2) / name
    damage(path)
    with pytest.raises(TokkitError, match=name) as caught:
        load_checkpoint(path.parent, EXPECTED)
    assert "\n" not in str(caught.value)

    loaded = load_newest_checkpoint(tmp_path, EXPECTED)
    assert loaded is not None
    assert loaded.state["step"] == 1
    (message,) = caplog.messages
    assert str(path) in message
    assert message.endswith(f"resumes from {checkpoint_path(tmp_path, 1)}")

    damage(checkpoint_path(tmp_path, 1) / name)
    with pytest.raises(
        TokkitError, match=f"{name}.* all checkpoints in .* are damaged, pass --overwrite"
    ) as caught:
        load_newest_checkpoint(tmp_path, EXPECTED)
    assert "\n" not in str(caught.value)


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path / "nowhere", EXPECTED) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(TokkitError, match="it belongs to another model"):
        load_newest_checkpoint(tmp_path, name_tensors(*make_trained(0, size=6)))


def test_the_best_is_known_as_long_as_it_is_there(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, best=BestCheckpoint(1, 0.25))
    assert load_checkpoint(checkpoint_path(tmp_path, 2), EXPECTED).best == BestCheckpoint(1, 0.25)
    checkpoint_path(tmp_path, 1).rename(tmp_path / "elsewhere")
    assert load_checkpoint(checkpoint_path(tmp_path, 2), EXPECTED).best is None


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
