"""Errors that a user sees as one line with the file, the fault and the remedy.

The command line prints the line and exits with ``exit_status``. Any other exception is a bug and
keeps its traceback.
"""

import errno
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A folder in it has what is on an object store, as .tokkit-stores/s3/BUCKET/KEY.
MIRRORS = ".tokkit-stores"
_MIRROR = re.compile(rf"[^\s'\"]*/{re.escape(MIRRORS)}/(s3|gs)/")


def name_uris(text: str) -> str:
    """Return text with the URIs of objects in place of the paths of their copies here."""
    return _MIRROR.sub(r"\1://", text) if MIRRORS in text else text


class TokkitError(Exception):
    """A fault in data or environment; the message is one line."""

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(name_uris(message))


class UsageError(TokkitError):
    """A wrong option, or a wrong combination of options."""

    exit_status = 2


class Interrupted(TokkitError):  # noqa: N818  it is a request that was honoured, not a fault
    """A signal ended the work; what was finished is kept.

    Args:
        message: line for the user.
        exit_status: 130 after SIGINT, 143 after SIGTERM, as shells expect.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        """Keep the exit status when the error is pickled."""
        return type(self), (str(self), self.exit_status)


_REMEDIES = {
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied; check who owns it",
    errno.EPERM: "permission denied; check who owns it",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "no space left on the device; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some and run the same command again",
    errno.EFBIG: "larger than the file system or a limit (ulimit -f) allows",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EEXIST: "a file or a link to nothing is there; remove it, or choose another name",
    errno.ELOOP: "a link that leads to itself; correct or remove it",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files; raise the limit, as with ulimit -n 1024",
    errno.ENFILE: "the system has too many open files; close some programs",
    errno.ENOMEM: "out of memory; use fewer --workers, or raise a limit (ulimit -v)",
    errno.EIO: "the device reported an input/output error",
}


def describe_os_error(error: OSError) -> str:
    """Return what the operating system refused, and a remedy if there is a common one."""
    known = _REMEDIES.get(error.errno or 0)
    return known or (error.strerror or str(error)).lower()


@contextmanager
def wrap_os_errors(path: str | Path) -> Iterator[None]:
    """Turn an ``OSError`` raised inside the block into a ``TokkitError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise TokkitError(f"{path}: {describe_os_error(error)}") from error


def refuse_loop(path: Path) -> None:
    """Raise a ``TokkitError`` if links of a path lead to themselves, which looks as if nothing is there."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TokkitError(f"{path}: {_REMEDIES[errno.ELOOP]}") from error


# C0 and C1 controls, which begin escape sequences, controls of bidirectional text, separators of
# lines and paragraphs, and surrogates, which stand for bytes of a file name that are not UTF-8.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape_controls(text: str) -> str:
    r"""Return text with everything escaped that a terminal may obey, as ``\n`` or ``\u001b``.

    JSON stays the same JSON.
    """
    return _CONTROLS.sub(lambda m: "\\n" if m[0] == "\n" else f"\\u{ord(m[0]):04x}", text)


def keep_ends(text: str, width: int = 200) -> str:
    """Return text, or of one that is longer than ``width`` characters its two ends."""
    half = width // 2
    return text if len(text) <= width else f"{text[:half]} … {text[-half:]}"


def format_line(text: str) -> str:
    """Return a line for standard error, which names files and what they hold at most in part."""
    return escape_controls(keep_ends(name_uris(text), 4000))


def require(condition: bool, message: str) -> None:  # noqa: FBT001  reads as an assertion
    """Raise a ``UsageError`` unless ``condition`` holds; used to check the fields of configs."""
    if not condition:
        raise UsageError(message)


def require_library(name: str, purpose: str, extra: str) -> None:
    """Raise a ``TokkitError`` if a library is not installed, naming the extra that has it."""
    if importlib.util.find_spec(name) is None:
        raise TokkitError(
            f"{name}: is not installed; {purpose} needs it: pip install 'tokkit[{extra}]'"
        )


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 file`` or ``2,000 files``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
