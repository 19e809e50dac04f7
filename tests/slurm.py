"""Runs an array job under a real Slurm, which this script starts on this machine and stops again.

    apt-get install slurm-wlm munge     (as root, in a container or virtual machine)
    python tests/slurm.py

It plans, starts four tasks with ``sbatch --array``, kills one of them, starts the missing one, commits,
and compares the folder with that of a single process. CI does not run it.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent
NUM_PARTS = 4
CONFIG = """
ClusterName=tokkit
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={state}/munge.socket
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def run(*command: str | Path, **environment: str) -> str:
    """Run a command, and return what it prints."""
    ended = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {ended.returncode}")
    return ended.stdout.strip()


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)


@contextmanager
def slurm(state: Path) -> Iterator[None]:
    """Run munge, a controller and a node inside the block."""
    host = socket.gethostname().split(".")[0]
    for folder in ("ctld", "slurmd"):
        (state / folder).mkdir()
    (state / "munge.key").write_bytes(os.urandom(128))
    (state / "munge.key").chmod(0o600)
    config = state / "slurm.conf"
    config.write_text(CONFIG.format(host=host, state=state, cpus=os.cpu_count()))
    os.environ["SLURM_CONF"] = str(config)
    munge = (
        *("munged", "--foreground", "--force", f"--socket={state}/munge.socket"),
        *(f"--key-file={state}/munge.key", f"--pid-file={state}/munged.pid"),
        *(f"--seed-file={state}/munge.seed", f"--log-file={state}/munged.log"),
    )
    started = []
    try:
        for command in (munge, ("slurmctld", "-D"), ("slurmd", "-D", "-N", host)):
            log = (state / f"{command[0]}.out").open("w")
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        wait_until("a node of Slurm", lambda: "idle" in run("sinfo", "-h", "-o", "%T"))
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".tokkit" not in path.parts
    }


def submit(job: Path, array: str, part: str) -> str:
    """Submit an array job, and return its number."""
    log = f"--output={job.parent}/%A-%a.log"
    return run("sbatch", "--parsable", f"--array={array}", log, job, part)


def states(job: str) -> dict[str, str]:
    """Return the state of each task of an array job that has not ended."""
    lines = run("squeue", "-h", "-r", "-j", job, "-o", "%K %T").splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def write_inputs(folder: Path) -> Path:
    """Write a corpus of some fifty units."""
    folder.mkdir()
    for number in range(10):
        lines = (f"The cat {number} sat on mat {line}. The dogs sat.\n\n" for line in range(2000))
        (folder / f"{number}.txt").write_text("".join(lines))
    return folder


def main() -> None:
    """Run the array job, and compare its folder."""
    sys.path.insert(0, str(TESTS))
    from tinytokenizers import write_vocab

    missing = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)
    ]
    if missing:
        sys.exit(f"{', '.join(missing)}: not found; run apt-get install slurm-wlm munge")
    os.environ["PYTHONPATH"] = str(TESTS.parent)
    # Slurm keeps sockets here, whose paths must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="slurm-") as name:
        here = Path(name)
        inputs, tokenizer = write_inputs(here / "in"), write_vocab(here / "tok", do_lower_case=True)
        encode = f"{sys.executable} -m tokkit encode {inputs} -t {tokenizer} --unit-bytes 20000 -o "
        job = here / "job.sh"
        job.write_text(f"#!/bin/sh\n{encode}{here}/array --part $1\n")
        array: list[str | Path] = [*encode.split(), here / "array"]
        with slurm(here):
            say(run(*array, "--plan"))
            number = submit(job, f"0-{NUM_PARTS - 1}", "auto")
            wait_until("task 2", lambda: states(number).get("2") == "RUNNING")
            run("scancel", f"{number}_2")
            wait_until("the tasks", lambda: not states(number))
            parts = run(*array, "--missing", str(NUM_PARTS))
            say(f"missing: {parts}")
            if parts != "2":
                sys.exit(f"missing: {parts}, but task 2 alone was killed")
            number = submit(job, parts, f"auto/{NUM_PARTS}")
            wait_until("the missing task", lambda: not states(number))
            say(run(*array, "--commit"))
        run(*encode.split(), here / "whole")
        if hashes(here / "array") != hashes(here / "whole"):
            sys.exit("the folders differ")
        say(f"{len(hashes(here / 'whole'))} files are those of a single process")


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
