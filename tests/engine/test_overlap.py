"""An output inside an input folder, and an input inside the output, are refused."""

import os
from pathlib import Path

import pytest

from tokkit.engine.files import write_atomically
from tokkit.engine.folder import refuse_overlap
from tokkit.errors import TokkitError, UsageError


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of text with a link to it, in the working directory."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("text")
    (tmp_path / "link").symlink_to("corpus")
    (tmp_path / "[x]").mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    "output", ["corpus/tokens", "corpus/sub/../tokens", "link/sub/a/b", "corpus/sub"]
)
@pytest.mark.parametrize(
    "name", ["corpus", "./corpus/", "link", ".", "../{here}", "file://{path}", "cor*", "c*/*"]
)
def test_an_output_inside_an_input_is_refused(output: str, name: str) -> None:
    here = Path.cwd()
    with pytest.raises(UsageError, match=r"is inside the input .*; choose a path outside"):
        refuse_overlap(Path(output), [name.format(here=here.name, path=here / "corpus")])


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize("output", ["corpus", "link", "corpus/sub/..", ".", "corpus/a.txt"])
@pytest.mark.parametrize("name", ["corpus/a.txt", "link/a.txt", "link/sub/../a.txt"])
def test_an_input_inside_an_output_is_refused(output: str, name: str) -> None:
    for inputs, models in (([name], []), ([], [Path(name)])):
        with pytest.raises(UsageError, match="is or contains the input"):
            refuse_overlap(Path(output), inputs, models)


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize("name", ["out/none.txt", "out", "out/*.arrow", "out/**/*.txt"])
def test_also_inputs_that_do_not_exist_yet_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is or contains the input"):
        refuse_overlap(Path("out"), [name])


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("tokens", "corpus"),
        ("corpus2", "corpus"),
        ("corpus/tokens", "corpus/a.txt"),
        ("corpus/tokens", "corpus/*.txt"),
        ("corpus/tokens", "corpus/sub"),
        ("corpus/tokens", "**/*.txt"),
        ("x/tokens", "[x]"),  # the folder of that name, and not a pattern
        ("tokens", "-"),
        ("tokens", "s3://bucket/tokens"),
    ],
)
def test_what_lies_apart_is_accepted(output: str, name: str) -> None:
    refuse_overlap(Path(output), [name])


def test_an_output_may_be_next_to_the_files_of_a_model(corpus: Path) -> None:
    refuse_overlap(corpus / "tokens", [], [corpus])


def test_folders_are_compared_as_the_system_identifies_them(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without case, ``CORPUS`` is the folder ``corpus``."""

    stat = Path.stat

    def without_case(path: Path) -> os.stat_result:
        return stat(Path(str(path).replace("CORPUS", "corpus")))

    monkeypatch.setattr(Path, "stat", without_case)
    with pytest.raises(UsageError, match="is inside the input"):
        refuse_overlap(corpus.parent / "CORPUS" / "tokens", ["corpus"])


def test_an_output_that_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "words.tsv"
    os.mkfifo(pipe)
    with pytest.raises(TokkitError, match="not a regular file"), write_atomically(pipe):
        pass
    assert pipe.is_fifo()
