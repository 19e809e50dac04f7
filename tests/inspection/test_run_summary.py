"""A run is shown at any time; nothing of it is trained here."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tokkit.cli import cli
from tokkit.engine.folder import FolderLock, is_being_written
from tokkit.engine.json_files import write_json
from tokkit.engine.manifest import Manifest
from tokkit.engine.receipts import write_statement
from tokkit.engine.spec import StageSpec
from tokkit.errors import TokkitError, UsageError
from tokkit.inspection.inspect import inspect
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.reporting import MetricsLog
from tokkit.pretraining.training.run_plan import RunPlan, describe_run
from tokkit.pretraining.training.run_record import METRICS, RUN, read_run
from tokkit.pretraining.training.schedule import Origin

MANIFEST = Manifest(
    kind="instances",
    key="key of the instances",
    options={"objective": "nsp"},
    seed=0,
    tokenizer_fingerprint="fingerprint",
    inputs=[],
    shards=[],
)


def begin(run: Path, **options: Any) -> None:
    """What a run writes before its first step."""
    config = PretrainConfig(instances=(Path("instances"),), output=run, **options)
    origin = Origin(planned_steps=config.num_steps)
    plan = RunPlan(config, "fp32", (MANIFEST,), initial=None, origin=origin)
    with FolderLock(run):
        write_statement(run, plan.spec.describe(), only_new=True)
    facts = describe_run(plan, model={}, num_parameters=1_024_514, device="cpu, 1 thread")
    write_json(run / RUN, facts)


def go_on(run: Path, steps: range) -> None:
    with MetricsLog(run / METRICS, steps.start) as metrics:
        for step in steps:
            if step % 100 == 0:
                metrics.write({"kind": "eval", "step": step, "loss": 9 - step / 100})
            metrics.write(
                {"kind": "train", "step": step + 1, "loss": 9.5 - step / 100, "tokens": step}
            )


def save(run: Path, step: int, best: int | None = None) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    form: dict[str, Any] = {
        "best": None if best is None else {"step": best, "loss": 5.0},
        "state": {"step": step},
        "files": [],
    }
    write_json(folder / "state.json", form)


def finish(run: Path) -> None:
    accounts = {"figures": {"steps": 400, "tokens": 12_345}}
    manifest = Manifest(**{**MANIFEST.__dict__, "kind": "run", "accounts": accounts})
    manifest.write(run)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def show(run: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["inspect", str(run), *arguments])
    assert result.exit_code == 0, result.output
    return result


def state_of(run: Path) -> str:
    line = show(run).stdout.splitlines()[1]
    assert line.startswith("  state: ")
    return line.removeprefix("  state: ")


def test_a_run_is_shown_from_start_to_end(run: Path) -> None:
    spec = StageSpec(kind="run", output=run, options={}, tokenizer_fingerprint="", seed=0)
    with FolderLock(run):
        write_statement(run, spec.describe(), only_new=True)
        assert state_of(run) == "training at step 0"
    assert state_of(run) == "not started"
    begin(run, preset="tiny", max_steps=400)
    assert state_of(run) == "stopped at step 0 of 400; starts again from step 0"
    go_on(run, range(123))
    with FolderLock(run):
        assert state_of(run) == "training at step 123 of 400"
    save(run, 50)
    save(run, 100, best=50)
    assert state_of(run) == "stopped at step 123 of 400; resumes from step 100"
    assert show(run).stdout.count("\n  checkpoints: step 50 (best), step 100\n") == 1
    save(run, 127, best=50)  # by a signal, between two lines
    assert state_of(run) == "stopped at step 127 of 400; resumes from step 127"
    go_on(run, range(100, 400))
    finish(run)
    assert state_of(run) == "finished, 400 steps"
    assert "\n  tokens: 12,345\n" in show(run).stdout


def test_a_run_by_the_clock_names_its_time(run: Path) -> None:
    begin(run, max_time=86_400.0 + 3600)
    go_on(run, range(10))
    assert state_of(run) == "stopped at step 10 of a run of 1 d 1 h; starts again from step 0"


def test_options_that_differ_come_first(run: Path) -> None:
    begin(run, preset="tiny", learning_rate=0.002)
    lines = show(run).stdout.splitlines()
    start = lines.index("  options:")
    assert lines[start + 1 : start + 5] == [
        "    instances: instances",
        f"    output: {run}",
        "    preset: tiny",
        "    learning rate: 0.002",
    ]
    assert lines[start + 5].startswith("    by default: ")
    assert "batch size 256" in lines[start + 5]
    assert "learning rate" not in lines[start + 5]


def test_curves_are_as_wide_as_the_terminal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(run)
    assert "loss by step" not in show(run).stdout
    go_on(run, range(301))
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        drawn = show(run).stdout.partition("● held out\n\n")[2].splitlines()
        assert len(drawn) == 14
        assert max(map(len, drawn)) in (width - 1, width)
        assert sum(line.count("●") for line in drawn) == 4
    plain, painted = (show(run, "--color", when).stdout for when in ("auto", "always"))
    assert re.sub("\x1b\\[[0-9;]*m", "", painted) == plain
    assert "  \x1b[2mstate:\x1b[0m stopped" in painted
    assert "\x1b[1;33m●" in painted.partition("held out\n")[2]


def test_json_has_all_facts(run: Path) -> None:
    begin(run, preset="tiny", max_steps=400)
    go_on(run, range(101))
    save(run, 100, best=100)
    form = json.loads(show(run, "--json").stdout)
    assert (form["kind"], form["state"], form["step"]) == ("run", "stopped", 101)
    assert form["run"] == json.loads((run / RUN).read_text())
    assert form["changed"]["max_steps"] == 400
    assert "batch_size" not in form["changed"]
    assert form["losses"]["training"][:2] == [[1, 9.5], [2, 9.49]]
    assert form["losses"]["evaluation"] == [[0, 9.0], [100, 8.0]]
    assert form["training"]["step"] == 101
    assert form["evaluation"]["loss"] == 8.0
    (checkpoint,) = form["checkpoints"]
    size = sum(path.stat().st_size for path in (run / "checkpoints" / "step-00000100").iterdir())
    assert checkpoint == {"step": 100, "bytes": size, "is_best": True}


def test_an_incomplete_checkpoint_is_not_listed(run: Path) -> None:
    begin(run)
    save(run, 100)
    (run / "checkpoints" / "step-00000200.tmp").mkdir()
    assert [row["step"] for row in inspect(run).facts["checkpoints"]] == [100]


def test_a_run_has_neither_shards_nor_rows(run: Path) -> None:
    begin(run)
    with pytest.raises(UsageError, match="a run has no shards; leave out --shard"):
        inspect(run, shard="train-0000000.arrow")
    with pytest.raises(UsageError, match="a run has no rows; leave out --rows"):
        inspect(run, rows=1)


def test_inspecting_leaves_the_lock_free(run: Path) -> None:
    assert not is_being_written(run)
    with FolderLock(run):
        assert is_being_written(run)
        with pytest.raises(TokkitError, match="is writing this folder"), FolderLock(run):
            pass
    assert not is_being_written(run)
    with FolderLock(run):
        pass


def test_showing_a_run_does_not_import_torch(run: Path) -> None:
    begin(run)
    go_on(run, range(20))
    script = (
        "import sys\n"
        "from tokkit.cli import main\n"
        f"sys.argv = ['tokkit', 'inspect', {str(run)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "held out" in ended.stdout


@pytest.mark.parametrize(
    "model", [{"model_type": None}, {"model_type": "whisper"}, {"max_position_embeddings": "many"}]
)
def test_the_shape_of_a_model_is_checked(tmp_path: Path, model: dict[str, Any]) -> None:
    begin(tmp_path / "run")
    path = tmp_path / "run" / RUN
    write_json(path, json.loads(path.read_text()) | {"model": model})
    with pytest.raises(TokkitError, match=r"run\.json"):
        read_run(path.parent)


def test_steps_of_a_record_fit_its_phases(tmp_path: Path) -> None:
    begin(tmp_path / "run", max_steps=7)
    path = tmp_path / "run" / RUN
    record = json.loads(path.read_text())
    record["origin"]["planned_steps"] = 0
    write_json(path, record)
    with pytest.raises(TokkitError, match=r"run\.json: damaged options \(--max-steps must be"):
        read_run(path.parent)


def test_a_run_whose_record_lacks_options_is_shown_with_their_defaults(tmp_path: Path) -> None:
    begin(tmp_path / "run", max_steps=7)
    path = tmp_path / "run" / RUN
    record = json.loads(path.read_text())
    del record["options"]["max_steps"], record["options"]["preset"]
    write_json(path, record)
    result = CliRunner().invoke(cli, ["inspect", str(path.parent)])
    assert result.exit_code == 0, result.output
