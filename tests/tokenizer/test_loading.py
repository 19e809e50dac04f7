"""A tokenizer is loaded from any of its files, and refused if it is unsound."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tinytokenizers import (
    CONTROL,
    TINY_VOCAB,
    added,
    wordpiece_json,
    write_bpe,
    write_json,
    write_vocab,
)

from tokkit.errors import TokkitError
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    assert tokenizer.library is not None
    return list(tokenizer.library.encode(text, add_special_tokens=False).ids)


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.tokens[number] for number in ids(tokenizer, text)]


def test_lines_of_a_vocabulary_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    entries = [*CONTROL, "\u2028", "a\x0bb", "\x85", "a", "##b"]
    path.write_bytes("\ufeff".encode() + "\r\n".join(entries).encode())
    assert load_tokenizer(path).tokens == tuple(entries)


@pytest.mark.parametrize(
    ("extra", "text", "expected"),
    [
        ((), "The CÁT", ["the", "cat"]),
        (("The", "COVID", "cát"), "The CÁT", ["the", "cat"]),
        (("The", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"), "The cat", ["The", "cat"]),
        (("cát", "chât", "étà"), "The CÁT", ["the", "cát"]),
        (("[Unused9]", "<S>", "\u211d"), "The CÁT", ["the", "cat"]),
    ],
)
def test_a_bare_vocabulary_is_normalized_as_most_of_its_tokens_are_written(
    tmp_path: Path, extra: tuple[str, ...], text: str, expected: list[str]
) -> None:
    tokenizer = load_tokenizer(write_vocab(tmp_path, (*TINY_VOCAB, *extra)) / "vocab.txt")
    assert tokens(tokenizer, text) == expected


def test_the_guess_is_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load_tokenizer(write_vocab(tmp_path))
    (record,) = caplog.records
    assert "by its tokens it is uncased" in record.getMessage()


def test_a_configuration_without_case_says_what_transformers_takes_it_for(tmp_path: Path) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    folder = write_vocab(tmp_path, (*TINY_VOCAB, *letters, "The"), model_max_length=512)
    assert tokens(load_tokenizer(folder), "The cat") == ["the", "cat"]


def test_the_case_of_published_vocabularies_is_guessed_correctly(shared: Path) -> None:
    for name, cased in (
        ("bert-base-uncased", False),
        ("bert-base-cased", True),
        ("bert-base-chinese", False),
        ("bert-base-multilingual-uncased", False),
    ):
        tokenizer = load_tokenizer(shared / "vocabs" / name / "vocab.txt")
        assert tokenizer.definition["normalizer"]["lowercase"] is not cased
        lines = (shared / "vocabs" / name / "vocab.txt").read_bytes().decode().split("\n")
        assert tokenizer.tokens == tuple(lines[:-1])


@pytest.mark.parametrize(
    ("config", "text", "expected"),
    [
        ({"do_lower_case": False}, "The cát", ["[UNK]", "[UNK]"]),
        ({"do_lower_case": True}, "The cát", ["the", "cat"]),
        ({"do_lower_case": True, "strip_accents": False}, "The cát", ["the", "[UNK]"]),
        ({"do_lower_case": True, "tokenize_chinese_chars": False}, "a中", ["[UNK]"]),
        ({"do_lower_case": True, "tokenize_chinese_chars": True}, "a中", ["a", "[UNK]"]),
        ({"do_lower_case": True, "unk_token": "?"}, "cát中", ["cat", "?"]),
    ],
)
def test_the_configuration_next_to_a_vocabulary_is_applied(
    tmp_path: Path, config: dict[str, Any], text: str, expected: list[str]
) -> None:
    folder = write_vocab(tmp_path, **config)
    for path in (folder, folder / "vocab.txt"):
        assert tokens(load_tokenizer(path), text) == expected


def test_tokens_that_transformers_keeps_next_to_a_vocabulary_are_added(tmp_path: Path) -> None:
    folder = write_vocab(
        tmp_path,
        do_lower_case=True,
        added_tokens_decoder={
            str(len(TINY_VOCAB)): {"content": "[ENTITY]", "special": True},
            "0": {"content": "[PAD]", "special": True},
            str(len(TINY_VOCAB) + 1): {"content": "<xy>"},
        },
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.tokens[-2:] == ("[ENTITY]", "<xy>")
    assert len(TINY_VOCAB) in tokenizer.all_special_ids
    assert tokens(tokenizer, "a <xy> [ENTITY]")[:2] == ["a", "<xy>"]
    assert "[ENTITY]" not in tokens(tokenizer, "a <xy> [ENTITY]")


def test_vocab_json_and_merges_make_byte_level_bpe(tmp_path: Path) -> None:
    merges = ["Ġ c", "a t", "Ġc at"]
    folder = write_bpe(tmp_path / "plain", merges, ("<s>", "</s>"))
    tokenizer = load_tokenizer(folder)
    assert tokens(tokenizer, "cat cat</s>") == ["c", "at", "Ġcat", "<", "/", "s", ">"]
    assert tokenizer.special_ids == {"cls": 259, "sep": 260}
    assert load_tokenizer(folder / "vocab.json").fingerprint == tokenizer.fingerprint
    prefixed = load_tokenizer(write_bpe(tmp_path / "prefixed", merges, add_prefix_space=True))
    assert tokens(prefixed, "cat cat") == ["Ġcat", "Ġcat"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"merges.txt": "#version: 0.2\na t\nat x y\n"}, "merges.txt, line 3: 'at x y' is not two"),
        ({"merges.txt": "a t\nat q\n"}, "merges.txt, line 2: the token 'atq' is not in vocab.json"),
        ({"vocab.json": '{"a": 0}'}, "vocab.json: not byte-level BPE"),
        ({"vocab.json": "[1"}, "vocab.json: not valid JSON"),
        ({"tokenizer_config.json": "[]"}, "tokenizer_config.json: not a JSON object"),
    ],
)
def test_unsound_bpe_files_are_refused(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    folder = write_bpe(tmp_path, ["a t"])
    for name, content in changes.items():
        (folder / name).write_text(content)
    with pytest.raises(TokkitError, match=re.escape(line)):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[unk]\na\n", "no token '[UNK]' (it has '[unk]': capitals matter)"),
        (b"a\nb\n", "no token '[UNK]', which the model needs"),
        (b"", "empty; a vocabulary has one token a line"),
        (b"[UNK]\na\xff\n", "line 2: invalid UTF-8 (byte 7)"),
        (b"#version: 0.2\na b\n", "holds merges"),
    ],
)
def test_unsound_vocabularies_are_refused(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(TokkitError, match=re.escape(line)) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (
            wordpiece_json(model={"vocab": {"[UNK]": 0, "a": 1 << 30}}),
            "'a' has id 1,073,741,824, far",
        ),
        (
            wordpiece_json(model={"vocab": {"[UNK]": 0, "a": 2}}, added_tokens=[added("x", 2)]),
            "same id",
        ),
        (wordpiece_json(model={"vocab": {"[UNK]": 0, "a": 0}}), "'a' has the same id, 0, as"),
        (wordpiece_json(model={"vocab": {"[UNK]": 0, "a": "1"}}), "'a' has id '1'"),
        (wordpiece_json(model={"vocab": {"[UNK]": 0, "a": -1}}), "'a' has id -1"),
        (wordpiece_json(model={"vocab": {"a": 0}}), "no token '[UNK]'"),
        (wordpiece_json(model={"vocab": {}}), "the vocabulary is empty"),
        (wordpiece_json(model={"vocab": 5}), "its model has no vocabulary"),
        (wordpiece_json(model={"type": "Sorcery"}), "the tokenizers library cannot load it"),
        (wordpiece_json(added_tokens=[{"id": 3}]), "lacks its content or its id"),
        ({"the": 0, "cat": 1}, "not a tokenizer.json: it has no model"),
        ([1, 2], "not a JSON object"),
    ],
)
def test_unsound_tokenizer_json_is_refused(tmp_path: Path, form: Any, line: str) -> None:
    path = write_json(tmp_path / "tokenizer.json", form)
    with pytest.raises(TokkitError, match=re.escape(line)) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("rows", [[], [added("the", 3)]], ids=["no added token", "another id"])
def test_holes_and_doubled_tokens_get_the_ids_of_the_library(
    tmp_path: Path, rows: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(wordpiece_json(added_tokens=rows)).replace('"cat":', '"the":'))
    tokenizer, library = load_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))
    hole = TINY_VOCAB.index("the")
    assert tokenizer.hole_ids == (hole,)
    assert tokenizer.tokens[hole] == f"[hole {hole}]"
    assert hole in tokenizer.unused_ids
    wanted = library.get_vocab(with_added_tokens=True)
    assert {t: i for i, t in enumerate(tokenizer.tokens) if i != hole} == wanted
    assert tokenizer.vocab_size == max(wanted.values()) + 1
    assert ids(tokenizer, "the <x> cat") == library.encode("the <x> cat").ids
    assert len(caplog.records) == len(rows)
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


def test_an_added_token_gets_the_next_id_as_in_the_library(tmp_path: Path) -> None:
    path = write_json(tmp_path / "far.json", wordpiece_json(added_tokens=[added("<x>", 500)]))
    assert load_tokenizer(path).tokens[len(TINY_VOCAB)] == "<x>"
    form = wordpiece_json(added_tokens=[added("<x>", 500)], model={"vocab": {"[UNK]": 0, "a": 2}})
    # The library counts one token for a hole, and gives this one the id of another.
    with pytest.raises(TokkitError, match="the token 'a' has the same id, 2, as '<x>'"):
        load_tokenizer(write_json(tmp_path / "hole.json", form))


@pytest.mark.parametrize(
    ("lines", "text", "expected"),
    [
        (["the", "a", "$", "list", "$", "is"], "the $ list", [5, 9, 8]),
        (["the", "", "", "list"], "the $ list", [5, 1, 8]),
        (["the ", "list\u3000"], "the list", [5, 6]),
    ],
    ids=["doubled", "blank", "white space"],
)
def test_doubled_and_blank_lines_count_as_in_the_library(
    tmp_path: Path, lines: list[str], text: str, expected: list[int]
) -> None:
    folder = write_vocab(tmp_path, (*CONTROL, *lines))
    tokenizer = load_tokenizer(folder / "vocab.txt")
    assert ids(tokenizer, text) == expected
    assert tokenizer.vocab_size == len(CONTROL) + len(lines)
    model = tokenizers.models.WordPiece.from_file(str(folder / "vocab.txt"), unk_token="[UNK]")  # noqa: S106
    assert tokenizer.definition["model"]["vocab"] == tokenizers.Tokenizer(model).get_vocab()


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 100])
def test_what_is_no_sentencepiece_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(content)
    with pytest.raises(TokkitError, match=r"x\.model"):
        load_tokenizer(path)


def test_folders_without_one_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match="no such file or folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(TokkitError, match="no tokenizer in this folder"):
        load_tokenizer(tmp_path)
    (tmp_path / "a.model").touch()
    (tmp_path / "b.spm").touch()
    with pytest.raises(TokkitError, match=r"holds a\.model and b\.spm"):
        load_tokenizer(tmp_path)
    (tmp_path / "x.bin").touch()
    with pytest.raises(TokkitError, match="not the name of a tokenizer file"):
        load_tokenizer(tmp_path / "x.bin")


def test_a_folder_that_train_did_not_finish_is_refused(tmp_path: Path) -> None:
    write_vocab(tmp_path)
    (tmp_path / ".tokkit").mkdir()
    with pytest.raises(TokkitError, match=r"unfinished \(it has no training\.json\)"):
        load_tokenizer(tmp_path)


def test_unsound_published_vocabularies_are_refused(shared: Path) -> None:
    folder = shared / "vocabs"
    with pytest.raises(TokkitError, match=re.escape("(it has '[unk]': capitals matter)")):
        load_tokenizer(folder / "bert-base-uncased" / "vocab.blingfire-lowercased-specials.txt")
