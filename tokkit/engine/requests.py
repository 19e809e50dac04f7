"""Requests to servers, each in a thread of its own.

A library that waits for a server handles no signal, and some wait for minutes. Here Ctrl-C ends a
request at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

NUM_REQUESTS = 64  # at a time, of small files
_CALLS_PER_THREAD = 8  # that wait for a thread, or to be fetched
# Threads whose names begin so wait for a server, and are not waited for at exit.
REQUEST_THREAD = "request to a store"


def call_in_thread(function: Callable[..., R], *arguments: Any, seconds: float | None = None) -> R:
    """Call a function in another thread, so that this one handles signals meanwhile.

    A thread of ``map_in_threads`` handles none, so it calls the function itself, and ``map_in_threads``
    has the time.

    Raises:
        TimeoutError: it takes longer than ``seconds``.
        Exception: what the function raises.
    """
    if threading.current_thread().name.startswith(REQUEST_THREAD):
        return function(*arguments)
    answer: Future[R] = Future()

    def call() -> None:
        try:
            answer.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001  a panic of Rust is no Exception
            answer.set_exception(error)

    threading.Thread(target=call, name=REQUEST_THREAD, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():  # it is the function's own
            raise
        raise TimeoutError(f"no answer within {seconds} seconds") from None


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
