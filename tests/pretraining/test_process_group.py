"""What ranks exchange, and that a model on two ranks learns what it learns on one."""

import copy
import dataclasses
import json
import os
import signal
import socket
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from flatbatches import pair_instances
from randommodels import share_layers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tokkit.errors import TokkitError
from tokkit.pretraining.data.batches import Batch, lay_out
from tokkit.pretraining.models.architectures import build_model
from tokkit.pretraining.models.modernbert import ModernBertConfig
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.pretrain_config import OPTIMIZERS, PretrainConfig
from tokkit.pretraining.training.distributed import (
    ProcessGroup,
    accumulate,
    choose_rank_device,
    distribute,
    gather_tensors,
    join_process_group,
    shard_tensors,
)
from tokkit.pretraining.training.launch import launch
from tokkit.pretraining.training.launch_info import SINGLE_PROCESS, LaunchInfo, detect_launcher
from tokkit.pretraining.training.metrics import total_loss
from tokkit.pretraining.training.optimizers import build_optimizer, clip_gradients, update_weights

VOCAB_SIZE = 101
LENGTHS = [[[16, 5, 40], [7]], [[33], [8]]]  # of the sequences of each micro-batch of each rank
TINY = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
SHARED = share_layers(TINY)
MODERN = ModernBertConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    local_attention=8,
    objective="mlm",
)
CPU = torch.device("cpu")


def make_config(folder: Path, num_processes: int | None = 2) -> PretrainConfig:
    return PretrainConfig(
        instances=(Path("instances"),),
        output=folder,
        device="cpu",
        threads=1,
        nproc_per_node=num_processes,
    )


def make_model(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    return build_model(config)


def make_batch(lengths: list[int]) -> Batch:
    """Random pairs; of each sequence as many tokens are predicted as it has tens, and one more."""
    random = np.random.default_rng(sum(lengths))
    counts = [1 + length // 10 for length in lengths]
    places = [np.sort(random.permutation(n)[:c]) for n, c in zip(lengths, counts, strict=True)]
    instances = pair_instances(
        lengths,
        random.integers(1, VOCAB_SIZE, sum(lengths)),
        segment_lengths=np.array(lengths) // 3,
        next_sentence_labels=random.integers(0, 2, len(lengths)),
        masked_positions=places,
        masked_labels=random.integers(0, VOCAB_SIZE, sum(counts)),
    )
    return lay_out(instances, 0)


def find_gradients(model: nn.Module, group: ProcessGroup, batches: list[Batch]) -> float:
    """Take the gradients of one step; returns its loss."""
    counts = [sum(b.num_predicted for b in batches), sum(b.num_pairs for b in batches)]
    num_predicted, num_pairs = group.sum(counts)
    loss = 0.0
    for number, batch in enumerate(batches):
        with accumulate(model, is_last=number == len(batches) - 1):
            part = total_loss(model(batch.inputs), num_predicted, num_pairs)
            torch.autograd.backward(part * group.size)
        loss += part.item()
    return group.sum([loss])[0]


def without_wrapper(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    named = without_wrapper(model).named_parameters()
    return gather_tensors({name: p.grad for name, p in named if p.grad is not None})


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    # A small epsilon would make a step of any size from a gradient that is only rounding.
    return torch.optim.AdamW(model.parameters(), lr=0.01, eps=0.01, fused=True)


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    named = without_wrapper(model).named_parameters()
    return {name: optimizer.state[p]["exp_avg_sq"] for name, p in named}


def check_agreement(group: ProcessGroup) -> None:
    assert group.sum([1.0, 10.0**group.rank, 0.1]) == [2.0, 11.0, 0.2]
    assert group.sum([]) == []
    data = {"step": 3, "names": ["ä", None], "rate": 0.1} if group.is_first else None
    assert group.broadcast(data) == {"step": 3, "names": ["ä", None], "rate": 0.1}


def check_training(group: ProcessGroup, shape: ModelConfig, *, fsdp: bool) -> None:
    """Two steps on two ranks are those of one process with all micro-batches."""
    alone = ProcessGroup()
    one, model = make_model(shape), make_model(shape)
    trained = distribute(model, group, fsdp=fsdp)
    assert without_wrapper(trained) is model
    assert [name for name, _ in model.named_parameters()] == [n for n, _ in one.named_parameters()]
    optimizers = make_optimizer(one), make_optimizer(trained)
    for _ in range(2):
        everything = [make_batch(lengths) for lengths in LENGTHS[0] + LENGTHS[1]]
        expected_loss = find_gradients(one, alone, everything)
        loss = find_gradients(trained, group, [make_batch(n) for n in LENGTHS[group.rank]])
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        gradients = gradients_of(trained)
        expected = dict(one.named_parameters()) if group.is_first else {}
        assert gradients.keys() == expected.keys()
        for name, parameter in expected.items():
            assert parameter.grad is not None
            torch.testing.assert_close(
                gradients[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.inference_mode():
            trained.eval()
            sums = trained(make_batch([12, 9]).inputs)
            trained.train()
            torch.testing.assert_close(sums, one(make_batch([12, 9]).inputs), atol=1e-4, rtol=1e-4)
    check_round_trip(trained, optimizers[1])


def check_round_trip(trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for tensors in (
        {name: p.detach() for name, p in without_wrapper(trained).named_parameters()},
        moments_of(trained, optimizer),
    ):
        parts = shard_tensors(gather_tensors(tensors), tensors)
        assert parts.keys() == tensors.keys()
        for name, tensor in tensors.items():
            ours, theirs = parts[name], tensor
            assert isinstance(ours, DTensor) == isinstance(theirs, DTensor)
            if isinstance(ours, DTensor) and isinstance(theirs, DTensor):
                assert ours.placements == theirs.placements
                ours, theirs = ours.to_local(), theirs.to_local()
            assert torch.equal(ours, theirs), name


def check_optimizers() -> None:
    """A model that is split among the ranks is updated as a whole one."""
    mesh = init_device_mesh("cpu", (2,))
    for name in OPTIMIZERS:
        torch.manual_seed(5)
        # Split by rows: evenly, unevenly, and with nothing for the second process.
        layers = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 1))
        whole = nn.Sequential(OrderedDict(layers=layers, head=nn.Linear(1, 2)))
        split = copy.deepcopy(whole)
        fully_shard(split, mesh=mesh)
        config = PretrainConfig(instances=(Path(),), output=Path(), optimizer=name)
        optimizers = [build_optimizer(model, config) for model in (whole, split)]
        for step in range(3):
            norms = []
            for model, optimizer in zip((whole, split), optimizers, strict=True):
                # Of full rank, so that Muon does not make an update of what is only rounding.
                inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(step))
                torch.autograd.backward(model(inputs).square().sum())
                norms.append(clip_gradients(model, 0.5))
                update_weights(optimizer, rate=0.1)
            assert not isinstance(norms[1], DTensor)
            torch.testing.assert_close(norms[1], norms[0])
        for (where, one), other in zip(whole.named_parameters(), split.parameters(), strict=True):
            assert isinstance(other, DTensor)
            torch.testing.assert_close(other.full_tensor(), one, msg=where)


def check_everything(config: PretrainConfig) -> None:
    """Check what two ranks do together, and then fail in one while the other waits for it."""
    with join_process_group(config, detect_launcher(os.environ)) as group:
        torch.set_num_threads(1)
        check_agreement(group)
        check_optimizers()
        for shape in (TINY, SHARED, MODERN):
            check_training(group, shape, fsdp=False)
            check_training(group, shape, fsdp=True)
        (config.output / f"{group.rank}.json").write_text(json.dumps([group.rank, group.size]))
        group.barrier()
        if group.rank == 1:
            raise TokkitError("shard-7: is damaged; build it again")
        group.barrier()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokkitError]:
    """The folder of two ranks that checked everything, and the error that they ended with."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.raises(TokkitError) as caught:
        launch(check_everything, make_config(folder))
    return folder, caught.value


def test_two_ranks_learn_what_one_does(ended: tuple[Path, TokkitError]) -> None:
    folder, _ = ended
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks == [[0, 2], [1, 2]]


def test_the_cause_is_raised_and_not_the_errors_that_follow_from_it(
    ended: tuple[Path, TokkitError],
) -> None:
    _, error = ended
    assert str(error) == "shard-7: is damaged; build it again"


def die_while_others_wait(config: PretrainConfig) -> None:
    with join_process_group(config, detect_launcher(os.environ)) as group:
        group.barrier()
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        group.barrier()


def test_a_rank_that_is_killed_ends_those_that_wait_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        TokkitError, match=r"^rank 1: the process was killed by SIGKILL; .*run the"
    ) as caught:
        launch(die_while_others_wait, make_config(tmp_path))
    assert caught.value.exit_status == 1


def test_one_process_needs_no_group(tmp_path: Path) -> None:
    with join_process_group(make_config(tmp_path, None), SINGLE_PROCESS) as group:
        assert group.is_first
        assert group.sum([1, 2.5]) == [1.0, 2.5]
        assert group.broadcast({"a": [1]}) == {"a": [1]}
        group.barrier()
        model = make_model(TINY)
        assert distribute(model, group) is model
    assert not torch.distributed.is_initialized()


def test_each_rank_has_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    launch_info = LaunchInfo(5, 8, 1, "host", 1)
    assert choose_rank_device("cuda", launch_info) == torch.device("cuda:1")
    assert choose_rank_device("cpu", launch_info) == CPU
    assert choose_rank_device("cuda", SINGLE_PROCESS) == torch.device("cuda")
    third = LaunchInfo(6, 8, 2, "host", 1)
    with pytest.raises(TokkitError, match=r"rank 6: local rank 2 needs .* this machine has 2;"):
        choose_rank_device("cuda", third)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert choose_rank_device("cuda", dataclasses.replace(third, by_slurm=True)) == torch.device(
        "cuda:0"
    )
    with pytest.raises(TokkitError, match="this machine has 1;"):
        choose_rank_device("cuda", third)


def test_a_master_that_cannot_be_reached_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for host, port in (("nowhere.invalid", 29500), ("127.0.0.1", taken.getsockname()[1])):
            launch_info = LaunchInfo(0, 2, 0, host, port)
            with (
                pytest.raises(
                    TokkitError, match=f"rank 0: cannot connect to rank 0 at {host}:{port} "
                ) as caught,
                join_process_group(make_config(tmp_path, None), launch_info),
            ):
                pass
            assert "\n" not in str(caught.value)
