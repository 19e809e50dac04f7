"""What identifies a tokenizer, which of its tokens are special, and that transformers agrees."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exactness import load_published
from tinytokenizers import TINY_VOCAB, added, wordpiece_json, write_bpe, write_json, write_vocab

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import byte_level_bpe
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

TEXT = "The cat's unaffable, cát [MASK] sat; 中 \u200b\x00 <s> x\u0301yz 😀 " + "a" * 120


def load(path: Path, form: dict[str, Any]) -> Tokenizer:
    return load_tokenizer(write_json(path, form))


def test_one_vocabulary_has_one_fingerprint_however_it_is_loaded(shared: Path) -> None:
    folder = shared / "vocabs" / "bert-base-uncased"
    fingerprints = {
        load_tokenizer(path).fingerprint
        for path in (folder, folder / "tokenizer.json", folder / "vocab.txt")
    }
    assert len(fingerprints) == 1
    assert re.fullmatch("[0-9a-f]{64}", fingerprints.pop())


@pytest.mark.parametrize("name", ["bert-base-cased", "roberta"])
def test_a_saved_folder_is_the_tokenizer_that_was_saved(
    shared: Path, tmp_path: Path, name: str
) -> None:
    original = load_tokenizer(shared / "vocabs" / name)
    save_tokenizer(original, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    saved = load_tokenizer(tmp_path)
    save_tokenizer(saved, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    (tmp_path / "tokenizer.json").unlink()
    classic = load_tokenizer(tmp_path)
    for tokenizer in (saved, classic):
        assert tokenizer.fingerprint == original.fingerprint
        assert tokenizer.tokens == original.tokens
        assert tokenizer.special_ids == original.special_ids
        assert tokenizer.all_special_ids == original.all_special_ids


def test_a_saved_sentencepiece_model_keeps_its_bytes(shared: Path, tmp_path: Path) -> None:
    path = shared / "vocabs" / "sentencepiece" / "xlnet-cased-spiece.model"
    original = load_tokenizer(path)
    save_tokenizer(original, tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == path.read_bytes()
    assert load_tokenizer(tmp_path).fingerprint == original.fingerprint
    assert original.special_ids == {"pad": 5, "unk": 0, "cls": 3, "sep": 4, "mask": 6}
    assert original.all_special_ids == tuple(range(9))


@pytest.mark.parametrize(
    "change",
    [
        lambda form: form.update(truncation={"max_length": 2, "stride": 0}),
        lambda form: form.update(padding={"length": 9}),
        lambda form: form.update(decoder=None),
        lambda form: form["model"].pop("type"),
        lambda form: form.update(added_tokens=[added("[MASK]", 4, special=True)]),
        lambda form: form.update(added_tokens=[{**added("[MASK]", 4), "lstrip": True}]),
    ],
)
def test_what_changes_no_ids_changes_no_fingerprint(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    plain = load(tmp_path / "plain.json", wordpiece_json())
    form = wordpiece_json()
    change(form)
    if form["truncation"]:
        form["truncation"].update(strategy="LongestFirst", direction="Right")
    if form["padding"]:
        form["padding"] = {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }
    other = load(tmp_path / "other.json", form)
    assert other.fingerprint == plain.fingerprint
    assert plain.library is not None
    assert other.library is not None
    assert (
        other.library.encode(TEXT, add_special_tokens=False).ids
        == plain.library.encode(TEXT, add_special_tokens=False).ids
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda form: form["normalizer"].update(lowercase=False),
        lambda form: form["normalizer"].update(strip_accents=False),
        lambda form: form["model"].update(max_input_chars_per_word=50),
        lambda form: form["model"]["vocab"].update(dog=len(TINY_VOCAB)),
        lambda form: form.update(added_tokens=[added("cat", TINY_VOCAB.index("cat"))]),
        lambda form: form.update(pre_tokenizer={"type": "Whitespace"}),
    ],
)
def test_what_changes_ids_changes_the_fingerprint(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    form = wordpiece_json()
    change(form)
    plain = load(tmp_path / "plain.json", wordpiece_json())
    assert load(tmp_path / "other.json", form).fingerprint != plain.fingerprint


def test_dropout_is_switched_off(tmp_path: Path) -> None:
    plain = load_tokenizer(write_bpe(tmp_path / "bpe", ["a a", "aa aa", "a t", "Ġ s"]))
    form = {**plain.definition, "model": {**plain.definition["model"], "dropout": 0.9}}
    noisy = load(tmp_path / "tokenizer.json", form)
    assert noisy.fingerprint == plain.fingerprint
    assert noisy.library is not None
    assert len({tuple(noisy.library.encode(TEXT).ids) for _ in range(5)}) == 1


def test_special_and_unused_tokens_are_recognized(tmp_path: Path, shared: Path) -> None:
    tokenizer = load_tokenizer(write_vocab(tmp_path))
    assert tokenizer.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.all_special_ids == (0, 1, 2, 3, 4)
    assert tokenizer.unused_ids == (5,)
    assert tokenizer.vocab_size == len(TINY_VOCAB)
    assert tokenizer.decode([2, *map(TINY_VOCAB.index, ("un", "##aff", "##able")), 3]) == (
        "[CLS] unaffable [SEP]"
    )
    roberta = load_published(shared / "vocabs" / "roberta")
    assert roberta.special_ids == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 50264}
    assert [roberta.tokens[i] for i in roberta.unused_ids] == [
        f"madeupword000{number}" for number in range(3)
    ]
    bert = load_published(shared / "vocabs" / "bert-base-uncased")
    assert len(bert.unused_ids) == 994


def test_a_missing_special_token_is_reported_with_a_similar_one(tmp_path: Path) -> None:
    tokens = [t if t == "[UNK]" else t.lower() for t in TINY_VOCAB]
    tokenizer = load_tokenizer(write_vocab(tmp_path, tokens))
    tokenizer.require_special("unk")
    line = "no token [CLS] or <cls> or <s> (it has '[cls]': capitals matter), which is needed here"
    with pytest.raises(TokkitError, match=re.escape(line)):
        tokenizer.require_special("unk", "cls", "sep")
    named = load_tokenizer(write_vocab(tmp_path, tokens, do_lower_case=True, cls_token="[cls]"))  # noqa: S106
    named.require_special("cls")
    assert named.special_ids["cls"] in named.all_special_ids


@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2", "roberta"])
def test_transformers_gives_the_same_ids(shared: Path, tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = load_published(shared / "vocabs" / name)
    save_tokenizer(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.library is not None
    plain = TEXT.replace("[MASK]", "").replace("<s>", "")
    ours = tokenizer.library.encode(plain, add_special_tokens=False).ids
    assert theirs(plain, add_special_tokens=False)["input_ids"] == ours
    assert theirs.model_max_length == 512
    for role, number in tokenizer.special_ids.items():
        assert getattr(theirs, f"{role}_token_id") == number
    if "cls" in tokenizer.special_ids:
        cls, sep = tokenizer.special_ids["cls"], tokenizer.special_ids["sep"]
        pair = theirs("a", "b")
        (a,), (b,) = (theirs(letter, add_special_tokens=False)["input_ids"] for letter in "ab")
        assert pair["input_ids"] == [cls, a, sep, b, sep]
        assert pair["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_definition_that_makes_the_library_panic_is_one_line(tmp_path: Path) -> None:
    form = byte_level_bpe({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
    form["model"]["continuing_subword_prefix"] = "###"
    (tmp_path / "tokenizer.json").write_text(json.dumps(form))
    with pytest.raises(
        TokkitError, match=r"tokenizer\.json: the tokenizers library cannot load it"
    ):
        load_tokenizer(tmp_path)
