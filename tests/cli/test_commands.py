"""Options become a config, the config one call, and a fault one line and an exit status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tokkit.cli import cli, main
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.manifest import Manifest
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.vocab.train_config import TrainConfig

CASES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "train",
        (
            "a.txt b.txt -o tok --model bpe --vocab-size 300 --special-token <s> --special-token </s> "
            "--split-digits --weight a.txt=2.5 --memory 512MiB --compare other "
            "--save-counts counts.tsv --workers 2 --overwrite"
        ),
        {
            "inputs": ("a.txt", "b.txt"),
            "output": Path("tok"),
            "model": "bpe",
            "vocab_size": 300,
            "special_tokens": ("<s>", "</s>"),
            "split_digits": True,
            "weights": {"a.txt": 2.5},
            "memory": 512 << 20,
            "compare": ("other",),
            "save_counts": Path("counts.tsv"),
            "workers": 2,
            "overwrite": True,
        },
    ),
    (
        "encode",
        (
            "- -t tok -o tokens --documents line --errors skip --language-field lang "
            "--text-field title --text-field meta.text --no-quotes "
            "--compression zstd --no-progress"
        ),
        {
            "inputs": ("-",),
            "tokenizer": Path("tok"),
            "output": Path("tokens"),
            "documents": "line",
            "errors": "skip",
            "language_field": "lang",
            "text_field": ("title", "meta.text"),
            "quotes": False,
            "compression": "zstd",
            "progress": False,
        },
    ),
    (
        "build",
        (
            "tokens -o instances --max-seq-length 512 --short-seq-prob 0 --dupe-factor 10 "
            "--masking static --max-predictions-per-seq 77 --mask-unit span "
            "--mask-ratios 0.9,0.05,0.05 --seed 12345 --workers 4"
        ),
        {
            "tokens": Path("tokens"),
            "output": Path("instances"),
            "max_seq_length": 512,
            "short_seq_prob": 0.0,
            "dupe_factor": 10,
            "masking": "static",
            "max_predictions_per_seq": 77,
            "mask_unit": "span",
            "mask_ratios": (0.9, 0.05, 0.05),
            "seed": 12345,
            "workers": 4,
        },
    ),
    (
        "pretrain",
        (
            "instances others --weights 0.7,0.3 -o run --preset tiny --max-steps 10 --batch-size 4 "
            "--learning-rate 1e-3 --warmup-steps 2 --device cpu --threads 1"
        ),
        {
            "instances": (Path("instances"), Path("others")),
            "weights": (0.7, 0.3),
            "output": Path("run"),
            "preset": "tiny",
            "max_steps": 10,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 2,
            "device": "cpu",
            "threads": 1,
        },
    ),
]

PACKAGES = {"train": "vocab", "encode": "encoding", "build": "instances", "pretrain": "pretraining"}
CONFIGS = {
    "train": TrainConfig,
    "encode": EncodeConfig,
    "build": BuildConfig,
    "pretrain": PretrainConfig,
}


@pytest.mark.parametrize(("command", "arguments", "fields"), CASES, ids=PACKAGES)
def test_a_command_is_one_call_with_one_config(
    command: str, arguments: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stop(config: Any, *_: Any) -> None:
        calls.append(config)
        raise TokkitError("enough")

    monkeypatch.setattr(f"tokkit.{PACKAGES[command]}.{command}.{command}", stop)
    result = CliRunner().invoke(cli, [command, *arguments.split()])
    assert str(result.exception) == "enough", result.output
    assert calls == [CONFIGS[command](**fields)]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("train a.txt", "Missing option '-o'"),
        ("train -o tok", "Missing argument 'INPUT...'"),
        ("train a.txt -o tok --vocab-size 3", "--vocab-size must be at least 6"),
        ("train a.txt -o tok --vocab-size many", "'many' is not a valid integer"),
        ("train a.txt -o tok --special-token x --special-token x", "distinct"),
        ("train a.txt -o tok --memory 2XB", "'2XB' is not a size, such as 2GB"),
        ("train a.txt -o tok --weight a.txt", "'a.txt' is not an INPUT with its weight"),
        ("train a.txt -o tok --weight a.txt=1 --weight a.txt=2", "an INPUT is named twice"),
        ("train a.txt -o tok --byte-fallback", "--byte-fallback has no effect with --model word"),
        ("encode a.txt -o tokens", "Missing option '-t'"),
        ("encode - - -t tok -o tokens", "standard input (-) can be read only once"),
        ("encode a.txt -t tok -o tokens --errors maybe", "'maybe' is not one of"),
        ("encode a.txt -t tok -o tokens --workers -1", "'--workers': -1 is not in the range x>=0"),
        ("build tokens -o out --max-seq-length 7", "7 is not in the range 8<=x<=65535"),
        ("build tokens -o out --short-seq-prob 1.5", "1.5 is not in the range 0<=x<=1"),
        (
            "build tokens -o out --masking static --masked-lm-prob 0",
            "0.0 is not in the range 0<x<=1",
        ),
        ("build tokens -o out --eval-fraction 1", "1.0 is not in the range 0<=x<1"),
        ("build tokens -o out --dupe-factor 0", "0 is not in the range 1<=x<="),
        ("build tokens -o out --seed -1", "-1 is not in the range 0<=x<="),
        ("build tokens -o out --objective gpt", "'gpt' is not"),
        ("pretrain instances -o run --learning-rate 0", "0.0 is not in the range x>0"),
        ("pretrain instances -o run --max-steps 5 --warmup-steps 6", "--warmup-steps must be"),
        ("pretrain instances -o run --preset huge", "'huge' is not one of"),
        ("encode a.txt -t tok -o tokens --format counts", "'counts' is not one of"),
        ("nonsense", "No such command 'nonsense'"),
        ("run missing.toml --from nowhere", "'nowhere' is not one of"),
    ],
)
def test_wrong_usage_is_reported_and_exits_with_2(
    arguments: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tokkit", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TokkitError("a.txt: no such file"), 1),
        (UsageError("--seed must be smaller"), 2),
        (Interrupted("out: stopped by SIGTERM", 143), 143),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_a_fault_is_one_line_and_an_exit_status(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_config: Any) -> None:
        raise error

    monkeypatch.setattr("tokkit.instances.build.build", fail)
    monkeypatch.setattr(sys, "argv", ["tokkit", "build", "tokens", "-o", "out"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == status
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == (0 if isinstance(error, BrokenPipeError) else 1)
    assert str(error) in "".join(lines)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_config: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tokkit.instances.build.build", fail)
    monkeypatch.setattr(sys, "argv", ["tokkit", "build", "tokens", "-o", "out"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    tokkit = Path(sys.executable).with_name("tokkit")
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{tokkit} build --help | true"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_json_is_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(
        kind="instances",
        key="k",
        options={"max_seq_length": 128},
        seed=0,
        tokenizer_fingerprint="f",
        inputs=[],
        shards=[{"name": "train-0000000.arrow", "bytes": 9, "sha256": "s", "rows": 2, "tokens": 5}],
        accounts={
            "documents": {"in": 3, "kept": 2, "dropped": {"empty": 1}},
            "figures": {"random_pairs": 1},
        },
    )
    monkeypatch.setattr("tokkit.instances.build.build", lambda _config: manifest)
    result = CliRunner().invoke(cli, ["build", "tokens", "-o", "out", "--json"])
    assert Manifest(**json.loads(result.stdout)) == manifest
    result = CliRunner().invoke(cli, ["build", "tokens", "-o", "out"])
    assert result.stdout.splitlines() == [
        "out: 1 shard, 9 bytes",
        "  documents: 2 of 3; dropped 1 empty",
        "  random pairs: 1",
    ]
