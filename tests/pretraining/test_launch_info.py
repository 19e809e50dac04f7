import logging

import pytest

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.training.launch_info import (
    FIRST_PORT,
    NUM_PORTS,
    SINGLE_PROCESS,
    LaunchInfo,
    detect_launcher,
    first_host,
    log_on_first_rank,
)

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "gpu03",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "4217",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_JOB_NODELIST": "gpu[01-05,9]",
}


def test_the_variables_of_torchrun_are_read_before_those_of_slurm() -> None:
    assert detect_launcher(TORCHRUN) == LaunchInfo(5, 8, 1, "gpu03", 29500)
    assert detect_launcher({**SRUN, **TORCHRUN}) == detect_launcher(TORCHRUN)


def test_slurm_names_a_host_and_all_ranks_compute_the_same_port() -> None:
    launch_info = detect_launcher(SRUN)
    assert launch_info == LaunchInfo(5, 8, 1, "gpu03", 16_217, by_slurm=True)
    other = detect_launcher({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert (other.master_addr, other.master_port) == (
        launch_info.master_addr,
        launch_info.master_port,
    )
    assert detect_launcher({**SRUN, "SLURM_STEP_ID": "1"}).master_port != launch_info.master_port
    for job in ("1", "99999999", "4294967295"):
        port = detect_launcher({**SRUN, "SLURM_JOB_ID": job}).master_port
        assert FIRST_PORT <= port < FIRST_PORT + NUM_PORTS
    chosen = detect_launcher({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (chosen.master_addr, chosen.master_port) == ("10.0.0.1", 4000)
    del (older := dict(SRUN))["SLURM_STEP_NODELIST"], older["SLURM_STEP_NUM_TASKS"]
    assert detect_launcher(older).master_addr == "gpu01"


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu03", "gpu03"),
        ("login1,gpu[03-05]", "login1"),
        ("gpu[03-05,9]", "gpu03"),
        ("gpu[7,9-12],cpu1", "gpu7"),
        ("a[03-05,9]-x[1,2],b", "a03-x1"),
        ("rack[2-3].gpu.example.org", "rack2.gpu.example.org"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "gpu[", "gpu[]", ",gpu1"])
def test_invalid_host_lists_are_refused(nodes: str) -> None:
    with pytest.raises(TokkitError, match="not a list of Slurm nodes; set MASTER_ADDR"):
        first_host(nodes)


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_ID": None, "SLURM_STEP_NUM_TASKS": None},  # the script of sbatch -n 8
        {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": None},  # a shell of salloc -n 8
        {"SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1 within sbatch -n 8
    ],
    ids=["sbatch", "salloc", "srun of one"],
)
def test_one_process_of_a_job_waits_for_no_others(
    changes: dict[str, str | None], caplog: pytest.LogCaptureFixture
) -> None:
    environment = {n: v for n, v in {**SRUN, **changes}.items() if v is not None}
    with caplog.at_level(logging.INFO):
        assert detect_launcher(environment) == SINGLE_PROCESS
    assert "SLURM_NTASKS is 8, but srun did not start" in caplog.text
    caplog.clear()
    assert detect_launcher(environment, nproc_per_node=2) == SINGLE_PROCESS
    assert not caplog.text


def test_without_variables_there_is_one_process() -> None:
    assert detect_launcher({}) == SINGLE_PROCESS
    assert detect_launcher({"MASTER_ADDR": "gpu03", "MASTER_PORT": "29500"}) == SINGLE_PROCESS
    assert detect_launcher({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}).size == 1


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set, although RANK is"),
        ({n: v for n, v in TORCHRUN.items() if n != "LOCAL_RANK"}, "LOCAL_RANK is not set"),
        ({n: v for n, v in TORCHRUN.items() if n != "MASTER_PORT"}, "MASTER_PORT is not set"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({**TORCHRUN, "RANK": "8"}, "RANK is 8, but WORLD_SIZE is 8"),
        ({**TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', not a number"),
        ({**SRUN, "SLURM_PROCID": "8"}, "SLURM_PROCID is 8, but SLURM_NTASKS is 8"),
        ({n: v for n, v in SRUN.items() if n != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
        ({n: v for n, v in SRUN.items() if n != "SLURM_JOB_ID"}, "SLURM_JOB_ID is not set"),
    ],
)
def test_incomplete_or_wrong_variables_are_refused_in_one_line(
    environment: dict[str, str], fault: str
) -> None:
    with pytest.raises(TokkitError, match=fault) as caught:
        detect_launcher(environment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "name"), [(TORCHRUN, "WORLD_SIZE"), (SRUN, "SLURM_NTASKS")]
)
def test_processes_are_started_by_one_launcher(environment: dict[str, str], name: str) -> None:
    with pytest.raises(
        UsageError, match=f"--nproc-per-node 2: {name} is set, .* started 8 processes"
    ):
        detect_launcher(environment, nproc_per_node=2)


def test_only_the_first_rank_logs_but_all_log_errors(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tokkit.pretraining")
    logging.getLogger("tokkit").setLevel(logging.INFO)
    for rank in (0, 1):
        with log_on_first_rank(LaunchInfo(rank, 2, rank)):
            logger.info("line of %d", rank)
            logger.error("fault of %d", rank)
    logger.info("later")
    assert [record.getMessage() for record in caplog.records] == [
        "line of 0",
        "fault of 0",
        "fault of 1",
        "later",
    ]
