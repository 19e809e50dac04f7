"""Where a folder is needed, every command refuses a URI of a data set before it reads anything."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tokkit.cli import cli
from tokkit.cli.command_options import LocalPath
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import UsageError

CONTEXT = click.Context(cli)
COMMANDS = {
    name: command
    for name in cli.list_commands(CONTEXT)
    if (command := cli.get_command(CONTEXT, name))
}
URI = "hf://datasets/owner/name"


def command_lines() -> Iterator[list[str]]:
    """Each command with a URI for each of its paths in turn, and what it requires besides."""
    for name, command in COMMANDS.items():
        for uri in (param for param in command.params if isinstance(param.type, click.Path)):
            arguments = [name]
            for param in command.params:
                if param is uri or param.required:
                    flag = [param.opts[-1]] if isinstance(param, click.Option) else []
                    arguments += [*flag, URI if param is uri else "none"]
            yield arguments


@pytest.mark.parametrize("arguments", [*command_lines()], ids=" ".join)
def test_every_command_refuses_a_uri_in_place_of_a_path(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith(f"{URI}: is a URI")
    assert result.exception.exit_status == 2
    assert not [*tmp_path.iterdir()]


def test_all_paths_of_commands_are_local() -> None:
    """So the test above has them all: ``-o`` of each stage, folders, shards and recipes."""
    paths = {
        f"{name} {param.name}"
        for name, command in COMMANDS.items()
        for param in command.params
        if isinstance(param.type, click.Path)
    }
    assert paths >= {
        *("train output", "encode output", "build output", "pretrain output"),
        *("train save_counts", "encode tokenizer", "build tokens", "pretrain instances"),
        *("run recipe", "inspect path", "verify path"),
    }
    assert all(
        isinstance(param.type, LocalPath)
        for command in COMMANDS.values()
        for param in command.params
        if isinstance(param.type, click.Path)
    )


@pytest.mark.parametrize("uri", [URI, "https://b/x", "file:///tmp/x", "hdfs:/x"])
def test_a_config_refuses_a_uri_also_without_a_command_line(uri: str) -> None:
    for output, tokenizer in ((Path(uri), Path("t")), (Path("o"), Path(uri))):
        with pytest.raises(UsageError, match=r"://.*: is a URI"):
            EncodeConfig(inputs=("a.txt",), output=output, tokenizer=tokenizer)


@pytest.mark.parametrize("last", ["corpus", "pretrain"])
def test_a_recipe_refuses_a_uri_as_its_output(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f'output = "{URI}"\n[corpus]\ncommand = "echo text"\n[train]\n[pretrain]\n'
    Path("recipe.toml").write_text(text)
    result = CliRunner().invoke(cli, ["run", "recipe.toml", "--until", last])
    assert isinstance(result.exception, UsageError)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_other_names_with_a_colon_are_paths() -> None:
    for name in ("a:b/c", "C:/x", "/data/s3:/x", "2026-11-28T10:00/x"):
        EncodeConfig(inputs=("a.txt",), output=Path(name), tokenizer=Path("t"))
