"""Small runs of ``train``, in this process or in one of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest

from tokkit.errors import TokkitError
from tokkit.shards.arrow import text_arrays
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.training_record import TrainingRecord
from tokkit.vocab.word_counts import WordCounts

SCRIPT = """
import json, sys
from pathlib import Path
from tokkit.engine.local import import_single_threaded

import_single_threaded()  # as the command does, so that its workers are copies
from tokkit.errors import TokkitError
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.train import train

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    options["output"] = Path(options["output"])
    options["inputs"] = tuple(options["inputs"])
    try:
        train(TrainConfig(**options))
    except TokkitError as error:
        sys.exit(f"{error.exit_status}: {error}")
"""


def word_counts(counts: Mapping[bytes, int]) -> WordCounts:
    """Return the words of a mapping."""
    words = sorted(counts)
    return WordCounts(*text_arrays(words), np.array([counts[word] for word in words], np.int64))


SENTENCES = (
    "The cat sat on the mat, and the cat was fat.",
    "A dog sat on the log; the dog was a hog!",
    "[MASK] the [MASK] is not a mask.",
)


def run(corpus: Path, output: Path, **options: Any) -> TrainingRecord:
    size = 280 if options.get("model") == "bpe" else 50
    options = {"vocab_size": size, "workers": 0, "held_out": 0.0, **options}
    return train(TrainConfig(inputs=(str(corpus),), output=output, **options))


def fill(corpus: Path, output: Path, **options: Any) -> TrainingRecord:
    """Learn as many tokens as the corpus gives; asking for too many shows that number."""
    with pytest.raises(TokkitError, match=r"pass --vocab-size \d+ or less, or more text") as error:
        run(corpus, output, vocab_size=1 << 20, **options)
    size = int(re.findall(r"pass --vocab-size (\d+)", str(error.value))[0])
    return run(corpus, output, vocab_size=size, **options)


def run_apart(
    output: Path, *inputs: str, seed: int | None = None, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start training in a process of its own; with a seed, in one whose hashes depend on it."""
    script = output.parent / "run_train.py"
    if not script.exists():  # another process may be about to read it
        script.write_text(SCRIPT)
    start = forkserver.Popen if seed is None else subprocess.Popen
    return start(
        [
            sys.executable,
            str(script),
            json.dumps({"inputs": inputs, "output": str(output), "progress": False, **options}),
        ],
        env={**os.environ, "PYTHONHASHSEED": str(seed or 0)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
