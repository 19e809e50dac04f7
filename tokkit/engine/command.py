"""A shell command whose output is saved as a file: how a recipe makes its corpus.

The file appears once the command has succeeded. The folder's manifest has the command, which is
run again only if it has changed.
"""

import os
import subprocess
import sys
from pathlib import Path

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile, write_atomically
from tokkit.engine.folder import clear_folder
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.engine.progress import open_bar
from tokkit.engine.spec import StageSpec, find_finished, locked_folder
from tokkit.errors import TokkitError

_CHUNK_BYTES = 1 << 20


def save_output(command: str, path: Path, *, overwrite: bool, progress: bool) -> Manifest:
    """Run a shell command and save its standard output as ``path``, the only file of its folder.

    In the command, ``python`` is the interpreter that runs tokkit.

    Args:
        command: the shell command.
        path: file to write.
        overwrite: run the command even if the file is there, and replace what the folder holds.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        TokkitError: if the command fails or prints nothing, or the folder holds something else.
    """
    spec = StageSpec(
        kind="corpus",
        output=path.parent,
        options={"command": command, "file": path.name},
        tokenizer_fingerprint=None,
        seed=None,
        inputs=[],
    )
    if not overwrite and (finished := find_finished(spec)) is not None:
        return finished
    with locked_folder(spec, overwrite=overwrite):
        clear_folder(spec.output)
        with write_atomically(path) as file:
            _run(command, file, progress=progress)
            if not file.size:
                raise TokkitError(f"{command}: printed nothing to save as {path}")
        row = FileRow(name=path.name, bytes=file.size, sha256=file.sha256)
        manifest = spec.make_manifest(inputs=[], shards=[row], accounts=Accounts())
        manifest.write(spec.output)
    return manifest


def _run(command: str, file: HashedFile, *, progress: bool) -> None:
    """Write what the command prints into the file."""
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with (
        subprocess.Popen(  # noqa: S603  it is the user's own command, printed before it runs
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PATH": search},
        ) as process,
        open_bar("corpus", "B", show=progress) as bar,
    ):
        assert process.stdout is not None  # noqa: S101  it is a pipe
        try:
            while chunk := process.stdout.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
        except BaseException:
            process.kill()
            raise
        status = process.wait()
    if status:
        raise TokkitError(f"{command}: failed with exit status {status}; its output is not kept")
