"""``train`` learns the same vocabulary every time, and knows when there is nothing to do."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from tokkit.corpus.units import Group
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError, UsageError
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab import counting
from tokkit.vocab.counting import CountContext
from tokkit.vocab.train import Training, train
from tokkit.vocab.train_config import BERT_SPECIAL_TOKENS, TrainConfig

SCRIPT = """
import json, sys
from pathlib import Path
from tokkit.errors import TokkitError
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.train import train

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    options["output"] = Path(options["output"])
    options["inputs"] = tuple(options["inputs"])
    try:
        train(TrainConfig(**options))
    except TokkitError as error:
        sys.exit(f"{error.exit_status}: {error}")
"""

SENTENCES = (
    "The cat sat on the mat, and the cat was fat.",
    "A dog sat on the log; the dog was a hog!",
    "[MASK] the [MASK] is not a mask.",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(SENTENCES * 5) + "\n")
    return path


@pytest.fixture(scope="module")
def languages(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred kilobytes in many scripts, so that many pairs occur as often as others."""
    path = tmp_path_factory.mktemp("corpus") / "languages.txt"
    files = sorted((shared / "corpora" / "multi-udhr").glob("*.txt"))[::24]
    path.write_bytes(b"\n\n".join(file.read_bytes() for file in files))
    return path


def run(corpus: Path, output: Path, **options: Any) -> Training:
    size = 280 if options.get("model") == "bpe" else 50
    options = {"vocab_size": size, "workers": 0, "held_out": 0.0, **options}
    return train(TrainConfig(inputs=(str(corpus),), output=output, **options))


def fill(corpus: Path, output: Path, **options: Any) -> Training:
    """Learn as many tokens as the corpus gives; asking for too many shows that number."""
    with pytest.raises(TokkitError, match=r"pass --vocab-size \d+ or less, or more text") as error:
        run(corpus, output, vocab_size=1 << 20, **options)
    size = int(re.findall(r"pass --vocab-size (\d+)", str(error.value))[0])
    return run(corpus, output, vocab_size=size, **options)


def run_apart(
    output: Path, *inputs: str, seed: int = 0, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start training in a process of its own, as the command does."""
    script = output.parent / "run_train.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [
            sys.executable,
            str(script),
            json.dumps({"inputs": inputs, "output": str(output), "progress": False, **options}),
        ],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_every_run_gives_the_same_bytes(tmp_path: Path, languages: Path, model: str) -> None:
    outputs = [tmp_path / str(number) for number in range(3)]
    for number, (output, workers) in enumerate(zip(outputs, (0, 1, 4), strict=True)):
        process = run_apart(
            output, str(languages), seed=number, model=model, vocab_size=3000, workers=workers
        )
        _, line = process.communicate()
        assert process.returncode == 0, line
    first, *others = (files(output) for output in outputs)
    assert "training.json" in first
    for other in others:
        assert other == first
    tokenizer = load_tokenizer(outputs[0])
    assert tokenizer.vocab_size == 3000
    assert tokenizer.tokens[:5] == BERT_SPECIAL_TOKENS
    assert tokenizer.all_special_ids == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_transformers_loads_what_was_learned(tmp_path: Path, corpus: Path, model: str) -> None:
    from transformers import AutoTokenizer

    run(corpus, tmp_path / "out", model=model)
    ours = load_tokenizer(tmp_path / "out").library
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours is not None
    for text in (*SENTENCES[:2], "Ünaffable 中 \u0301!", ""):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs(text)["input_ids"] == [2, *ids, 3]
        if text:
            assert theirs(text, text)["input_ids"] == [2, *ids, 3, *ids, 3]
    assert theirs("[MASK]")["input_ids"] == [2, 4, 3]


def test_a_wordpiece_vocabulary_is_special_tokens_alphabet_and_merges(
    tmp_path: Path, corpus: Path
) -> None:
    fill(corpus, tmp_path / "out")
    tokens = load_tokenizer(tmp_path / "out").tokens
    words = [
        word
        for text in SENTENCES
        for word, _ in BertPreTokenizer().pre_tokenize_str(BertNormalizer().normalize_str(text))
    ]
    alphabet = sorted({char for word in words for char in word})
    continuing = [f"##{char}" for char in sorted({char for word in words for char in word[1:]})]
    head = [*BERT_SPECIAL_TOKENS, *alphabet, *continuing]
    assert list(tokens[: len(head)]) == head
    bare = [token.removeprefix("##") for token in tokens[len(head) :]]
    assert bare
    assert all(any(token in word for word in words) for token in bare)


def test_special_tokens_in_text_are_counted_as_words(tmp_path: Path, corpus: Path) -> None:
    run(corpus, tmp_path / "out")
    tokens = load_tokenizer(tmp_path / "out").tokens
    assert {"[", "]", "mask"} <= set(tokens)
    assert tokens.count("[MASK]") == 1


def test_the_alphabet_keeps_the_most_frequent_and_counts_the_others(
    tmp_path: Path, corpus: Path
) -> None:
    counts = Counter("".join(SENTENCES * 5).lower().replace(" ", ""))
    training = fill(corpus, tmp_path / "out", limit_alphabet=6)
    kept = sorted(sorted(counts, key=lambda char: (-counts[char], char))[:6])
    assert list(load_tokenizer(tmp_path / "out").tokens[5:11]) == kept
    removed = counts.total() - sum(counts[char] for char in kept)
    assert training.accounts["characters"] == {
        "in": counts.total(),
        "kept": counts.total() - removed,
        "dropped": {"beyond --limit-alphabet": removed},
    }
    assert training.accounts["documents"] == {"in": 15, "kept": 15, "dropped": {}}


def test_options_shape_the_vocabulary(tmp_path: Path, corpus: Path) -> None:
    corpus.write_text("Éclair Éclair éclair\n\nÉclair")
    cased = fill(corpus, tmp_path / "cased", cased=True)
    assert "Éclair" in load_tokenizer(tmp_path / "cased").tokens
    fill(corpus, tmp_path / "accents", strip_accents=False)
    assert "éclair" in load_tokenizer(tmp_path / "accents").tokens
    plain = fill(corpus, tmp_path / "plain")
    assert "eclair" in load_tokenizer(tmp_path / "plain").tokens
    assert cased.tokenizer_fingerprint != plain.tokenizer_fingerprint
    fill(corpus, tmp_path / "rare", min_frequency=9)
    assert "eclair" not in load_tokenizer(tmp_path / "rare").tokens
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|sep|>")
    fill(corpus, tmp_path / "bpe", model="bpe", special_tokens=special)
    tokenizer = load_tokenizer(tmp_path / "bpe")
    assert tokenizer.special_ids == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}
    assert tokenizer.all_special_ids == tuple(range(6))


def test_a_size_that_the_corpus_cannot_fill_is_refused_with_the_size_that_it_can(
    tmp_path: Path, corpus: Path
) -> None:
    line = "--vocab-size 5000: the corpus gives 58 tokens with --min-frequency 2; pass"
    with pytest.raises(TokkitError, match=line):
        run(corpus, tmp_path / "out", vocab_size=5000)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert run(corpus, tmp_path / "out", vocab_size=58).vocab_size == 58


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"vocab_size": 10}, "--vocab-size 10: less than the .* tokens that special tokens"),
        ({"special_tokens": ("[UNK]", "cat")}, r"--special-token cat: .* as in \[cat\]"),
        ({"special_tokens": ("[UNK]", "##s")}, "--special-token ##s: text has such words"),
        ({"special_tokens": ("[UNK]", "!")}, "--special-token !: text has such words"),
        ({"model": "bpe", "special_tokens": ("Ġthe",)}, "--special-token Ġthe: text has such"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    tmp_path: Path, corpus: Path, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(TokkitError, match=line):
        run(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "training.json").exists()


def test_a_special_token_that_no_word_can_become_is_accepted(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(UsageError):
        run(corpus, tmp_path / "out", special_tokens=("[UNK]", "cat"))
    run(corpus, tmp_path / "out2", special_tokens=("[UNK]", "CAT", "[cat]", "日本"))
    tokenizer = load_tokenizer(tmp_path / "out2")
    assert tokenizer.all_special_ids == (0, 1, 2, 3)
    assert "cat" in tokenizer.tokens


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
@pytest.mark.parametrize("content", [b"", b"\n\n \n\n\t\n"])
def test_a_corpus_of_nothing_is_one_line(tmp_path: Path, model: str, content: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(TokkitError, match=r"empty\.txt: .*no document is left to learn from"):
        run(path, tmp_path / "out", model=model)


def test_a_corpus_without_words_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "controls.txt"
    path.write_text("\u200b\u200b\n\n\x01")
    with pytest.raises(TokkitError, match=r"controls\.txt: .*no character is left"):
        run(path, tmp_path / "out")


def test_a_long_line_without_a_space_is_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("ab" * 50_000 + " the cat " * 3)
    for model in ("wordpiece", "bpe"):
        fill(path, tmp_path / model, model=model)
        assert any(t in load_tokenizer(tmp_path / model).tokens for t in ("the", "Ġthe"))


def test_the_same_command_again_has_nothing_to_do(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = run(corpus, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run(corpus, tmp_path / "out", workers=2, progress=False) == first
    assert "up to date" in caplog.text
    os.utime(corpus, ns=(1, 1))
    assert run(corpus, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_lost_its_tokenizer_is_made_again(tmp_path: Path, corpus: Path) -> None:
    run(corpus, tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out" / "tokenizer.json").unlink()
    run(corpus, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_another_run_s_folder_is_refused_unless_overwritten(tmp_path: Path, corpus: Path) -> None:
    run(corpus, tmp_path / "out")
    with pytest.raises(TokkitError, match="--vocab-size was 50, not 40"):
        run(corpus, tmp_path / "out", vocab_size=40)
    training = run(corpus, tmp_path / "out", vocab_size=40, overwrite=True)
    assert training.options["vocab_size"] == 40
    corpus.write_text(corpus.read_text().replace("cat", "rat"))
    os.utime(corpus, ns=(1, 1))
    with pytest.raises(TokkitError, match=r"corpus\.txt has changed since"):
        run(corpus, tmp_path / "out", vocab_size=40)
    run(corpus, tmp_path / "out", vocab_size=55, overwrite=True)
    assert "rat" in load_tokenizer(tmp_path / "out").tokens
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(TokkitError, match="not empty, and not made by tokkit"):
        run(corpus, tmp_path / "mine")


def test_what_differs_is_named_as_on_the_command_line(tmp_path: Path, corpus: Path) -> None:
    name = str(corpus)
    run(corpus, tmp_path / "out", weights={name: 2.0}, special_tokens=("[UNK]", "[MASK]"))
    options = {"weights": {name: 2.0}, "special_tokens": ("[UNK]", "[MASK]")}
    with pytest.raises(TokkitError, match=rf"--weight was {re.escape(name)}=2, not .*=0\.5\)"):
        run(corpus, tmp_path / "out", **{**options, "weights": {name: 0.5}})
    with pytest.raises(TokkitError, match=r"--weight was .*=2, not left out\)"):
        run(corpus, tmp_path / "out", **{**options, "weights": {}})
    with pytest.raises(TokkitError, match=r"--special-token was \[UNK\],\[MASK\], not \[UNK\]\)"):
        run(corpus, tmp_path / "out", **{**options, "special_tokens": ("[UNK]",)})
    (tmp_path / "alphabet.txt").write_text("xyz")
    with pytest.raises(TokkitError, match="--initial-alphabet was left out"):
        run(corpus, tmp_path / "out", **options, initial_alphabet=tmp_path / "alphabet.txt")


def test_standard_input_is_learned_from_like_a_file(tmp_path: Path, corpus: Path) -> None:
    expected = run(corpus, tmp_path / "file")
    process = run_apart(tmp_path / "pipe", "-", vocab_size=50, held_out=0.0)
    _, line = process.communicate(corpus.read_bytes())
    assert process.returncode == 0, line
    ours, theirs = files(tmp_path / "pipe"), files(tmp_path / "file")
    record = json.loads(ours.pop("training.json"))
    assert ours == {name: data for name, data in theirs.items() if name != "training.json"}
    assert record["inputs"] == [{**expected.inputs[0], "name": "stdin", "bytes": 0}]
    again = run_apart(tmp_path / "pipe", "-", vocab_size=50, held_out=0.0)
    _, line = again.communicate(corpus.read_bytes())
    assert line.startswith(b"1: ")
    assert b"standard input cannot be compared" in line
    assert not list((tmp_path / "pipe").rglob("*.tmp"))


def test_an_interrupted_run_leaves_a_folder_that_resumes(tmp_path: Path, languages: Path) -> None:
    output = tmp_path / "out"
    process = run_apart(output, str(languages), model="bpe", vocab_size=7000)
    while not (output / ".tokkit" / "journal.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, line = process.communicate(timeout=20)
    assert line.startswith(b"130: "), line
    assert not (output / "training.json").exists()
    with pytest.raises(TokkitError, match="unfinished"):
        load_tokenizer(output)
    run(languages, output, model="bpe", vocab_size=7000)
    assert load_tokenizer(output).vocab_size == 7000


KILLED = """
import os, signal, sys
from pathlib import Path
from tokkit.vocab import counting, train
from tokkit.vocab.train_config import TrainConfig

count_unit = counting.count_unit

def count_or_die(context, group, *arguments):
    if group[0].name.endswith("3.txt"):
        os.kill(os.getpid(), signal.SIGKILL)
    return count_unit(context, group, *arguments)

counting.count_unit = count_or_die
train.UNIT_BYTES = 1  # each file is a unit
if __name__ == "__main__":
    output, *inputs = sys.argv[1:]
    train.train(TrainConfig(inputs=tuple(inputs), output=Path(output), vocab_size=60, workers=0))
"""


@pytest.fixture
def counted_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are counted from now on, each in a unit of its own."""
    names: list[str] = []
    count_unit = counting.count_unit

    def count(context: CountContext, group: Group, *arguments: Any) -> UnitResult:
        names.append(Path(group[0].name).name)
        return count_unit(context, group, *arguments)

    monkeypatch.setattr(counting, "count_unit", count)
    monkeypatch.setattr("tokkit.vocab.train.UNIT_BYTES", 1)
    return names


def test_what_a_killed_run_has_counted_is_not_counted_again(
    tmp_path: Path, counted_files: list[str]
) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_text(f"{SENTENCES[number % 3]} {number} times")
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out", *paths], check=False)
    assert ended.returncode == -signal.SIGKILL
    config = TrainConfig(
        inputs=tuple(map(str, paths)), output=tmp_path / "out", vocab_size=60, workers=0
    )
    with pytest.raises(TokkitError, match="--split-digits was off, not on"):
        train(replace(config, split_digits=True))
    train(config)
    assert counted_files == ["3.txt", "4.txt", "5.txt"]
    train(replace(config, output=tmp_path / "whole"))
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out" / ".tokkit" / "counts").exists()


def test_another_size_is_learned_from_the_same_counts(
    tmp_path: Path, corpus: Path, counted_files: list[str]
) -> None:
    with pytest.raises(TokkitError, match="pass --vocab-size 58 or less"):
        run(corpus, tmp_path / "out", vocab_size=5000)
    num_counted = len(counted_files)
    run(corpus, tmp_path / "out", vocab_size=58)
    assert len(counted_files) == num_counted
    run(corpus, tmp_path / "other", vocab_size=58)
    assert files(tmp_path / "out") == files(tmp_path / "other")


def test_others_are_compared_also_where_the_folder_is_up_to_date(
    tmp_path: Path, corpus: Path
) -> None:
    with pytest.raises(TokkitError, match="no such file or folder"):
        run(corpus, tmp_path / "out", compare=(str(tmp_path / "none"),))
    first = run(corpus, tmp_path / "out")
    again = run(corpus, tmp_path / "out", compare=(str(tmp_path / "out"),))
    assert again == first
    assert [row["vocab_size"] for row in again.compared] == [first.vocab_size]
    assert Training.read(tmp_path / "out") == first
