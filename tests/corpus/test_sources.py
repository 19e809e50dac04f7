"""Which files inputs name, in which order, and which inputs are refused."""

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpusfiles import read_corpus

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.file_systems import LocalFiles, printable
from tokkit.corpus.formats import identify
from tokkit.corpus.remote_files import RemoteFiles
from tokkit.corpus.sources import Source, find_sources
from tokkit.corpus.units import plan_units
from tokkit.errors import TokkitError, UsageError


def names(*inputs: str | Path, format: str = "auto") -> list[str]:  # noqa: A002  as the config
    config = CorpusConfig(inputs=tuple(map(str, inputs)), format=format)
    return [source.name for source in find_sources(config)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files, which is the working directory."""
    for name in (
        "b.txt", "a.txt", "Z.txt", "é.txt", ".hidden.txt", "sub/c.txt", "sub/deep/d.jsonl",
        "sub/.git/e.txt", "a[1].txt", "star*.txt",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "x"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.txt", "a.txt"),
        ("./a.txt", "./a.txt"),
        (".hidden.txt", ".hidden.txt"),
        ("sub", "sub/c.txt sub/deep/d.jsonl"),
        ("sub/", "sub/c.txt sub/deep/d.jsonl"),
        (".", "./Z.txt ./a.txt ./a[1].txt ./b.txt ./star*.txt ./sub/c.txt ./sub/deep/d.jsonl ./é.txt"),
        ("[ab].txt", "a.txt b.txt"),
        ("?.txt", "Z.txt a.txt b.txt é.txt"),
        ("a[1].txt", "a[1].txt"),
        ("star*.txt", "star*.txt"),
        (".*.txt", ".hidden.txt"),
        ("*/*.txt", "sub/c.txt"),
        ("s*/", "sub/c.txt sub/deep/d.jsonl"),
        ("**/*.txt", "Z.txt a.txt a[1].txt b.txt star*.txt sub/c.txt é.txt"),
        ("sub/**", "sub/c.txt sub/deep/d.jsonl"),
        ("**/deep/*", "sub/deep/d.jsonl"),
        ("sub/*/d.jsonl", "sub/deep/d.jsonl"),
    ],
)  # fmt: skip
def test_inputs_name_files_in_the_order_of_their_bytes(text: str, expected: str) -> None:
    assert names(text) == expected.split(" ")


@pytest.mark.usefixtures("tree")
def test_inputs_keep_the_order_in_which_they_were_given() -> None:
    assert names("sub/c.txt", "b.txt", "[a]*.txt") == ["sub/c.txt", "b.txt", "a.txt", "a[1].txt"]


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "sub" / "loop").symlink_to(tree / "sub")
    (tree / "sub" / "deep" / "up").symlink_to(tree)
    (tree / "sub" / "link.txt").symlink_to(tree / "a.txt")
    outside = tree / "outside"
    outside.mkdir()
    (outside / "o.txt").write_text("o")
    (tree / "sub" / "deep" / "out").symlink_to(outside)

    found = names("sub")

    assert "sub/link.txt" in found
    assert "sub/deep/out/o.txt" in found
    assert "sub/c.txt" in found
    assert not any("loop" in name for name in found)
    # Through "up", the folder above is another place, and it is entered once.
    assert sum(name.endswith("c.txt") for name in found) == 1
    assert sum(name.endswith("c.txt") for name in names("**/c.txt")) < 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "text"),
        ("a", "text"),
        ("a.md", "text"),
        ("a.JSONL", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("a.json.gz", "jsonl"),
        ("a.txt.bz2", "text"),
        ("a.csv.xz", "csv"),
        ("a.tab", "tsv"),
        ("a.lz4", "text"),
        ("jsonl", "text"),
        ("a.parquet", "parquet"),
        ("a.arrow", "arrow"),
        ("a.feather", "arrow"),
        ("a.ipc", "arrow"),
        ("a.jsonl.txt", "text"),
    ],
)
def test_a_name_proposes_a_format(name: str, expected: str) -> None:
    assert identify(name, name, b"", "auto").format == expected


def test_the_format_that_was_asked_for_wins(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text('{"text": "from a record"}\n')
    assert read_corpus(tmp_path, format="jsonl").texts == ["from a record"]
    (tmp_path / "a.dat").rename(tmp_path / "a.jsonl")
    assert read_corpus(tmp_path, format="text").texts == ['{"text": "from a record"}']


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("none.txt", "none.txt: no such file"),
        ("none/none.txt", "none/none.txt: no such file"),
        ("a.txt/b", "a.txt/b: no such file"),
        ("no*.txt", r"no\*.txt: matches no file"),
        ("none/*.txt", r"none/\*.txt: matches no file"),
        ("empty", "empty: no file in this folder"),
        ("broken.txt", "broken.txt: a link to nowhere, which does not exist"),
        ("links", "links/gone.txt: a link to nowhere"),
        ("socket", "socket: not a regular file"),
        pytest.param(
            *("/proc/self/stat", "its size is not known; pipe its content to -"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="has no /proc"),
        ),
        ("deep", "/d: over 200 folders deep"),
        ("deep/**", "/d: over 200 folders deep"),
        ("nosuch://bucket/a.txt", "nosuch://bucket/a.txt: cannot be read"),
        ("file:///none/a.txt", "file:///none/a.txt: no such file"),
        ("table.parquet.gz", "table.parquet.gz: parquet within gzip"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, fault: str) -> None:
    Path("empty/.cache").mkdir(parents=True)
    Path("/".join(["deep", *"d" * 201])).mkdir(parents=True)
    Path("links").mkdir()
    Path("links/gone.txt").symlink_to("nowhere")
    Path("broken.txt").symlink_to("nowhere")
    Path("table.parquet.gz").write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(TokkitError, match=fault) as caught:
            plan_units(CorpusConfig(inputs=(text,)))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; see the next test")
@pytest.mark.parametrize("name", ["folder", "folder/a.txt", "folder/*.txt"])
def test_missing_permission_is_reported(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    target = folder / "a.txt" if name.endswith("a.txt") else folder
    target.chmod(0)
    with pytest.raises(TokkitError, match="permission denied"):
        names(tmp_path / name)
    target.chmod(0o700)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("refuses", ["os.scandir", "pyarrow.OSFile"])
def test_missing_permission_is_reported_also_to_root(
    monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(refuses, refuse)
    for text in ("sub", "sub/*.txt", "**/*.txt"):
        with pytest.raises(TokkitError, match=r"(sub|Z|[.]).*: permission denied") as caught:
            plan_units(CorpusConfig(inputs=(text,)))
        assert caught.value.exit_status == 1


def test_uris_are_read_through_pyarrow(tree: Path) -> None:
    uri = f"file://{tree}"
    assert names(f"{uri}/sub") == [f"{uri}/sub/c.txt", f"{uri}/sub/deep/d.jsonl"]
    assert names(f"{uri}/**/*.jsonl") == [f"{uri}/sub/deep/d.jsonl"]
    text = "one\n\ntwo\n\n" * 500
    (tree / "big.txt").write_text(text)
    local = read_corpus(tree / "big.txt", unit_bytes=1024)
    remote = read_corpus(f"{uri}/big.txt", unit_bytes=1024, batch_bytes=100)
    assert remote.texts == local.texts
    assert remote.num_units == local.num_units == 8
    assert remote.names[-1] == f"{uri}/big.txt:4995"


def test_a_failing_remote_file_system_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def get_file_info(self, _: object) -> None:
            raise OSError("When listing objects: AWS Error ACCESS_DENIED\nand more")

    stand_in = SimpleNamespace(from_uri=lambda _: (Failing(), "bucket/a.txt"))
    monkeypatch.setattr("pyarrow.fs.FileSystem", stand_in)
    with pytest.raises(TokkitError, match=r"s3://bucket/a.txt: cannot be read \(.*DENIED\)"):
        names("s3://bucket/a.txt")


def test_secrets_of_a_uri_are_not_reported() -> None:
    with pytest.raises(TokkitError) as caught:
        RemoteFiles("nosuch://user:secret@host/path?key=secret2")
    assert "secret" not in str(caught.value)
    assert "nosuch://host/path" in str(caught.value)


def test_standard_input_cannot_hold_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="parquet cannot be read from standard input"):
        names("-", format="parquet")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TokkitError, match="standard input is closed"):
        names("-")


def test_a_file_name_that_is_not_utf8_is_read_and_printed(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.txt"
    Path(os.fsdecode(path)).write_text("text")
    corpus = read_corpus(tmp_path)
    assert corpus.texts == ["text"]
    assert corpus.names == [f"{tmp_path}/caf\\udce9\\n.txt:0"]


def test_paths_are_printed_on_one_line() -> None:
    assert printable("a b/ü.txt") == "a b/ü.txt"
    assert printable("a\nb\x1b") == "a\\nb\\x1b"


def test_an_entry_knows_its_last_name(tree: Path) -> None:
    entry = LocalFiles().find(str(tree / "sub" / "c.txt"))
    assert entry is not None
    assert (entry.name, entry.is_file, entry.is_folder) == ("c.txt", True, False)
    assert isinstance(find_sources(CorpusConfig(inputs=(entry.path,)))[0], Source)


@pytest.mark.parametrize("text", [".", "*", "**/*"])
def test_what_tokkit_wrote_is_left_out(text: str, tree: Path) -> None:
    """A tokenizer, finished and unfinished shards; but the output of a recipe's command is text."""
    before = names(text)
    record = '{"tokkit_version": "0.1.0", "kind": "%s"}'
    for name, content in {
        "tok/training.json": '{"tokkit_version": "0.1.0"}',
        "tok/vocab.txt": "a",
        "x/tokens/manifest.json": record % "tokens",
        "x/tokens/deep/vocab.txt": "a",
        "unfinished/.tokkit/lock": "1",
        "unfinished/shard.arrow": "a",
        "made/manifest.json": record % "corpus",
        "made/corpus.txt": "text",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    added = {name for name in names(text) if name not in before}
    assert {name.removeprefix("./") for name in added} == {"made/corpus.txt"}
    left_out = find_sources(CorpusConfig(inputs=(".",)))[0].left_out
    assert {"./tok/", "./x/tokens/", "./unfinished/", "./made/manifest.json"} <= {*left_out}
    with pytest.raises(TokkitError, match=r"no file in this folder, except .* what tokkit wrote"):
        names("tok")
