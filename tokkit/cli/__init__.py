"""The commands: each makes a config of its options, calls one function, and prints the result.

    command_options.py     click options, made of what the configs declare; recipes use them, too
    stages.py              train, encode, build
    pretrain.py            pretrain
    run.py, recipe.py      all stages of a recipe; reading a recipe, and init, which writes one
    inspect.py             inspect, verify, tokenize, report
    output.py              what results look like; pretraining_output.py those of runs
    streams.py             all that is printed goes through ``echo``
    help.py                parts of the README

An error becomes one line on standard error and an exit status here and nowhere else; a bug keeps
its traceback. Only this package imports click.
"""

import gc
import io
import logging
import os
import resource
import shlex
import sys
import threading
from importlib import import_module
from pathlib import Path

import click

from tokkit import __version__
from tokkit.cli.streams import OutputError, discard_output, echo, echo_lines, open_streams
from tokkit.engine.progress import LineHandler
from tokkit.engine.requests import REQUEST_THREAD
from tokkit.errors import TokkitError, describe_os_error, wrap_os_errors

# With 1 GB, libraries that could not allocate memory ended the process by a signal.
MIN_ADDRESS_SPACE = 2 << 30
COMPLETION = "_TOKKIT_COMPLETE"
SHELLS = ("bash", "zsh", "fish")  # whose completion can be installed
# click's script for zsh needs what compinit defines, which not every ~/.zshrc calls.
_ZSH_START = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"
# The modules of the commands, in the order in which they are used.
_MODULES = {
    "train": "tokkit.cli.stages",
    "encode": "tokkit.cli.stages",
    "build": "tokkit.cli.stages",
    "pretrain": "tokkit.cli.pretrain",
    "run": "tokkit.cli.run",
    "inspect": "tokkit.cli.inspect",
    "verify": "tokkit.cli.inspect",
    "tokenize": "tokkit.cli.inspect",
    "report": "tokkit.cli.inspect",
    "init": "tokkit.cli.recipe",
    "help": "tokkit.cli.help",
}


class WorkflowGroup(click.Group):
    """A group that imports a command when it is called: the options of all take 30 ms."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        del ctx
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        del ctx
        if cmd_name not in _MODULES:
            return None
        command: click.Command = getattr(import_module(_MODULES[cmd_name]), cmd_name)
        return command


def _install_completion(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    """Write click's completion script for a shell, and name it in the file that the shell starts with.

    The script asks ``tokkit`` itself, with ``_TOKKIT_COMPLETE`` in the environment, what may follow.
    """
    if shell is None or context.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "tokkit"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    script, start = {
        "bash": (data / "completion.bash", home / ".bashrc"),
        "zsh": (data / "completion.zsh", Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"),
        "fish": (config / "fish" / "completions" / "tokkit.fish", None),  # where fish finds it
    }[shell]
    maker = get_completion_class(shell)
    assert maker is not None  # noqa: S101  click knows these shells
    with wrap_os_errors(script):
        script.parent.mkdir(parents=True, exist_ok=True)
        source = maker(cli, {}, "tokkit", COMPLETION).source()
        script.write_text((_ZSH_START if shell == "zsh" else "") + source)
    echo(f"{script}: written")
    line = f". {shlex.quote(str(script))}  # completion of tokkit".encode()
    if start is not None:
        with wrap_os_errors(start):
            text = start.read_bytes() if start.is_file() else b""
            if line not in text.splitlines():
                with start.open("ab") as file:
                    file.write(b"\n" * (text[-1:] not in (b"", b"\n")) + line + b"\n")
                echo(f"{start}: written")
    echo(f"tokkit: start {shell} again to use it", err=True)
    context.exit()


@click.group(cls=WorkflowGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokkit")
@click.option(
    "--install-completion",
    "shell",
    type=click.Choice(SHELLS),
    expose_value=False,
    callback=_install_completion,
    is_eager=True,
    help="Let a shell complete commands, options and files from its next start on.",
)
def cli() -> None:
    """From raw text to a pretrained transformer, one command per stage.

    Every stage reads a folder of plain files and writes one. Run the same command again to resume
    an interrupted stage; a finished one is up to date and is not repeated.
    """
    _check_address_space()


def _check_address_space() -> None:
    """Check that libraries can be loaded.

    Raises:
        TokkitError: if a limit leaves no room for them.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY != limit < MIN_ADDRESS_SPACE:
        raise TokkitError(
            f"{limit >> 20} MiB of address space are not enough to load the libraries; raise the "
            f"limit to {MIN_ADDRESS_SPACE >> 20} MiB (ulimit -v {MIN_ADDRESS_SPACE >> 10})"
        )


def _log_to_standard_error() -> None:
    """Show the messages of tokkit, and of no library, as plain lines."""
    logger = logging.getLogger("tokkit")
    logger.handlers = [LineHandler()]  # a single one, even if a program calls main twice
    logger.setLevel(logging.INFO)


def main() -> None:
    """Run the command line and exit: 0 done, 1 a fault in data or environment, 2 wrong usage."""
    # Imports make 70,000 objects that stay; collecting garbage among them took 0.14 s.
    gc.set_threshold(100_000)
    open_streams()
    _log_to_standard_error()
    if COMPLETION in os.environ:  # a shell asks what may follow
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "tokkit", COMPLETION, os.environ[COMPLETION]))
    status = _run(sys.argv[1:])
    is_waiting = any(t.name.startswith(REQUEST_THREAD) for t in threading.enumerate())
    if is_waiting or (status and _has_memory_limit()):
        # A server does not answer; at exit, the library that waits for it would be waited for. And
        # libraries that had too little memory to be loaded crash at exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    """Run one command line and return its exit status.

    ``cli.main`` does the same, but reports a closed pipe as a failure.
    """
    try:
        with cli.make_context("tokkit", arguments) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        echo_lines(shown.getvalue().removesuffix("\n"), err=True)
        return error.exit_code
    except TokkitError as error:
        if isinstance(error, OutputError):
            discard_output()
        echo(f"tokkit: {error}", err=True)
        return error.exit_status
    except (click.Abort, KeyboardInterrupt):
        echo("tokkit: interrupted", err=True)
        return 130
    except BrokenPipeError:
        discard_output()  # the reader has enough
    except (OSError, MemoryError, ImportError, SystemError) as error:
        if _is_out_of_memory(error):
            fault = "out of memory; use fewer --workers, or raise a limit (ulimit -v)"
        elif isinstance(error, OSError):
            fault = f"{error.filename or 'the system'}: {describe_os_error(error)}"
        else:
            raise
        echo(f"tokkit: {fault}", err=True)
        return 1
    return 0


def _has_memory_limit() -> bool:
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory was short, also for a library to be loaded into it."""
    while error is not None:
        if isinstance(error, MemoryError) or "failed to map segment" in str(error):
            return True
        # So end modules that do not check what they allocate; without a limit it is their bug.
        if isinstance(error, SystemError) and _has_memory_limit():
            return True
        error = error.__cause__ or error.__context__
    return False
