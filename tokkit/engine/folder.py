"""What may be in an output folder: ours, another run's, or a stranger's."""

import shutil
from contextlib import suppress
from pathlib import Path

from tokkit.engine.files import STATE_FOLDER
from tokkit.engine.manifest import MANIFEST
from tokkit.errors import TokkitError, describe_os_error, os_errors_about


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds files, none of which says that tokkit made it."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise TokkitError(f"{folder}: is a file; choose another folder") from None
    except OSError as error:
        raise TokkitError(f"{folder}: {describe_os_error(error)}") from error
    return bool(names) and not names & {STATE_FOLDER, MANIFEST}


def clear_folder(folder: Path) -> None:
    """Remove what a run of ours left; the manifest goes first, so that no half looks whole.

    The lock, which the caller holds, stays.
    """
    with os_errors_about(folder):
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
