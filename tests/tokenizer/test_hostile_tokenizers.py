"""Tokenizers of strangers: what asks for time or memory out of all proportion is one line."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sentencepiece
from malformedjson import mutants
from tinytokenizers import write_bpe, write_vocab

from tokkit.errors import TokkitError
from tokkit.tokenizer import file_checks, library_calls
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.library_calls import LibraryError, watch_library
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

WORD_LEVEL = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"}


def write(folder: Path, **parts: Any) -> Path:
    """Write a ``tokenizer.json`` with a model of two words and these parts."""
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
    empty: dict[str, Any] = dict.fromkeys(names)
    data = {"version": "1.0", "added_tokens": [], **empty, "model": WORD_LEVEL}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**data, **parts}))
    return path


def load(folder: Path, **parts: Any) -> Tokenizer:
    return load_tokenizer(write(folder, **parts))


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [*parts]}


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def added(content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 3, "content": content, **flags}


def word_level(**vocab: Any) -> dict[str, Any]:
    return {**WORD_LEVEL, "vocab": {"[UNK]": 0, **vocab}}


LONG = "a" * 70_000


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"normalizer": replace("a", "b" * 5000)}, "may make text 5,000 times as long"),
        ({"normalizer": replace("", "b" * 5000, "Regex")}, "may make text 5,000 times as long"),
        (
            {"normalizer": sequence(*[{"type": "Prepend", "prepend": "b" * 600}] * 2)},
            "prepends 1,200 bytes to each text; at most 1024",
        ),
        ({"normalizer": sequence(*[replace("a", "aa")] * 40)}, "1,099,511,627,776 times as long"),
        ({"normalizer": sequence(*[replace("a", "aa")] * 999)}, "times as long; at most 64"),
        ({"normalizer": sequence(*[{"type": "NFKC"}] * 5000)}, "its normalizer has 5,001 parts"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////////"}}, "is damaged"),
        ({"model": word_level(**{LONG: 1})}, "begins with 'aaaaaaaaaaaaaaaaaaaa' has 70,000 char"),
        ({"added_tokens": [added(LONG)]}, "begins with 'aaaaaaaaaaaaaaaaaaaa' has 70,000 char"),
        (
            {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], [LONG, -1.0]]}},
            "has 70,000 char",
        ),
        ({"model": word_level(a=1 << 40)}, "the tokenizers library cannot load it"),
        ({"model": word_level(a=(1 << 32) - 1)}, "has id 4,294,967,295, far beyond the others"),
        ({"model": word_level(a=-1)}, "has id -1; ids must be 0 or more"),
        ({"model": {**WORD_LEVEL, "vocab": {}}}, "the vocabulary is empty"),
        (
            {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}},
            "cannot load it",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_a_tokenizer_out_of_all_proportion_is_refused_before_it_is_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], parts: dict[str, Any], fault: str
) -> None:
    with pytest.raises(TokkitError, match=fault) as caught:
        load(tmp_path, **parts)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err, "what a library prints is no line of ours"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", f"[UNK]\n{LONG}\n"),
        ("vocab.json", json.dumps({t: n for n, t in enumerate([*byte_level_alphabet(), LONG])})),
        ("added_tokens.json", json.dumps({LONG: 2})),
        ("tokenizer_config.json", json.dumps({"added_tokens_decoder": {"2": {"content": LONG}}})),
    ],
)
def test_a_token_that_no_text_needs_is_refused_in_every_file(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n")
    if name == "vocab.json":
        write_bpe(tmp_path, [])
        (tmp_path / "vocab.txt").unlink()
    (tmp_path / name).write_text(content)
    with pytest.raises(TokkitError, match="begins with 'aaaaaaaaaaaaaaaaaaaa' has 70,000 char"):
        load_tokenizer(tmp_path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    part: dict[str, Any] = {"type": "NFC"}
    for _ in range(150):
        part = sequence(part)
    with pytest.raises(TokkitError, match="cannot load it"):
        load(tmp_path, normalizer=part)
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(TokkitError, match="not valid JSON"):
        load_tokenizer(tmp_path)


def test_large_files_are_refused_before_they_are_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(file_checks, "_MAX_VALUES", 10)
    with pytest.raises(TokkitError, match="more than 10 values"):
        load_tokenizer(path)
    monkeypatch.setattr(file_checks, "_MAX_BYTES", 100)
    for name in ("tokenizer.json", "vocab.txt", "a.model"):
        path.rename(path := tmp_path / name)
        with pytest.raises(TokkitError, match=f"{name}: more than 100 bytes"):
            load_tokenizer(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_sentencepiece_model_that_is_cut_is_refused(tmp_path: Path, share: float) -> None:
    whole = tmp_path / "whole.model"
    text = tmp_path / "a.txt"
    text.write_text("".join(f"word{number} and other words\n" for number in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "whole"), vocab_size=30, minloglevel=2
    )
    content = whole.read_bytes()
    cut = tmp_path / "cut.model"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(TokkitError, match=r"cut\.model: (empty|not a sentencepiece model)"):
        load_tokenizer(cut)


def test_a_pattern_that_backtracks_is_one_line_that_names_the_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its library stops the search after ten million steps, and panics."""
    pattern = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    encoder = LibraryEncoder(load(tmp_path, pre_tokenizer=pattern))
    with pytest.raises(
        LibraryError, match=r"the text that begins with 'bad aaa.*retry-limit"
    ) as caught:
        encoder.encode(pa.array(["good", "bad " + "a" * 40 + "b"], pa.large_string()))
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err
    assert len(encoder.encode(pa.array(["good"], pa.large_string())).ids) == 1, "without the text"


ROW = {"content": "[CLS]", "lstrip": False, "rstrip": False, "special": True}
CONFIG = {
    "cls_token": ROW,
    "model_max_length": 512,
    "do_lower_case": True,
    "additional_special_tokens": ["[E1]", {**ROW, "content": "[E2]"}],
}
FILES: dict[str, dict[str, Any]] = {
    "tokenizer_config.json": {**CONFIG, "added_tokens_decoder": {"2": ROW}},
    "special_tokens_map.json": CONFIG,
    "added_tokens.json": {"[E1]": 90, "[E2]": 91},
}


@pytest.mark.parametrize("name", FILES)
def test_files_beside_a_vocabulary_that_are_malformed_are_one_line(
    tmp_path: Path, name: str
) -> None:
    write_vocab(tmp_path)
    (tmp_path / name).write_text(json.dumps(FILES[name]))
    num_tokens = load_tokenizer(tmp_path).vocab_size
    refused = []
    for mutant in mutants(json.dumps(FILES[name]), seed=1, number=60):
        (tmp_path / name).write_bytes(mutant)
        try:
            assert load_tokenizer(tmp_path).vocab_size <= num_tokens + 1
        except TokkitError as error:
            refused.append(str(error))
    assert len(refused) > 7
    assert not any("\n" in error for error in refused)


def test_a_call_that_does_not_return_ends_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults: list[str] = []
    monkeypatch.setattr(library_calls, "abort_work", faults.append)
    monkeypatch.setattr(library_calls, "_POLL_SECONDS", 0.01)
    with watch_library("x.json", ["some text"], seconds=0.05):
        end = time.process_time() + 0.15
        while time.process_time() < end and not faults:
            pass
    assert faults[0] == (
        "x.json: its library did not encode 9 characters of text, which begin with 'some text', in "
        "0 s; leave the text out, or use another tokenizer"
    )
    faults.clear()
    with watch_library("x.json", ["some text"], seconds=0.05):
        time.sleep(0.1)  # of another process, or while the machine was suspended
    assert not faults
