"""Work units, and what doing one means in whichever process it is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import Draft, HashedFile, draft_for


@dataclass(frozen=True)
class Unit:
    """One piece of a plan: one unit in, one shard out.

    Attributes:
        name: what an error calls it, such as ``books.txt, bytes 0 to 67108864``.
        shard: file that it writes, such as ``shard-00000.arrow``.
        identity: what its content key is made of, as JSON.
        stamp: time stamps of its inputs in nanoseconds; 0 where the identity is content already.
        size: its share of the progress bar.
        payload: what the stage's function gets; picklable.
        inputs: name and size of each file, or part of one, that it reads; empty where the manifest's
            rows on inputs are known at planning.
        local: it must be done in the process that planned it, as standard input must.
    """

    name: str
    shard: str
    identity: Mapping[str, Any]
    stamp: int | list[int]
    size: int
    payload: Any
    inputs: Sequence[tuple[str, int]] = ()
    local: bool = False


@dataclass(frozen=True)
class UnitResult:
    """What a stage's function returns of a unit.

    Attributes:
        rows: of its shard.
        tokens: in its shard.
        accounts: its ledger.
        input_sha256: of each of the unit's inputs, as they were read.
        measured: seconds and the like, for who watches; they are kept nowhere.
    """

    rows: int
    tokens: int
    accounts: Accounts
    input_sha256: tuple[str, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A finished unit: its result, and the size and SHA-256 of its shard."""

    result: UnitResult
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Written:
    """A unit that is done but for its shard, which is not on the disk yet."""

    result: UnitResult
    draft: Draft

    def keep(self) -> Outcome:
        """Wait until the shard is safe on the disk.

        Raises:
            TokkitError: where the operating system refuses, as on a full disk.
        """
        self.draft.keep()
        return Outcome(self.result, self.draft.sink.size, self.draft.sink.sha256)


@dataclass(frozen=True)
class Task:
    """What is done to each unit of a stage; picklable, so that any process can do it.

    Attributes:
        function: a stage's.
        context: its first argument.
        folder: where shards are written.
        load_context: makes of the context what all units need, for a process that copies itself.
    """

    function: Callable[[Any, Any, HashedFile, Callable[[int], None]], UnitResult]
    context: Any
    folder: Path
    load_context: Callable[[Any], None] | None = None

    def load(self) -> None:
        """Load what all units need, once for the processes that are copied from this one."""
        if self.load_context is not None:
            self.load_context(self.context)

    def write(self, unit: Unit, report: Callable[[int], None]) -> Written:
        """Do a unit, and leave its shard to be kept."""
        with draft_for(self.folder / unit.shard) as draft:
            result = self.function(self.context, unit.payload, draft.sink, report)
        return Written(result, draft)
