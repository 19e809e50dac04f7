"""``train`` knows what is done already, in a finished folder and in one of a killed run."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forkserver
import pytest
from trainruns import SENTENCES, files, run, run_apart

from tokkit.corpus.units import Group
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab import counting
from tokkit.vocab.counting import CountContext
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.training_record import TrainingRecord


def test_the_same_command_again_has_nothing_to_do(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = run(corpus, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run(corpus, tmp_path / "out", workers=2, progress=False) == first
    assert "up to date" in caplog.text
    os.utime(corpus, ns=(1, 1))
    assert run(corpus, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_lost_its_tokenizer_is_made_again(tmp_path: Path, corpus: Path) -> None:
    run(corpus, tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out" / "tokenizer.json").unlink()
    run(corpus, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_another_run_s_folder_is_refused_unless_overwritten(tmp_path: Path, corpus: Path) -> None:
    run(corpus, tmp_path / "out")
    with pytest.raises(TokkitError, match="--vocab-size was 50, not 40"):
        run(corpus, tmp_path / "out", vocab_size=40)
    training = run(corpus, tmp_path / "out", vocab_size=40, overwrite=True)
    assert training.options["vocab_size"] == 40
    corpus.write_text(corpus.read_text().replace("cat", "rat"))
    os.utime(corpus, ns=(1, 1))
    with pytest.raises(TokkitError, match=r"corpus\.txt has changed since"):
        run(corpus, tmp_path / "out", vocab_size=40)
    run(corpus, tmp_path / "out", vocab_size=55, overwrite=True)
    assert "rat" in load_tokenizer(tmp_path / "out").tokens
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(TokkitError, match="not empty, and not made by tokkit"):
        run(corpus, tmp_path / "mine")


def test_what_differs_is_named_as_on_the_command_line(tmp_path: Path, corpus: Path) -> None:
    name = str(corpus)
    run(corpus, tmp_path / "out", weights={name: 2.0}, special_tokens=("[UNK]", "[MASK]"))
    options = {"weights": {name: 2.0}, "special_tokens": ("[UNK]", "[MASK]")}
    with pytest.raises(TokkitError, match=rf"--weight was {re.escape(name)}=2, not .*=0\.5\)"):
        run(corpus, tmp_path / "out", **{**options, "weights": {name: 0.5}})
    with pytest.raises(TokkitError, match=r"--weight was .*=2, not left out\)"):
        run(corpus, tmp_path / "out", **{**options, "weights": {}})
    with pytest.raises(TokkitError, match=r"--special-token was \[UNK\],\[MASK\], not \[UNK\]\)"):
        run(corpus, tmp_path / "out", **{**options, "special_tokens": ("[UNK]",)})
    (tmp_path / "alphabet.txt").write_text("xyz")
    with pytest.raises(TokkitError, match="--initial-alphabet was left out"):
        run(corpus, tmp_path / "out", **options, initial_alphabet=tmp_path / "alphabet.txt")


def test_standard_input_is_learned_from_like_a_file(tmp_path: Path, corpus: Path) -> None:
    expected = run(corpus, tmp_path / "file")
    process = run_apart(tmp_path / "pipe", "-", vocab_size=50, held_out=0.0)
    _, line = process.communicate(corpus.read_bytes())
    assert process.returncode == 0, line
    ours, theirs = files(tmp_path / "pipe"), files(tmp_path / "file")
    record = json.loads(ours.pop("training.json"))
    assert ours == {name: data for name, data in theirs.items() if name != "training.json"}
    assert record["inputs"] == [{**expected.inputs[0], "name": "stdin", "bytes": 0}]
    again = run_apart(tmp_path / "pipe", "-", vocab_size=50, held_out=0.0)
    _, line = again.communicate(corpus.read_bytes())
    assert line.startswith(b"1: ")
    assert b"standard input cannot be compared" in line
    assert not list((tmp_path / "pipe").rglob("*.tmp"))


PAUSED = """
import sys, time
from importlib import import_module
from pathlib import Path
from tokkit.errors import TokkitError
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

corpus, output, module, function = sys.argv[1:]

def pause(*arguments):
    Path(output).with_name("paused").touch()
    time.sleep(60)

setattr(import_module(module), function, pause)
try:
    train(TrainConfig(inputs=(corpus,), output=Path(output), vocab_size=50, workers=0))
except TokkitError as error:
    sys.exit(f"{error.exit_status}: {error}")
"""


@pytest.mark.parametrize(
    "moment",
    [
        ("tokkit.vocab.counting", "count_unit"),
        ("tokkit.vocab.trainers", "learn"),
        ("tokkit.vocab.train", "save_tokenizer"),
        ("tokkit.vocab.measure", "make_report"),
    ],
    ids=["counting", "learning", "writing", "measuring"],
)
def test_an_interrupted_run_leaves_a_folder_that_resumes(
    tmp_path: Path, corpus: Path, moment: tuple[str, str]
) -> None:
    """The run waits for the signal at that moment, however fast the machine is."""
    output = tmp_path / "out"
    process = forkserver.Popen(
        [sys.executable, "-c", PAUSED, corpus, output, *moment], stderr=subprocess.PIPE
    )
    while not (tmp_path / "paused").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, line = process.communicate(timeout=50)
    assert line.startswith(b"130: "), line
    assert not (output / "training.json").exists()
    with pytest.raises(TokkitError, match="unfinished"):
        load_tokenizer(output)
    run(corpus, output, held_out=0.01)
    run(corpus, tmp_path / "whole", held_out=0.01)
    assert files(output) == files(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from tokkit.vocab import counting, train
from tokkit.vocab.train_config import TrainConfig

count_unit = counting.count_unit

def count_or_die(context, group, *arguments):
    if group[0].name.endswith("3.txt"):
        os.kill(os.getpid(), signal.SIGKILL)
    return count_unit(context, group, *arguments)

counting.count_unit = count_or_die
train.UNIT_BYTES = 1  # each file is a unit
if __name__ == "__main__":
    output, *inputs = sys.argv[1:]
    train.train(TrainConfig(inputs=tuple(inputs), output=Path(output), vocab_size=60, workers=0))
"""


@pytest.fixture
def counted_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are counted from now on, each in a unit of its own."""
    names: list[str] = []
    count_unit = counting.count_unit

    def count(context: CountContext, group: Group, *arguments: Any) -> UnitResult:
        names.append(Path(group[0].name).name)
        return count_unit(context, group, *arguments)

    monkeypatch.setattr(counting, "count_unit", count)
    monkeypatch.setattr("tokkit.vocab.train.UNIT_BYTES", 1)
    return names


def test_what_a_killed_run_has_counted_is_not_counted_again(
    tmp_path: Path, counted_files: list[str]
) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_text(f"{SENTENCES[number % 3]} {number} times")
    ended = forkserver.run([sys.executable, "-c", KILLED, tmp_path / "out", *paths])
    assert ended.returncode == -signal.SIGKILL
    config = TrainConfig(
        inputs=tuple(map(str, paths)), output=tmp_path / "out", vocab_size=60, workers=0
    )
    with pytest.raises(TokkitError, match="--split-digits was off, not on"):
        train(replace(config, split_digits=True))
    train(config)
    assert counted_files == ["3.txt", "4.txt", "5.txt"]
    train(replace(config, output=tmp_path / "whole"))
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out" / ".tokkit" / "counts").exists()


def test_another_size_is_learned_from_the_same_counts(
    tmp_path: Path, corpus: Path, counted_files: list[str]
) -> None:
    with pytest.raises(TokkitError, match="pass --vocab-size 58 or less"):
        run(corpus, tmp_path / "out", vocab_size=5000)
    num_counted = len(counted_files)
    run(corpus, tmp_path / "out", vocab_size=58)
    assert len(counted_files) == num_counted
    run(corpus, tmp_path / "other", vocab_size=58)
    assert files(tmp_path / "out") == files(tmp_path / "other")


def test_others_are_compared_also_where_the_folder_is_up_to_date(
    tmp_path: Path, corpus: Path
) -> None:
    with pytest.raises(TokkitError, match="no such file or folder"):
        run(corpus, tmp_path / "out", compare=(str(tmp_path / "none"),))
    first = run(corpus, tmp_path / "out")
    again = run(corpus, tmp_path / "out", compare=(str(tmp_path / "out"),))
    assert again == first
    assert [row["vocab_size"] for row in again.compared] == [first.vocab_size]
    assert TrainingRecord.read(tmp_path / "out") == first
