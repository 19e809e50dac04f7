"""Errors advise what works: each test fails, does what the line says, and succeeds."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tinytokenizers import write_vocab

from tokkit.cli import cli
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.encode_unit import EncodeStats
from tokkit.engine.manifest import Manifest
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.inspection.verify import verify

TEXT = "The cat sat. A mat is on the cat.\n\nA cat. The mat sat on it.\n\n"


def succeed(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == 0, result.exception


def fail(*arguments: object) -> str:
    error = CliRunner().invoke(cli, [*map(str, arguments)]).exception
    assert isinstance(error, TokkitError), error
    return str(error)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a corpus of two files and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).write_text(TEXT * 20)
    write_vocab(tmp_path / "tokenizer")
    return tmp_path


ENCODE = ("encode", "in", "-t", "tokenizer", "-o", "tokens", "--workers", "0")
BUILD = ("build", "tokens", "-o", "instances", "--workers", "0", "--max-seq-length", "16")


@pytest.mark.parametrize("changed", ["a.txt", "b.txt"], ids=["the first", "the last"])
def test_an_input_that_changes_while_it_is_encoded(
    work: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    config = EncodeConfig(
        inputs=("in",),
        tokenizer=Path("tokenizer"),
        output=Path("tokens"),
        workers=0,
        unit_bytes=1024,
    )

    def change_after_the_first(_: EncodeStats, __: UnitResult) -> None:
        with (work / "in" / changed).open("a") as file:
            file.write("More. Text.\n")

    with monkeypatch.context() as patch:
        patch.setattr(EncodeStats, "add", change_after_the_first)
        with pytest.raises(TokkitError, match="run the same command again, with --overwrite if"):
            encode(config, EncodeStats())
    try:
        encode(config)
    except TokkitError as error:
        assert "pass --overwrite to replace it" in str(error)  # noqa: PT017  one way or the other
        encode(replace(config, overwrite=True))
    assert not verify(work / "tokens").faults


def test_an_unfinished_folder(work: Path) -> None:
    succeed(*ENCODE)
    (work / "tokens" / "manifest.json").unlink()
    assert "unfinished, or not made by tokkit" in (message := fail(*BUILD))
    assert "run the command that makes it again" in message
    succeed(*ENCODE)
    succeed(*BUILD)


def test_a_folder_of_other_options_or_tokenizer(work: Path) -> None:
    succeed(*ENCODE)
    message = fail(*ENCODE, "--sentences", "lines")
    assert "choose another folder, or pass --overwrite to replace it" in message
    succeed(*ENCODE, "--sentences", "lines", "-o", "others")
    succeed(*ENCODE, "--sentences", "lines", "--overwrite")
    write_vocab(work / "tokenizer", do_lower_case=False)
    assert "pass --overwrite" in fail(*ENCODE, "--sentences", "lines")
    succeed(*ENCODE, "--sentences", "lines", "--overwrite")


def test_a_folder_that_lost_its_statement(work: Path) -> None:
    succeed(*ENCODE)
    (work / "tokens" / "manifest.json").unlink()
    shutil.rmtree(work / "tokens" / ".tokkit")
    assert "choose another folder" in fail(*ENCODE)
    succeed(*ENCODE, "-o", "others")
    (work / "others" / "manifest.json").unlink()
    (work / "others" / ".tokkit" / "stage.json").write_text("{}\n")
    assert "pass --overwrite to replace it" in fail(*ENCODE, "-o", "others")
    succeed(*ENCODE, "-o", "others", "--overwrite")


def test_a_damaged_folder_is_recreated(work: Path) -> None:
    succeed(*ENCODE)
    shard = work / "tokens" / "shard-0000000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert verify(work / "tokens").faults
    succeed(*ENCODE, "--overwrite")
    manifest = work / "tokens" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows"', '"lines"'))
    assert "recreate the folder" in fail(*BUILD)
    succeed(*ENCODE, "--overwrite")
    shutil.copy(shard, work / "tokens" / "other.arrow")
    (fault,) = verify(work / "tokens").faults
    assert "other.arrow" in fault
    assert ": is not in the manifest; remove it" in fault
    (work / "tokens" / "other.arrow").unlink()
    assert not verify(work / "tokens").faults
    succeed(*BUILD)


@pytest.mark.usefixtures("work")
def test_documents_of_one_sentence() -> None:
    succeed(*ENCODE, "--sentences", "none")
    drop = (*BUILD, "--single-sentence", "drop")
    assert "pass --single-sentence random, or encode with --sentences auto" in fail(*drop)
    succeed(*BUILD)
    succeed(*ENCODE, "--sentences", "auto", "--overwrite")
    succeed(*drop, "--overwrite")


def test_a_vocabulary_that_is_too_large_for_the_text(work: Path) -> None:
    train = ("train", work / "in", "-o", "learned", "--workers", "0")
    found = re.search(r"tokens with --min-frequency .*; pass --vocab-size .* or less", fail(*train))
    assert found is not None
    succeed(*train, *found[0].split()[-4:-2])


def test_columns_and_bytes(work: Path) -> None:
    (work / "table.csv").write_text("title,body\na,The cat sat.\n")
    encode = ("encode", "table.csv", *ENCODE[2:])
    message = fail(*encode)
    assert "--text-field must name one of: title, body; or pass --text-column" in message
    assert not (work / "tokens").exists()  # it is known before anything is begun
    succeed(*encode, "--text-field", "body")
    succeed(*encode, "--text-column", "2", "--overwrite")
    (work / "table.csv").write_bytes(b"title,text\na,The c\xe4t.\n")
    assert "--errors replace" in (message := fail(*encode, "-o", "others"))
    assert "--errors skip" in message
    succeed(*encode, "-o", "others", "--errors", "replace")


def test_translations_of_other_documents(work: Path) -> None:
    """Each side lacks a text, but not that of the same pair."""

    def encode_sides(*options: str) -> None:
        for side in ("a", "b"):
            corpus = f"in/{side}.{'jsonl' if options else 'txt'}"
            documents = options or ("--documents", "line")
            succeed("encode", corpus, *ENCODE[2:4], "-o", side, *documents, "--overwrite")

    def write(numbers: Sequence[int], gaps: tuple[int, int], ids: Sequence[int]) -> None:
        for side, gap in zip("ab", gaps, strict=True):
            texts = ["" if n == gap else "the cat sat" for n in numbers]
            (work / "in" / f"{side}.txt").write_text("\n".join([*texts, ""]))
            records = [{"id": ids[n], "text": text} for n, text in zip(numbers, texts, strict=True)]
            (work / "in" / f"{side}.jsonl").write_text("\n".join(map(json.dumps, records)))

    build = ("build", "a", "--targets", "b", "--objective", "translation", "-o", "pairs")
    write(range(9), (2, 5), range(9))
    encode_sides()
    succeed(*build)
    [warning] = Manifest.read(work / "pairs", "instances").warnings
    assert "b: encode dropped as many documents as of a (1 empty), and the others are" in warning
    assert "remove these and their translations from the inputs" in warning
    encode_sides("--id-field", "id")
    message = fail(*build, "--overwrite")
    assert "b: encode dropped as many documents as of a (1 empty), but maybe others" in message
    assert "encode with --id-field" in message
    write([n for n in range(9) if n not in (2, 5)], (2, 5), range(9))
    encode_sides()
    succeed(*build, "--overwrite")
    assert not Manifest.read(work / "pairs", "instances").warnings
    write(range(9), (4, 4), [0] * 9)
    encode_sides("--id-field", "id")
    assert fail(*build, "--overwrite") == message
    write(range(9), (4, 4), range(9))
    encode_sides("--id-field", "id")
    succeed(*build, "--overwrite")
