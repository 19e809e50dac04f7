"""What errors and log lines advise exists: every option and command that they name."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from tokkit.cli import cli

PACKAGE = Path(__file__).parent.parent / "tokkit"
OPTION = re.compile(r"(?<![\w}/-])--[a-z][a-z0-9-]*[a-z0-9](?![-{])")
COMMAND = re.compile(r"\btokkit (?!run\.)([a-z]+)")
# "encode with --sentences auto" names an option of another command than the one that fails.
ADVICE = re.compile(
    r"\b(train|encode|build|built|pretrain)(?:(?: \w+){0,3}? with(?:out)?(?: a (?:larger|smaller))?)? "
    r"(--[a-z-]*[a-z])"
)
# The commands whose work a room does; others serve all of them.
COMMANDS_OF = {
    "corpus": ("train", "encode"),
    "vocab": ("train",),
    "encoding": ("encode",),
    "instances": ("build",),
    "pretraining": ("pretrain", "inspect"),
}
# Options of other programs, and words after "tokkit" that are no commands.
NO_COMMANDS = {"does", "folder", "or", "reads", "wrote"}
# How the instances were built that a run reads.
OF_INSTANCES = {"--masking", "--objective"}


CONTEXT = click.Context(cli)
COMMANDS = {
    name: found for name in cli.list_commands(CONTEXT) if (found := cli.get_command(CONTEXT, name))
}


@cache
def options_of(command: str) -> set[str]:
    return flags_of(COMMANDS[command]) | {"--help"}


def flags_of(command: click.Command) -> set[str]:
    return {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}


ALL_OPTIONS = set().union(*map(options_of, COMMANDS), flags_of(cli))


def messages_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every text in a module that is no docstring, with ``{}`` for what is filled in."""
    tree = ast.parse(path.read_text())
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Expr)
        for value in (node.values if isinstance(node, ast.JoinedStr) else [node.value])
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts = (str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield node.lineno, "".join(texts)
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield node.lineno, str(node.value)


@cache
def options_in(room: str) -> set[str]:
    """The options of the commands whose work a room does."""
    commands = COMMANDS_OF.get(room)
    return set().union(*map(options_of, commands), OF_INSTANCES) if commands else ALL_OPTIONS


def test_every_option_and_command_in_a_message_exists() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        check_messages(path, options_in(path.relative_to(PACKAGE).parts[0]))


def check_messages(path: Path, own: set[str]) -> None:
    """Check the texts of a module, whose commands have these options."""
    for line, text in messages_of(path):
        where = f"{path}:{line}: {text}"
        for command in COMMAND.findall(text):
            assert command in COMMANDS or command in NO_COMMANDS, where
        named = set(OPTION.findall(text))
        assert named <= ALL_OPTIONS, where
        others = set()
        for verb, option in ADVICE.findall(text):
            command = "build" if verb == "built" else verb
            assert option in options_of(command), where
            others.add(option)
        if not COMMAND.search(text):
            assert named - others <= own, where
