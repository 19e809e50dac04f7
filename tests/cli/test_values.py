"""A value that is more than a number or a word, on a command line and in a recipe's table."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from tokkit.cli.command_options import config_options, read_table
from tokkit.cli.pretrain import pretrain
from tokkit.errors import UsageError
from tokkit.pretraining.pretrain_config import PretrainConfig


@click.command()
@config_options(
    *(PretrainConfig.options[name] for name in ("max_time", "phases", "betas", "batch_size"))
)
def command(**options: Any) -> None:
    raise RuntimeError(options)


def read(option: str, value: str) -> Any:
    """The value that a command line gives a field; a recipe's table gives the same."""
    field = option.replace("-", "_")
    result = CliRunner().invoke(command, [f"--{option}", value])
    if isinstance(result.exception, SystemExit):
        with pytest.raises(UsageError):
            read_table(command, {option: value}, "recipe.toml")
        return result.output
    assert result.exception is not None
    assert read_table(command, {option: value}, "recipe.toml") == {
        field: result.exception.args[0][field]
    }
    return result.exception.args[0][field]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("24h", 86_400),
        ("7d", 604_800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1D 2H 3M 4S", 93_784),
        ("0.5s", 0.5),
    ],
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert read("max-time", text) == seconds


@pytest.mark.parametrize("text", ["24", "", "h", "24x", "30m1h", "1h1h", "-1h", "1:30", "1.h"])
def test_an_invalid_duration_is_refused_with_the_units_named(text: str) -> None:
    assert "is not a duration with units (d, h, m, s), such as 24h" in read("max-time", text)


def test_a_duration_in_a_recipe_needs_a_unit_too() -> None:
    with pytest.raises(UsageError, match=r"max-time: '3600' is not a duration with units"):
        read_table(command, {"max-time": 3600}, "recipe.toml")


def test_phases_are_lengths_and_shares() -> None:
    assert read("phases", "128:0.9,512:0.1") == ((128, 0.9), (512, 0.1))
    assert read("phases", "512:1") == ((512, 1.0),)


@pytest.mark.parametrize("text", ["", "128", "128:0.9,", "128:0.9:1", "0.9:128", "128=0.9", "a:b"])
def test_invalid_phases_are_refused(text: str) -> None:
    assert "is not lengths with their shares, such as 128:0.9,512:0.1" in read("phases", text)


def test_batch_sizes_are_one_or_several_with_shares() -> None:
    assert read("batch-size", "64") == 64
    assert read("batch-size", "64:0.1,128:0.2,512") == ((64, 0.1), (128, 0.2), (512, 0.7))
    assert read("batch-size", "64:0.1,512:0.9") == ((64, 0.1), (512, 0.9))
    for text in ("", "a", "64:0.1", "64,512", "64:0.1,512:0.9:1", "1.5"):
        assert "is neither a number nor sizes with their shares" in read("batch-size", text)


def test_numbers_are_separated_by_commas() -> None:
    assert read("betas", "0.9,0.98") == (0.9, 0.98)
    assert "is not numbers between commas" in read("betas", "0.9;0.98")


def test_defaults_are_those_of_the_config() -> None:
    result = CliRunner().invoke(command, [])
    assert result.exception is not None
    assert result.exception.args[0] == {
        "max_time": None,
        "phases": (),
        "betas": PretrainConfig.betas,
        "batch_size": 256,
    }


@pytest.mark.parametrize(
    ("array", "text"),
    [
        ({"betas": [0.9, 0.98]}, {"betas": "0.9,0.98"}),
        ({"mask-ratios": [0.8, 0.1, 0.1]}, {"mask-ratios": "0.8,0.1,0.1"}),
        ({"weights": [0.7, 0.3]}, {"weights": "0.7,0.3"}),
        ({"batch-size": [[128, 0.1], 512]}, {"batch-size": "128:0.1,512"}),
        ({"phases": [[128, 0.9], [512, 0.1]]}, {"phases": "128:0.9,512:0.1"}),
    ],
)
def test_a_recipe_lists_numbers_as_an_array_or_as_text(
    array: dict[str, Any], text: dict[str, str]
) -> None:
    assert read_table(pretrain, array, "r") == read_table(pretrain, text, "r")


def test_a_number_in_a_recipe_is_read_as_on_the_command_line() -> None:
    with pytest.raises(UsageError, match=r"max-steps: '1\.5' is not a valid integer"):
        read_table(pretrain, {"max-steps": 1.5}, "r")
    with pytest.raises(UsageError, match="max-steps takes one value"):
        read_table(pretrain, {"max-steps": {"a": 1}}, "r")
    assert read_table(pretrain, {"max-steps": "15"}, "r") == {"max_steps": 15}
