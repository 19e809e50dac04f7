"""A stage that squares numbers, for the tests of the engine; workers import it by its name."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.stage import Stage
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
