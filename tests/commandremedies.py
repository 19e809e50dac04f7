"""Commands that fail, and that succeed once what their error advises has been done."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tinytokenizers import write_vocab

from tokkit.cli import cli
from tokkit.errors import TokkitError

Files = dict[str, str]
# Texts to write, commands of which the last fails, a part of its error, where {} stands for anything,
# and then the texts to write and the commands that succeed as it advises. A command may read a file,
# as in "tokenize -t tokenizer < text", and a surrogate in a text or a name is a byte of no UTF-8.
Row = tuple[Files, list[str], str, Files, list[str]]
_TEXT = "The cat sat. A mat is on the cat.\n\nA cat. The mat sat on it.\n\n"
_TRAIN = "train in -o trained --vocab-size 24 --held-out 0"
_ENCODE = "encode in -t tokenizer -o tokens"
_BUILD = "build tokens -o instances --max-seq-length 16 --eval-fraction 0.2"
# Folders beyond those that every test needs, and the commands that make them.
_OF_RUNS = (
    _BUILD.replace("instances", "instances-sop") + " --objective sop",
    _BUILD.replace("instances", "static") + " --masking static",
    _BUILD.replace("instances", "mlm") + " --objective mlm",
    "build tokens -o gpt --max-seq-length 16 --eval-fraction 0 --objective clm",
    "build tokens -o long --max-seq-length 600",
    "encode in -t cased -o cased-tokens",
    "build cased-tokens -o cased-instances --max-seq-length 16",
    "pretrain instances -o run --preset tiny --max-steps 2 --batch-size 4 --device cpu --threads 1",
)


_OF_THE_SYSTEM = {"cp", "ln", "mkfifo", "mv", "rm", "sed"}


def call(command: str) -> str:
    """Run a command in this process; return its error, or "" after success."""
    arguments = shlex.split(command)
    if arguments[0] in _OF_THE_SYSTEM:
        subprocess.run([*map(os.fsencode, arguments)], check=True)
        return ""
    content = None
    if "<" in arguments:
        *arguments, _, name = arguments
        content = Path(name).read_bytes()
    if arguments[0] in ("train", "encode", "build"):
        arguments += ["--workers", "0", "--no-progress"]
    result = CliRunner().invoke(cli, arguments, input=content)
    if isinstance(result.exception, TokkitError):
        return str(result.exception)
    if result.exit_code == 0:
        return ""
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


def succeed(command: str) -> None:
    """Run a command in this process, which must succeed."""
    error = call(command)
    assert not error, (command, error)


def make_folders(work: Path) -> Path:
    """Write a corpus, two tokenizers, a token and an instance folder into a folder; return it."""
    (work / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (work / "in" / name).write_text(_TEXT * 20)
    write_vocab(work / "tokenizer")
    write_vocab(work / "cased", do_lower_case=False)
    return _make(work, (_TRAIN, _ENCODE, _BUILD))


def make_run(work: Path) -> Path:
    """Add instances of other kinds and a run to what ``make_folders`` wrote; return the folder."""
    return _make(work, _OF_RUNS)


def _make(work: Path, commands: tuple[str, ...]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for command in commands:
            succeed(command)
    return work


def follow(row: Row) -> None:
    """Check, in the working folder, that the last of some commands fails, and that its remedy works."""
    files, commands, fault, mended, others = row
    _write(files)
    *before, last = commands
    for command in before:
        succeed(command)
    error = call(last)
    for part in fault.split("{}"):
        assert part in error, error
    _write(mended)
    for command in others:
        succeed(command)


def _write(files: Files) -> None:
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, errors="surrogateescape")
