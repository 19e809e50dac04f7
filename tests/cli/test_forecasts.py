"""What ``--dry-run`` prints of a forecast."""

import json
from typing import Any

import pytest

from tokkit.cli.output import describe_duration, describe_forecast, print_forecast

PARTS = {
    "weights": 400,
    "gradients": 400,
    "moments": 800,
    "copies": 0,
    "activations": 10,
    "logits": 5,
}
FORM: dict[str, Any] = {
    "parameters": {"embeddings": 23_000_000, "layers": 85_000_000, "total": 108_000_000},
    "memory": {**{name: mb * 10**6 for name, mb in PARTS.items()}, "total": 1_615_000_000},
    "other_memory": None,
    "capacity": 2_000_000_000,
    "fits": True,
    "phases": [
        {
            "steps": 1000.0,
            "tokens_per_step": 25_600.0,
            "steps_per_epoch": 3.90625,
            "flops_per_token": 546.1e6,
            "seconds_per_step": 0.5,
            "epochs": 256.0,
        }
    ],
    "steps": 1000.0,
    "tokens": 25_600_000.0,
    "flops": 1.398e16,
    "training_seconds": 7500.0,
    "evaluation_seconds": 30.0,
    "seconds": 7530.0,
    "timing": "measured on 3 steps",
}


def test_a_forecast_in_words() -> None:
    assert list(describe_forecast(FORM)) == [
        "parameters: 108,000,000: embeddings 23,000,000, layers 85,000,000",
        (
            "memory of a process, estimated: 1.61 GB: weights 400.0 MB, gradients 400.0 MB, "
            "moments 800.0 MB, copies 0.0 MB, activations 10.0 MB, logits 5.0 MB"
        ),
        "memory there is: 2.00 GB",
        "25,600 tokens a step, 3.9 steps an epoch, 546.1 MFLOP a token, 1,000 steps, 256.00 epochs",
        "whole run: 25,600,000 tokens, 1.4e+16 FLOP",
        (
            "time: 2 h 5 min, of which evaluations 30 s; 0.5 s a step, 51,200 tokens/s; "
            "measured on 3 steps"
        ),
    ]


def test_what_is_not_known_is_left_out() -> None:
    phase = {**FORM["phases"][0], "steps": None, "epochs": None, "seconds_per_step": None}
    unknown = dict.fromkeys(("steps", "tokens", "flops", "training_seconds", "seconds"))
    form = {**FORM, **unknown, "phases": [phase] * 2, "fits": False, "timing": "not measured"}
    lines = list(describe_forecast(form))
    assert lines[2] == "memory there is: 2.00 GB, too little: lower --micro-batch-tokens"
    assert lines[4] == "phase 1: 25,600 tokens a step, 3.9 steps an epoch, 546.1 MFLOP a token"
    assert lines[5:] == ["time: not measured"]


def test_the_other_memory_is_named() -> None:
    less = {name: number // 4 for name, number in FORM["memory"].items()}
    assert (
        "memory with --fsdp: 403.8 MB: "
        in list(describe_forecast({**FORM, "other_memory": less}))[2]
    )
    split = {**FORM, "memory": less, "other_memory": FORM["memory"]}
    assert list(describe_forecast(split))[2].startswith("memory without --fsdp: 1.61 GB: ")


def test_json_is_the_form(capsys: pytest.CaptureFixture[str]) -> None:
    print_forecast(FORM, as_json=True)
    assert json.loads(capsys.readouterr().out) == FORM


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3601, "1 h"), (97_200, "1 d 3 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words
