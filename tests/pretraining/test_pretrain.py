import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from instancefolders import PAD, SPECIAL, write_instance_folder
from randommodels import make_instances

from tokkit.engine.files import hash_file
from tokkit.engine.folder import FolderLock
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, UsageError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.families import PRESETS
from tokkit.pretraining.models.export import fill_mask
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import read_metrics

pytestmark = pytest.mark.usefixtures("small_presets")


def make_config(instances: Path, **options: Any) -> PretrainConfig:
    options = {
        "output": instances.parent / "run",
        "preset": "tiny",
        "max_steps": 4,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "device": "cpu",
        "threads": 1,
        **options,
    }
    return PretrainConfig(instances=(instances,), **options)


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    return write_instance_folder(tmp_path / "instances")


def lines_of(config: PretrainConfig, kind: str) -> list[dict[str, Any]]:
    lines = read_metrics(config.output / "metrics.jsonl")
    return [line for line in lines if line["kind"] == kind]


def test_a_model_learns_to_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", (2, 64, 2, 256))  # with fewer dimensions it learns slowly
    folder = write_instance_folder(
        tmp_path / "instances", num_training=2000, num_held_out=50, max_seq_length=16
    )
    config = make_config(
        folder, max_steps=140, batch_size=32, learning_rate=6e-3, dropout=0.0, eval_every=100
    )
    pretrain(config)
    evaluations = lines_of(config, "eval")
    assert [line["step"] for line in evaluations] == [0, 100, 140]
    assert evaluations[0]["mlm_loss"] == pytest.approx(math.log(48), abs=0.1)
    # All words are equally frequent: knowing no more than that costs ln 43, about 3.76.
    assert evaluations[-1]["mlm_loss"] < 2.5
    assert evaluations[-1]["perplexity"] == pytest.approx(math.exp(evaluations[-1]["mlm_loss"]))
    (answers,) = fill_mask(config.output / "export", "word11 word12 [MASK] word14 word15")
    assert "word13" in [token for token, _ in answers]


def test_the_run_folder_describes_the_run(instances: Path) -> None:
    config = make_config(instances, max_steps=25, checkpoint_every=10, eval_every=20)
    manifest = pretrain(config)
    assert manifest == Manifest.read(config.output, "run")
    for row in manifest.shards:
        path = config.output / row["name"]
        assert path.stat().st_size == row["bytes"]
        assert hash_file(path) == row["sha256"]
    figures = manifest.accounts["figures"]
    assert figures["steps"] == 25
    assert figures["instances"] == 200

    run = json.loads((config.output / "run.json").read_text())
    assert run["options"]["preset"] == "tiny"
    assert run["num_parameters"] == figures["parameters"]
    assert run["device"] == "cpu, 1 thread"
    assert run["tokenizer_fingerprint"] == manifest.tokenizer_fingerprint

    training = lines_of(config, "train")
    assert [line["step"] for line in training] == [10, 20, 25]
    assert training[-1]["tokens"] == figures["tokens"]
    assert training[0]["epoch"] == 10 * 8 / 64
    assert training[0]["learning_rate"] > training[-1]["learning_rate"] > 0
    for line in training:
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["nsp_loss"])
        assert 0 <= line["mlm_accuracy"] <= 1
        assert 0 <= line["nsp_accuracy"] <= 1
        assert line["tokens_per_second"] > 0
    assert [line["step"] for line in lines_of(config, "eval")] == [0, 20, 25]
    checkpoints = sorted(path.name for path in (config.output / "checkpoints").iterdir())
    assert checkpoints == ["step-00000020", "step-00000025"]


def test_the_trained_model_gives_transformers_the_same_logits(instances: Path) -> None:
    from tokkit.pretraining.models.export import read_export

    config = make_config(instances)
    pretrain(config)
    ours = read_export(config.output / "export")
    theirs = transformers.BertForPreTraining.from_pretrained(config.output / "export").eval()
    drawn = make_instances([16, 11], vocab_size=48)
    padded = padded_batch(drawn, PAD)
    with torch.inference_mode():
        logits_MV, logits_SC = ours.logits(lay_out(drawn, PAD).inputs)
        expected = theirs(**padded)
    is_labelled = padded["labels"] != NO_LABEL
    torch.testing.assert_close(
        logits_MV, expected.prediction_logits[is_labelled], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(logits_SC, expected.seq_relationship_logits, atol=1e-4, rtol=0)


def test_a_finished_run_is_up_to_date_without_torch(instances: Path) -> None:
    config = make_config(instances)
    pretrain(config)
    stamp = (config.output / "manifest.json").stat().st_mtime_ns
    options = {
        **dataclasses.asdict(config),
        "instances": [*map(str, config.instances)],
        "output": str(config.output),
    }
    script = (
        "import sys; from pathlib import Path\n"
        "from tokkit.pretraining.pretrain import pretrain, PretrainConfig\n"
        f"options = {options!r}\n"
        "options['instances'] = tuple(map(Path, options['instances']))\n"
        "options['output'] = Path(options['output'])\n"
        "pretrain(PretrainConfig(**options))\n"
        "print(sorted({'torch', 'numba', 'pyarrow', 'transformers'} & set(sys.modules)))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert printed == "[]\n"
    assert (config.output / "manifest.json").stat().st_mtime_ns == stamp


def test_what_does_not_change_the_weights_may_change(instances: Path) -> None:
    config = make_config(instances)
    first = pretrain(config)
    moved = instances.rename(instances.parent / "moved")
    again = dataclasses.replace(config, instances=(moved,), checkpoint_every=7, eval_every=9)
    assert pretrain(again) == first


def test_an_export_that_lost_a_file_is_made_again(instances: Path) -> None:
    config = make_config(instances)
    first = pretrain(config)
    (config.output / "export" / "model.safetensors").unlink()
    assert pretrain(config) == first
    assert (config.output / "export" / "model.safetensors").is_file()
    assert len(lines_of(config, "train")) == 1


def test_an_option_that_changes_the_weights_is_refused_by_name(instances: Path) -> None:
    config = make_config(instances)
    first = pretrain(config)
    for options, fault in (
        ({"preset": "mini"}, "--preset was tiny, not mini"),
        ({"max_steps": 3}, "4 steps are done, more than --max-steps 3; .* --overwrite"),
        ({"learning_rate": 0.5}, "--learning-rate was 0.001, not 0.5"),
        ({"seed": 1}, "--seed was 0, not 1"),
        ({"mask_unit": "word"}, "--mask-unit was token, not word"),
        ({"mask_ratios": (1.0, 0.0, 0.0)}, "--mask-ratios was 0.8,0.1,0.1, not 1,0,0"),
    ):
        with pytest.raises(TokkitError, match=fault) as caught:
            pretrain(dataclasses.replace(config, **options))
        assert "--overwrite" in str(caught.value)
    other = write_instance_folder(instances.parent / "other", seed=2)
    with pytest.raises(TokkitError, match="its inputs were different"):
        pretrain(dataclasses.replace(config, instances=(other,)))
    assert Manifest.read(config.output) == first

    anew = dataclasses.replace(config, max_steps=2, overwrite=True)
    assert pretrain(anew).accounts["figures"]["steps"] == 2
    assert [line["step"] for line in lines_of(anew, "train")] == [2]


def test_a_run_is_reproducible_and_depends_on_the_seed(instances: Path) -> None:
    keys = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        config = make_config(instances, output=instances.parent / name, seed=seed)
        pretrain(config)
        keys.append(hash_file(config.output / "export" / "model.safetensors"))
    assert keys[0] == keys[1] != keys[2]


def test_the_callers_generators_are_left_alone(instances: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    pretrain(make_config(instances))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_instances_of_every_form_train(tmp_path: Path, *, static: bool, labels: bool) -> None:
    folder = write_instance_folder(tmp_path / "instances", static=static, labels=labels)
    config = make_config(folder, max_steps=2)
    pretrain(config)
    for line in lines_of(config, "train") + lines_of(config, "eval"):
        assert ("nsp_loss" in line) == labels
        assert math.isfinite(line["loss"])


def test_long_sequences_get_as_many_positions(tmp_path: Path) -> None:
    folder = write_instance_folder(
        tmp_path / "instances", num_training=8, num_held_out=0, max_seq_length=600
    )
    config = make_config(folder, max_steps=1, batch_size=2)
    pretrain(config)
    exported = json.loads((config.output / "export" / "config.json").read_text())
    assert exported["max_position_embeddings"] == 600
    assert not lines_of(config, "eval")  # nothing is held out


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rates = make_config(instances, max_steps=8, checkpoint_every=3), []

    def spoil(optimizer: torch.optim.AdamW, rate: float) -> None:
        update_weights(optimizer, rate)
        rates.append(rate)
        if len(rates) == 5:
            optimizer.param_groups[0]["params"][0].data.fill_(np.nan)

    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", spoil)
    with pytest.raises(
        TokkitError, match=r"not finite at step 5 .*--step 5\); .*step-00000003"
    ) as caught:
        pretrain(config)
    assert "\n" not in str(caught.value)
    assert not (config.output / "manifest.json").exists()


def test_a_held_out_loss_that_is_no_number_stops_the_run(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rates = make_config(instances, max_steps=4, eval_every=2, checkpoint_every=1), []

    def spoil(optimizer: torch.optim.AdamW, rate: float) -> None:
        update_weights(optimizer, rate)
        rates.append(rate)
        if len(rates) == 2:
            optimizer.param_groups[0]["params"][0].data.fill_(np.nan)

    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", spoil)
    fault = r"held-out loss is not finite after step 2; the last checkpoint is .*step-00000001"
    with pytest.raises(TokkitError, match=fault):
        pretrain(config)


class TestRefusals:
    """Each is one line that names the folder and what to do, and leaves no run folder behind."""

    def check(self, config: PretrainConfig, fault: str) -> None:
        with pytest.raises(TokkitError, match=fault) as caught:
            pretrain(config)
        assert "\n" not in str(caught.value)
        assert not (config.output / "checkpoints").exists()
        assert not (config.output / "manifest.json").exists()

    def test_an_unfinished_folder(self, instances: Path) -> None:
        (instances / "manifest.json").unlink()
        self.check(make_config(instances), "unfinished, or not made by tokkit")

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        self.check(make_config(tmp_path / "nowhere"), "nowhere: no such folder")

    def test_an_option_of_masking_for_static_masks(self, tmp_path: Path) -> None:
        folder = write_instance_folder(tmp_path / "instances", static=True)
        self.check(make_config(folder, mask_unit="word"), "static, so --mask-unit has no effect")

    @pytest.mark.parametrize("missing", ["[PAD]", "[MASK]"])
    def test_a_tokenizer_without_a_control_token(self, tmp_path: Path, missing: str) -> None:
        special = tuple(token for token in SPECIAL if token != missing)
        folder = write_instance_folder(
            tmp_path / "instances", special=special, num_training=7, num_held_out=0
        )
        self.check(make_config(folder), rf"no token \{missing} or")

    def test_another_tokenizer_next_to_the_shards(self, instances: Path) -> None:
        for path in (instances / "tokenizer").iterdir():
            path.write_text(path.read_text().replace("word7", "word_"))
        self.check(make_config(instances), "is not the tokenizer that made the shards")

    def test_a_truncated_shard(self, instances: Path) -> None:
        shard = instances / "train-0000000.arrow"
        shard.write_bytes(shard.read_bytes()[:-8])
        self.check(
            make_config(instances), r"train-0000000\.arrow: has \d+ bytes, the manifest says"
        )

    def test_a_device_that_is_not_there(self, instances: Path) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
        self.check(
            make_config(instances, device="cuda"), "--device cuda: torch .* finds no such device"
        )

    def test_a_folder_of_someone_else(self, instances: Path) -> None:
        config = make_config(instances)
        config.output.mkdir()
        (config.output / "thesis.tex").touch()
        self.check(config, "not empty, and not made by tokkit")
        assert (config.output / "thesis.tex").exists()

    def test_a_folder_of_another_kind(self, instances: Path) -> None:
        other = write_instance_folder(instances.parent / "other")
        before = Manifest.read(other)
        with pytest.raises(TokkitError, match="its kind is instances, not run"):
            pretrain(make_config(instances, output=other))
        assert Manifest.read(other) == before

    def test_the_instances_are_not_overwritten(self, instances: Path) -> None:
        with pytest.raises(UsageError, match="is or contains the input"):
            pretrain(make_config(instances, output=instances, overwrite=True))
        assert (instances / "train-0000000.arrow").is_file()

    def test_a_folder_that_another_process_writes(self, instances: Path) -> None:
        config = make_config(instances)
        with FolderLock(config.output):
            self.check(config, r"process \d+ on .* is writing this folder")

    def test_no_torch(self, instances: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        self.check(make_config(instances), r"pip install 'tokkit\[pretrain\]'")
        assert not (instances.parent / "run").exists()

    @pytest.mark.parametrize(
        "options",
        [{"dropout": 1.0}, {"max_steps": 0}, {"warmup_steps": 5}, {"preset": "huge"}],
        ids=str,
    )
    def test_options_out_of_range(self, tmp_path: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=f"--{next(iter(options)).replace('_', '-')}"):
            make_config(tmp_path, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
# What torch says of its own parts when it compiles, and of fp32 products in fp32.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.filterwarnings("ignore:TensorFloat32")
def test_bf16_on_a_gpu_learns_as_fp32_does(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_training=2000, num_held_out=50)
    losses = {}
    for precision in ("fp32", "bf16"):
        config = make_config(
            folder,
            output=tmp_path / precision,
            device="cuda",
            precision=precision,
            max_steps=250,
            batch_size=32,
            learning_rate=3e-3,
            dropout=0.0,
        )
        pretrain(config)
        losses[precision] = lines_of(config, "eval")[-1]["mlm_loss"]
    assert losses["bf16"] < 1.0
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.2)
