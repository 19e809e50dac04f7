"""``manifest.json``: the record of a finished folder, which is written last.

A folder without its record is unfinished. In addition to its shards, a manifest contains the
stage's content key, so that running the same command again finds that there is nothing to do.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from tokkit import __version__
from tokkit.engine.accounts import Accounts
from tokkit.engine.json_files import FileRow, check_options, parse_json, read_bytes, write_record
from tokkit.errors import TokkitError, refuse_loop

log = logging.getLogger(__name__)

# Version 1 numbered shards with five digits. Readers take names from the manifest, so they read both.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
# Version of the content behind a content key, which is the same in both formats.
KEY_VERSION = 1
MANIFEST = "manifest.json"
# The record of a tokenizer folder; see ``tokkit.vocab.train``.
TRAINING = "training.json"
RECORDS = (MANIFEST, TRAINING)
KINDS = ("tokens", "instances", "run", "corpus")

R = TypeVar("R")


class _Versioned(TypedDict):
    format_version: int


def read_record(path: Path, schema: type[R], *format_versions: int) -> R:
    """Read the record of a finished folder.

    Args:
        path: JSON file with an object that has a ``format_version``.
        schema: of the object.
        format_versions: those that are accepted.

    Raises:
        TokkitError: if the file is damaged, or has another format version.
    """
    data = read_bytes(path)
    version = parse_json(data, _Versioned, path)["format_version"]
    if version not in format_versions:
        raise TokkitError(
            f"{path}: unknown format version {version}; tokkit {__version__} reads version "
            f"{' and '.join(map(str, format_versions))}, so install the release that wrote it"
        )
    return parse_json(data, schema, path)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        kind: ``tokens``, ``instances``, ``run`` or ``corpus``.
        key: content key over inputs, options, tokenizer and format version.
        options: every option that the bytes depend on.
        seed: random seed; None if the stage draws nothing.
        tokenizer_fingerprint: SHA-256 of the canonical ``tokenizer.json``; None without a tokenizer.
        inputs: files that were read.
        shards: files that were written.
        accounts: see ``tokkit.engine.accounts``.
        left_out: files of the inputs that were left out, such as those of a tokenizer.
        warnings: what looks wrong about the content, a line each.
        format_version: version of the folder's format.
        tokkit_version: release that wrote the folder.
    """

    kind: str
    key: str
    options: dict[str, Any]
    seed: int | None
    tokenizer_fingerprint: str | None
    inputs: list[FileRow]
    shards: list[FileRow]
    accounts: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    format_version: int = FORMAT_VERSION
    tokkit_version: str = __version__

    def __post_init__(self) -> None:
        """Refuse what readers of options and accounts cannot use; msgspec calls this, too."""
        check_options(self.options)
        Accounts.from_dict(self.accounts)

    @property
    def num_rows(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.get("rows", 0) for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all shards."""
        return sum(shard.get("tokens", 0) for shard in self.shards)

    @property
    def max_predictions(self) -> int:
        """Maximum number of static masks in an instance."""
        return self.options.get("max_predictions_per_seq") or 0

    def log_warnings(self, folder: Path) -> None:
        """Log a line for each warning."""
        for warning in self.warnings:
            log.warning("%s: %s", folder, warning)

    def write(self, folder: Path) -> None:
        """Write the manifest atomically, which makes the folder finished."""
        write_record(folder / MANIFEST, vars(self))

    @classmethod
    def read(cls, folder: Path, kind: str | None = None) -> "Manifest":
        """Read a folder's manifest.

        Args:
            folder: the folder.
            kind: required kind; None accepts any.

        Raises:
            TokkitError: if the folder is missing, unfinished, of another kind, or of an unknown
                format version, or a name of its files leads out of it.
        """
        if not folder.is_dir():
            refuse_loop(folder)
            raise TokkitError(f"{folder}: no such folder")
        path = folder / MANIFEST
        if not path.is_file():
            raise TokkitError(
                f"{folder}: unfinished, or not made by tokkit (it has no {MANIFEST}); "
                f"run the command that makes it again"
            )
        manifest = read_record(path, cls, *READABLE_VERSIONS)
        _check_names([row["name"] for row in manifest.shards], manifest.kind, path)
        if kind is not None and manifest.kind != kind:
            raise TokkitError(f"{folder}: holds {manifest.kind}, but {kind} are needed here")
        return manifest


def _check_names(names: list[str], kind: str, path: Path) -> None:
    """Refuse names of files that lead out of the folder, or occur twice.

    The files of a run are in a folder of it, all others in the folder itself.
    """
    depth = 2 if kind == "run" else 1
    for name in names:
        if "/" not in name and "\0" not in name and name not in ("", ".", ".."):
            continue  # which is most of 100,000
        parts = Path(name).parts if "\0" not in name else ()
        if not 0 < len(parts) <= depth or name != "/".join(parts) or {"..", "/"} & {*parts}:
            raise TokkitError(f"{path}: {name!r} is not the name of a file; recreate the folder")
    if len({*names}) < len(names):
        raise TokkitError(f"{path}: lists a file twice; recreate the folder")
