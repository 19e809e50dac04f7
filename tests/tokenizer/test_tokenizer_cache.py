"""A tokenizer that was loaded from what was kept is the same, and nothing else is ever taken for it."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from exactness import ask_encoder, column
from tinytokenizers import added, wordpiece_json, write_bpe, write_json, write_sentencepiece

from tokkit.tokenizer import tokenizer as tokenizers
from tokkit.tokenizer import tokenizer_cache
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["The cat's unaffable, 中\n\n x\u0301yz 😀 [MASK]", "a" * 120, " there. How is it?"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is made of a tokenizer of any size, in a folder of the test's own."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setattr(tokenizer_cache, "LARGE", 0)
    monkeypatch.setattr(tokenizer_cache, "find_folder", lambda: folder)
    return folder / "tokenizers"


def describe(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Return all that a tokenizer says: its fields, its ids, and the files that are saved of it."""
    save_tokenizer(tokenizer, folder)
    ids, offsets, word_starts = ask_encoder(Encoder(tokenizer), column(TEXTS))
    said = {each.name: getattr(tokenizer, each.name) for each in fields(tokenizer)}
    return {
        **{name: value for name, value in said.items() if name not in ("processor", "definition")},
        "definition": dict(tokenizer.definition),
        "ids": [ids.tolist(), offsets.tolist(), word_starts.tolist()],
        "files": {path.name: path.read_bytes() for path in folder.iterdir()},
    }


def write_wordpiece(folder: Path) -> Path:
    return write_json(folder / "tokenizer.json", wordpiece_json()).parent


def write_byte_level(folder: Path) -> Path:
    write_bpe(folder, ["t h", "th e", "Ġ the"])
    save_tokenizer(load_tokenizer(folder), folder)
    return folder


def write_unigram(folder: Path) -> Path:
    folder.mkdir()
    return write_sentencepiece(folder / "unigram.model", ["The cat sat there.", *TEXTS] * 20)


@pytest.mark.parametrize("write", [write_wordpiece, write_byte_level, write_unigram])
def test_a_kept_tokenizer_is_the_one_that_was_loaded(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path / "made")
    first = describe(load_tokenizer(path), tmp_path / "first")
    num_kept = len([*kept.iterdir()])
    if path.is_dir():
        monkeypatch.setattr(tokenizers, "load_library", None)
        monkeypatch.setattr(tokenizers, "read_tokenizer_files", None)
    assert describe(load_tokenizer(path), tmp_path / "again") == first
    assert len([*kept.iterdir()]) == num_kept >= 3


def test_what_is_damaged_or_cut_off_is_made_again(tmp_path: Path, kept: Path) -> None:
    path = write_json(tmp_path / "made" / "tokenizer.json", wordpiece_json())
    first = describe(load_tokenizer(path), tmp_path / "first")
    for damage in (lambda data: data[:-1], lambda data: data[:-1] + b"\0", lambda _: b""):
        for file in kept.iterdir():
            file.write_bytes(damage(file.read_bytes()))
        assert describe(load_tokenizer(path), tmp_path / "again") == first


def test_another_tokenizer_in_its_place_is_loaded(tmp_path: Path, kept: Path) -> None:
    folder = write_bpe(tmp_path / "bpe", ["t h", "th e"])
    before = load_tokenizer(folder)
    save_tokenizer(before, folder)
    assert load_tokenizer(folder).fingerprint == before.fingerprint
    (folder / "tokenizer_config.json").write_text(json.dumps({"unk_token": "th"}))
    changed = load_tokenizer(folder)
    assert changed.special_ids == {"unk": before.tokens.index("th")}
    assert [*kept.iterdir()]


def test_tokens_that_are_allowed_in_text_have_tables_of_their_own(
    tmp_path: Path, kept: Path
) -> None:
    form = wordpiece_json(added_tokens=[added("[MASK]", 4, special=True)])
    path = write_json(tmp_path / "made" / "tokenizer.json", form)
    for _ in range(2):
        tokenizer = load_tokenizer(path)
        ids, _, _ = ask_encoder(Encoder(tokenizer), column(["[MASK]"]))
        allowed = tokenizer.allow_in_text(["[MASK]"])
        mask, _, _ = ask_encoder(Encoder(allowed), column(["[MASK]"]))
        assert mask.tolist() == [tokenizer.special_ids["mask"]] != ids.tolist()
    assert [*kept.iterdir()]


def test_what_was_not_used_for_the_longest_time_goes(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 40 + len(pickle.dumps(bytes(1000)))
    monkeypatch.setattr(tokenizer_cache, "MAX_BYTES", 3 * size)
    for name in ("a", "b", "c"):
        tokenizer_cache.keep("digest", name, bytes(1000))
    for age, path in enumerate(sorted(kept.iterdir())):
        os.utime(path, (age, age))
    assert tokenizer_cache.find_kept("digest", "a") == bytes(1000)
    tokenizer_cache.keep("digest", "d", bytes(1000))
    names = {path.name.rsplit("-", 1)[1] for path in kept.iterdir()}
    assert names == {"a", "c", "d"}
