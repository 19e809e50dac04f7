"""``tokkit`` and ``python -m tokkit``, as ``torchrun -m tokkit pretrain …`` starts it."""

# The built-in part of signal, which itself imports for milliseconds before there is a handler.
import _signal  # type: ignore[import-not-found]
import os


def main() -> None:
    """Run the command; Ctrl-C ends it with one line, even while it is imported."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _interrupt)
    from tokkit.cli import main as run

    run()


def _interrupt(_number: int, _frame: object) -> None:
    """End the process before a stage starts, which handles signals itself."""
    os.write(2, b"tokkit: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
