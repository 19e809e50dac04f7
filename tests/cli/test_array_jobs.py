"""Every stage makes the same folder with any number of workers, and in parts."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokkit.cli import cli

TEXT = "The cat {n} sat on the mat. A dog ran {n} miles.\n\nShe sings {n} songs.\n\n"
STAGES = {
    "train": "train in -o {output} --vocab-size 60 --held-out 0.05",
    "encode": "encode in -t train-0 -o {output} --unit-bytes 20000",
    "build": "build encode-0 -o {output} --max-seq-length 16 --unit-tokens 2000 --eval-fraction 0.2",
    "packed": "build encode-0 -o {output} --max-seq-length 16 --unit-tokens 2000 --objective mlm",
}


def succeed(command: str, *options: str) -> str:
    result = CliRunner().invoke(cli, [*command.split(), *options, "--no-progress"])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".tokkit" not in path.parts
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    (folder / "in").mkdir()
    for number in range(5):
        lines = (TEXT.format(n=number * 100 + line) for line in range(300))
        (folder / "in" / f"{number}.txt").write_text("".join(lines))
    return folder


def test_any_number_of_workers_and_four_parts_write_the_same(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setattr("tokkit.vocab.train.UNIT_BYTES", 20_000)
    monkeypatch.setattr("tokkit.encoding.encode.SMALL_BYTES", 0)
    for stage, command in STAGES.items():
        for workers in ("0", "4"):
            succeed(command.format(output=f"{stage}-{workers}"), "--workers", workers)
        parts = command.format(output=f"{stage}-parts")
        assert succeed(parts, "--plan").startswith(f"{stage}-parts: planned ")
        assert succeed(parts, "--missing", "4") == "0,1,2,3\n"
        for part in (3, 0, 2):
            succeed(parts, "--part", f"{part}/4", "--workers", "0")
        assert succeed(parts, "--missing", "4") == "1\n"
        assert json.loads(succeed(parts, "--missing", "4", "--json"))["missing"] == [1]
        succeed(parts, "--part", "1/4", "--workers", "2")
        assert not succeed(parts, "--missing", "4")
        succeed(parts, "--commit")
        expected = hashes(work / f"{stage}-0")
        assert len(expected) > 4
        for name in ("4", "parts"):
            assert hashes(work / f"{stage}-{name}") == expected, (stage, name)


@pytest.mark.parametrize(
    ("options", "status", "fault"),
    [
        ("--part 4/4", 2, "--part 4/4: I must be from 0 to N-1"),
        ("--part x", 2, "is not a part"),
        ("--part 0/4", 1, "out: has no plan; run the same command with --plan first"),
        ("--commit", 1, "out: has no plan"),
        ("--plan --commit", 2, "exclude each other"),
    ],
)
def test_wrong_steps_are_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, options: str, status: int, fault: str
) -> None:
    monkeypatch.chdir(work)
    result = CliRunner().invoke(cli, ["train", "in", "-o", "out", *options.split()])
    error = result.exception
    assert error is not None
    shown, code = (result.stderr, result.exit_code)
    if isinstance(error, Exception):  # which the program's main function prints
        shown, code = str(error), error.exit_status  # type: ignore[attr-defined]
    assert fault in shown
    assert code == status
    assert not (work / "out").exists()
