"""``tokkit`` and ``python -m tokkit``, as ``torchrun -m tokkit pretrain …`` starts it."""

# The built-in part of signal, which itself imports for milliseconds before there is a handler.
import _signal  # type: ignore[import-not-found]
import os
import sys


def main() -> None:
    """Run the command; Ctrl-C ends it with one line, even while it is imported."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _interrupt)
    from tokkit.cli import main as run

    try:
        run()
    except SystemExit as end:
        _leave(end.code)
        raise


def _leave(status: object) -> None:
    """End the process as Python does, but leave its objects to the system: to free them takes 60 ms.

    Returns where Python must do it: other threads still run, or a stream cannot be flushed.
    """
    import atexit
    import threading

    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if not isinstance(status, int) or len(others) > 1:
        return
    atexit._run_exitfuncs()  # noqa: SLF001  nothing else calls them
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(status)


def _interrupt(_number: int, _frame: object) -> None:
    """End the process before a stage starts, which handles signals itself."""
    os.write(2, b"tokkit: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
