"""``python -m tokkit``: the command, as ``torchrun -m tokkit pretrain …`` starts it."""

from tokkit.cli import main

if __name__ == "__main__":
    main()
