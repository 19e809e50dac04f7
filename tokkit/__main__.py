"""``tokkit`` and ``python -m tokkit``, as ``torchrun -m tokkit pretrain …`` starts it."""

import os
import signal


def main() -> None:
    """Run the command; Ctrl-C ends it with one line, even while it is imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    from tokkit.cli import main as run

    run()


def _interrupt(_number: int, _frame: object) -> None:
    """End the process before a stage has begun, which handles signals itself."""
    os.write(2, b"tokkit: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
