"""``manifest.json``: what a finished folder says of itself, written last.

A folder without one is unfinished. Beside the rows of its shards it keeps the stage's content
key, so that the same command, run again, can tell at a glance that there is nothing to do.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokkit import __version__
from tokkit.engine.files import read_json, write_json
from tokkit.errors import TokkitError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of a finished folder.

    Attributes:
        kind: ``tokens``, ``instances``, ``run`` or ``corpus``.
        key: content key over inputs, options, tokenizer and format version.
        options: every option in force that the bytes depend on.
        seed: of every draw; None where nothing is drawn.
        tokenizer_fingerprint: SHA-256 of the canonical tokenizer.json; None without a tokenizer.
        inputs: rows with ``name``, ``bytes`` and ``sha256``.
        shards: rows with ``name``, ``bytes``, ``sha256``, and where they apply ``rows``, ``tokens``.
        accounts: see ``tokkit.engine.accounts``.
        format_version: of the files; a reader refuses another.
        tokkit_version: that wrote them.
    """

    kind: str
    key: str
    options: dict[str, Any]
    seed: int | None
    tokenizer_fingerprint: str | None
    inputs: list[dict[str, Any]]
    shards: list[dict[str, Any]]
    accounts: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    tokkit_version: str = __version__

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.get("rows", 0) for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.get("tokens", 0) for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write it atomically; from now on the folder is finished."""
        write_json(folder / MANIFEST, asdict(self))

    @classmethod
    def read(cls, folder: Path, kind: str | None = None) -> "Manifest":
        """Read a folder's manifest.

        Args:
            folder: the folder.
            kind: what it must be; None takes any.

        Raises:
            TokkitError: where the folder is missing, unfinished, of another kind or of a format
                version that this release does not know.
        """
        if not folder.is_dir():
            raise TokkitError(f"{folder}: no such folder")
        path = folder / MANIFEST
        if not path.is_file():
            raise TokkitError(
                f"{folder}: unfinished or not a folder of ours (it has no {MANIFEST}); "
                f"run the command that makes it again"
            )
        form = read_json(path)
        version = form.get("format_version") if isinstance(form, dict) else None
        if version != FORMAT_VERSION:
            raise TokkitError(
                f"{path}: format version {version} is not known to tokkit {__version__}, "
                f"which reads {FORMAT_VERSION}; install the release that wrote it"
            )
        try:
            manifest = cls(**form)
        except TypeError as error:
            raise TokkitError(f"{path}: not a manifest ({error}); make the folder again") from error
        if kind is not None and manifest.kind != kind:
            raise TokkitError(f"{folder}: holds {manifest.kind}, but {kind} are needed here")
        return manifest
