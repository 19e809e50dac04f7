"""What ``--dry-run`` prints, and the name of a model."""

import json
from typing import Any

import pytest

from tokkit.cli.pretraining_output import describe_estimate, name_model, print_estimate
from tokkit.engine.progress import describe_duration

PHASE = {
    "steps": 1000.0,
    "tokens_per_step": 25_600.0,
    "steps_per_epoch": 3.90625,
    "flops_per_token": 546.1e6,
    "seconds_per_step": 0.5,
    "epochs": 256.0,
}
DATA: dict[str, Any] = {
    "parameters": {"embeddings": 23_000_000, "layers": 85_000_000, "total": 108_000_000},
    "peak_memory": 1_615_000_000,
    "available_memory": 2_000_000_000,
    "fits": True,
    "phases": [PHASE],
    "steps": 1000.0,
    "tokens": 25_600_000.0,
    "flops": 1.398e16,
    "training_seconds": 7500.0,
    "evaluation_seconds": 30.0,
    "seconds": 7530.0,
    "timed_steps": 3,
}


def test_an_estimate_is_printed_line_by_line() -> None:
    assert list(describe_estimate(DATA)) == [
        "parameters: 108,000,000: embeddings 23,000,000, layers 85,000,000",
        "peak memory per process: 1.61 GB, available 2.00 GB",
        (
            "25,600 tokens per step, 3.9 steps per epoch, 546.1 MFLOP per token, 0.5 s per step, "
            "51,200 tokens/s, 1,000 steps, 256.00 epochs"
        ),
        "whole run: 25,600,000 tokens, 1.4e+16 FLOP",
        "time: 2 h 5 min, including evaluations 30 s; measured on 3 steps",
    ]


def test_unknown_figures_are_left_out() -> None:
    phase = {**PHASE, "steps": None, "epochs": None, "seconds_per_step": None}
    unknown = dict.fromkeys(
        ("peak_memory", "steps", "tokens", "flops", "training_seconds", "seconds")
    )
    lines = list(describe_estimate({**DATA, **unknown, "phases": [phase] * 2, "fits": False}))
    assert lines[1] == (
        "peak memory per process: not measured, available 2.00 GB, which is too little; "
        "lower --micro-batch-tokens"
    )
    assert lines[3] == (
        "phase 1: 25,600 tokens per step, 3.9 steps per epoch, 546.1 MFLOP per token"
    )
    assert lines[4:] == ["time: not measured"]


def test_json_is_the_same_data(capsys: pytest.CaptureFixture[str]) -> None:
    print_estimate(DATA, as_json=True)
    assert json.loads(capsys.readouterr().out) == DATA


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3601, "1 h"), (97_200, "1 d 3 h")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words


def test_a_default_size_is_that_of_the_architecture() -> None:
    assert name_model({"preset": None}, "t5") == "t5-base"
    assert name_model({"preset": None}, "xlnet") == "xlnet base"
    assert name_model({"architecture": "marian", "preset": "big"}) == "marian big"
