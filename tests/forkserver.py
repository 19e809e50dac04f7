"""Starts Python processes as copies of one that has imported everything, which takes milliseconds.

A new process imports torch and the rest for 3 s, and the tests start more than a hundred. ``Popen``
and ``run`` are those of ``subprocess`` for ``[sys.executable, …]``. A server copies itself with the
arguments, environment, folder, signal mask and file descriptors of the request, and Linux makes the
copy a child of the process that asked for it, as a new one would be:

    test ──request──▶ server ──fork──▶ helper ──fork──▶ copy
         ◀─────────── process id ─────────┘ ends, and leaves the copy to the test

``copy_spawned`` does the same for the processes that ``multiprocessing`` spawns. On other systems,
real processes are started. So do tests of imports, of the entry point and of variables that are
read when Python starts.
"""

import atexit
import ctypes
import fcntl
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import util
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import forkserver

IS_AVAILABLE = sys.platform == "linux"

# A variable of the environment: processes that the copy spawns are copies, too.
COPY_SPAWNED = "TOKKIT_TESTS_COPY_SPAWNED"

# What is imported only when it is needed. NumPy and pyarrow come first, without threads.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.launcher.api",
    "numba",
    "psutil",
    "pytest",
)

_SET_NAME, _ADOPT_ORPHANS = 15, 36  # of prctl
_COPY_NAME = b"spawn_main"
_FIRST_FREE = 500  # a descriptor above all that copies are given

_lock = threading.Lock()
_server: socket.socket | None = None
_spawn = util.spawnv_passfds


class Popen(subprocess.Popen[Any]):
    """A Python process that is copied instead of started."""

    if IS_AVAILABLE:

        def _execute_child(self, args: Sequence[Any], *rest: Any) -> None:
            """Do as the method of the standard library, of which ``rest`` are the arguments."""
            pass_fds, cwd, env = rest[3:6]
            pipes = rest[9:15]
            new_session = rest[20]
            given = (pipes[0], pipes[3], pipes[5])
            descriptors = {target: target if fd < 0 else fd for target, fd in enumerate(given)}
            descriptors |= {fd: fd for fd in pass_fds}
            try:
                self.pid = _request(args, descriptors, cwd, env, new_session=new_session)
            finally:
                self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # private
            self._child_created = True


def run(
    arguments: Sequence[Any],
    *,
    input: str | bytes | None = None,  # noqa: A002  as in subprocess.run
    capture_output: bool = False,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a copy to its end, as ``subprocess.run`` does a process."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(arguments, **options) as process:
        output, errors = process.communicate(input)
    ended = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        ended.check_returncode()
    return ended


def skip_syncs() -> None:
    """Let nothing wait for the disk: no test cuts the power, and a tenth of their time was this."""
    os.fsync = os.fstat  # type: ignore[assignment]  # which refuses a closed file, too


@contextmanager
def copy_spawned() -> Iterator[None]:
    """Copy the processes that ``multiprocessing`` spawns; close the server at the end."""
    global _server  # noqa: PLW0603  one for each process
    if IS_AVAILABLE:
        util.spawnv_passfds = _copy
    try:
        yield
    finally:
        util.spawnv_passfds = _spawn
        if _server is not None:
            _server.close()
            _server = None


def is_spawned(name: str, command: Sequence[str]) -> bool:
    """Return whether ``multiprocessing`` made the process of this name and command line."""
    return name == _COPY_NAME.decode() or "spawn_main" in " ".join(command)


def _copy(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Do as ``multiprocessing.util.spawnv_passfds``."""
    del path
    kept = {fd: fd for fd in (0, 1, 2, *passfds) if _is_open(fd)}
    return _request(args, kept, None, None, new_session=False)


def _is_open(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _request(
    args: Sequence[Any], descriptors: dict[int, int], cwd: Any, env: Any, *, new_session: bool
) -> int:
    """Ask the server for a copy with these descriptors, by target, and return its process id."""
    request = {
        "arguments": [os.fsdecode(argument) for argument in args[1:]],
        "cwd": os.fspath(cwd or Path.cwd()),
        "environment": dict(env if env is not None else os.environ),
        "targets": list(descriptors),
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "new_session": new_session,
    }
    with _lock, os.fdopen(os.memfd_create("request"), "w+b") as file:  # a message may be too long
        file.write(json.dumps(request).encode())
        file.flush()
        server = _find_server()
        socket.send_fds(server, [b"."], [file.fileno(), *descriptors.values()])
        answer = server.recv(32)
    assert answer, "the server that copies itself has ended"
    return int(answer)


def _find_server() -> socket.socket:
    """Return the connection to the server of this process, which is started by the first call."""
    global _server
    if _server is None:
        _server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            ).returncode = 0  # nobody waits for it; it ends when its connection closes
        ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    return _server


def main() -> None:
    """Be the server, and in each copy do what was requested."""
    global _server
    variables = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    library = [path for path in sys.path[1:] if path not in variables]
    _preload()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request["environment"].pop(COPY_SPAWNED, None):
        # What it spawns are to be its children, so it gets a server of its own.
        _server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            kept = fcntl.fcntl(theirs.detach(), fcntl.F_DUPFD, _FIRST_FREE)
            _server.detach()
            os.closerange(0, _FIRST_FREE)
            request = _serve(socket.socket(fileno=kept))
        else:
            theirs.close()
            util.spawnv_passfds = _copy
            ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    variables = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, variables), *library]
    _reopen_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    status = 0
    try:
        _run_python(request["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001  as Python does
        sys.excepthook(*sys.exc_info())
        status = 1
    _exit(status)


def _exit(status: int) -> NoReturn:
    """End as Python does, but leave it to the system to free the memory, which took 0.3 s."""
    threading._shutdown()  # type: ignore[attr-defined]  # private
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)


def _preload() -> None:
    """Import what tests and commands need, in one thread, so that commands can copy themselves."""
    import tokkit
    from tokkit.engine.local import import_single_threaded

    skip_syncs()
    gc.disable()  # for the time of the imports, which leave nothing to collect
    import_single_threaded()
    for name in PRELOADED:
        import_module(name)
    for module in pkgutil.walk_packages(tokkit.__path__, "tokkit."):
        if not module.name.endswith("__main__"):
            try:
                import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name != "triton":  # an extra of a gigabyte
                    raise
    gc.freeze()
    gc.enable()


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Copy this process for each request, until the connection ends; return the request there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        _, received, _, _ = socket.recv_fds(connection, 1, _FIRST_FREE)
        if not received:
            os._exit(0)
        reader, writer = os.pipe()
        helper = os.fork()
        if helper == 0:
            helper = os.getpid()
            copy = os.fork()
            if copy:
                os.write(writer, str(copy).encode())
                os._exit(0)
            while os.getppid() == helper:
                time.sleep(0)
            connection.close()
            return _take_over(received)
        os.waitpid(helper, 0)
        connection.send(os.read(reader, 32))
        for descriptor in (reader, writer, *received):
            os.close(descriptor)


def _take_over(received: Sequence[int]) -> dict[str, Any]:
    """Make the descriptors of a request those of this process, and return the request."""
    message, *moved = (fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE) for fd in received)
    with os.fdopen(message, "rb") as file:
        file.seek(0)
        request: dict[str, Any] = json.load(file)
    os.closerange(0, _FIRST_FREE)
    for descriptor, target in zip(moved, request["targets"], strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    return request


def _reopen_streams() -> None:
    """Open the standard streams as Python does when it starts."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        stream = os.fdopen(
            descriptor,
            "w" if descriptor else "r",
            buffering=1 if name == "stderr" else -1,
            encoding=before.encoding,
            errors=before.errors,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run_python(arguments: list[str]) -> None:
    """Do what Python does with its arguments."""
    while arguments[0] not in ("-c", "-m") and arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in ("-W", "-X"):
            option += arguments.pop(0)
        if option.startswith("-W"):
            warnings.simplefilter(option[2:])  # type: ignore[arg-type]
    first, *rest = arguments
    if first == "-c":
        if "spawn_main" in rest[0]:
            ctypes.CDLL(None).prctl(_SET_NAME, _COPY_NAME, 0, 0, 0)
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), program.__dict__)  # noqa: S102  as Python does
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent.resolve()))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import forkserver  # this module, under the name of its other users

    forkserver.main()
