"""Workers start as copies of a process with one thread, and as new processes from any other."""

import subprocess
import sys
import textwrap
from pathlib import Path

import forkserver
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
        logging.getLogger("tokkit").info("logged by workers")
        return toystage.square(*arguments)

    if __name__ == "__main__":
        logging.basicConfig(level=logging.INFO)
        for _ in range({threads}):
            threading.Thread(target=signal.pause, daemon=True).start()
        here = Path({here!r})
        stage = toystage.squares(here / "out", here / "log")
        stage = replace(stage, function=square, load=load)
        run_stage(stage, workers={workers}, overwrite=False, progress=True)
"""


@pytest.mark.parametrize(("threads", "workers"), [(0, 2), (1, 2), (0, 0)])
def test_what_units_need_is_loaded_once_where_the_process_can_be_copied(
    tmp_path: Path, threads: int, workers: int
) -> None:
    script = tmp_path / "stage.py"
    text = textwrap.dedent(SCRIPT)
    values = {"tests": str(TESTS), "here": str(tmp_path), "threads": threads, "workers": workers}
    script.write_text(text.format(**values))
    ended = forkserver.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    is_copied = sys.platform == "linux" and not threads
    assert ended.stderr.count("loaded once") == int(is_copied)
    # The parent logs once what it receives from all workers.
    assert ended.stderr.count("logged by workers") == (1 if workers else 6)
    assert len(list((tmp_path / "out").glob("square-*"))) == 6


COMMAND = """
    import sys
    from tokkit.cli import main
    from tokkit.engine import worker_pool

    choose = worker_pool._choose_start

    def tell(task):
        context = choose(task)
        sys.stderr.write(f"started by {context.get_start_method()}\\n")
        return context

    worker_pool._choose_start = tell
    if __name__ == "__main__":
        main()
"""

RECIPE = """
    output = "all"

    [corpus]
    inputs = ["corpus.txt"]

    [train]
    vocab-size = 27
    workers = 1

    [encode]
    documents = "line"
    sentences = "none"
    workers = 1

    [build]
    objective = "mlm"
    workers = 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no process is copied elsewhere")
def test_commands_have_one_thread_when_their_workers_start(tmp_path: Path) -> None:
    # More than the megabyte that encode does in its own process.
    (tmp_path / "corpus.txt").write_text(("A cat sat. A dog ran. " * 50 + "\n\n") * 1000)
    (tmp_path / "recipe.toml").write_text(textwrap.dedent(RECIPE))
    (tmp_path / "command.py").write_text(textwrap.dedent(COMMAND))
    commands = {
        "train corpus.txt -o tokenizer --vocab-size 27 --workers 1": 1,
        "encode corpus.txt -t tokenizer -o tokens --sentences none --workers 1": 1,
        "build tokens -o instances --objective mlm --workers 1": 1,
        "run recipe.toml": 3,
    }
    for command, num_starts in commands.items():
        ended = subprocess.run(
            [sys.executable, "command.py", *command.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("started by fork") == num_starts, ended.stderr
