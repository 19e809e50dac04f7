"""Whatever a JSON file of tokkit holds, readers accept it or refuse it in one line."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from instancefolders import write_instance_folder
from malformedjson import mutants
from tinytokenizers import write_vocab
from tokenfolders import write_token_folder

from tokkit.cli import cli
from tokkit.engine.files import hash_file
from tokkit.engine.folder import FolderLock
from tokkit.engine.json_files import write_json
from tokkit.engine.manifest import Manifest
from tokkit.engine.receipts import convert_notes, read_statement, seal, write_statement
from tokkit.engine.spec import StageSpec
from tokkit.errors import TokkitError
from tokkit.inspection.verify import verify
from tokkit.pretraining.data.instance_loader import InstanceLoader
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoints import load_checkpoint
from tokkit.pretraining.training.reporting import MetricsLog
from tokkit.pretraining.training.run_plan import RunPlan, describe_run
from tokkit.pretraining.training.run_record import RUN, read_metrics
from tokkit.shards.reader import ShardFolder
from tokkit.vocab.counting import CountNotes

MUTANTS = 50


def run(*arguments: object) -> None:
    """Run a command in this process; only what the command line reports may end it."""
    error = CliRunner().invoke(cli, [*map(str, arguments)]).exception
    if error is not None and not isinstance(error, SystemExit):
        raise error


def try_all(path: Path, *readers: Callable[[], object]) -> None:
    """Read mutants of a file with each reader."""
    text = path.read_text()
    refused = []
    for mutant in mutants(text, seed=1, number=MUTANTS):
        path.write_bytes(mutant)
        for read in readers:
            try:
                read()
            except TokkitError as error:
                refused.append(error)
    path.write_text(text)
    assert len(refused) > 5
    assert not any("\n" in str(error) or error.exit_status != 1 for error in refused)


def test_a_manifest_of_instances(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", static=True)
    try_all(
        folder / "manifest.json",
        lambda: verify(folder),
        lambda: run("inspect", folder),
        lambda: InstanceLoader(folder, batch_size=4, seed=1).batch(0),
    )


def test_a_manifest_of_tokens(tmp_path: Path) -> None:
    folder = write_token_folder(tmp_path / "tokens", [[[10] * 5, [20] * 4]] * 12, shards=[[12]])
    try_all(
        folder / "manifest.json",
        lambda: verify(folder),
        lambda: run("inspect", folder, "--json"),
        lambda: ShardFolder.open(folder, "tokens"),
    )


def test_the_record_of_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("A cat sat.\n\nA dog ran.\n\n" * 9)
    folder = tmp_path / "tokenizer"
    train = ("train", tmp_path / "in.txt", "-o", folder, "--vocab-size", "27", "--workers", "0")
    run(*train)
    try_all(
        folder / "training.json",
        lambda: verify(folder),
        lambda: run("inspect", folder),
        lambda: run(*train),
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder as after its start."""
    instances = write_instance_folder(tmp_path / "instances")
    folder = tmp_path / "run"
    config = PretrainConfig(instances=(instances,), output=folder, preset="tiny", batch_size=4)
    plan = RunPlan(config, "fp32", (Manifest.read(instances),), initial=None)
    with FolderLock(folder):
        write_statement(folder, plan.spec.describe(), only_new=True)
    write_json(folder / RUN, describe_run(plan, model={}, num_parameters=9, device="cpu"))
    checkpoint = folder / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    best = {"step": 7, "loss": 5.0}
    write_json(checkpoint / "state.json", {"best": best, "state": {"step": 7}, "files": []})
    return folder


def test_the_record_of_a_run(run_folder: Path) -> None:
    try_all(
        run_folder / RUN,
        lambda: run("inspect", run_folder),
        lambda: run("inspect", run_folder, "--replay", "--rows", "1"),
    )


def test_the_state_of_a_checkpoint(run_folder: Path) -> None:
    (state,) = run_folder.rglob("state.json")
    try_all(state, lambda: run("inspect", run_folder))


def test_lines_of_metrics(run_folder: Path) -> None:
    line = {"kind": "train", "step": 3, "loss": 9.5, "gradient_norm": 1.5, "tokens": 7}
    for mutant in mutants(json.dumps(line), seed=1, number=MUTANTS):
        good = json.dumps(line).encode()
        (run_folder / "metrics.jsonl").write_bytes(b"\n".join([good, mutant, good, b""]))
        run("inspect", run_folder)
        (run_folder / "metrics.jsonl").write_bytes(b"\n".join([good, mutant, b""]))
        run("inspect", run_folder)
        with MetricsLog(run_folder / "metrics.jsonl", step=3):
            assert read_metrics(run_folder / "metrics.jsonl")[0] == line


def test_a_statement_that_has_changed_is_left_out(tmp_path: Path) -> None:
    spec = StageSpec(kind="run", output=tmp_path, options={}, tokenizer_fingerprint="", seed=0)
    with FolderLock(tmp_path):
        write_statement(tmp_path, spec.describe(), only_new=True)
    path = tmp_path / ".tokkit" / "stage.json"
    text = path.read_text()
    for mutant in mutants(text, seed=1, number=MUTANTS):
        path.write_bytes(mutant + b"\n")
        assert read_statement(tmp_path) in (None, spec.describe())
    path.write_text(text)
    assert read_statement(tmp_path) == spec.describe()
    deep: list[Any] = []
    for _ in range(400):  # as deep as the JSON parser goes, and too deep for who formats it
        deep = [deep]
    path.write_bytes(seal({**spec.describe(), "options": {"phases": deep}}))
    assert read_statement(tmp_path) is None


def test_receipts_of_other_content(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("The cat sat on the mat.\n" * 9)
    folder, vocab = tmp_path / "tokens", write_vocab(tmp_path / "tokenizer")
    encode = ("encode", tmp_path / "in.txt", "-t", vocab, "-o", folder, "--workers", "0")
    run(*encode)
    (receipt,) = (folder / ".tokkit" / "done").iterdir()
    whole = json.loads(receipt.read_text())
    del whole["checksum"]

    def resume(**changes: Any) -> None:
        (folder / "manifest.json").unlink()
        receipt.write_bytes(seal({**whole, **changes}))
        run(*encode)

    resume(accounts=[[]])  # its unit is done again
    assert not verify(folder).faults
    with pytest.raises(TokkitError, match=r"a receipt is damaged .*; pass --overwrite"):
        resume(notes={"name": [7]})
    with pytest.raises(TokkitError, match="a receipt is damaged"):
        convert_notes({**dict.fromkeys(CountNotes.__annotations__, 1), "removed": 7}, CountNotes)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Test processes exchange what pytest captures of the log, as UTF-8.
    monkeypatch.setattr(logging.getLogger("tokkit"), "propagate", False)
    bad = os.fsdecode(b"\xff")
    text = tmp_path / f"{bad}.txt"
    text.write_text("A cat sat. A dog ran.\n\nA dog sat.\n\n" * 9)
    tokenizer, tokens, instances = (tmp_path / f"{n}{bad}" for n in ("vocab", "tokens", "pairs"))
    weight, quick = f"{text}=2", ("--workers", "0")
    run("train", text, "-o", tokenizer, "--vocab-size", "27", "--weight", weight, *quick)
    run("encode", text, "-t", tokenizer, "-o", tokens, *quick)
    run("build", tokens, "-o", instances, "--max-seq-length", "16", *quick)
    for folder in (tokenizer, tokens, instances):
        assert not verify(folder).faults
        run("inspect", folder)
    with pytest.raises(TokkitError, match="is not valid UTF-8; give it another name"):
        run("encode", text, "-t", tokenizer, "-o", tmp_path / "x", "--text-field", bad)
    with pytest.raises(TokkitError, match="is not valid UTF-8; give it another name"):
        run("pretrain", instances, "-o", tmp_path / "run")


@pytest.mark.parametrize("name", ["manifest.json", "training.json"])
def test_a_folder_in_place_of_a_record(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for read in (lambda: verify(tmp_path), lambda: run("inspect", tmp_path)):
        with pytest.raises(TokkitError, match="unfinished, or not made by tokkit"):
            read()


def test_devices_that_never_end_in_place_of_files(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match="/dev/zero: more than 1,048,576 bytes"):
        run("run", "/dev/zero")
    (corpus := tmp_path / "corpus.txt").write_text("text")
    with pytest.raises(TokkitError, match="/dev/zero: more than 16,777,216 bytes"):
        run("train", corpus, "-o", tmp_path / "t", "--initial-alphabet", "/dev/zero")
    (state,) = run_folder.rglob("state.json")
    state.unlink()
    state.symlink_to("/dev/zero")
    with pytest.raises(TokkitError, match="is not a regular file"):
        run("inspect", run_folder)
    with pytest.raises(TokkitError, match=r"damaged \(it is not a regular file"):
        load_checkpoint(state.parent, {})
    with pytest.raises(TokkitError, match="is not a regular file"):
        hash_file(Path("/dev/zero"))
