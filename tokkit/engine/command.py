"""A command whose output is kept as a file: how a recipe makes its corpus.

The file appears when the command has ended well; the folder's manifest remembers the command, so
that it is not run again until it reads otherwise.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import FolderLock, HashedFile, canonical_json, write_atomically
from tokkit.engine.folder import clear_folder, refuse_foreign
from tokkit.engine.journal import Journal
from tokkit.engine.manifest import FORMAT_VERSION, MANIFEST, Manifest
from tokkit.engine.signals import interruptible
from tokkit.engine.stage import Bar
from tokkit.errors import TokkitError

CHUNK_BYTES = 1 << 20


def keep_output(command: str, path: Path, *, overwrite: bool, progress: bool) -> Manifest:
    """Run a shell command and keep what it prints as the file ``path``, alone in its folder.

    ``python`` in the command is the interpreter that runs tokkit.

    Args:
        command: for the shell.
        path: of the file.
        overwrite: run it again, whatever is there.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        TokkitError: where the command fails, or prints nothing, or the folder is another's.
    """
    options = {"command": command, "file": path.name}
    key = hashlib.sha256(canonical_json({**options, "format": FORMAT_VERSION})).hexdigest()
    folder = path.parent
    if not overwrite and (folder / MANIFEST).is_file():
        there = Manifest.read(folder, "corpus")
        if there.key == key and path.is_file() and path.stat().st_size == there.shards[0]["bytes"]:
            return there
        if there.key != key:
            raise TokkitError(
                f"{folder}: holds the output of another command; "
                f"choose another folder, or pass --overwrite to make it anew"
            )
    refuse_foreign(folder)
    if Journal.read(folder).stage is not None:
        raise TokkitError(f"{folder}: holds another run; choose another folder")
    with FolderLock(folder), interruptible(folder):
        clear_folder(folder)
        with write_atomically(path) as file:
            _run(command, file, progress=progress)
            if not file.size:
                raise TokkitError(f"{command}: printed nothing to keep as {path}")
        row = {"name": path.name, "bytes": file.size, "sha256": file.sha256}
        manifest = Manifest(
            kind="corpus",
            key=key,
            options=options,
            seed=None,
            tokenizer_fingerprint=None,
            inputs=[],
            shards=[row],
            accounts=Accounts().as_dict(),
        )
        manifest.write(folder)
    return manifest


def _run(command: str, file: HashedFile, *, progress: bool) -> None:
    """Pass what the command prints on to the file."""
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with (
        subprocess.Popen(  # noqa: S603  it is the user's own command, printed before it runs
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PATH": search},
        ) as process,
        Bar(
            desc="corpus",
            unit="B",
            unit_scale=True,
            disable=not (progress and sys.stderr.isatty()),
        ) as bar,
    ):
        assert process.stdout is not None  # noqa: S101  it is a pipe
        try:
            while chunk := process.stdout.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
        except BaseException:
            process.kill()
            raise
        status = process.wait()
    if status:
        raise TokkitError(f"{command}: failed with exit status {status}; nothing of it was kept")
