"""Folders of a run go together, each phase has its own, and each objective asks for what it needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instancefolders import write_instance_folder
from tokenfolders import toy_tokenizer, write_token_folder

from tokkit.errors import TokkitError, UsageError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.data.instance_sources import divide_phases, open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.pretrain_config import PretrainConfig

PHASES = ((32, 0.9), (64, 0.1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("phases")
    short, long = (
        write_instance_folder(work / str(length), max_seq_length=length) for length in (32, 64)
    )
    return short, long


def config_of(*folders: Path, **options: Any) -> PretrainConfig:
    return PretrainConfig(instances=folders, output=Path("run"), batch_size=8, **options)


def test_phases_find_their_folders_in_whatever_order(folders: tuple[Path, Path]) -> None:
    short, long = folders
    for given, expected in (((short, long), (0, 1)), ((long, short), (1, 0))):
        config = config_of(*given, phases=PHASES)
        sources = open_sources(config)
        phases = divide_phases(config, sources)
        for number, (length, _), (phase, own) in zip(expected, PHASES, phases, strict=True):
            assert own.instances == (given[number],)
            assert phase.max_seq_length == length
            alone = config_of(given[number])
            expected_loader = Loader(open_sources(alone), alone)
            found, wanted = (
                loader.training_instances(7).input_ids
                for loader in (Loader(phase, config), expected_loader)
            )
            assert np.array_equal(found, wanted)


def test_folders_that_no_phase_takes_are_named(folders: tuple[Path, Path]) -> None:
    short, long = folders
    other = config_of(short, long, phases=((32, 0.9), (128, 0.1)))
    with pytest.raises(
        TokkitError, match="64: was built with --max-seq-length 64, but --phases has 32 and 128"
    ):
        divide_phases(other, open_sources(other))
    twice = config_of(short, short, phases=PHASES)
    with pytest.raises(TokkitError, match=r"32: was built with --max-seq-length 32, as was .*32;"):
        divide_phases(twice, open_sources(twice))


def test_causal_instances_need_no_control_token_but_their_own(tmp_path: Path) -> None:
    tokens = write_token_folder(
        tmp_path / "tokens", [[[60, 61, 62]] * 20] * 9, tokenizer=toy_tokenizer(without="[PAD]")
    )
    folder, masked = tmp_path / "clm", tmp_path / "mlm"
    for path, objective in ((folder, "clm"), (masked, "mlm")):
        options: dict[str, Any] = {"workers": 0, "eval_fraction": 0.0, "max_seq_length": 16}
        build(
            BuildConfig(tokens=tokens, output=path, objective=objective, progress=False, **options)
        )
    config = LoaderConfig(instances=(folder,), batch_size=4)
    sources = open_sources(config)
    assert sources.is_causal
    assert sources.max_predictions == 16
    assert not Loader(sources, config).training_instances(3).predictions.labels.size
    with pytest.raises(TokkitError, match=r"no token \[PAD\]"):
        open_sources(LoaderConfig(instances=(masked,)))
    with pytest.raises(UsageError, match="--objective clm, so --mask-unit has no effect"):
        open_sources(LoaderConfig(instances=(folder,), mask_unit="word"))


def test_more_static_masks_than_the_manifest_allows_are_refused(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", static=True)
    path = folder / "manifest.json"
    text = path.read_text()
    assert '"max_predictions_per_seq": 3' in text
    path.write_text(text.replace('"max_predictions_per_seq": 3', '"max_predictions_per_seq": 2'))
    config = LoaderConfig(instances=(folder,))
    with pytest.raises(
        TokkitError, match="has 3 masked positions or targets, the manifest says at most 2"
    ):
        Loader(open_sources(config), config).training_instances(0)
