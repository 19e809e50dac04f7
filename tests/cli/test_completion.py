"""Completion works in a real bash, zsh and fish, once it is installed as tokkit says."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokkit.cli import SHELLS, cli

PROGRAMS = Path(sys.executable).parent
START = {"bash": ["bash", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}
TIMEOUT = 60.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def install(shell: str) -> None:
    ended = CliRunner().invoke(cli, ["--install-completion", shell])
    assert ended.exit_code == 0, ended.exception


def type_into(shell: str, keys: str, expected: str, home: Path) -> str:
    """Type into an interactive shell until its screen shows what is expected."""
    environment = {
        **{
            name: os.environ[name]
            for name in ("PYTHONPATH", "NUMBA_CACHE_DIR")
            if name in os.environ
        },
        "PATH": f"{PROGRAMS}:/usr/bin:/bin",
        "HOME": str(home),
        "TERM": "dumb",
        "PS1": "$ ",
        "HISTFILE": "/dev/null",
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        START[shell], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=home
    ) as process:
        os.close(theirs)
        screen, deadline, is_typed = "", time.monotonic() + TIMEOUT, False
        while expected not in screen and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.5)[0]:
                screen += os.read(ours, 4096).decode(errors="replace")
            elif not is_typed:
                os.write(ours, keys.encode())
                is_typed = True
        process.kill()
    os.close(ours)
    return screen


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell: str, home: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    install(shell)
    assert "tokkit encode" in type_into(shell, "tokkit enc\t", "tokkit encode", home)
    shown = type_into(shell, "tokkit build --max-s\t", "--max-seq-length", home)
    assert "tokkit build --max-seq-length" in shown
    (home / "corpus of cats.txt").write_text("a")
    shown = type_into(shell, "tokkit train corp\t", "cats.txt", home)
    assert "cats.txt" in shown


@pytest.mark.usefixtures("home")
def test_fish_completes_commands_and_options() -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish")
    install("fish")
    for typed, expected in (("tokkit enc", "encode"), ("tokkit build --max-s", "--max-seq-length")):
        ended = subprocess.run(
            ["fish", "-c", f"complete -C '{typed}'"],
            env={**os.environ, "PATH": f"{PROGRAMS}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in ended.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_installing_again_changes_nothing(shell: str, home: Path) -> None:
    start = home / f".{shell}rc"
    start.write_text("export MINE=1")
    install(shell)
    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    install(shell)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == files
    assert start.read_text().startswith("export MINE=1")
