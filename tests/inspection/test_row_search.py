"""Rows are found by their text, their source and their length, and shown in colour where it is seen."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tokkit.cli import cli, streams
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import UsageError
from tokkit.inspection.inspect import inspect
from tokkit.inspection.token_text import tokenize

COLORS = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def tokens(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token folder of two shards, of ``a.txt`` and ``b.txt``."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "a.txt").write_text("One cat.\n\nThe cat sat. It was warm.\n\nThe sea.\n")
    (folder / "b.txt").write_text("The WARM mat. The cat came to the door and to the mat.\n\nNo.\n")
    inputs = (str(folder / "a.txt"), str(folder / "b.txt"))
    output = folder / "tokens"
    encode(EncodeConfig(inputs=inputs, tokenizer=work / "tokenizer", output=output, workers=0))
    return output


def names(folder: Path, **search: Any) -> list[str]:
    shown = (row.split(": ", 1)[0] for row in inspect(folder, **search).rows)
    return [name.rsplit("/", 1)[1] for name in shown]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def test_rows_are_found_in_all_shards_by_their_text(tokens: Path) -> None:
    assert names(tokens, text="warm") == ["a.txt:10", "b.txt:0"]
    assert names(tokens, text="Warm", rows=1) == ["a.txt:10"]
    assert names(tokens, text="nowhere") == []
    assert "no row matches" in run("inspect", tokens, "--grep", "nowhere").stderr
    assert not run("inspect", tokens, "--grep", "warm").stderr
    (row,) = inspect(tokens, text="it was").rows
    assert row.splitlines()[1:] == ["  it was warm .", "  (1 more)"]


def test_rows_are_found_by_the_name_of_their_document(tokens: Path) -> None:
    assert names(tokens, source="b.txt", rows=5) == ["b.txt:0", "b.txt:56"]
    assert names(tokens, source="b.txt", text="mat") == ["b.txt:0"]


def test_the_longest_rows_come_first(tokens: Path) -> None:
    assert names(tokens, longest=True, rows=2) == ["b.txt:0", "a.txt:10"]
    assert names(tokens, longest=True, rows=2, shard="shard-0000000.arrow")[0] in {
        "a.txt:10",
        "b.txt:0",
    }
    assert names(tokens, longest=True, source="a.txt", rows=1) == ["a.txt:10"]


@pytest.mark.parametrize("name", ["static", "instances"])
def test_text_below_masks_is_found_in_instances(work: Path, name: str) -> None:
    found = inspect(work / name, text="spring", rows=3).rows
    assert len(found) == 3
    for row in found:
        label = re.sub(r"\[\S+→(\S+?)\]", r"\1", row)
        assert "spring" in re.sub(r"\s+", "", label)


def test_searches_without_effect_are_refused(work: Path) -> None:
    with pytest.raises(UsageError, match="do not name their documents"):
        inspect(work / "instances", source="x")
    with pytest.raises(UsageError, match="has no rows to search"):
        inspect(work / "tokenizer", longest=True)
    assert isinstance(run("inspect", work / "tokens", "--json", "--longest").exception, UsageError)
    assert isinstance(
        run("inspect", work / "static", "--replay", "--grep", "a").exception, UsageError
    )


def test_colours_add_nothing_but_colours(work: Path) -> None:
    for name in ("tokens", "static"):
        plain = run("inspect", work / name, "--color", "never").stdout
        painted = run("inspect", work / name, "--color", "always").stdout
        assert "\x1b" not in plain
        assert COLORS.sub("", painted) == plain
        assert COLORS.findall(painted)
    assert "\x1b[30;48;5;220m" in painted  # a mask
    assert run("inspect", work / "static").stdout == plain  # no terminal


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert streams.shows_color("auto")
    assert not streams.shows_color("never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not streams.shows_color("auto")
    assert streams.shows_color("always")


def test_long_output_goes_through_a_pager(monkeypatch: pytest.MonkeyPatch) -> None:
    paged: list[str] = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("click.echo_via_pager", paged.append)
    streams.echo_pages("short")
    streams.echo_pages("long\n" * 9)
    assert paged == ["long\n" * 9]


def test_any_text_is_tokenized_at_once(work: Path) -> None:
    ended = run("tokenize", "-t", work / "tokenizer", "The cat. It nowhere")
    name, shown, tokens, ids = ended.stdout.splitlines()
    assert name == f"{work / 'tokenizer'}: {len(ids.split())} tokens, 5 words"
    assert shown.replace("|", "") == "  the cat . it nowhere"
    assert shown.count("|") == len(ids.split()) - 5
    (cut,) = tokenize("The cat. It nowhere", [str(work / "tokenizer")])
    assert tokens.split() == cut.tokens
    assert [*map(int, ids.split())] == cut.ids
    assert "".join(token.removeprefix("##") for token in cut.tokens) == "thecat.itnowhere"


def test_text_of_standard_input_is_one_document(work: Path) -> None:
    for arguments in ((), ("-",)):
        ended = CliRunner().invoke(
            cli,
            ["tokenize", "-t", str(work / "tokenizer"), "--json", *arguments],
            input="the cat\n\x1b[31m\u202e\n",
        )
        assert ended.exit_code == 0, ended.output
        assert '"text": "the cat\\n\\u001b[31m\\u202e"' in ended.stdout
    wrong = CliRunner().invoke(cli, ["tokenize", "-t", str(work / "tokenizer")], input=b"ab\xff")
    assert str(wrong.exception) == "standard input, byte 2: invalid UTF-8; convert it to UTF-8"


def test_tokenizers_are_compared_on_a_text(work: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n")
    arguments = [
        "tokenize",
        "-t",
        work / "tokenizer",
        "--compare",
        tmp_path / "vocab.txt",
        "the \x07cat",
    ]
    ended = run(*arguments, "--color", "always")
    first, second = ended.stdout.split("\n\n")
    assert second.splitlines()[0] == f"{tmp_path / 'vocab.txt'}: 2 tokens, 2 words"
    assert "\x07" not in ended.stdout
    assert "48;5;" in first
