"""Names of drafts: files under a temporary name, which get their own when they are complete.

Several processes, on several machines, may write the same file at once, so each writes a draft of its own:

    shard-0000003.arrow.5d1f0c3a-4711-9e0c1d2e.tmp    machine, process, a random number

A draft that a killed process left is deleted by another process of the same machine, which sees that
its writer is gone, or by any after a day.
"""

import hashlib
import os
import platform
import re
import secrets
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

# Age at which a draft of another machine is taken for abandoned.
LEASE_SECONDS = 24 * 3600
_DRAFT = re.compile(r".*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)


@cache
def _identify_machine() -> str:
    """Return what tells whether two process ids are of the same system: machine, boot, container."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux has these
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def draft_path(path: Path) -> Path:
    """Return a new name for a draft of a file, which no other process uses."""
    token = f"{_identify_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{path.name}.{token}.tmp")


def remove_drafts(folder: Path) -> None:
    """Delete the drafts in a folder that this process or one that was killed left."""
    for path in folder.rglob("*.tmp"):
        with suppress(OSError):
            if _is_abandoned(path):
                path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Return whether nobody writes a draft any more, except this process."""
    draft = _DRAFT.fullmatch(path.name)
    if draft is None or draft["machine"] != _identify_machine():
        return time.time() - path.stat().st_mtime > LEASE_SECONDS
    process = int(draft["process"])
    return process == os.getpid() or not _is_running(process)


def _is_running(process: int) -> bool:
    """Return whether a process of this machine has not ended; zombies have."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:  # it ended just now, or this is no Linux
        return sys.platform != "linux"
