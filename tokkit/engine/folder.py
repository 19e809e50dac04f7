"""What may be in an output folder: ours, another run's, or a stranger's."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tokkit.engine.files import STATE_FOLDER
from tokkit.engine.manifest import MANIFEST, Manifest
from tokkit.errors import TokkitError, UsageError, describe_os_error, wrap_os_errors


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds files, none of which says that tokkit made it.

    Raises:
        TokkitError: likewise where it is a file, or may not be read.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise TokkitError(f"{folder}: is a file; choose another folder") from None
    except OSError as error:
        raise TokkitError(f"{folder}: {describe_os_error(error)}") from error
    if STATE_FOLDER in names or not names:
        return
    with suppress(TokkitError):
        Manifest.read(folder)  # a web application, too, may have a manifest.json
        return
    raise TokkitError(f"{folder}: not empty, and not made by tokkit; choose another folder")


def refuse_inputs(output: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write where we read: ``--overwrite`` would clear it first.

    Args:
        output: the folder to be written.
        inputs: files, folders, globs or URIs.

    Raises:
        UsageError: naming the input that is the output, or lies in it.
    """
    there = output.resolve()
    for name in inputs:
        path = Path(name).resolve()
        if path == there or there in path.parents:
            raise UsageError(f"{output}: is, or holds, the input {name}; choose another --output")


def clear_folder(folder: Path) -> None:
    """Remove what a run of ours left; the manifest goes first, so that no half looks whole.

    The lock, which the caller holds, stays.
    """
    with wrap_os_errors(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / STATE_FOLDER / "journal.jsonl").unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name == STATE_FOLDER:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for path in folder.rglob("*.tmp"):
        with suppress(OSError):
            path.unlink()
