"""Requests to servers, each in a thread of its own.

A library that waits for a server handles no signal, and some wait for minutes. Here Ctrl-C ends a
request at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

NUM_REQUESTS = 64  # at a time, of small files
_CALLS_PER_THREAD = 8  # that wait for a thread, or to be fetched
# Threads whose names begin so wait for a server, and are not waited for at exit.
REQUEST_THREAD = "request to a store"


def call_in_thread(
    function: Callable[..., Any], *arguments: Any, seconds: float | None = None
) -> Any:
    """Call a function in another thread, so that this one handles signals meanwhile.

    A thread of ``map_in_threads`` handles none, so it calls the function itself, and ``map_in_threads``
    has the time.

    Raises:
        TimeoutError: it takes longer than ``seconds``.
        Exception: what the function raises.
    """
    if threading.current_thread().name.startswith(REQUEST_THREAD):
        return function(*arguments)
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(*arguments), None))
        except BaseException as error:  # noqa: BLE001  a panic of Rust is no Exception
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
    function: Callable[[T], R],
    values: Iterable[T],
    num_threads: int = NUM_REQUESTS,
    seconds: float | None = None,
) -> Iterator[R]:
    """Call a function for several values at a time; calls that wait end with the generator.

    Raises:
        TimeoutError: nothing comes for longer than ``seconds``.
    """
    threads = ThreadPoolExecutor(num_threads, REQUEST_THREAD)
    calls = (threads.submit(function, value) for value in values)
    try:
        answers = deque(
            islice(calls, _CALLS_PER_THREAD * num_threads)
        )  # not all, which take memory
        while answers:
            answer = answers.popleft().result(seconds)
            answers.extend(islice(calls, 1))
            yield answer
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()
