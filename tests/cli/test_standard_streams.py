"""Commands work with any standard streams, and print nothing that a terminal would obey."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tokkit.cli import _log_to_standard_error, _run
from tokkit.errors import escape_controls

HOSTILE = "a\x1b]0;PWNED\x07\x1b[31m\u202e\u2066\x9b2J\rz"
TEXT = f"The cat \x1b[31m sat{HOSTILE} on the mat. It looked at the door.\n"


def is_harmless(text: str) -> bool:
    """Whether text has no control characters but ends of lines, and none of bidirectional text."""
    return all(
        char == "\n"
        or (
            unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}
            and char not in "\u202e\u2066"
        )
        for char in text
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents with hostile texts and ids, in a hostile file of a hostile folder."""
    folder = tmp_path_factory.mktemp("streams") / f"{HOSTILE}\nfolder"
    folder.mkdir()
    path = folder / f"{HOSTILE}\n.jsonl"
    lines = [json.dumps({"id": f"{HOSTILE}\n{i}", "text": TEXT * (1 + i % 3)}) for i in range(40)]
    path.write_text("\n".join(lines))
    return path


def run_harmlessly(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command; check what it prints, and return its status and both outputs."""
    _log_to_standard_error()
    status = _run(arguments)
    found = capfd.readouterr()
    assert is_harmless(found.out), ascii(found.out)
    assert is_harmless(found.err), ascii(found.err)
    return status, found.out, found.err


def test_no_command_sends_what_is_in_files_to_the_terminal(
    corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = corpus.parent
    tokenizer, tokens, instances = (
        str(work / name) for name in ("tokenizer", "tokens", "instances")
    )
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", f"[{HOSTILE}]")
    special = [part for name in names for part in ("--special-token", name)]
    train = [
        "train",
        str(corpus),
        "-o",
        tokenizer,
        "--vocab-size",
        "60",
        "--workers",
        "0",
        *special,
    ]
    encode = ["encode", str(corpus), "-t", tokenizer, "-o", tokens, "--workers", "0"]
    build = ["build", tokens, "-o", instances, "--workers", "0", "--max-seq-length", "32"]
    for arguments in (train, encode, build):
        status, _, errors = run_harmlessly(arguments, capfd)
        assert status == 0, errors
        for again in (arguments, [*arguments, "--json"], [*arguments, "--seed", "-1"]):
            run_harmlessly(again, capfd)
    for folder in (tokenizer, tokens, instances):
        for options in ([], ["--json"]):
            assert run_harmlessly(["inspect", folder, *options], capfd)[0] == 0
            assert run_harmlessly(["verify", folder, *options], capfd)[0] == 0
    run_harmlessly(["inspect", instances, "--replay", "--batch-size", "4"], capfd)
    _, shown, _ = run_harmlessly(["inspect", tokens, "--json"], capfd)
    assert json.loads(shown)["path"] == tokens
    assert run_harmlessly(["pretrain", tokens, "-o", str(work / "run")], capfd)[0] == 1
    recipe = work / f"{HOSTILE}.toml"
    recipe.write_text(f"output = {json.dumps(str(work / 'out'))}\n[corpus]\ninputs = ['no']\n")
    assert run_harmlessly(["run", str(recipe)], capfd)[0] != 0
    shard = Path(tokens) / "shard-0000000.arrow"
    shard.write_bytes(shard.read_bytes()[:-9])
    status, _, errors = run_harmlessly(["verify", tokens], capfd)
    assert status == 1
    assert errors.count("\n") == len(errors.splitlines())


@pytest.mark.parametrize("name", [HOSTILE, "a\nb", "a\udcffb"], ids=ascii)
@pytest.mark.parametrize(
    "command", ["train", "encode", "build", "pretrain", "run", "inspect", "verify", "--" + HOSTILE]
)
def test_errors_that_name_a_hostile_path_are_one_line(
    tmp_path: Path, command: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / name)
    outputs = [] if command in ("run", "inspect", "verify") else ["-o", str(tmp_path / "out")]
    if command == "encode":
        outputs += ["-t", path]
    status, _, errors = run_harmlessly([command, path, *outputs], capfd)
    assert status in (1, 2)
    assert errors.startswith("tokkit: ") or status == 2


def test_lines_are_cut_short_but_not_their_ends(capfd: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run_harmlessly(["inspect", "x" * 100_000], capfd)
    assert status == 1
    assert errors.startswith("tokkit: xxx")
    assert errors.endswith("xxx: the name is too long\n")
    assert len(errors) < 5000


def test_json_with_escapes_is_the_same_json() -> None:
    data = {"name": f"{HOSTILE}\n\udcff", "Wörter": ["猫", "\\u001b", '"']}
    text = escape_controls(json.dumps(data, ensure_ascii=False))
    assert is_harmless(text)
    assert json.loads(text) == data


def run_shell(command: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command of a shell in which ``$tokkit`` is the program."""
    program = f"{sys.executable} -m tokkit"
    done = subprocess.run(
        ["/bin/bash", "-c", command.replace("$tokkit", program), "bash", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_commands_work_without_standard_streams(corpus: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    train = '$tokkit train "$1" -o "$2" --vocab-size 60 --workers 2'
    status, shown, errors = run_shell(f"{train} 2>&-", str(corpus), str(tokenizer))
    assert (status, errors) == (0, "")
    assert "60 tokens" in shown
    status, shown, errors = run_shell('$tokkit verify "$1" 2>&-', str(tokenizer))
    assert (status, errors) == (0, "")
    assert "no faults" in shown
    encode = '$tokkit encode "$1" -t "$2" -o "$3" --workers 0'
    for number, (closed, fault) in enumerate(
        [
            (">&-", "standard output: is closed; the result could not be printed"),
            (">/dev/full", "standard output: no space left on device; the result could not"),
            ("<&- >&- 2>&-", ""),
        ]
    ):
        tokens = tmp_path / f"tokens{number}"
        given = (str(corpus), str(tokenizer), str(tokens))
        status, _, errors = run_shell(f"{encode} {closed}", *given)
        assert status == 1
        lines = [line for line in errors.splitlines() if "standard output" in line]
        assert [fault in line for line in lines] == [True] * bool(fault)
        assert fault or not errors
        assert (tokens / "manifest.json").is_file()


@pytest.mark.parametrize("arguments", ["--help", "encode --help", "--version"])
@pytest.mark.parametrize("closed", [">&-", ">/dev/full"])
def test_help_that_cannot_be_printed_is_one_line(arguments: str, closed: str) -> None:
    status, _, errors = run_shell(f"$tokkit {arguments} {closed}")
    assert status == 1
    assert errors.startswith("tokkit: standard output: ")
    assert errors.count("\n") == 1
