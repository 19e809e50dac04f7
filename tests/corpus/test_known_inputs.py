"""A command that runs again looks into those inputs alone that may be others than planned."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tinytokenizers import write_vocab

from tokkit.corpus import sources
from tokkit.corpus.formats import find_type
from tokkit.corpus.units import Group
from tokkit.encoding.encode import encode, make_encode_stage
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine import stage_plan
from tokkit.engine.stage import run_step
from tokkit.engine.stage_plan import StagePlan, read_plan
from tokkit.errors import TokkitError

TEXT = "The cat sat on the mat. The dogs sat.\n\n" * 25
RECORD = json.dumps({"text": "The cat sat on the mat. " * 30})


def write(path: Path, text: str, *, age: float = 3600) -> None:
    path.write_text(text)
    changed = time.time() - age
    os.utime(path, (changed, changed))


def make_config(folder: Path, **options: Any) -> EncodeConfig:
    output, tokenizer = folder / "tokens", folder / "tokenizer"
    inputs, chosen = (str(folder / "in"),), {"unit_bytes": 1024, "workers": 0, **options}
    return EncodeConfig(inputs=inputs, tokenizer=tokenizer, output=output, **chosen)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files of text and a tokenizer."""
    (tmp_path / "in").mkdir()
    for number in range(5):
        write(tmp_path / "in" / f"{number}.txt", TEXT)
    write_vocab(tmp_path / "tokenizer", do_lower_case=True)
    return tmp_path


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are looked into, as they are."""
    names: list[str] = []

    def record(files: Any, config: Any, entry: Any) -> Any:
        names.append(entry.name)
        return find_type(files, config, entry)

    monkeypatch.setattr(sources, "find_type", record)
    return names


def plan(config: EncodeConfig) -> StagePlan:
    stage = make_encode_stage(config)
    run_step(stage, EncodeConfig(**{**vars(config), "plan": True}))
    return stage


def formats(stage: StagePlan) -> dict[str, str]:
    groups: list[Group] = [unit.payload for unit in stage.units]
    found = (part.source for group in groups for part in group)
    return {Path(source.path).name: source.format for source in found}


def test_inputs_that_are_as_they_were_are_not_looked_into(folder: Path, looked: list[str]) -> None:
    first = plan(make_config(folder))
    assert len(looked) == 5
    looked.clear()
    again = make_encode_stage(make_config(folder))
    assert looked == []
    assert [first.unit_key(u) for u in first.units] == [again.unit_key(u) for u in again.units]
    assert [unit.payload for unit in again.units] == [unit.payload for unit in first.units]


def test_an_input_that_changed_is_looked_into(folder: Path, looked: list[str]) -> None:
    plan(make_config(folder))
    (folder / "in" / "1.txt").rename(folder / "in" / "6.txt")
    write(folder / "in" / "2.txt", RECORD.ljust(len(TEXT)), age=1800)  # of the same size
    write(folder / "in" / "3.txt", TEXT + TEXT)
    write(folder / "in" / "4.txt", TEXT, age=1)
    looked.clear()
    stage = make_encode_stage(make_config(folder))
    assert sorted(looked) == ["2.txt", "3.txt", "4.txt", "6.txt"]
    assert formats(stage) == {
        **dict.fromkeys(["0.txt", "3.txt", "4.txt", "6.txt"], "text"),
        "2.txt": "jsonl",
    }


def test_a_file_that_was_written_just_now_is_looked_into_again(
    folder: Path, looked: list[str]
) -> None:
    """Written once more at once, it may have the same modification time."""
    path = folder / "in" / "1.txt"
    write(path, TEXT, age=1)
    plan(make_config(folder))
    changed = path.stat().st_mtime_ns
    path.write_text(RECORD.ljust(len(TEXT)))
    os.utime(path, ns=(changed, changed))
    looked.clear()
    assert formats(make_encode_stage(make_config(folder)))["1.txt"] == "jsonl"
    assert looked == ["1.txt"]


def spoil_type(content: str) -> str:
    return content.replace('"format":"text"', '"format":"json"', 1)


def spoil_checksum(content: str) -> str:
    return content.replace('"checksum":', '"checksum":1', 1)


def age_release(content: str) -> str:
    return content.replace('{"version":"', '{"version":"0', 1)


def cut(content: str) -> str:
    return content[: len(content) // 2]


@pytest.mark.parametrize("change", [spoil_type, spoil_checksum, age_release, cut])
def test_a_plan_that_is_damaged_or_of_another_release_says_nothing(
    folder: Path, looked: list[str], change: Callable[[str], str]
) -> None:
    first = plan(make_config(folder))
    path = folder / "tokens" / ".tokkit" / stage_plan.PLAN
    content = path.read_text()
    assert change(content) != content
    path.write_text(change(content))
    looked.clear()
    assert make_encode_stage(make_config(folder)).key == first.key
    assert len(looked) == 5
    if change is not age_release:
        with pytest.raises(TokkitError, match=r"plan.json: damaged.* with --plan first"):
            read_plan(folder / "tokens", Group)


def test_a_plan_of_other_options_says_nothing(folder: Path, looked: list[str]) -> None:
    for number in range(5):
        write(folder / "in" / f"{number}.txt", RECORD)
    plan(make_config(folder, format="text"))
    looked.clear()
    assert formats(make_encode_stage(make_config(folder))) == {
        f"{number}.txt": "jsonl" for number in range(5)
    }
    assert len(looked) == 5


@pytest.mark.parametrize("many", [5, 6])
def test_the_plain_command_keeps_a_plan_of_many_inputs(
    folder: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(stage_plan, "MANY_INPUTS", many)
    encode(make_config(folder))
    looked.clear()
    encode(make_config(folder))
    assert len(looked) == (0 if many == 5 else 5)
    write(folder / "in" / "2.txt", TEXT.replace("cat", "dog"), age=1800)
    with pytest.raises(TokkitError, match=r"2.txt has changed since"):
        encode(make_config(folder))
    write(folder / "in" / "2.txt", TEXT, age=900)
    encode(make_config(folder))


def test_a_path_that_no_plan_can_hold_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_plan, "MANY_INPUTS", 1)
    (folder / "in" / "1.txt").rename(os.fsdecode(os.fsencode(folder / "in") + b"/\xe9.txt"))
    encode(make_config(folder))
    assert not (folder / "tokens" / ".tokkit" / stage_plan.PLAN).exists()
