"""Workers start as copies of a process of one thread, and anew from any other."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

SCRIPT = """
    import logging, signal, sys, threading
    sys.path.insert(0, {tests!r})
    from dataclasses import replace
    from pathlib import Path
    import toystage
    from tokkit.engine.stage import run_stage

    def load(context):
        sys.stderr.write("loaded once\\n")

    def square(*arguments):
        logging.getLogger("tokkit").info("said by workers")
        return toystage.square(*arguments)

    if __name__ == "__main__":
        logging.basicConfig(level=logging.INFO)
        for _ in range({threads}):
            threading.Thread(target=signal.pause, daemon=True).start()
        here = Path({here!r})
        stage = toystage.squares(here / "out", here / "log")
        stage = replace(stage, function=square, load=load)
        run_stage(stage, workers=2, overwrite=False, progress=True)
"""


@pytest.mark.parametrize("threads", [0, 1])
def test_what_units_need_is_loaded_once_where_the_process_can_be_copied(
    tmp_path: Path, threads: int
) -> None:
    script = tmp_path / "stage.py"
    text = textwrap.dedent(SCRIPT)
    script.write_text(text.format(tests=str(TESTS), here=str(tmp_path), threads=threads))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    is_copied = sys.platform == "linux" and not threads
    assert ended.stderr.count("loaded once") == int(is_copied)
    assert ended.stderr.count("said by workers") == 1  # by the parent, who hears it from all
    assert len(list((tmp_path / "out").glob("square-*"))) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="no process is copied elsewhere")
def test_the_command_has_one_thread_when_its_workers_start(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A cat sat.\n\nA dog ran.\n\n" * 50_000)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n")
    script = tmp_path / "command.py"
    script.write_text(
        "import sys\n"
        "from tokkit.cli import main\n"
        "from tokkit.engine import local\n"
        "choose = local._choose_start\n"
        "def tell(task):\n"
        "    context = choose(task)\n"
        "    sys.stderr.write(f'started by {context.get_start_method()}\\n')\n"
        "    return context\n"
        "local._choose_start = tell\n"
        "main()\n"
    )
    options = ["-t", str(vocabulary), "-o", str(tmp_path / "tokens"), "--workers", "1"]
    ended = subprocess.run(
        [sys.executable, str(script), "encode", str(corpus), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "started by fork" in ended.stderr, ended.stderr
    assert ended.returncode == 0, ended.stderr
