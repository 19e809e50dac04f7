"""Completion of command lines by bash, zsh and fish.

``tokkit --install-completion zsh`` writes click's script for the shell, and a line in the file that
the shell reads when it starts, so that it finds the script:

    bash   ~/.local/share/tokkit/completion.bash    a line in ~/.bashrc
    zsh    ~/.local/share/tokkit/completion.zsh     a line in ~/.zshrc
    fish   ~/.config/fish/completions/tokkit.fish   fish finds it there

The script asks ``tokkit`` itself, with ``_TOKKIT_COMPLETE`` in the environment, what may follow.
"""

import os
import shlex
from pathlib import Path

import click
from click.shell_completion import get_completion_class, shell_complete

from tokkit.cli import COMPLETION
from tokkit.errors import wrap_os_errors

# click's script for zsh needs what compinit defines, which not every ~/.zshrc calls.
_ZSH_START = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"


def complete(group: click.Group) -> int:
    """Answer a shell that asks what may follow, and return the exit status."""
    return shell_complete(group, {}, "tokkit", COMPLETION, os.environ[COMPLETION])


def install_completion(group: click.Group, shell: str) -> list[Path]:
    """Write the completion script of a shell, and return the files that have changed.

    Raises:
        TokkitError: if a file cannot be written.
    """
    maker = get_completion_class(shell)
    assert maker is not None  # noqa: S101  click knows these shells
    source = maker(group, {}, "tokkit", COMPLETION).source()
    script, start = find_files(shell)
    with wrap_os_errors(script):
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text((_ZSH_START if shell == "zsh" else "") + source)
    if start is None:
        return [script]
    line = f". {shlex.quote(str(script))}  # completion of tokkit"
    with wrap_os_errors(start):
        text = start.read_bytes() if start.is_file() else b""
        if line.encode() in text.splitlines():
            return [script]
        with start.open("ab") as file:
            file.write(b"\n" * (text[-1:] not in (b"", b"\n")) + f"{line}\n".encode())
    return [script, start]


def find_files(shell: str) -> tuple[Path, Path | None]:
    """Return the script of a shell, and the file with which it starts if that must name it."""
    home = Path.home()
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / "tokkit.fish", None
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    start = home / ".bashrc"
    if shell == "zsh":
        start = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
    return data / "tokkit" / f"completion.{shell}", start
