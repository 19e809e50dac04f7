"""What is shown is what is there."""

import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tinytokenizers import write_bpe

from tokkit.cli import cli
from tokkit.engine.command import save_output
from tokkit.errors import TokkitError, UsageError
from tokkit.inspection.inspect import inspect
from tokkit.inspection.row_text import show_document
from tokkit.inspection.token_text import show_tokens
from tokkit.shards.arrow import ragged
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.tokenizer import load_tokenizer


def test_documents_are_decoded_sentence_by_sentence(work: Path) -> None:
    seen = inspect(work / "tokens", rows=2)
    assert seen.kind == "tokens"
    assert seen.facts["rows"] == 120
    first = seen.rows[0].splitlines()
    assert re.fullmatch(r".*corpus\.txt:0: 4 sentences, \d+ tokens", first[0])
    assert first[1:] == [
        "  number 0 .",
        "  the cat sat on the warm mat .",
        "  it looked at the door .",
        "  nobody came in .",
    ]


@pytest.mark.parametrize("name", ["instances", "static"])
def test_instances_show_their_masks(work: Path, name: str) -> None:
    seen = inspect(work / name, rows=50)
    assert len(seen.rows) == 50
    shown = 0
    total = 0
    for row in seen.rows:
        head, words = row.split("\n  ")
        masks = re.findall(r"\[([^\[\]\s]+)→([^\[\]\s]+)\]", words)
        (count,) = re.findall(r"(\d+) masked", head)
        assert len(masks) == int(count)
        total += len(masks)
        shown += sum(there == "MASK" for there, _ in masks)
        assert words.startswith("[CLS] ")
        assert words.endswith(" [SEP]")
        assert re.search(r", B (is random|follows A)$", head)
    assert 0.7 < shown / total < 0.9


def test_static_masks_are_those_on_disk(work: Path) -> None:
    folder = ShardFolder.open(work / "static", "instances")
    batch = folder.read_batch(folder.batch_refs("train-")[0])
    _, offsets = ragged(batch.column("masked_positions"))
    (row,) = inspect(work / "static", rows=1).rows
    assert f", {offsets[1]} masked," in row


def test_dynamic_masks_are_those_of_the_loader(work: Path) -> None:
    from tokkit.pretraining.data.instance_sources import open_sources
    from tokkit.pretraining.data.loader import Loader
    from tokkit.pretraining.data.loader_config import LoaderConfig

    folder = ShardFolder.open(work / "instances", "instances")
    tokenizer = load_tokenizer(folder.tokenizer_path)
    config = LoaderConfig(instances=(folder.path,), batch_size=4)
    instances = next(Loader(open_sources(config), config).held_out_instances(config.batch_size))
    rows = inspect(work / "instances", rows=4, shard="eval-0000000.arrow").rows
    labels = [
        label for row in rows for _, label in re.findall(r"\[([^\[\]\s]+)→([^\[\]\s]+)\]", row)
    ]
    expected = [
        tokenizer.decode([token]).removeprefix("##")
        for token in instances.predictions.labels.tolist()
    ]
    assert labels == expected


def test_a_shard_by_itself_is_shown(work: Path) -> None:
    seen = inspect(work / "static" / "eval-0000000.arrow", rows=1)
    assert seen.kind == "instances"
    assert seen.facts["rows"] > 0
    assert "→" in seen.rows[0]


def test_a_tokenizer_shows_tokens_of_all_its_ids(work: Path) -> None:
    seen = inspect(work / "tokenizer", rows=2)
    assert seen.facts["vocab_size"] == 120
    assert seen.rows[0].startswith("[PAD]  ")


def test_json_has_the_counts(work: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(work / "tokens"), "--json"])
    form = json.loads(result.stdout)
    assert form["accounts"]["documents"]["kept"] == form["rows"] == 120
    assert form["accounts"]["tokens"]["kept"] == form["tokens"]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.txt", b"text", "a text file"),
        ("a.txt", "ä".encode() * 2048 + b"\xc3", "a text file"),  # cut within a letter
        ("tokenizer.json", b'{"model": {}}', "a JSON file"),
        ("a.gz", gzip.compress(b"text"), "gzip data"),
        ("a.bin", b"\xff\x00", "a file of an unknown format"),
        ("a", b"", "an empty file"),
    ],
    ids=["text", "long text", "JSON", "gzip", "bytes", "empty"],
)
def test_a_file_that_is_no_shard_is_named_for_what_it_is(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TokkitError, match=f"{name}: is {what}; inspect takes a folder") as refused:
        inspect(tmp_path / name)
    assert "recreate" not in str(refused.value)


def test_a_shard_that_is_cut_short_is_recreated(work: Path, tmp_path: Path) -> None:
    whole = next((work / "tokens").glob("*.arrow")).read_bytes()
    for name, data in (("a.arrow", b""), ("a.arrow", whole[:-9]), ("a", whole[:-9])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TokkitError, match=r"not a whole Arrow file .*recreate the folder"):
            inspect(tmp_path / name)


def test_what_cannot_be_shown_is_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match="has no shard x"):
        inspect(work / "tokens", shard="x")
    with pytest.raises(TokkitError, match="no such folder"):
        inspect(tmp_path / "missing")
    folder = Path(shutil.copytree(work / "tokens", tmp_path / "tokens"))
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(TokkitError, match="tokenizer"):
        inspect(folder)


def test_verify_exits_with_1_and_a_line_for_each_fault(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokkit.cli import main

    folder = Path(shutil.copytree(work / "tokens", tmp_path / "tokens"))
    for expected in (0, 1):
        monkeypatch.setattr(sys, "argv", ["tokkit", "verify", str(folder)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == expected
        (folder / "shard-0000000.arrow").unlink(missing_ok=True)
    assert "shard-0000000.arrow: no such file" in capsys.readouterr().err


def test_rows_and_shard_are_wrong_usage_without_rows_or_shards(work: Path, tmp_path: Path) -> None:
    save_output("echo text", tmp_path / "corpus" / "a.txt", overwrite=False, progress=False)
    for path, options, fault in (
        (work / "tokens" / "shard-0000000.arrow", {"shard": "x"}, "is a shard itself; leave out"),
        (work / "tokenizer", {"shard": "x"}, "a tokenizer has no shards; leave out --shard"),
        (tmp_path / "corpus", {"shard": "x"}, "a corpus has no shards; leave out --shard"),
        (tmp_path / "corpus", {"rows": 1}, "a corpus has no rows; leave out --rows"),
    ):
        with pytest.raises(UsageError, match=fault):
            inspect(path, **options)
    assert inspect(tmp_path / "corpus").kind == "corpus"


def test_a_token_is_never_shown_as_nothing(tmp_path: Path) -> None:
    """In BPE, ``##`` is text; a token may also be white space alone."""
    merges = ["# #", "Ġ ##"]
    tokenizer = load_tokenizer(write_bpe(tmp_path, merges))
    ids = [tokenizer.tokens.index(token) for token in ("##", "a", "Ġ##", "Ċ")]
    words = show_tokens(ids, [True, False, True, True], tokenizer)
    assert words == r"##a ## \n"
    masked = show_tokens(ids, [True] * 4, tokenizer, {0: ids[2], 1: ids[3]})
    assert masked == r"[##→##] [a→\n] ## \n"


def test_parts_of_characters_are_shown_by_their_bytes(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_bpe(tmp_path, ["â Ĥ", "Ġ a"]))
    ids = tokenizer.library.encode(" a€", add_special_tokens=False).ids  # type: ignore[union-attr]
    assert show_tokens(ids, [True, True, False], tokenizer) == "a e2 82ac"


def test_a_single_sentence_or_token_has_no_plural(work: Path) -> None:
    tokenizer = load_tokenizer(work / "tokenizer")
    row = {"document": "a", "sentence_lengths": [1], "input_ids": [7], "word_starts": [True]}
    assert show_document(row, tokenizer).splitlines()[0] == "a: 1 sentence, 1 token"
    row["document"] = f"first{'a' * 9999}last"
    shown = show_document(row, tokenizer).splitlines()[0]
    assert re.fullmatch(r"firsta{95} … a{96}last: 1 sentence, 1 token", shown)


def test_a_single_file_or_fault_has_no_plural(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "tokens", tmp_path / "tokens"))
    sound = CliRunner().invoke(cli, ["verify", str(folder)]).stdout
    assert re.fullmatch(rf"{folder}: tokens, 1 file, [\d,]+ bytes: no faults\n", sound)
    shutil.copy(folder / "shard-0000000.arrow", folder / "stray.arrow")
    assert CliRunner().invoke(cli, ["verify", str(folder)]).stdout.endswith("bytes: 1 fault\n")
