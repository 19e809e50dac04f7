"""What the environment refuses, such as memory, open files and odd paths: one line each."""

import os
import resource
import signal
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path

import pytest
from tinytokenizers import write_vocab

from tokkit.cli import _run

PROGRAM = (sys.executable, "-m", "tokkit")


@pytest.fixture
def encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that encode a small corpus, except the output."""
    monkeypatch.chdir(tmp_path)
    write_vocab(tmp_path / "tok")
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n")
    return ["encode", "a.txt", "-t", "tok", "--workers", "0", "-o"]


def make_loop(path: Path) -> None:
    path.symlink_to(f"{path.name}2")
    path.with_name(f"{path.name}2").symlink_to(path.name)


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def make_file(path: Path) -> None:
    path.write_text("dear")


@pytest.mark.parametrize(
    ("make", "output", "fault"),
    [
        (make_loop, "out", "out: a link that leads to itself; correct or remove it"),
        (make_loop, "out/deep", "out/deep: a link that leads to itself; correct or remove it"),
        (make_dangling, "out", "out: a file or a link to nothing is there; remove it, or choose"),
        (make_file, "out", "out: is a file; choose another folder"),
        (make_file, "out/deep", "out/deep: is a file; choose another folder"),
        (make_file, "x" * 300, "the name is too long"),
    ],
)
def test_an_output_that_cannot_be_a_folder_is_one_line(
    encode: list[str],
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    output: str,
    fault: str,
) -> None:
    make(Path("out"))
    assert _run([*encode, output]) == 1
    errors = capfd.readouterr().err.splitlines()
    assert errors[-1].startswith("tokkit: ")
    assert fault in errors[-1]
    assert not any(line.startswith("Traceback") for line in errors)


@pytest.mark.parametrize(
    "command",
    [
        "encode {} -t tok -o out",
        "encode a.txt -t {} -o out",
        "tokenize -t {} a",
        "build {} -o out",
        "pretrain {} -o out",
        "pretrain in -o out --init-from {}",
        "inspect {}",
        "verify {}",
        "report {} -o out",
        "run {}",
        "init recipe.toml --from-folder {}",
    ],
)
@pytest.mark.parametrize("path", ["loop", "loop/deep"])
def test_an_input_that_is_a_link_to_itself_is_one_line(
    tmp_path: Path, encode: list[str], capfd: pytest.CaptureFixture[str], command: str, path: str
) -> None:
    del encode  # it makes the files, and this folder the working folder
    make_loop(tmp_path / "loop")
    assert _run(command.format(path).split()) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"tokkit: {path}: a link that leads to itself; correct or remove it"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, address space has no limit")
@pytest.mark.parametrize("mebibytes", [130, 600, 2047, 2048])
def test_little_address_space_is_one_line(encode: list[str], mebibytes: int) -> None:
    """Libraries cannot be loaded, some of which would end the process by a signal."""
    limit = mebibytes << 20
    ended = subprocess.run(
        [*PROGRAM, *encode, "out"],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    if mebibytes == 2048:
        assert ended.returncode == 0
    else:
        assert ended.returncode == 1
        assert ended.stderr == (
            f"tokkit: {mebibytes} MiB of address space are not enough to load the libraries; raise "
            "the limit to 2048 MiB (ulimit -v 2097152)\n"
        )


def test_a_failure_with_a_memory_limit_calls_no_library_at_exit() -> None:
    script = (
        "import atexit, os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40,) * 2)\n"
        "atexit.register(os.abort)\n"
        "from tokkit.__main__ import main\n"
        "sys.argv = ['tokkit', 'verify', 'nowhere']\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (1, "tokkit: nowhere: no such folder\n")


LEAVING = """
import atexit, os, sys, threading
from tokkit.__main__ import main

atexit.register(print, "at exit")
leave = os._exit
os._exit = lambda status: (os.write(1, b"left\\n"), leave(status))
if sys.argv[1] == "threads":
    threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
sys.argv[1:] = sys.argv[2:]
main()
"""


@pytest.mark.parametrize(
    ("threads", "printed"),
    [("none", ["at exit", "left"]), ("threads", ["thread", "at exit"])],
)
def test_memory_is_left_to_the_system_unless_threads_run(threads: str, printed: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING, threads, "verify", "nowhere"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (1, "tokkit: nowhere: no such folder\n")
    assert ended.stdout.split("\n")[:-1] == printed


def test_ctrl_c_during_imports_is_one_line() -> None:
    """The module that is imported first sends the signal, as a person in a hurry would."""
    script = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from tokkit.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        # Where the tests run in the background, the shell has made them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGINT, "tokkit: interrupted\n")


def test_nothing_is_imported_before_ctrl_c_is_handled() -> None:
    script = "import sys; before = {*sys.modules}; import tokkit.__main__; print({*sys.modules} - before)"
    ended = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert literal_eval(ended.stdout) == {"tokkit", "tokkit.__main__"}


def test_errors_of_the_system_are_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tokkit.inspection.inspect.inspect", fail)
    error: BaseException = OSError(24, os.strerror(24), "a.arrow")
    assert _run(["inspect", "x"]) == 1
    assert "tokkit: a.arrow: too many open files; raise the limit" in capfd.readouterr().err
    error = MemoryError()
    assert _run(["inspect", "x"]) == 1
    assert capfd.readouterr().err.startswith("tokkit: out of memory; use fewer --workers")
    error = ImportError("a bug")
    with pytest.raises(ImportError, match="a bug"):
        _run(["inspect", "x"])
