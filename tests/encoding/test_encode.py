"""``encode`` writes what the encoder gives, the same bytes for any number of workers, and counts the rest."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forkserver
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tinytokenizers import wordpiece_json, write_json, write_vocab

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.encode_unit import EncodeStats
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, UsageError
from tokkit.tokenizer.tokenizer import load_tokenizer

SCRIPT = """
import json, sys
from pathlib import Path
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_unit import EncodeStats
from tokkit.errors import TokkitError

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    for name in ("output", "tokenizer"):
        options[name] = Path(options[name])
    options["inputs"] = tuple(options["inputs"])
    try:
        encode(EncodeConfig(**options))
    except TokkitError as error:
        sys.exit(f"{error.exit_status}: {error}")
    print([name for name in ("numba", "torch", "sentencex") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocab(tmp_path_factory.mktemp("tokenizer"), do_lower_case=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("The cat sat. The cats sat on the mat!\n\n\u200b\n\nUnaffable\n\u0301\nthe\n")
    return path


def run(inputs: Any, tokenizer: Path, output: Path, **options: Any) -> Manifest:
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    options = {"workers": 0, **options}
    return encode(
        EncodeConfig(
            inputs=tuple(str(path) for path in inputs),
            tokenizer=tokenizer,
            output=output,
            **options,
        )
    )


def run_apart(
    data: bytes,
    tokenizer: Path,
    output: Path,
    *inputs: str,
    run: Callable[..., Any] = forkserver.run,
    **options: Any,
) -> "subprocess.CompletedProcess[bytes]":
    script = output.parent / "run_encode.py"
    script.write_text(SCRIPT)
    options |= {"inputs": inputs, "tokenizer": str(tokenizer), "output": str(output)}
    ended: subprocess.CompletedProcess[bytes] = run(
        [sys.executable, str(script), json.dumps(options)],
        input=data,
        capture_output=True,
        check=False,
    )
    return ended


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("shard-*.arrow")):
        yield from pa.ipc.open_file(path).read_all().to_pylist()


def test_rows_hold_ids_sentences_and_words(tmp_path: Path, tokenizer: Path, corpus: Path) -> None:
    manifest = run(corpus, tokenizer, tmp_path / "out")
    loaded = load_tokenizer(tmp_path / "out" / "tokenizer")
    read = [
        {**row, "input_ids": [loaded.tokens[number] for number in row["input_ids"]]}
        for row in rows(tmp_path / "out")
    ]
    first = ["the", "cat", "sat", ".", "the", "cat", "##s", "sat", "on", "the", "mat", "!"]
    last = ["un", "##aff", "##able", "the"]
    assert read == [
        {
            "document": f"{corpus}:0",
            "input_ids": first,
            "sentence_lengths": [4, 8],
            "word_starts": [not token.startswith("##") for token in first],
        },
        {
            "document": f"{corpus}:{corpus.read_bytes().index(b'Unaff')}",
            "input_ids": last,
            "sentence_lengths": [4],
            "word_starts": [True, False, False, True],
        },
    ]
    accounts = manifest.accounts
    assert accounts["documents"] == {"in": 3, "kept": 2, "dropped": {"no tokens": 1}}
    assert accounts["tokens"] == {"in": 16, "kept": 16, "dropped": {}}


@pytest.mark.parametrize(
    ("sentences", "lengths"), [("auto", [4, 8]), ("lines", [12]), ("none", [12])]
)
def test_sentences_are_split_as_the_option_says(
    tmp_path: Path, tokenizer: Path, corpus: Path, sentences: str, lengths: list[int]
) -> None:
    manifest = run(corpus, tokenizer, tmp_path / "out", sentences=sentences)
    first, last = rows(tmp_path / "out")
    assert first["sentence_lengths"] == lengths
    assert last["sentence_lengths"] == ([3, 1] if sentences == "lines" else [4])
    dropped = manifest.accounts["sentences"]["dropped"]
    assert dropped == {"no tokens": 2 if sentences == "lines" else 1}


def test_the_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.encoding.encode.SMALL_BYTES", 0)
    tokenizer = shared / "vocabs" / "bert-base-uncased"
    inputs = tuple(sorted((shared / "corpora" / "multi-udhr").glob("*.txt"))[20:22])
    outputs = []
    for workers in (0, 2):
        output = tmp_path / str(workers)
        run(inputs, tokenizer, output, workers=workers, unit_bytes=5000, sentences="lines")
        outputs.append(
            {
                path.relative_to(output): path.read_bytes()
                for path in output.rglob("*")
                if path.is_file() and ".tokkit" not in path.parts
            }
        )
    assert len(outputs[0]) > 6
    assert outputs[0] == outputs[1]


def test_standard_input_gives_what_the_file_gives(
    tmp_path: Path, tokenizer: Path, corpus: Path
) -> None:
    run(corpus, tokenizer, tmp_path / "file")
    piped = run_apart(corpus.read_bytes(), tokenizer, tmp_path / "pipe", "-", workers=2)
    assert piped.returncode == 0, piped.stderr
    ours, theirs = list(rows(tmp_path / "pipe")), list(rows(tmp_path / "file"))
    assert [row.pop("document") for row in ours] == [
        row.pop("document").replace(str(corpus), "stdin") for row in theirs
    ]
    assert ours == theirs
    piped = run_apart(b"the cat", tokenizer, tmp_path / "pipe", "-")
    assert piped.stderr.startswith(b"1: ")
    assert b"standard input cannot be compared" in piped.stderr
    piped = run_apart(b"the cat", tokenizer, tmp_path / "pipe", "-", overwrite=True)
    assert piped.returncode == 0, piped.stderr
    assert [row["sentence_lengths"] for row in rows(tmp_path / "pipe")] == [[2]]


def test_a_second_run_is_up_to_date_without_compiling_anything(
    tmp_path: Path, tokenizer: Path, corpus: Path
) -> None:
    run(corpus, tokenizer, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = run_apart(b"", tokenizer, tmp_path / "out", str(corpus), run=subprocess.run, workers=3)
    assert again.stdout.decode().strip() == "[]", again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_another_tokenizer_or_input_is_noticed(
    tmp_path: Path, tokenizer: Path, corpus: Path
) -> None:
    run(corpus, tokenizer, tmp_path / "out")
    other = write_vocab(tmp_path / "other", do_lower_case=False)
    with pytest.raises(TokkitError, match="it was made with another tokenizer"):
        run(corpus, other, tmp_path / "out")
    with pytest.raises(TokkitError, match="--sentences was auto, not lines"):
        run(corpus, tokenizer, tmp_path / "out", sentences="lines")
    corpus.write_bytes(corpus.read_bytes().replace(b"cats", b"mats"))
    os.utime(corpus, ns=(1, 1))
    with pytest.raises(TokkitError, match="has changed since"):
        run(corpus, tokenizer, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\n \n\n", "\u200b\n\n\u0301".encode()])
def test_a_corpus_with_nothing_left_is_one_line(
    tmp_path: Path, tokenizer: Path, content: bytes
) -> None:
    path = tmp_path / "nothing.txt"
    path.write_bytes(content)
    line = r"nothing\.txt: no document is left to encode \(dropped: \d (empty|no tokens)"
    with pytest.raises(TokkitError, match=line):
        run(path, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_document_that_cannot_be_cut_is_reported_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.tokenizer.library_encoder.WINDOW_BYTES", 1000)
    monkeypatch.setattr("tokkit.tokenizer.library_encoder.LONGEST_WINDOW", 4000)
    path = tmp_path / "long.txt"
    path.write_text("a b\n\n" + "x" * 10_000)
    whole = write_json(tmp_path / "whole.json", wordpiece_json(pre_tokenizer=None))
    with pytest.raises(TokkitError, match=r"long\.txt:5: 4,000 bytes of text that this tokenizer"):
        run(path, whole, tmp_path / "out")


@pytest.mark.parametrize(("batch_bytes", "expected"), [(100, [50] * 4), (960, [30] * 6 + [20])])
def test_a_shard_has_batches_of_bounded_size(
    tmp_path: Path,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_bytes: int,
    expected: list[int],
) -> None:
    monkeypatch.setattr("tokkit.encoding.encode_unit.BATCH_TOKENS", 50)
    monkeypatch.setattr("tokkit.encoding.encode_unit.BATCH_BYTES", batch_bytes)
    path = tmp_path / "many.txt"
    path.write_text("the cat\n\n" * 100)
    run(path, tokenizer, tmp_path / "out")
    with pa.ipc.open_file(tmp_path / "out" / "shard-0000000.arrow") as shard:
        batches = [shard.get_batch(number) for number in range(shard.num_record_batches)]
    lengths = [sum(map(len, batch["input_ids"].to_pylist())) for batch in batches]
    assert lengths == expected


def test_accounts_and_stats_count_words_unknown_tokens_and_sources(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.encoding.encode.SMALL_BYTES", 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("the cat\n\nunaffable \u4e2d\n")
    (tmp_path / "a" / "2.txt").write_text("\u4e2d\u4e2d the cats\n")
    (tmp_path / "b.txt").write_text("mat mat mat mat\n")
    inputs = (tmp_path / "a", tmp_path / "b.txt")
    for workers in (0, 2):
        stats = EncodeStats()
        config = EncodeConfig(
            inputs=tuple(map(str, inputs)),
            tokenizer=tokenizer,
            output=tmp_path / str(workers),
            workers=workers,
        )
        accounts = encode(config, stats).accounts
        assert accounts["figures"] == {"unknown_tokens": 3, "words": 12}
        assert accounts["sources"] == {
            str(inputs[0]): {"tokens": 11, "unknown_tokens": 3, "words": 8},
            str(inputs[1]): {"tokens": 4, "unknown_tokens": 0, "words": 4},
        }
        measured = stats.as_dict()
        assert (measured["bytes"], measured["tokens"]) == (50, 15)
        assert 0 < measured["seconds"] < 60
        assert measured["bytes_per_second"] == 50 / measured["seconds"]
        assert 0 < measured["chunk_hit_rate"] < 0.5
        again = EncodeStats()
        assert encode(config, again).accounts == accounts
        assert again.as_dict() == {}


def test_encoding_by_the_library_is_logged_in_one_line(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tokkit")
    form = wordpiece_json(normalizer={"type": "Lowercase"})
    path = write_json(tmp_path / "tokenizer.json", form)
    run(corpus, path, tmp_path / "out")
    records = [row for row in caplog.records if row.name == "tokkit.encoding.encode"]
    (message,) = (row.getMessage() for row in records)
    assert message.startswith(f"{path}: encoding with the tokenizer's own library")


def test_messages_of_workers_are_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("the cat\n" * 150_000)
    # The library encodes, since the first kernel that reads text is compiled more quickly.
    form = wordpiece_json(normalizer={"type": "Lowercase"})
    tokenizer = write_json(tmp_path / "tokenizer.json", form)
    command = f"tokkit encode {path} -t {tokenizer} -o {tmp_path / 'out'} --documents line"
    ended = subprocess.run(
        [*command.split(), "--sentences", "none", "--unit-bytes", "500000", "--workers", "2"],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("tokkit: compiling kernels") == 1
    assert ended.stderr.count("encoding with the tokenizer's own library") == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_strings_of_a_list_are_sentences(tmp_path: Path, tokenizer: Path, name: str) -> None:
    path = tmp_path / name
    columns = {"text": [["The cat sat. The cats", "on the", "mat\nunaffable"], ["the cat"]]}
    if name == "a.jsonl":
        texts = [*columns["text"][:1], "The cat sat. The cats sat.", *columns["text"][1:]]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        expected = [[7, 2, 4], [4, 5], [2]]
    else:
        pq.write_table(pa.table(columns), path)
        expected = [[7, 2, 4], [2]]
    run(path, tokenizer, tmp_path / "out")
    assert [row["sentence_lengths"] for row in rows(tmp_path / "out")] == expected
    run(path, tokenizer, tmp_path / "none", sentences="none")
    assert all(len(row["sentence_lengths"]) == 1 for row in rows(tmp_path / "none"))


def test_a_value_that_names_no_language_is_counted_and_falls_back(
    tmp_path: Path, tokenizer: Path
) -> None:
    path = tmp_path / "a.jsonl"
    values = ["en", "de-AT", "unknown", "und", "multilingual", "", 5, None]
    records = [{"text": "The cat sat.", "lang": value} for value in values]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    manifest = run(path, tokenizer, tmp_path / "out", language_field="lang", language="fr")
    assert manifest.accounts["documents"]["kept"] == len(values)
    assert manifest.accounts["figures"]["documents_of_unknown_language"] == 6
    without = run(path, tokenizer, tmp_path / "without", language="fr")
    assert "documents_of_unknown_language" not in without.accounts["figures"]
    with pytest.raises(UsageError, match="--language 'unknown' is no language code"):
        run(path, tokenizer, tmp_path / "other", language="unknown")


def test_files_that_are_left_out_are_in_the_manifest(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"text": "the cat"}\n')
    (tmp_path / "data" / "README.md").write_text("the card")
    manifest = run(tmp_path / "data", tokenizer, tmp_path / "out")
    assert manifest.left_out == [f"{tmp_path}/data/README.md"]
    assert Manifest.read(tmp_path / "out").left_out == manifest.left_out
    assert manifest.accounts["documents"]["kept"] == 1
