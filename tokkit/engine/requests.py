"""Requests to servers, each in a thread of its own.

A library that waits for a server handles no signal, and some wait for minutes. Here Ctrl-C ends a
request at once.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

NUM_REQUESTS = 32  # at a time, of small files
# Threads of this name wait for a server, and are not waited for at exit.
REQUEST_THREAD = "request to a store"


def call_in_thread(
    function: Callable[..., Any], *arguments: Any, seconds: float | None = None
) -> Any:
    """Call a function in another thread, so that this one handles signals meanwhile.

    Raises:
        TimeoutError: it takes longer than ``seconds``.
        Exception: what the function raises.
    """
    answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(*arguments), None))
        except Exception as error:  # noqa: BLE001  libraries raise errors of their own
            answers.put((None, error))

    threading.Thread(target=call, name=REQUEST_THREAD, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds} seconds") from None
    if error is not None:
        raise error
    return answer


def map_in_threads(
    function: Callable[[T], R], values: Iterable[T], num_threads: int = NUM_REQUESTS
) -> Iterator[R]:
    """Call a function for several values at a time; calls that wait end with the generator."""
    threads = ThreadPoolExecutor(num_threads)
    try:
        yield from threads.map(function, values)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
