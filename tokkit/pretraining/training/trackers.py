"""Trackers: where ``--tracker`` sends the lines of ``metrics.jsonl``, which remains the record.

``tensorboard`` writes event files into the run folder:

    tensorboard/train/events.out.tfevents.1764000000.host.4711    a scalar for each metric of a line
                eval/events.out.tfevents.1764000000.host.4711

Training and evaluation have a folder each and the same names of metrics, so TensorBoard draws
both losses in one chart. A resumed run starts new files, whose first record makes TensorBoard drop
the steps of older files that are repeated: training lines after the checkpoint, and evaluations from it
on, just as ``metrics.jsonl`` drops them.

A record is a protocol buffer, framed by its length and two checksums. TensorBoard's own
``RecordWriter`` writes the records, in the training thread. ``torch.utils.tensorboard.SummaryWriter``
writes them in another thread: if the disk is full, that thread dies with a traceback and leaves half a
record, after which nothing can be read.

``wandb``, ``trackio`` and ``mlflow`` use their own libraries, with their environment variables for
server, account, offline mode and project (``WANDB_PROJECT``, ``TRACKIO_PROJECT``,
``MLFLOW_EXPERIMENT_NAME``; else ``tokkit``). The metrics are ``train/loss``, ``eval/loss`` and so on, and a
resumed run continues the same run there. The library is called in a thread of its own, since a server
may not answer for minutes: training waits for it only at the end, for ``EXIT_SECONDS``. To add one,
write a function that opens it, and add it to ``OPENERS`` and to the choices of ``--tracker``.
"""

import io
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self

from tokkit.engine.json_files import read_json
from tokkit.engine.unit import content_key
from tokkit.errors import describe_os_error, wrap_os_errors
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.run_record import RUN, RunRecord

EVENTS = "tensorboard"
START_SECONDS, EXIT_SECONDS = 15.0, 20.0

log = logging.getLogger(__name__)


def open_tracker(
    config: PretrainConfig, step: int, *, evaluated: bool
) -> "EventLog | LibraryTracker":
    """Return the tracker of a run, whose ``run.json`` has been written.

    It is a context manager with a method ``write`` for a line of ``metrics.jsonl``, and none of its
    faults ends the run.

    Args:
        config: options of the run.
        step: step at which the run resumes.
        evaluated: whether the checkpoint of that step was written after its evaluation.
    """
    if config.tracker == EVENTS:
        return EventLog(config.output, step, evaluated=evaluated)
    return LibraryTracker(str(config.tracker), config.output)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run.

    Attributes:
        folder: run folder.
        key: identifies the run, also after it is resumed.
        options: options of the run, for the tracker's table.
        project: name of the project that groups runs.
    """

    folder: Path
    key: str
    options: dict[str, Any]
    project: str


Send = Callable[[dict[str, float], int], object]
Finish = Callable[[bool], object]  # whether the run has failed


class LibraryTracker:
    """Sends lines through the library of a tracker, in a thread of its own.

    Args:
        name: name of the tracker.
        folder: run folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        record = read_json(folder / RUN, RunRecord)
        variable = "MLFLOW_EXPERIMENT_NAME" if name == "mlflow" else f"{name.upper()}_PROJECT"
        self._run = TrackedRun(
            folder,
            key=content_key({"started": record["started"], "folder": folder.name})[:16],
            options=record["options"],
            project=os.environ.get(variable, "tokkit"),
        )
        self._lines: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        self._thread = Thread(target=self._send_lines, daemon=True)
        self._has_failed = self._has_warned = False
        self._stack = ExitStack()

    def write(self, line: Mapping[str, Any]) -> None:
        """Pass a line on to the thread."""
        self._lines.put(line)

    def _send_lines(self) -> None:
        try:
            send, finish = OPENERS[self._name](self._run)
        except Exception as error:  # noqa: BLE001  errors of its own and of its dependencies
            self._warn(error, "training continues without it")
            return
        while (line := self._lines.get()) is not None:
            kind = line["kind"]
            named = {f"{kind}/{n}": v for n, v in line.items() if n not in {"kind", "step"}}
            try:
                send(named, line["step"])
            except Exception as error:  # noqa: BLE001  same
                self._warn(error, "training continues without the lines that do not arrive")
        try:
            finish(self._has_failed)
        except Exception as error:  # noqa: BLE001  same
            self._warn(error, "its last lines may be missing")

    def _warn(self, error: Exception, consequence: str) -> None:
        if not self._has_warned:
            lines = str(error).strip().splitlines() or [""]
            log.warning(
                "--tracker %s: %s: %s; %s; metrics.jsonl has all lines",
                *(self._name, type(error).__name__, lines[0], consequence),
            )
        self._has_warned = True

    def __enter__(self) -> Self:
        # Standard output is for results, but these libraries print greetings.
        self._stack.enter_context(redirect_stdout(sys.stderr))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._has_failed = sys.exception() is not None
        self._lines.put(None)
        self._thread.join(EXIT_SECONDS)
        if self._thread.is_alive():
            waited = TimeoutError(f"no answer for {EXIT_SECONDS:g} seconds")
            self._warn(waited, "its last lines may be missing")
        self._stack.close()


def _open_wandb(run: TrackedRun) -> tuple[Send, Finish]:
    import wandb

    session = wandb.init(
        project=run.project,
        name=run.folder.name,
        id=run.key,
        resume="allow",
        dir=run.folder,
        config=run.options,
        settings=wandb.Settings(init_timeout=START_SECONDS),  # else 90 seconds
    )
    return session.log, lambda failed: session.finish(exit_code=int(failed))


def _open_trackio(run: TrackedRun) -> tuple[Send, Finish]:
    import trackio

    name = f"{run.folder.name}-{run.key}"  # trackio identifies runs by their names
    session = trackio.init(project=run.project, name=name, config=run.options, resume="allow")
    return session.log, lambda _: trackio.finish()


def _open_mlflow(run: TrackedRun) -> tuple[Send, Finish]:
    import mlflow

    mlflow.set_experiment(run.project)
    found = mlflow.search_runs(
        filter_string=f"tags.tokkit_run = '{run.key}'", output_format="list", max_results=1
    )
    if found:
        mlflow.start_run(run_id=found[0].info.run_id)
    else:
        mlflow.start_run(run_name=run.folder.name, tags={"tokkit_run": run.key})
        mlflow.log_params(run.options)
    return mlflow.log_metrics, lambda failed: mlflow.end_run("KILLED" if failed else "FINISHED")


OPENERS: dict[str, Callable[[TrackedRun], tuple[Send, Finish]]] = {
    "wandb": _open_wandb,
    "trackio": _open_trackio,
    "mlflow": _open_mlflow,
}


class EventLog:
    """Writes a run's event files; none of them ever ends in an incomplete record.

    Args:
        folder: run folder.
        step: step at which the run resumes; 0 drops everything that exists.
        evaluated: whether to keep the evaluation of that step.
    """

    def __init__(self, folder: Path, step: int, *, evaluated: bool = False) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.folder = folder / EVENTS
        self._has_warned = False
        self._files = {}
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        for kind, first_step in (("train", step + 1), ("eval", step + evaluated)):
            path = self.folder / kind
            with wrap_os_errors(path):
                path.mkdir(parents=True, exist_ok=True)
                # Readers sort files by name, and two may start in one second.
                number = sum(1 for _ in path.iterdir())
                self._files[kind] = (path / f"{name}.{number}").open("wb", buffering=0)
                start = SessionLog(status=SessionLog.START)
                self._append(
                    kind,
                    Event(wall_time=time.time(), file_version="brain.Event:2"),
                    Event(wall_time=time.time(), step=first_step, session_log=start),
                )

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line; it is left out if the disk is full, which is logged once."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        names = sorted(line.keys() - {"kind", "step"})
        summary = Summary(value=[Summary.Value(tag=n, simple_value=line[n]) for n in names])
        try:
            self._append(
                line["kind"], Event(wall_time=time.time(), step=line["step"], summary=summary)
            )
        except OSError as error:
            if not self._has_warned:
                log.warning(
                    "%s: %s; training continues without the lines that do not fit",
                    self.folder,
                    describe_os_error(error),
                )
            self._has_warned = True

    def _append(self, kind: str, *events: Any) -> None:
        """Append complete records, or raise ``OSError`` and leave the file as it was."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        records, file = memoryview(buffer.getvalue()), self._files[kind]
        end = file.tell()
        try:
            while records:  # a disk that is almost full takes a part of them
                records = records[file.write(records) :]
        except OSError:
            file.truncate(end)
            file.seek(end)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()
