"""``tokkit init`` writes a recipe that runs, and proposes what the files suggest."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokkit.cli import cli
from tokkit.cli.command_options import read_table
from tokkit.cli.recipe import read_recipe
from tokkit.cli.run import COMMANDS, make_config
from tokkit.errors import TokkitError
from tokkit.inspection.proposal import propose

TEXT = "The cat sat on the mat. It purred.\n\nA dog ran to the door. It barked.\n\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def init(*arguments: object) -> str:
    ended = CliRunner().invoke(cli, ["init", *map(str, arguments)])
    assert ended.exit_code == 0, ended.exception
    assert ended.stderr.splitlines()[-1].startswith("tokkit: next: tokkit run ")
    return ended.stdout


def test_without_a_word_a_recipe_with_every_stage_is_written() -> None:
    init()
    recipe = read_recipe(Path("recipe.toml"))
    assert [*recipe.tables] == ["train", "encode", "build", "pretrain"]
    for stage in recipe.tables:
        make_config(recipe, stage, {})


def test_what_is_commented_out_is_as_right_as_what_is_not() -> None:
    init()
    lines = Path("recipe.toml").read_text().splitlines()
    options = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith("[")]
    text = "\n".join(line for line in options if not line.startswith("`"))
    Path("all.toml").write_text(text.replace('objective = "mlm"', 'objective = "nsp"'))
    recipe = read_recipe(Path("all.toml"))
    assert recipe.tables["train"]["model"] == "bpe"
    assert {*recipe.tables["encode"]} == {
        "errors",
        "text-field",
        "language",
        "sentences",
        "documents",
    }
    for stage, table in recipe.tables.items():
        assert read_table(COMMANDS[stage], table, "all.toml").keys() == {
            key.replace("-", "_") for key in table
        }


def test_a_file_that_is_there_is_not_replaced() -> None:
    Path("recipe.toml").write_text("mine")
    error = CliRunner().invoke(cli, ["init"]).exception
    assert isinstance(error, TokkitError)
    assert Path("recipe.toml").read_text() == "mine"
    init("--overwrite")
    assert Path("recipe.toml").read_text() != "mine"


def test_a_proposed_recipe_runs_as_it_is(folder: Path) -> None:
    (folder / "a.txt").write_text(TEXT * 20)
    shown = init("--from-folder", folder, 'new "x" ü.toml')
    assert shown.endswith("1 file, text, about 0.0 MB of text\n")
    path = Path('new "x" ü.toml')
    path.write_text(path.read_text().replace("8192", "50"))
    ended = CliRunner().invoke(cli, ["run", str(path), "--until", "build", "--workers", "0"])
    assert ended.exit_code == 0, ended.exception
    assert read_recipe(path).output == Path('new "x" ü')


def test_where_documents_end_is_proposed(folder: Path) -> None:
    (folder / "a.txt").write_text(TEXT)
    assert propose(folder).documents == "blank-line"
    (folder / "a.txt").write_text(("word " * 60 + "\n") * 9)
    assert propose(folder).documents == "line"
    (folder / "a.txt").write_text("short lines\n" * 9)
    assert propose(folder).documents == "blank-line"
    for number in range(30):
        (folder / f"{number}.txt").write_text(TEXT)
    assert propose(folder).documents == "file"


def test_the_field_of_the_text_is_proposed(folder: Path) -> None:
    (folder / "a.jsonl").write_text(json.dumps({"id": "7", "content": TEXT}) + "\n")
    proposal = propose(folder)
    assert (proposal.format, proposal.documents, proposal.text_field) == ("jsonl", None, "content")
    init("--from-folder", folder)
    assert read_recipe(Path("recipe.toml")).tables["encode"] == {"text-field": ["content"]}
    (folder / "a.jsonl").write_text(json.dumps({"title": TEXT, "text": "a"}) + "\n")
    assert propose(folder).text_field is None


def test_sizes_follow_the_bytes_of_the_text(folder: Path) -> None:
    (folder / "a.txt").write_text(TEXT)
    small = propose(folder)
    assert (small.vocab_size, small.preset, small.max_steps) == (8192, "tiny", 500)
    with (folder / "b.txt").open("wb") as file:
        file.truncate(20_000_000)  # NULs, which nobody reads here
        file.write(TEXT.encode() * 1000)
    large = propose(folder)
    assert (large.vocab_size, large.preset) == (16_384, "mini")
    assert large.max_steps == pytest.approx(large.num_bytes * 10 / 4 / 64 / 128, abs=50)
    (folder / "b.txt").unlink()
    (folder / "a.txt").unlink()
    data = gzip.compress(TEXT.encode())
    (folder / "c.txt.gz").write_bytes(data)
    assert propose(folder).num_bytes == 3 * len(data)


def test_a_folder_without_text_is_refused(folder: Path) -> None:
    with pytest.raises(TokkitError):
        propose(folder)
    with pytest.raises(TokkitError, match="nowhere"):
        propose(folder / "nowhere")


def test_a_link_to_nothing_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").symlink_to("nothing")
    result = CliRunner().invoke(cli, ["init"])
    assert isinstance(result.exception, TokkitError)
    assert Path("recipe.toml").is_symlink()


def test_a_sound_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    Path("recipe.toml").symlink_to("mine.toml")
    init("--overwrite")
    assert Path("recipe.toml").is_symlink()
    assert (tmp_path / "mine.toml").read_text() != "mine"
