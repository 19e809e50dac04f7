"""Words are counted as the library splits them, whatever the memory, the workers and the units."""

import gzip
import os
import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pyarrow as pa
import pytest
from hardtexts import ODD, WHITE_SPACE
from hypothesis import given
from hypothesis import strategies as st

from reference.counting import count_words
from tokkit.engine.spec import shared_folder
from tokkit.errors import TokkitError
from tokkit.kernels.vocab.word_table import LONGEST_WORD
from tokkit.vocab.counting import CountedCorpus, count_corpus
from tokkit.vocab.drawn_documents import find_held_out
from tokkit.vocab.train import COUNTS_FOLDER, plan_training
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counter import WordCounter, make_splitter
from tokkit.vocab.word_counts import Run, merge_runs, read_run

MODELS = ("wordpiece", "bpe", "unigram")
CHARACTERS = (
    "aabBcdeéÅẛ̣가한İßΣ中\u3042\u0301\u0307\u0323\u302e\u302f\u200b\x00\ufffd.,-'stre。 \t\n\xa0\u300019½²\u0662😀"
    f"{WHITE_SPACE}{ODD}"
)
TINY = 1 << 10

hard_text = st.text(
    st.one_of(st.sampled_from(CHARACTERS), st.characters(codec="utf-8")), max_size=60
)


def config_of(*inputs: Path, **options: Any) -> TrainConfig:
    output = inputs[0].parent / "out"
    reading = {"format": "counts"} if inputs[0].suffix == ".tsv" else {"held_out": 0.0}
    options = {"workers": 0, **reading, **options}
    if options.get("model", "wordpiece") != "wordpiece":
        options.pop("strip_accents", None)
    if options.get("model") == "bpe":
        options.pop("cased", None)
    return TrainConfig(inputs=tuple(map(str, inputs)), output=output, **options)


def count(config: TrainConfig, **options: Any) -> CountedCorpus:
    plan = plan_training(config)
    with shared_folder(plan, overwrite=True):
        return count_corpus(
            replace(config, overwrite=True), plan, config.output / COUNTS_FOLDER, **options
        )


def count_texts(
    folder: Path, config: TrainConfig, batches: list[list[str]], memory: int = TINY
) -> dict[bytes, int]:
    counter = WordCounter(make_splitter(config), memory, folder)
    for texts in batches:
        counter.add(pa.array(texts, pa.large_string()))
    with (folder / "run").open("wb") as file:
        counter.finish(file)
    with (folder / "merged").open("wb") as file:
        totals = merge_runs([Run(folder / "run")], file, memory)
    words = list(read_run(folder / "merged", totals))
    assert words == sorted(words)
    assert not list(folder.glob("*.tmp"))
    return dict(words)


@pytest.mark.parametrize("model", MODELS)
@given(
    batches=st.lists(st.lists(hard_text, max_size=4), max_size=2),
    split_digits=st.booleans(),
    cased=st.booleans(),
    strip_accents=st.sampled_from([None, True, False]),
)
def test_words_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory, model: str, batches: list[list[str]], **options: Any
) -> None:
    folder = tmp_path_factory.mktemp("counts")
    config = config_of(folder / "x", model=model, **options)
    texts = [text for batch in batches for text in batch]
    assert count_texts(folder, config, batches) == count_words(config, texts)


@pytest.mark.parametrize("model", MODELS)
def test_real_text_is_counted_like_that_too(tmp_path: Path, shared: Path, model: str) -> None:
    config = config_of(tmp_path / "x", model=model)
    texts = [
        path.read_bytes()[:20_000].decode(errors="ignore")
        for path in sorted((shared / "corpora" / "multi-udhr").glob("*.txt"))[::6]
    ]
    assert count_texts(tmp_path, config, [texts], 1 << 24) == count_words(config, texts)


@pytest.mark.parametrize("model", MODELS)
def test_spilling_changes_nothing(tmp_path: Path, model: str) -> None:
    config = config_of(tmp_path / "x", model=model)
    texts = [" ".join(f"{number * 7919 % 5000:x}common{number % 977}" for number in range(9000))]
    counted = count_texts(tmp_path, config, [texts, texts])
    assert counted == count_words(config, texts * 2)
    assert counted == count_texts(tmp_path, config, [texts, texts], 1 << 24)


@pytest.mark.parametrize("metaspace", [False, True])
def test_a_word_in_the_table_of_words_and_among_the_chunks_is_one(
    tmp_path: Path, *, metaspace: bool
) -> None:
    config = config_of(tmp_path / "x", model="bpe", metaspace=metaspace)
    counter = WordCounter(make_splitter(config), 1 << 24, tmp_path)
    values = np.frombuffer(b" cat dog", np.uint8)
    counter.add_counted(values, np.array([0, 4, 8]), np.array([5, 7]))
    counter.add(pa.array([" cat mouse dog", " dog"], pa.large_string()))
    with (tmp_path / "run").open("wb") as file:
        counter.finish(file)
    with (tmp_path / "merged").open("wb") as file:
        totals = merge_runs([Run(tmp_path / "run")], file, 1 << 20)
    assert totals.words == 3
    assert dict(read_run(tmp_path / "merged", totals)) == {b" cat": 6, b" dog": 9, b" mouse": 1}


def make_corpus(path: Path) -> Path:
    lines = [f"Café {number} naïve dog's {number % 37}. 中文 \u302e" for number in range(6000)]
    path.write_text("\n\n".join(lines))
    return path


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_the_same_for_any_workers_memory_and_units(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_corpus(tmp_path / "corpus.txt")
    results = []
    for workers, memory, unit_bytes in (
        (0, 1 << 24, 1 << 26),
        (2, TINY, 60_000),
        (0, 1 << 20, 4000),
    ):
        monkeypatch.setattr("tokkit.vocab.train.UNIT_BYTES", unit_bytes)
        config = config_of(path, model=model, workers=workers, held_out=0.05)
        results.append(count(config, table_memory=memory))
        assert not list(config.output.rglob("*.tmp"))
    first, *others = results
    assert 0.02 < len(first.held_out) / 6000 < 0.1
    dropped = first.accounts.as_dict()["documents"]["dropped"]
    assert dropped == {"held out for the report": len(first.held_out)}
    for other in others:
        assert list(other.words) == list(first.words)
        assert other.held_out == first.held_out
        assert other.removed == first.removed
        assert other.accounts.as_dict() == first.accounts.as_dict()


COUNT_ALL = """
import sys
from pathlib import Path
from tokkit.engine.spec import shared_folder
from tokkit.vocab import train
from tokkit.vocab.counting import count_corpus
from tokkit.vocab.train_config import TrainConfig

train.UNIT_BYTES = 1  # each file is a unit
if __name__ == "__main__":
    output, *inputs = sys.argv[1:]
    share = 0.999 if "-" in inputs[1:] else 0.0
    config = TrainConfig(inputs=tuple(inputs), output=Path(output), workers=2, held_out=share)
    plan = train.plan_training(config)
    with shared_folder(plan, overwrite=False):
        folder = config.output / train.COUNTS_FOLDER
        for word, number in count_corpus(config, plan, folder, table_memory=1024).words:
            print(word.decode(), number)
"""


def test_workers_copied_after_standard_input_was_counted_spill_apart(tmp_path: Path) -> None:
    texts = [" ".join(f"{number * 7919 % 5000:x}a{n}" for number in range(6000)) for n in range(3)]
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path, text in zip(paths, texts[1:], strict=True):
        path.write_text(text)
    # pyarrow and OpenBLAS start no thread, so that the process can be copied.
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    ended = forkserver.run(
        [sys.executable, "-c", COUNT_ALL, tmp_path / "out", "-", *paths],
        input=texts[0],
        env={**os.environ, **one_thread},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    expected = sorted(count_words(config_of(tmp_path / "x"), texts).items())
    assert ended.stdout.splitlines() == [f"{word.decode()} {count}" for word, count in expected]


def test_held_out_documents_are_not_counted(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "corpus.txt")
    config = config_of(path, held_out=0.1)
    counted = count(config)
    rest = Counter(path.read_text().split("\n\n")) - Counter(counted.held_out.to_pylist())
    assert dict(counted.words) == count_words(config, list(rest))
    os.renames(path, tmp_path / "elsewhere" / "corpus.txt")
    moved = count(config_of(tmp_path / "elsewhere" / "corpus.txt", held_out=0.1))
    assert moved.held_out == counted.held_out


def test_a_document_is_always_left_to_learn_from(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one\n\ntwo\n\nthree")
    assert [word for word, _ in count(config_of(path, held_out=0.999)).words] == [b"one"]


@pytest.mark.parametrize("unit_bytes", [1, 1 << 26])
def test_the_first_text_document_is_learned_from_and_not_reported(
    tmp_path: Path, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.vocab.train.UNIT_BYTES", unit_bytes)
    inputs = [tmp_path / name for name in ("empty.txt", "blank.txt", "a.txt", "b.txt")]
    for path, text in zip(inputs, ("", "\n \n", "a\n\nb", "c"), strict=True):
        path.write_text(text)
    weights = {str(inputs[2]): 3.0}
    config = config_of(*inputs, held_out=0.999, weights=weights)
    corpus = count(config)
    assert dict(corpus.words) == {b"a": 3}
    assert corpus.held_out.to_pylist() == ["b", "c"]
    assert corpus.accounts.as_dict()["documents"] == {
        "in": 5,
        "kept": 1,
        "dropped": {"empty": 2, "held out for the report": 2},
    }
    units = [part for unit in plan_training(config).units for part in unit.payload]
    assert find_held_out(config, units) == corpus.held_out


def test_standard_input_is_read_once_whatever_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    ended = forkserver.run(
        [sys.executable, "-c", COUNT_ALL, tmp_path / "out", tmp_path / "empty.txt", "-"],
        input="only once",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines() == ["once 1", "only 1"], ended.stderr


def test_removed_characters_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("é É ở a\x01b \u200b \u0301 plain")
    expected = {"\u0301": 3, "\u0309": 1, "\u031b": 1, "\x01": 1, "\u200b": 1}
    assert count(config_of(path)).removed == expected
    assert count(config_of(path, cased=True)).removed == {"\x01": 1, "\u200b": 1}
    assert count(config_of(path, model="bpe")).removed == {}


def test_words_too_long_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("x" * (3 * LONGEST_WORD + 5))
    assert dict(count(config_of(path, model="bpe")).words) == {b"x" * LONGEST_WORD: 3, b"xxxxx": 1}
    ((word, number),) = count(config_of(path)).words
    assert number == 1
    assert LONGEST_WORD - 4 <= len(word) <= LONGEST_WORD


def test_weights_are_exact_and_round_half_up(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a a a b c")
    two.write_text("a d")
    weights = {str(one): 2.5, str(two): 0.1}
    words = dict(count(config_of(one, two, weights=weights)).words)
    assert words == {b"a": 8, b"b": 3, b"c": 3, b"d": 1}  # 7.6, 2.5, 2.5, and 0.1
    assert dict(count(config_of(one, two, weights=weights, min_word_count=4)).words) == {b"a": 8}


def test_inputs_have_the_hashes_of_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(gzip.compress(b"a b c"))
    row = {"name": str(path), "bytes": path.stat().st_size, "sha256": sha256(b"a b c").hexdigest()}
    assert count(config_of(path)).inputs == [row]


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("\n \n", {}, "no document is left to learn from; see --documents"),
        ("\u200b \u200b", {}, "no character is left to learn from"),
        ("a b", {"min_word_count": 2}, "no word occurs 2 times; lower --min-word-count"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, text: str, options: dict[str, Any], line: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(text)
    config = config_of(path, **options)
    with pytest.raises(TokkitError, match=line) as error:
        count(config)
    assert "\n" not in str(error.value)
    assert not list(config.output.rglob("*.tmp"))


def test_more_words_than_memory_holds_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.vocab.counting._BYTES_PER_BYTE", 1 << 40)
    path = tmp_path / "corpus.txt"
    path.write_text("word " * 9)
    with pytest.raises(TokkitError, match=r"1 distinct words .* --min-word-count 2 or more"):
        count(config_of(path))


def test_counts_are_of_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text(f"a\t{1 << 61}\nb a\t{1 << 40}\n")
    words = count(config_of(path)).words
    assert words.counts.dtype == np.int64
    assert dict(words) == {b"a": (1 << 61) + (1 << 40), b"b": 1 << 40}


def test_counts_of_several_files_do_not_run_over(tmp_path: Path) -> None:
    files = [tmp_path / "one.tsv", tmp_path / "two.tsv"]
    for path in files:
        path.write_text(f"a\t{1 << 62}\n")
    with pytest.raises(TokkitError, match=r"exceeds 2\^62"):
        count(config_of(*files))
    with pytest.raises(TokkitError, match=r"exceeds 2\^62"):
        count(config_of(files[0], weights={str(files[0]): 1.5}))
