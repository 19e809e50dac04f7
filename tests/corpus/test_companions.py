"""Which files of a folder are no part of its corpus, and folders that libraries save."""

import json
import logging
from pathlib import Path

import pytest
from corpusfiles import read_corpus
from datasets import Dataset, DatasetDict, disable_progress_bars
from malformedjson import mutants

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.units import list_left_out, plan_groups
from tokkit.errors import TokkitError

disable_progress_bars()
DATA = Dataset.from_dict({"text": ["one", "two", "three"], "label": [0, 1, 0]})
COMPANIONS = """
    README.md LICENSE _SUCCESS _common_metadata _metadata dataset_infos.json manifest.json .hidden
    .part-0.crc part-0.parquet.crc sha256sums.txt logo.png load.py _temporary/0/part-1.jsonl
    part-0.idx requirements.txt CITATION.cff
""".split()


def write(folder: Path, *names: str, text: str = "no part of it") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def left_out(*inputs: Path) -> list[str]:
    config = CorpusConfig(inputs=tuple(map(str, inputs)))
    return list_left_out(plan_groups(config, 1 << 20, "{}"))


@pytest.mark.parametrize(
    "name", ["part-0.parquet", "part-0.jsonl", "part-0.csv.gz", "part-0.arrow"]
)
def test_companions_of_data_are_left_out_and_listed(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    write(folder, *COMPANIONS)
    if name.endswith("parquet"):
        DATA.to_parquet(folder / name)
    elif name.endswith("jsonl"):
        DATA.to_json(folder / name)
    elif name.endswith("gz"):
        DATA.to_pandas().to_csv(folder / name)
    else:
        DATA.to_pandas().to_feather(folder / name)
    with caplog.at_level(logging.INFO):
        assert read_corpus(folder).texts == ["one", "two", "three"]
    assert left_out(folder) == sorted(f"{folder}/{name}" for name in COMPANIONS)
    assert f"{folder}: left out {folder}/.hidden, {folder}/.part-0.crc, " in caplog.text
    assert "and 12 more" in caplog.text
    assert read_corpus(folder / "*").texts == ["one", "two", "three"]


def test_records_without_a_telling_name_are_data_and_all_text_is_text(tmp_path: Path) -> None:
    write(tmp_path, "AA/wiki_00", "AA/wiki_01", text='{"text": "record"}\n')
    write(tmp_path, "README.md", "_SUCCESS", text="text")
    assert read_corpus(tmp_path).texts == ["record", "record"]
    assert left_out(tmp_path) == [f"{tmp_path}/README.md", f"{tmp_path}/_SUCCESS"]
    assert len(read_corpus(tmp_path, format="text").texts) == 4


def test_among_texts_a_readme_is_a_text(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "a.txt", "b.txt", "_c.txt", text="text")
    write(tmp_path, "d.jsonl", text='{"text": "record"}\n')
    assert sorted(read_corpus(tmp_path).texts) == ["record", *["text"] * 4]
    assert left_out(tmp_path) == []
    # What is named is read.
    assert read_corpus(tmp_path / "README.md").texts == ["text"]


def test_the_files_of_a_tokenizer_are_left_out(tmp_path: Path) -> None:
    names = ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "training.json"]
    names += ["other/tokenizer.json", "other/vocab.txt"]
    write(tmp_path, *(f"tokenizer/{name}" for name in names))
    write(tmp_path, "a.txt", "vocab.txt", text="text")
    assert read_corpus(tmp_path).texts == ["text", "text"]
    assert left_out(tmp_path) == [f"{tmp_path}/tokenizer/{name}" for name in sorted(names)]


def test_a_saved_data_set_is_read_as_its_library_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DATA.save_to_disk(tmp_path / "one", num_shards=2)
    write(tmp_path / "one", "cache-0123.arrow")
    assert read_corpus(tmp_path / "one").texts == DATA["text"][:]
    names = ["cache-0123.arrow", "dataset_info.json", "state.json"]
    assert left_out(tmp_path / "one") == [f"{tmp_path}/one/{name}" for name in names]
    DatasetDict({"train": DATA, "test": DATA.select([2])}).save_to_disk(tmp_path / "two")
    with caplog.at_level(logging.INFO):
        assert read_corpus(tmp_path / "two").texts == ["three", "one", "two", "three"]
    assert "two: holds a DatasetDict, whose splits are all read; name one for it" in caplog.text
    assert read_corpus(tmp_path / "two" / "test").texts == ["three"]


def test_an_incomplete_data_set_and_a_selection_are_refused(tmp_path: Path) -> None:
    DATA.save_to_disk(tmp_path / "data", num_shards=2)
    state = tmp_path / "data" / "state.json"
    indices = {"_indices_data_files": [{"filename": "indices.arrow"}]}
    state.write_text(json.dumps({**json.loads(state.read_text()), **indices}))
    with pytest.raises(
        TokkitError, match=r"data: a data set with an indices mapping; call flatten_indices\(\)"
    ):
        read_corpus(tmp_path)
    (tmp_path / "data" / "data-00001-of-00002.arrow").unlink()
    state.write_text(json.dumps({**json.loads(state.read_text()), "_indices_data_files": None}))
    with pytest.raises(
        TokkitError, match=r"data-00001-of-00002.arrow is missing, which state.json"
    ):
        read_corpus(tmp_path)


def test_a_state_that_is_malformed_is_one_line(tmp_path: Path) -> None:
    DATA.save_to_disk(tmp_path, num_shards=2)
    state = tmp_path / "state.json"
    text = state.read_text()
    damaged = b'{"_data_files": [{"filename": 7}]}'
    faults = []
    for mutant in (damaged, *mutants(text, seed=1, number=60)):
        state.write_bytes(mutant)
        try:
            read_corpus(tmp_path)
        except TokkitError as error:
            faults.append(str(error))
    assert faults[0].startswith(f"{tmp_path}: state.json is damaged (Expected `str`, got `int`")
    assert not any("\n" in fault for fault in faults)


def test_a_state_of_something_else_is_a_file_like_any_other(tmp_path: Path) -> None:
    for text in ("no JSON", '["a"]', '{"text": "a record"}\n'):
        (tmp_path / "state.json").write_text(text)
        if text.startswith("{"):
            assert read_corpus(tmp_path).texts == ["a record"]
        else:
            with pytest.raises(TokkitError, match=r"state.json, (line|record) 1"):
                read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["_delta_log/0.json"], "a Delta or Hudi table"),
        ([".hoodie/hoodie.properties"], "a Delta or Hudi table"),
        (["blobs/1", "refs/main", "snapshots/1/b.txt"], "name one of the folders in its snapshots"),
    ],
    ids=["Delta", "Hudi", "Hub"],
)
def test_a_folder_with_files_that_are_outdated_or_doubled_is_refused(
    tmp_path: Path, names: list[str], what: str
) -> None:
    for name in names:
        write(tmp_path, name)
    DATA.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TokkitError, match=what):
        read_corpus(tmp_path)
    assert len(read_corpus(tmp_path / "a.parquet").texts) == 3
