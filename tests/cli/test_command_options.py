"""An option is declared once, in its config: the command, its help and recipes follow from that."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tokkit.cli import cli, main
from tokkit.cli.command_options import read_table
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import UsageError
from tokkit.instances.build_config import BuildConfig
from tokkit.options import Config
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.vocab.train_config import TrainConfig

CONTEXT = click.Context(cli)
COMMANDS = {
    name: command
    for name in cli.list_commands(CONTEXT)
    if (command := cli.get_command(CONTEXT, name))
}
CONFIGS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "encode": EncodeConfig,
    "build": BuildConfig,
    "pretrain": PretrainConfig,
}


def options_on(command: str) -> dict[str, click.Parameter]:
    return {str(option.name): option for option in COMMANDS[command].params}


@pytest.mark.parametrize("command", CONFIGS)
def test_a_command_has_the_options_of_its_config_with_their_defaults(command: str) -> None:
    shown = options_on(command)
    context = click.Context(COMMANDS[command])
    for name, declared in CONFIGS[command].options.items():
        option = shown[name]
        if isinstance(option, click.Option) and not option.required:
            assert option.get_default(context) in (declared.default, ()), name


@pytest.mark.parametrize("command", CONFIGS)
def test_help_is_a_full_phrase_with_choices_and_range(command: str) -> None:
    text = " ".join(CliRunner().invoke(cli, [command, "--help"]).output.split())
    for name, option in CONFIGS[command].options.items():
        assert option.help[0].isupper(), name
        assert option.help.endswith("."), name
        if option.argument is None:
            assert option.help.split()[0] in text
            assert option.choices is None or f"[{'|'.join(option.choices)}]" in text
    assert "INTEGER RANGE" not in text


def test_options_of_a_config_come_before_those_that_it_inherits() -> None:
    lines = CliRunner().invoke(cli, ["build", "--help"]).output.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Masking:", "Execution:", "Array jobs:"]
    options = [line.split()[0] for line in lines if line.startswith(("  -", "  --"))]
    assert options[:4] == ["-o,", "--objective", "--targets", "--max-seq-length"]
    assert options.index("--seed") < options.index("--mask-unit") < options.index("--workers")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("encode a -t t -o o --sentences none --language de", "--language has no effect with"),
        ("encode a -t t -o o --sentences lines --language en", "or use --sentences auto"),
        (
            "encode a -t t -o o --sentences none --language-field x",
            "--language-field has no effect",
        ),
        ("encode a -t t -o o --format text --text-field x", "--text-field has no effect with"),
        ("encode a -t t -o o --format jsonl --text-column 1", "--text-column has no effect with"),
        ("encode a -t t -o o --format jsonl --documents line", "--documents has no effect with"),
        ("train a -o o --format counts --held-out 0.1", "--held-out has no effect with --format c"),
        ("train a -o o --model bpe --score frequency", "--score has no effect with --model bpe"),
        ("build t -o o --objective clm --packing full-sentences", "--packing has no effect with"),
        ("build t -o o --mask-unit token", "--mask-unit requires --masking static"),
        ("build t -o o --objective plm --mask-unit word", "no effect with --objective plm"),
        ("pretrain i -o o --mask-draw word", "--mask-draw has no effect with --mask-unit token"),
        ("pretrain i -o o --weights 1", "--weights requires several instance folders"),
        ("inspect a --seed 3", "--seed requires --replay"),
        ("inspect a --rows 3 --json", "--source and --longest have no effect with --json"),
        ("inspect a --replay --shard x", "--shard has no effect with --replay"),
    ],
)
def test_an_option_without_effect_is_wrong_usage(
    arguments: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if its value is the default."""
    monkeypatch.setattr(sys, "argv", ["tokkit", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert fault in capsys.readouterr().err


def test_an_option_without_effect_is_refused_in_a_recipe() -> None:
    table = {"sentences": "none", "language": "en"}
    options = read_table(COMMANDS["encode"], table, "recipe.toml, [encode]")
    config = EncodeConfig(inputs=("a",), tokenizer=Path("t"), output=Path("o"), **options)
    with pytest.raises(UsageError, match="--language has no effect with --sentences none"):
        config.require_effect(options)


def test_a_config_is_checked_however_it_is_made() -> None:
    config = BuildConfig(tokens=Path("t"), output=Path("o"))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"max_seq_length": 7}, "--max-seq-length must be at least 8 and at most 65,535"),
        ({"eval_fraction": 1.0}, "--eval-fraction must be at least 0 and below 1"),
        ({"noise_density": float("nan")}, "--noise-density must be above 0 and at most 0.5"),
        ({"packing": "tight"}, "--packing must be one of full-sentences, doc-sentences"),
        ({"mask_ratios": (1.1, -0.1, 0.0)}, "--mask-ratios must be at least 0"),
    ]
    for change, fault in changes:
        with pytest.raises(UsageError, match=fault):
            replace(config, **change)


def test_a_config_without_a_required_option_is_no_config() -> None:
    class Stage(Config):
        pass

    assert Stage.options == {}
    with pytest.raises(TypeError, match="output"):
        BuildConfig(tokens=Path("t"))  # type: ignore[call-arg]
