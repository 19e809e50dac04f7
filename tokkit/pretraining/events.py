"""The lines of ``metrics.jsonl`` as event files, which TensorBoard draws.

    tensorboard/train/events.out.tfevents.1764000000.host.4711    a scalar for each figure of a line
                eval/events.out.tfevents.1764000000.host.4711

Training and evaluation have a folder each and the same names of figures, so TensorBoard draws
both losses into one chart. A run that goes on begins new files, whose first record takes back what
older ones say of steps that are done again: training lines behind the checkpoint, and evaluations
from it on, just as ``tokkit.pretraining.metrics`` drops them.

A record is a protocol buffer, framed by its length and two checksums. They are written by
TensorBoard's own ``RecordWriter``, a line at a time and by the training thread. Not by
``torch.utils.tensorboard.SummaryWriter``, which does so from a thread of its own: where the disk is
full, that thread dies with a traceback, and half a record, behind which nothing can be read, stays.
"""

import importlib.util
import io
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokkit.errors import TokkitError, describe_os_error, os_errors_about

EVENTS = "tensorboard"

log = logging.getLogger(__name__)


def require_tensorboard() -> None:
    """Refuse ``--tensorboard`` where the library that writes its files is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise TokkitError(
            "tensorboard: is not installed; --tensorboard needs it: "
            "pip install 'tokkit[tensorboard]'"
        )


class EventLog:
    """Writes a run's event files.

    Args:
        folder: of the run.
        step: where the run goes on; 0 takes back whatever is there.
        evaluated: whether the evaluation of that step is done, so that it stands.
    """

    def __init__(self, folder: Path, step: int, *, evaluated: bool = False) -> None:
        self.folder = folder / EVENTS
        self._files = {
            "train": _EventFile(self.folder / "train", first_step=step + 1),
            "eval": _EventFile(self.folder / "eval", first_step=step + evaluated),
        }
        self._is_warned = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line; what does not fit on the disk is left out, and said once."""
        figures = {name: line[name] for name in line.keys() - {"kind", "step"}}
        try:
            self._files[line["kind"]].write(line["step"], figures)
        except OSError as error:
            if not self._is_warned:
                log.warning(
                    "%s: %s; training goes on without the lines that do not fit",
                    self.folder,
                    describe_os_error(error),
                )
            self._is_warned = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()


class _EventFile:
    """One event file, on the end of which there is never a part of a record."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        with os_errors_about(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Readers take files in the order of their names, and two may begin in one second.
            number = sum(1 for _ in folder.iterdir())
            self._file = (folder / f"{name}.{number}").open("wb", buffering=0)
            start = SessionLog(status=SessionLog.START)
            self._append(
                Event(wall_time=time.time(), file_version="brain.Event:2"),
                Event(wall_time=time.time(), step=first_step, session_log=start),
            )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=figures[name]) for name in sorted(figures)]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, *events: Any) -> None:
        """Append records whole, or raise ``OSError`` and leave none."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        records, end = buffer.getvalue(), self._file.tell()
        try:
            written = 0
            while written < len(records):  # a disk that fills up takes a part
                written += self._file.write(records[written:])
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise

    def close(self) -> None:
        self._file.close()
