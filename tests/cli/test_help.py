"""Help explains topics in the README's own words, and commands name the one that may follow."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokkit.cli import cli
from tokkit.cli import help as help_module
from tokkit.cli.help import TOPICS
from tokkit.errors import UsageError

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_explained_by_parts_of_the_readme(topic: str) -> None:
    shown = CliRunner().invoke(cli, ["help", topic]).stdout
    assert len(shown) > 500
    for heading in TOPICS[topic]:
        assert re.search(rf"^##+ {heading}$", shown, re.MULTILINE)
    for paragraph in shown.strip().split("\n\n"):
        assert paragraph in README


def test_the_text_is_also_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokkit.cli.help.__file__", "/nowhere/tokkit/cli/help.py")
    packed = importlib.metadata.metadata("tokkit")
    monkeypatch.setattr(packed, "get_payload", lambda: README, raising=False)
    monkeypatch.setattr("tokkit.cli.help.metadata", lambda _: packed)
    assert help_module.find_part("Masking").startswith("### Masking\n")


def test_a_command_is_explained_by_its_options_and_other_topics_are_refused() -> None:
    shown = CliRunner().invoke(cli, ["help", "build"]).stdout
    assert shown == CliRunner().invoke(cli, ["build", "--help"]).stdout
    assert "tokkit help TOPIC explains formats, " in CliRunner().invoke(cli, ["help"]).stdout
    error = CliRunner().invoke(cli, ["help", "nonsense"]).exception
    assert isinstance(error, UsageError)


def test_each_stage_names_the_command_that_may_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a b.txt").write_text("The cat sat. It purred.\n\nA dog ran. It barked.\n\n" * 9)
    command = ["train", "a b.txt", "-o", "tokenizer", "--vocab-size", "40", "--workers", "0"]
    command += ["--documents", "line"]
    followed = []
    for _ in range(3):
        ended = CliRunner().invoke(cli, command)
        assert ended.exit_code == 0, ended.output
        (line,) = re.findall(r"^tokkit: next: tokkit (.*)$", ended.stderr, re.MULTILINE)
        followed.append(line)
        command = [*line.replace("'a b.txt'", "a?b.txt").split(), "--workers", "0"]
    assert followed == [
        "encode 'a b.txt' -t tokenizer -o tokens --documents line",
        "build tokens -o instances",
        "pretrain instances -o run",
    ]
