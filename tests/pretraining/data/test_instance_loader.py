"""The loader in other people's training loops."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from instancefolders import PAD, write_instance_folder
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from tokkit import InstanceLoader
from tokkit.errors import UsageError
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "instances"
    return write_instance_folder(folder, num_training=45, num_held_out=19)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def take(loader: Any, number: int) -> list[dict[str, Any]]:
    return list(islice(loader, number))


def test_batches_are_those_of_pretraining(folder: Path) -> None:
    config = LoaderConfig(instances=(folder,), batch_size=8, seed=3, mask_unit="span")
    pretraining = Loader(open_sources(config), config)
    loader = InstanceLoader(folder, batch_size=8, seed=3, mask_unit="span")
    assert loader.num_instances == 45
    for step, found in enumerate(take(loader, 12)):
        instances = pretraining.training_instances(step)
        expected = padded_batch(instances, PAD)
        assert found.pop("next_sentence_label").tolist() == instances.next_sentence_labels.tolist()
        assert torch.equal(found["attention_mask"] == 0, expected["input_ids"] == PAD)
        assert same(found, expected)


def test_ragged_batches_hold_the_same_without_padding(folder: Path) -> None:
    padded = take(InstanceLoader(folder, batch_size=8), 9)
    for one, other in zip(
        padded, InstanceLoader(folder, batch_size=8, layout="ragged", num_steps=9), strict=True
    ):
        real = one["attention_mask"] == 1
        for name in ("input_ids", "token_type_ids", "labels"):
            assert torch.equal(one[name][real], other[name])
        assert torch.equal(other["cu_seqlens"].diff(), real.sum(1).int())
        assert other["cu_seqlens"].dtype == torch.int32
        assert other["max_seqlen"] == int(real.sum(1).max())
        assert torch.equal(other["position_ids"], torch.cat([torch.arange(n) for n in real.sum(1)]))


def test_one_integer_resumes(folder: Path) -> None:
    whole = take(InstanceLoader(folder, batch_size=8), 20)
    resumed = list(InstanceLoader(folder, batch_size=8, start_step=13, num_steps=7))
    assert all(map(same, whole[13:], resumed))
    assert same(InstanceLoader(folder, batch_size=8).batch(17), whole[17])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_do_not_change_the_batches(folder: Path, num_workers: int) -> None:
    expected = take(InstanceLoader(folder, batch_size=8), 7)
    loader = InstanceLoader(folder, batch_size=8, num_steps=7)
    found = list(DataLoader(loader, batch_size=None, num_workers=num_workers))
    assert len(found) == 7
    assert all(map(same, expected, found))


def test_ranks_take_parts_of_the_same_batch(folder: Path) -> None:
    whole = take(InstanceLoader(folder, batch_size=8, layout="ragged"), 5)
    parts = [
        take(InstanceLoader(folder, batch_size=8, layout="ragged", rank=rank, world_size=4), 5)
        for rank in range(4)
    ]
    for step in range(5):
        for name in ("input_ids", "labels", "next_sentence_label"):
            together = torch.cat([part[step][name] for part in parts])
            assert torch.equal(together, whole[step][name])


def test_what_is_held_out_comes_once_and_masked_alike(folder: Path) -> None:
    loader = InstanceLoader(folder, batch_size=8, split="eval")
    first, again = list(loader), list(DataLoader(loader, batch_size=None, num_workers=2))
    assert [len(batch["input_ids"]) for batch in first] == [8, 8, 3]
    assert all(map(same, first, again))
    assert loader.num_instances == 19


def test_instances_without_pairs_have_no_label_of_pairs(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", objective="mlm", labels=False)
    (batch,) = InstanceLoader(folder, batch_size=8, num_steps=1)
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids", "labels"}


@pytest.mark.parametrize("layout", ["padded", "ragged"])
def test_causal_models_of_transformers_predict_each_token_from_those_before_it(
    tmp_path: Path, layout: str
) -> None:
    folder = write_instance_folder(tmp_path / "instances", objective="clm", labels=False)
    (batch,) = InstanceLoader(folder, batch_size=8, num_steps=1, layout=layout)
    assert not {"token_type_ids", "next_sentence_label"} & batch.keys()
    ids, labels = batch["input_ids"], batch["labels"]
    is_first = torch.zeros_like(ids)
    if layout == "padded":
        is_first[:, 0] = 1
        is_real = batch["attention_mask"] == 1
    else:
        is_first[batch["cu_seqlens"][:-1].long()] = 1
        is_real = torch.ones_like(ids) == 1
    has_label = is_real & (is_first == 0)
    assert torch.equal(labels, torch.where(has_label, ids, -100))
    if layout == "padded":
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=48, n_positions=32, n_embd=16, n_layer=1, n_head=1)
        model = GPT2LMHeadModel(config).eval()
        logits = model(ids, attention_mask=batch["attention_mask"]).logits[:, :-1]
        expected = torch.nn.functional.cross_entropy(logits[has_label[:, 1:]], ids[has_label])
        torch.testing.assert_close(model(**batch).loss, expected)


def test_options_out_of_range_are_refused(folder: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"layout": "square"}, "layout must be one of padded, ragged"),
        ({"split": "eval", "start_step": 3}, "require split='train'"),
        ({"rank": 2, "world_size": 2}, "rank 2 is none of them"),
        ({"mask_unit": "sentence"}, "--mask-unit must be one of"),
    ]
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            InstanceLoader(folder, **{"batch_size": 8, **options})


def test_the_hugging_face_trainer_trains_on_it(folder: Path, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    trainer = Trainer(
        BertForPreTraining(config),
        TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=120,
            learning_rate=1e-2,
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            logging_steps=20,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
        ),
        train_dataset=InstanceLoader(folder, batch_size=16),
        eval_dataset=InstanceLoader(folder, batch_size=8, split="eval"),
        data_collator=lambda batches: batches[0],
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.4  # 0.7 to 1.2 with other first weights
    assert trainer.evaluate()["eval_loss"] > 0
