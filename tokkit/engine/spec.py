"""The spec of a stage's output folder, and the check that the folder may hold it.

A folder is in one of four states for a stage:

    empty         no record, no statement                  the stage starts it
    unfinished    a statement of the same run              the stage continues it
    finished      a record with the stage's content key    there is nothing to do
    another run   options, inputs or tokenizer differ      refused, unless --overwrite is given

``locked_folder`` and ``prepare_folder`` are all that a stage needs to write a folder:

    with locked_folder(spec, overwrite=False) as lock:      # refuses another run
        prepare_folder(spec, lock, overwrite=False)         # from here on, the folder is this run's
        ...                                                 # work, and write the record last
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import list_names, measure_file, remove_drafts, remove_file
from tokkit.engine.folder import FolderLock, clear_folder, interruptible, refuse_foreign
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import KEY_VERSION, MANIFEST, RECORDS, Manifest
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.engine.receipts import StageMetadata, Statement, read_statement, write_statement
from tokkit.engine.unit import content_key
from tokkit.errors import TokkitError, wrap_os_errors


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What determines the content of an output folder.

    Attributes:
        kind: kind of folder.
        output: the folder.
        options: every option that the bytes depend on, as JSON; never the number of workers.
        tokenizer_fingerprint: fingerprint of the tokenizer that is read; "" or None without one.
        seed: random seed; None if the stage draws nothing.
        inputs: input rows, as JSON; None if units hash their inputs while reading, then the key
            uses unit identities.
        flags: command-line flag by option name, where they differ.
        fingerprints: options whose value here is a file's content or fingerprint, which an error
            does not show.
        left_out: files of the inputs that are not read.
        adjustable: options that may differ from those of the run that the folder holds, whose work
            stays valid; the folder becomes that of the new ones.
    """

    kind: str
    output: Path
    options: Mapping[str, Any]
    tokenizer_fingerprint: str | None
    seed: int | None
    inputs: Sequence[Any] | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    fingerprints: frozenset[str] = frozenset()
    left_out: Sequence[str] = ()
    adjustable: frozenset[str] = frozenset()

    @property
    def metadata(self) -> StageMetadata:
        """What the content keys of a stage and its units have in common."""
        return {
            "format_version": KEY_VERSION,
            "kind": self.kind,
            "options": dict(self.options),
            "seed": self.seed,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
        }

    @property
    def key(self) -> str:
        """Content key of the stage."""
        return content_key({**self.metadata, "inputs": self.inputs})

    def describe(self) -> Statement:
        """Return the statement of the stage."""
        return {"key": self.key, **self.metadata}

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, for a class that adds others."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def make_manifest(
        self,
        *,
        inputs: Sequence[FileRow],
        shards: Sequence[FileRow],
        accounts: Accounts,
        warnings: Sequence[str] = (),
    ) -> Manifest:
        """Return the manifest of the finished folder."""
        return Manifest(
            kind=self.kind,
            key=self.key,
            options=dict(self.options),
            seed=self.seed,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            inputs=[*inputs],
            shards=[*shards],
            accounts=accounts.as_dict(),
            left_out=list(self.left_out),
            warnings=list(warnings),
        )

    def adjust(self, past: Mapping[str, Any] | None) -> "StageSpec":
        """Return the spec with the adjustable options of the run that the folder holds."""
        kept = {n: past["options"][n] for n in self.adjustable if past and n in past["options"]}
        return replace(self, options={**self.options, **kept}) if kept else self

    def work_keys(self) -> set[str]:
        """Return the content keys of the work to do."""
        return {self.key, self.adjust(read_previous_run(self.output)).key}

    def done_keys(self) -> set[str]:
        """Return the content keys of the work that was done in the folder by any run."""
        past = read_previous_run(self.output)
        return set() if past is None else {past["key"]}


def find_finished(spec: StageSpec) -> Manifest | None:
    """Return the manifest of a folder that contains what ``spec`` describes, by key and sizes."""
    if not (spec.output / MANIFEST).is_file():
        return None
    manifest = Manifest.read(spec.output)
    if manifest.key != spec.key:
        return None
    rows = manifest.shards
    complete = all(measure_file(f"{spec.output}/{row['name']}") == row["bytes"] for row in rows)
    return manifest if complete else None


@contextmanager
def locked_folder(
    spec: StageSpec, *, overwrite: bool, shared: bool = False
) -> Iterator[FolderLock]:
    """Hold the lock of the output folder, and turn signals into ``Interrupted``, inside the block.

    Nothing is changed yet; see ``prepare_folder``. Drafts are deleted at the end.

    Args:
        spec: what the folder will contain.
        overwrite: it may hold another run.
        shared: other processes may do the same work at the same time.

    Raises:
        TokkitError: if another process holds the folder, tokkit did not make it, or, unless it may
            be overwritten, it holds another run.
    """
    refuse_foreign(spec.output)
    with FolderLock(spec.output, shared=shared) as lock, interruptible(spec.output):
        if not overwrite:
            _refuse_other_run(spec)
        try:
            yield lock
        finally:
            remove_drafts(spec.output)


def prepare_folder(spec: StageSpec, lock: FolderLock, *, overwrite: bool) -> None:
    """Prepare a locked folder for ``spec``.

    Work that was done for the same run stays, unless ``overwrite`` is set; all else is deleted.

    Raises:
        TokkitError: if something is to be deleted, and another process writes the folder, too; or
            another command has just started to.
    """
    found = read_statement(spec.output)
    is_new = found is None and not any((spec.output / name).exists() for name in RECORDS)
    if is_new and not overwrite:
        write_statement(spec.output, spec.describe(), only_new=True)
        found = read_statement(spec.output)
        if found is None or found["key"] != spec.key:
            raise other_run_error(spec, "which has just started")
    elif overwrite or found is None or found["key"] != spec.key:
        with lock.alone():
            if overwrite or not spec.done_keys() & spec.work_keys():
                clear_folder(spec.output)
            write_statement(spec.output, spec.describe(), only_new=False)
    if find_finished(spec) is None:  # another process may have finished just now
        with wrap_os_errors(spec.output):
            for name in RECORDS:  # of a finished folder that lost a file
                if (spec.output / name).exists():
                    remove_file(spec.output / name)
    remove_drafts(spec.output)


@contextmanager
def shared_folder(spec: StageSpec, *, overwrite: bool, planned: bool = False) -> Iterator[None]:
    """Lock and prepare a folder that other processes with the same command may write, too.

    Args:
        spec: what the folder will contain.
        overwrite: delete what another run left.
        planned: another process has prepared the folder.

    Raises:
        TokkitError: see ``locked_folder`` and ``prepare_folder``; or the folder was prepared for
            another command.
    """
    with locked_folder(spec, overwrite=overwrite or planned, shared=True) as lock:
        if planned:
            past = read_previous_run(spec.output)
            difference = "it is missing" if past is None else _describe_difference(past, spec)
            if difference is not None:
                raise TokkitError(
                    f"{spec.output}: its plan is of another run ({difference}); pass the options of "
                    f"the plan, or plan again with --plan --overwrite"
                )
        else:
            prepare_folder(spec, lock, overwrite=overwrite)
        yield


def _refuse_other_run(spec: StageSpec) -> None:
    """Refuse a folder that holds the result, or work in progress, of other inputs or options.

    Raises:
        TokkitError: naming the first difference.
    """
    # Names first: a process that starts the same work writes the statement before anything else.
    names = {name for name in list_names(spec.output) if not name.endswith(".tmp")}
    past = read_previous_run(spec.output)
    if past is None:
        # Files without a statement may be checkpoints of weeks: ``prepare_folder`` would delete them.
        if names - {STATE_FOLDER}:
            raise other_run_error(
                spec, f"its {STATE_FOLDER}/stage.json is missing, damaged or of an earlier release"
            )
        return
    difference = _describe_difference(past, spec.adjust(past))
    if difference is None:
        return
    finished = any((spec.output / name).is_file() for name in RECORDS)
    if not finished and past["kind"] == spec.kind and spec.done_keys() <= spec.work_keys():
        return  # nothing would be lost
    raise other_run_error(spec, difference)


def other_run_error(spec: StageSpec, difference: str) -> TokkitError:
    """Return the error for a folder that holds another run."""
    return TokkitError(
        f"{spec.output}: holds another run ({difference}); "
        f"choose another folder, or pass --overwrite to replace it"
    )


def read_previous_run(folder: Path) -> Mapping[str, Any] | None:
    """Return the spec recorded in a folder, or None."""
    if (folder / MANIFEST).is_file():
        return vars(Manifest.read(folder))
    return read_statement(folder)


def _describe_difference(past: Mapping[str, Any], spec: StageSpec) -> str | None:
    """Say what differs between an earlier run and ``spec``; None if nothing does."""
    present = spec.describe()
    if past["kind"] != present["kind"]:
        return f"its kind is {past['kind']}, not {present['kind']}"
    for name in sorted({*past["options"], *present["options"]}):
        old, new = past["options"].get(name), present["options"].get(name)
        flag = spec.flags.get(name, f"--{name.replace('_', '-')}")
        if old != new and name in spec.fingerprints:
            return f"{flag} was left out" if old is None else f"{flag} was different"
        if old != new:
            return f"{flag} was {_format_option(old)}, not {_format_option(new)}"
    if past["seed"] != present["seed"]:
        return f"--seed was {past['seed']}, not {present['seed']}"
    if past["tokenizer_fingerprint"] != present["tokenizer_fingerprint"]:
        return "it was made with another tokenizer"
    return None if past["key"] == present["key"] else "its inputs were different"


def _format_option(value: Any, separator: str = ",") -> str:
    """Return an option's value roughly as it is written on a command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, Mapping):
        value = [f"{name}={_format_option(part)}" for name, part in value.items()]
    if isinstance(value, list | tuple):
        value = separator.join(_format_option(part, ":") for part in value)
    return "left out" if value is None or value == "" else str(value)
