"""A stage that squares numbers, for the tests of the engine; workers import it by its name."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forkserver

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.manifest import Manifest
from tokkit.engine.stage import Stage, run_stage
from tokkit.engine.unit import Unit, UnitResult, abort_work
from tokkit.errors import TokkitError


def square(
    context: dict[str, Any], payload: int, sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Write the square of the payload, or fail as the context says."""
    if payload == context.get("fail"):
        raise TokkitError(f"number {payload}: cannot be squared")
    if payload == context.get("crash"):
        raise ZeroDivisionError("a bug")
    if payload == context.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if payload == context.get("exhaust"):
        raise MemoryError
    if payload == context.get("hang"):
        threading.Thread(target=abort_work, args=("does not return",)).start()
        time.sleep(60)
    for _ in range(10):
        sink.write(f"{payload * payload}\n".encode())
        time.sleep(context.get("seconds", 0) / 10)
        report(1)
    with Path(context["log"]).open("a") as log:
        log.write(f"{payload}\n")
    accounts = Accounts()
    accounts.add("documents", 2)
    accounts.drop("documents", "odd" if payload % 2 else "even")
    accounts.keep("documents", 1)
    return UnitResult(rows=1, tokens=payload, accounts=accounts, input_sha256=(f"{payload:064x}",))


def hash_inputs(payload: int) -> list[str]:
    return [f"{payload:064x}"]


def squares(
    output: Path, log: Path, *, num_units: int = 6, stamp: int = 1, **context: Any
) -> Stage:
    """Return a stage over the first ``num_units`` numbers."""
    units = [
        Unit(
            name=f"number {i}",
            shard=f"square-{i:05d}.txt",
            identity={"number": i},
            stamp=stamp,
            size=10,
            payload=i,
            inputs=[(f"number {i}", 1)],
        )
        for i in range(num_units)
    ]
    return Stage(
        kind="squares",
        output=output,
        options={"power": context.pop("power", 2)},
        tokenizer_fingerprint="none",
        seed=None,
        units=units,
        function=square,
        context={"log": str(log), **context},
        hash_inputs=hash_inputs,
    )


def run(stage: Stage, *, workers: int = 0, overwrite: bool = False) -> Manifest:
    return run_stage(stage, workers=workers, overwrite=overwrite, progress=False)


def done(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def start(tmp_path: Path, workers: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start a slow run in a process of its own, which writes ``out`` and ``log``."""
    # A script each: the first of two at once must not read what is written for the second.
    script = tmp_path / f"slow-{len(list(tmp_path.glob('slow-*')))}.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from pathlib import Path
            from toystage import squares
            from tokkit.engine.stage import run_stage
            from tokkit.errors import TokkitError, UsageError

            if __name__ == "__main__":
                here = Path({str(tmp_path)!r})
                stage = squares(here / "out", here / "log", seconds={seconds})
                try:
                    run_stage(stage, workers={workers}, overwrite=False, progress=False)
                except TokkitError as error:
                    sys.stderr.write(str(error))
                    sys.exit(error.exit_status)
            """
        )
    )
    return forkserver.Popen([sys.executable, script], stderr=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
