"""Errors about options advise what works: each row is refused, and accepted after its remedy."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tokkit.engine.stage_config import parse_part
from tokkit.errors import TokkitError, UsageError
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.launch_info import detect_launcher
from tokkit.vocab.train_config import TrainConfig

CONFIGS: dict[str, Callable[..., object]] = {
    "train": partial(TrainConfig, inputs=("in",), output=Path("out")),
    "build": partial(BuildConfig, tokens=Path("tokens"), output=Path("out")),
    "pretrain": partial(PretrainConfig, instances=(Path("instances"),), output=Path("out")),
    "mixture": partial(LoaderConfig, instances=(Path("one"), Path("two"))),
}
FOLDER = Path("folder")
# Options that do not fit, what the error says, and what its remedy makes of them.
OPTIONS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("train", {"sample": 9, "inputs": ("-",)}, "--sample.*leave it out", {"sample": None}),
    (
        "train",
        {"weights": {"no": 2}},
        "--weight .*: no such INPUT; name one of ",
        {"weights": {"in": 2}},
    ),
    ("train", {"weights": {"in": 0.1234}}, "three decimals", {"weights": {"in": 0.123}}),
    ("train", {"vocab_size": 3}, "--vocab-size must be at least 6 ", {"vocab_size": 6}),
    ("train", {"special_tokens": ("a",)}, "wordpiece needs", {"special_tokens": ("[UNK]",)}),
    (
        "train",
        {"model": "unigram", "special_tokens": ("a",)},
        "unigram needs .* or <unk>",
        {"special_tokens": ("<unk>",)},
    ),
    (
        "train",
        {"unused": 1, "special_tokens": ("[UNK]", "[unused0]")},
        "--unused adds it already",
        {"special_tokens": ("[UNK]",)},
    ),
    (
        "train",
        {"model": "bpe", "metaspace": True, "split_digits": 3},
        ".* has no effect with --model bpe .* --metaspace; leave it out",
        {"split_digits": False},
    ),
    (
        "train",
        {"model": "bpe", "limit_alphabet": 30},
        "--limit-alphabet has no effect .* without --metaspace; leave it out",
        {"limit_alphabet": 1000},
    ),
    (
        "train",
        {"model": "bpe", "split": "(?<=a)b"},
        "is not supported; use .*, or a pattern of sets",
        {"split": "gpt2"},
    ),
    (
        "build",
        {"objective": "mlm", "dupe_factor": 2},
        "--dupe-factor without --masking static",
        {"masking": "static"},
    ),
    ("build", {"objective": "translation"}, "requires --targets", {"targets": FOLDER}),
    (
        "build",
        {"mask_ratios": (0.8, 0.1), "masking": "static"},
        "such as 0.8,0.1,0.1",
        {"mask_ratios": (0.8, 0.1, 0.1)},
    ),
    (
        "pretrain",
        {"preset": "tiny", "init_from": FOLDER},
        "own size; leave one out",
        {"preset": None},
    ),
    (
        "pretrain",
        {"architecture": "bert", "init_from": FOLDER},
        "has its own; leave one out",
        {"architecture": None},
    ),
    (
        "pretrain",
        {"extend_positions": "repeat"},
        ".* has no effect without .*; leave it out",
        {"init_from": FOLDER},
    ),
    (
        "pretrain",
        {"model_license": "mit"},
        "without --push-to-hub; leave it out",
        {"model_license": None},
    ),
    (
        "pretrain",
        {"share_layers": True, "architecture": "gpt2"},
        "--share-layers has no effect with --architecture .*; leave one out",
        {"share_layers": False},
    ),
    (
        "pretrain",
        {"share_layers": True, "init_from": FOLDER},
        "layers differ; leave one out",
        {"share_layers": False},
    ),
    (
        "pretrain",
        {"max_steps": 9, "max_time": 9.0},
        "the run ends; leave one out",
        {"max_steps": None},
    ),
    (
        "pretrain",
        {"fsdp": True, "precision": "fp16"},
        "use --precision bf16",
        {"precision": "bf16"},
    ),
    ("pretrain", {"betas": (0.9,)}, "such as 0.9,0.999", {"betas": (0.9, 0.999)}),
    (
        "pretrain",
        {"warmup_steps": 1, "warmup_tokens": 1},
        "how long the warm-up is; leave one out",
        {"warmup_tokens": None},
    ),
    ("pretrain", {"decay_steps": 1}, "without --schedule wsd", {"schedule": "wsd"}),
    (
        "pretrain",
        {"max_steps": 9, "warmup_steps": 10},
        "--warmup-steps must be at most --max-steps, 9",
        {"warmup_steps": 9},
    ),
    (
        "pretrain",
        {"batch_size": ((1, 0.5), (2, 0.6))},
        "such as 128:0.1,512",
        {"batch_size": ((128, 0.1), (512, 0.9))},
    ),
    (
        "pretrain",
        {"max_time": 9.0, "warmup_tokens": 9},
        ".* counts steps, and --max-time seconds; leave one out",
        {"max_time": None},
    ),
    ("pretrain", {"decay_from": FOLDER}, "requires --decay-steps", {"decay_steps": 1}),
    (
        "pretrain",
        {"decay_from": FOLDER, "decay_steps": 1, "continue_from": FOLDER},
        "where the run begins; leave one out",
        {"continue_from": None},
    ),
    (
        "pretrain",
        {"continue_from": FOLDER, "preset": "tiny"},
        ".* has no effect with .*, whose run decides it; leave it out",
        {"preset": None},
    ),
    (
        "pretrain",
        {"architecture": "gpt2", "preset": "17m"},
        "--preset .* is no size of .*; use one of .*, or another",
        {"preset": "tiny"},
    ),
    ("train", {"inputs": ()}, "no input: name a file, a folder", {"inputs": ("in",)}),
    (
        "build",
        {"objective": "clm", "masked_lm_prob": 0.3},
        ".* has no effect with --objective .*; leave it out",
        {"masked_lm_prob": 0.15},
    ),
    (
        "build",
        {"masked_lm_prob": 0.3},
        ".* requires --masking static; if masking is dynamic, pass it to pretrain",
        {"masking": "static"},
    ),
    (
        "build",
        {"objective": "mlm", "single_sentence": "drop"},
        ".* has no effect with .*; leave it out, or use .*",
        {"objective": "nsp"},
    ),
    (
        "pretrain",
        {"phases": ((128, 0.5), (512, 0.4)), "instances": (FOLDER, Path("other"))},
        "the shares of --phases must be above 0 and add up to 1, such as 128:0.9,512:0.1",
        {"phases": ((128, 0.9), (512, 0.1))},
    ),
    (
        "pretrain",
        {
            "phases": ((128, 0.9), (512, 0.1)),
            "instances": (FOLDER, Path("other")),
            "weights": (0.5, 0.5),
        },
        "--weights and --phases exclude each other; leave one out",
        {"weights": ()},
    ),
    (
        "mixture",
        {"instances": ()},
        "no INSTANCES: name an instance folder",
        {"instances": (FOLDER,)},
    ),
    ("mixture", {"weights": (1.0,)}, "must be 2 shares", {"weights": (0.5, 0.5)}),
    ("mixture", {"weights": (0.5, 0.6)}, "such as 0.7,0.3", {"weights": (0.7, 0.3)}),
    (
        "mixture",
        {"weights": (1.0,), "instances": (FOLDER,)},
        "--weights requires several instance folders; leave it out",
        {"weights": ()},
    ),
]


@pytest.mark.parametrize(
    ("config", "options", "fault", "mended"), OPTIONS, ids=[row[2] for row in OPTIONS]
)
def test_options_that_do_not_fit(
    config: str, options: dict[str, Any], fault: str, mended: dict[str, Any]
) -> None:
    make = CONFIGS[config]
    with pytest.raises(UsageError, match=fault):
        make(**options)
    make(**options | mended)


TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "9",
}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "[",
}
# Variables of a launcher, what the error says, and variables after its remedy; None unsets one.
LAUNCHERS: list[tuple[dict[str, str], str, dict[str, str | None]]] = [
    ({"RANK": "0"}, ".* is not set, although .* is; start with torchrun, which sets", {**TORCHRUN}),
    ({"RANK": "0"}, "start with torchrun, which sets both, or unset .*", {"RANK": None}),
    (TORCHRUN | {"RANK": "2"}, "ranks count from 0; start again with torchrun", {"RANK": "1"}),
    (TORCHRUN | {"RANK": "x"}, "is .*; start again with torchrun or srun", {"RANK": "1"}),
    (
        {"SLURM_STEP_ID": "x"},
        "or srun, or unset the other variables",
        {"SLURM_STEP_ID": None},
    ),
    (SLURM, "not a list of Slurm nodes; set MASTER_ADDR to the host", {"MASTER_ADDR": "host"}),
]


@pytest.mark.parametrize(
    ("variables", "fault", "mended"), LAUNCHERS, ids=[row[1] for row in LAUNCHERS]
)
def test_variables_of_launchers(
    variables: dict[str, str], fault: str, mended: dict[str, str | None]
) -> None:
    with pytest.raises(TokkitError, match=fault):
        detect_launcher(variables)
    changed = {**variables, **mended}
    detect_launcher({name: value for name, value in changed.items() if value is not None})


def test_the_option_of_a_launcher() -> None:
    with pytest.raises(UsageError, match=r"has already started .* processes; leave the option out"):
        detect_launcher(TORCHRUN, 2)
    detect_launcher(TORCHRUN)


# Variables of an array job, what the error says, and the part after its remedy.
ARRAYS = [
    ({}, "auto needs one of .*; pass I/N", "0/2"),
    (
        {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "5", "SLURM_ARRAY_TASK_MAX": "9"},
        "auto cannot infer N, because the array skips task ids; pass auto/N",
        "auto/9",
    ),
    ({"JOB_COMPLETION_INDEX": "1"}, ".* comes without the number of parts; pass auto/N", "auto/2"),
]


@pytest.mark.parametrize(("variables", "fault", "part"), ARRAYS, ids=[row[1] for row in ARRAYS])
def test_variables_of_array_jobs(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fault: str, part: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=fault):
        parse_part("auto")
    parse_part(part)
