"""Work units, and how a process runs one."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile, PendingFile
from tokkit.engine.json_files import canonical_json
from tokkit.engine.receipts import Receipt, read_statement, write_receipt
from tokkit.errors import TokkitError, escape_controls

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)  # there are 100,000
class Unit:
    """One piece of a plan, from which one file is made.

    Attributes:
        name: name in errors, such as ``books.txt, bytes 0 to 67108864``.
        shard: name of its file within the output folder, such as ``shard-0000000.arrow``.
        identity: what its content key is made of, as JSON.
        stamp: time stamps of its inputs in nanoseconds; 0 if the identity includes their content.
        size: its share of the progress bar.
        payload: argument of the stage's function; picklable.
        inputs: name and size of each file, or part of one, that it reads; empty if the manifest's
            rows on inputs are known at planning.
        in_parent: it must be done in the process that planned it, as standard input must.
        open_stream: opens the units that it consists of, in its place; for the last unit of a plan.
        input_sha256: SHA-256 of its inputs, if known before they are read.
        stream: content key of the unit that it is a part of; empty for a unit of the plan.
    """

    name: str
    shard: str
    identity: Mapping[str, Any]
    stamp: int | list[int]
    size: int
    payload: Any
    inputs: Sequence[tuple[str, int]] = ()
    in_parent: bool = False
    open_stream: Callable[[], "UnitStream"] | None = None
    input_sha256: tuple[str, ...] = ()
    stream: str = ""

    def key(self, stage_digest: str) -> str:
        """Return its content key.

        Args:
            stage_digest: content key of what the units of a stage have in common.
        """
        return content_key({"stage": stage_digest, "unit": dict(self.identity), "file": self.shard})


def content_key(data: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


class UnitStream(Protocol):
    """Units that come while they are read, such as those of standard input.

    The ``input_sha256`` of each is that of everything up to its end.
    """

    @property
    def ended(self) -> bool:
        """Whether all units were returned."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""

    def read(self) -> Sequence[Unit]:
        """Read what is there, and return the units that end in it."""


@dataclass(frozen=True)
class UnitResult:
    """What a stage's function returns.

    Attributes:
        rows: number of rows in the unit's file.
        tokens: number of tokens in the unit's file.
        accounts: the unit's accounts.
        batches: rows and tokens of each record batch of a shard.
        input_sha256: SHA-256 of each of the unit's inputs, as they were read.
        notes: what else the stage needs in order to commit, as JSON; kept in the receipt.
        measured: seconds and the like; not saved.
    """

    rows: int
    tokens: int
    accounts: Accounts
    batches: Sequence[tuple[int, int]] = ()
    input_sha256: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A finished unit: its result, and its receipt."""

    result: UnitResult
    receipt: Receipt


@dataclass(frozen=True)
class Task:
    """What to do with each unit of a stage; picklable, so that any process can run it.

    Attributes:
        function: the stage's function.
        context: its first argument.
        folder: output folder.
        load_context: loads what all units need into the context, before the first of them.
        stage_key: content key of the stage, which the folder's statement must have whenever a unit
            is finished; empty for work without receipts.
        stage_digest: content key of what the units have in common.
    """

    function: Callable[[Any, Any, HashedFile, Callable[[int], None]], UnitResult]
    context: Any
    folder: Path
    load_context: Callable[[Any], None] | None = None
    stage_key: str = ""
    stage_digest: str = ""

    def load(self) -> None:
        """Load what all units need, once for this process and those that are copied from it."""
        if self.load_context is not None:
            self.load_context(self.context)

    def write(self, unit: Unit, report: Callable[[int], None]) -> "WrittenUnit":
        """Run a unit; the caller commits its file."""
        _process.unit = unit.name
        with PendingFile(self.folder / unit.shard) as file:
            result = self.function(self.context, unit.payload, file.sink, report)
        return WrittenUnit(self, unit, result, file)


@dataclass(frozen=True)
class WrittenUnit:
    """A unit whose file is written, but not safe on the disk yet."""

    task: Task
    unit: Unit
    result: UnitResult
    file: PendingFile

    def commit(self) -> Outcome:
        """Wait until the file is safe on the disk, and write the receipt.

        Raises:
            TokkitError: if the operating system refuses, as on a full disk; or another command has
                replaced what the folder held.
        """
        task = self.task
        if task.stage_key:
            with self.file:
                require_statement(task.folder, task.stage_key)
        self.file.commit()
        receipt = self._make_receipt()
        if task.stage_key:
            write_receipt(task.folder, self.unit.key(task.stage_digest), receipt)
        return Outcome(self.result, receipt)

    def _make_receipt(self) -> Receipt:
        result, unit = self.result, self.unit
        receipt: Receipt = {
            "input": escape_controls(unit.name),  # JSON has no names that are not UTF-8
            "input_sha256": list(unit.input_sha256 or result.input_sha256),
            "stamp": unit.stamp,
            "name": unit.shard,
            "bytes": self.file.sink.size,
            "sha256": self.file.sink.sha256,
            "rows": result.rows,
            "tokens": result.tokens,
            "accounts": result.accounts.as_dict(),
        }
        if result.batches:
            receipt["batches"] = list(result.batches)
        if result.notes:
            receipt["notes"] = dict(result.notes)
        if unit.stream:
            receipt["stream"] = unit.stream
        return receipt


def require_statement(folder: Path, stage_key: str) -> None:
    """Refuse to go on in a folder that another command has replaced.

    Locks say so earlier, but not on every file system of several machines.
    """
    statement = read_statement(folder)
    if statement is None or statement["key"] != stage_key:
        raise TokkitError(
            f"{folder}: another command has replaced what this one wrote; choose another folder"
        )


@dataclass
class _Process:
    """What this process does, for ``abort_work``."""

    unit: str = ""
    send: Callable[[str, TokkitError], None] | None = None


_process = _Process()


def send_aborts(send: Callable[[str, TokkitError], None]) -> None:
    """Let ``abort_work`` send the error to this worker's parent."""
    _process.send = send


def abort_work(fault: str) -> NoReturn:
    """End this process from another thread, because its work neither returns nor can be interrupted.

    Nothing is cleaned up, as if the process were killed: the folder resumes.

    Args:
        fault: what is wrong and what to do, as one line.
    """
    error = TokkitError(f"{_process.unit}: {fault}" if _process.unit else fault)
    if _process.send is not None:
        _process.send("error", error)
    else:
        log.error("%s", error)
    os._exit(error.exit_status)


def out_of_memory(unit: Unit) -> TokkitError:
    """Return the error for a unit for which memory was short."""
    return TokkitError(f"{unit.name}: out of memory; use fewer --workers, or smaller units")
