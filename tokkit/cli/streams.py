"""Standard streams: everything that a command prints goes through ``echo``.

Streams that are closed, as by ``2>&-``, are opened on the null device first: otherwise the next file
that is opened would become the stream, and what a library prints would be written into it.
"""

import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, cast

import click

from tokkit.errors import TokkitError, escape_controls, format_line, name_uris


class OutputError(TokkitError):
    """The result of a command could not be printed."""


class ResultStream(io.TextIOWrapper):
    """Standard output that raises an ``OutputError`` where it cannot be written.

    Args:
        buffer: of the stream.
        is_closed: the process was started without a standard output.
    """

    def __init__(self, buffer: Any, *, is_closed: bool = False) -> None:
        super().__init__(buffer, errors="backslashreplace")
        self.is_closed = is_closed

    def write(self, text: str) -> int:
        """Write text."""
        if self.is_closed:
            raise OutputError("standard output: is closed; the result could not be printed")
        with _report_full_output():
            return super().write(text)

    def flush(self) -> None:
        """Pass what is buffered to the operating system."""
        with _report_full_output():
            super().flush()


@contextmanager
def _report_full_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"standard output: {reason}; the result could not be printed") from error


def open_streams() -> None:
    """Open the standard streams that are closed, and report it where output cannot be written."""
    has_output = sys.stdout is not None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.dup2(descriptor, number)
            os.set_inheritable(number, True)  # noqa: FBT003  it takes no names
            if descriptor > number:
                os.close(descriptor)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, closefd=False, encoding="utf-8"))
    output = cast("io.TextIOWrapper", sys.stdout)
    if not has_output:
        sys.stdout = ResultStream(output.detach(), is_closed=True)
    elif output is sys.__stdout__:  # and not that of a test
        sys.stdout = ResultStream(output.buffer)


def discard_output() -> None:
    """Send what is still buffered to the null device, so that flushing it at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def echo(text: str = "", *, err: bool = False) -> None:
    """Print one line on standard output, or on standard error, without control characters.

    Args:
        text: the line; a line break in it, which may come from a file, is escaped like the others.
        err: print on standard error, where that can be written.
    """
    with suppress(OSError) if err else nullcontext():
        click.echo(format_line(text) if err else escape_controls(name_uris(text)), err=err)


def name_next(*arguments: object) -> None:
    """Print on standard error which command may follow."""
    echo(f"tokkit: next: {shlex.join(['tokkit', *map(str, arguments)])}", err=True)


def echo_lines(text: str, *, err: bool = False) -> None:
    """Print several lines."""
    for line in text.split("\n"):
        echo(line, err=err)


def echo_pages(text: str) -> None:
    """Print text in which controls are escaped, through a pager if the terminal is too small for it."""
    if sys.stdout.isatty() and text.count("\n") >= shutil.get_terminal_size().lines:
        click.echo_via_pager(text)  # has less show colours, or leaves them out
    else:
        click.echo(text, color=True)


def dim_label(line: str) -> str:
    """Return a line with its label, up to the first colon, dim."""
    return re.sub(r"[^\s:][^:]*:", "\x1b[2m\\g<0>\x1b[0m", line, count=1)


def shows_color(choice: str) -> bool:
    """Return whether standard output shows colours.

    Args:
        choice: ``always``, ``never``, or ``auto``: it is a terminal, and ``NO_COLOR`` is not set.
    """
    if choice != "auto":
        return choice == "always"
    is_dumb = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not is_dumb
