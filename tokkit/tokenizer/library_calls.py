"""Calls of the tokenizers and sentencepiece libraries, which always end, whatever the tokenizer.

Patterns may take time that grows with the square of a text, or worse, and neither a signal nor an
exception interrupts the libraries. So a thread watches each call, and ends the process if the call
takes far more CPU time than any published tokenizer: 10 s, and 40 s for each megabyte, where the
slowest, of text that is digits alone, took 2 s for a megabyte.
What tokenizers, which is written in Rust, prints before it panics is kept off standard error: the
error says it in one line.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from tokkit.engine.unit import abort_work
from tokkit.errors import TokkitError
from tokkit.tokenizer.file_checks import check_parts

if TYPE_CHECKING:
    import tokenizers

_SECONDS = 10
_SECONDS_PER_CHARACTER = 4e-5
_POLL_SECONDS = 0.5
_LONGEST_SHOWN = 30


class LibraryError(TokkitError):
    """A library cannot encode a text."""


class _StandardError:
    """Counts the threads that keep standard error silent, which is one for the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_threads = 0
        self._saved = -1

    def silence(self) -> None:
        """Send what is printed to the null device."""
        with self._lock, suppress(OSError):
            if not self._num_threads:
                self._saved = os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
            self._num_threads += 1

    def restore(self) -> None:
        """Print again, once no thread keeps it silent."""
        with self._lock:
            self._num_threads = max(0, self._num_threads - 1)
            if not self._num_threads and self._saved >= 0:
                os.dup2(self._saved, 2)
                os.close(self._saved)
                self._saved = -1


_standard_error = _StandardError()


@contextmanager
def silence_panics() -> Iterator[None]:
    """Keep standard error silent within the block."""
    _standard_error.silence()
    try:
        yield
    finally:
        _standard_error.restore()


def is_library_fault(error: BaseException) -> bool:
    """Return whether a library raised an error: a panic, or an error of a general type."""
    return type(error) in (Exception, RuntimeError) or type(error).__name__ == "PanicException"


def load_library(definition: Mapping[str, Any], path: str) -> "tokenizers.Tokenizer":
    """Load a definition with the tokenizers library, without what would change ids silently."""
    import tokenizers

    # Truncation and padding would drop and add ids, and dropout would draw them at random.
    model = {name: value for name, value in definition["model"].items() if name != "dropout"}
    data = {**definition, "truncation": None, "padding": None, "model": model}
    check_parts(data, path)
    try:
        with silence_panics():
            return tokenizers.Tokenizer.from_str(msgspec.json.encode(data).decode())
    except BaseException as error:
        if not is_library_fault(error) and not isinstance(error, (ValueError, RecursionError)):
            raise
        raise TokkitError(
            f"{path}: the tokenizers library cannot load it ({error}); save it with a release of "
            f"transformers that uses tokenizers {tokenizers.__version__}"
        ) from error


def make_empty_library(
    normalizer: Mapping[str, Any] | None, pre_tokenizer: Mapping[str, Any] | None = None
) -> Any:
    """Return a tokenizer of the library that has these parts, and no vocabulary to load."""
    import tokenizers

    definition = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    definition |= {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


@contextmanager
def watch_library(path: str, texts: list[str], *, seconds: float | None = None) -> Iterator[None]:
    """Watch a call that encodes texts.

    Args:
        path: the tokenizer, for errors.
        texts: what is encoded.
        seconds: CPU time that the call may take; None for what the module says.

    Raises:
        LibraryError: if the library fails. If it does not return, the process ends.
    """
    num_chars = sum(map(len, texts))
    if seconds is None:
        seconds = _SECONDS + _SECONDS_PER_CHARACTER * num_chars
    begins = "".join(texts[:1])[:_LONGEST_SHOWN]
    done = threading.Event()
    fault = (
        f"{path}: its library did not encode {num_chars:,} characters of text, which begin with "
        f"{begins!r}, in {seconds:,.0f} s; leave the text out, or use another tokenizer"
    )
    watch = threading.Thread(target=_watch, args=(done, seconds, fault), daemon=True)
    watch.start()
    try:
        with silence_panics():
            yield
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise LibraryError(
            f"{path}: its library cannot encode the text that begins with {begins!r} ({error}); "
            f"leave the text out, or use another tokenizer"
        ) from error
    finally:
        done.set()
        watch.join()


def _watch(done: threading.Event, seconds: float, fault: str) -> None:
    """End the process if it takes more CPU time than these seconds until it is done."""
    deadline = time.process_time() + seconds
    while not done.wait(min(_POLL_SECONDS, seconds)):
        if time.process_time() > deadline:
            _standard_error.restore()
            abort_work(fault)


@contextmanager
def single_thread() -> Iterator[None]:
    """Let the tokenizers library use the calling thread alone within the block.

    The library reads its switch from the environment at each call, but makes its thread pool once
    in a process, with as many threads as ``RAYON_NUM_THREADS`` says at the first call.
    """
    switches = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)  # another thread may have removed it
            else:
                os.environ[name] = value
