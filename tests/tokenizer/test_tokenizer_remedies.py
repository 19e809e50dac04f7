"""Errors about tokenizers advise what works: each row fails, does what the line says, and loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tinytokenizers import TINY_VOCAB, wordpiece_json, write_bpe, write_json, write_vocab

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

Write = Callable[[Path], Any]
Use = Callable[[Tokenizer], Any]
ELSEWHERE = wordpiece_json(model={"unk_token": "[X]", "vocab": {"[X]": 0, "a": 1, "[UNK]": 2}})
ELSEWHERE["added_tokens"] = [
    {"id": 0, "content": "[X]", "special": True}
    | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
]


def files(**contents: Any) -> Write:
    """Return what writes files; ``__`` in a name is a dot."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name.replace("__", ".")
            if isinstance(content, str):
                path.write_text(content)
            else:
                write_json(path, content)

    return write


def vocab(*tokens: str, **config: Any) -> Write:
    return lambda folder: write_vocab(folder, tokens or TINY_VOCAB, **config)


def bpe(*merges: str, extra: tuple[str, ...] = (), **config: Any) -> Write:
    return lambda folder: write_bpe(folder, [*merges], extra, **config)


def require(*roles: str) -> Use:
    return lambda tokenizer: tokenizer.require_special(*roles)


def encode(*texts: str) -> Use:
    return lambda tokenizer: Encoder(tokenizer).encode(pa.array(texts, pa.large_string()))


def nothing(_: Tokenizer) -> None:
    """Loading it is enough."""


def save(folder: Path) -> None:
    """Save GPT-2's classic files as tokenizer.json with transformers."""
    from transformers import PreTrainedTokenizerFast

    load_tokenizer(write_bpe(folder / "sound", ["a b"])).library.save(  # type: ignore[union-attr]
        str(folder / "made.json")
    )
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "made.json")).save_pretrained(folder)


CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "////////"}
BYTES = {
    "type": "BPE",
    "ignore_merges": True,
    "vocab": {token: number for number, token in enumerate([*byte_level_alphabet(), "<s>"])},
    "merges": [],
}
WORDS = "".join(f"{token}\n" for token in TINY_VOCAB)
UNMASKED = tuple({*TINY_VOCAB} - {"[MASK]"})
WITHOUT_BYTES = files(vocab__json={"a": 0, "b</w>": 1}, merges__txt="#version: 0.2\n")
# What is written, the name of what is loaded, its use, the error, and what the remedy writes.
Row = tuple[Write, str, Use, str, Write, str]
ROWS: list[Row] = [
    (vocab(), "none", nothing, "no such file or folder; pass {}", vocab(), "vocab.txt"),
    (files(a__bin="a"), "a.bin", nothing, "not the name of a tokenizer file; pass", vocab(), "."),
    (files(a__txt="a"), ".", nothing, "no tokenizer in this folder; pass {}", vocab(), "."),
    (
        files(vocab__json={"a": 0}, merges__txt="a b\n", vocab__txt="#version: 0.2\na b\n"),
        "vocab.txt",
        nothing,
        "pass the folder that also has the vocab.json",
        lambda folder: write_bpe(folder / "whole", ["a b"]),
        "whole",
    ),
    (
        WITHOUT_BYTES,
        ".",
        nothing,
        "save the tokenizer as tokenizer.json with transformers, and name that",
        save,
        "tokenizer.json",
    ),
    (
        files(added_tokens__json={"[X]": "a"}, vocab__txt="\n".join(TINY_VOCAB)),
        ".",
        nothing,
        "an id is no integer; download it again",
        files(added_tokens__json={"[X]": len(TINY_VOCAB)}),
        ".",
    ),
    (
        files(tokenizer__json="{"),
        ".",
        nothing,
        "not valid JSON ({}); download it again",
        files(tokenizer__json=wordpiece_json()),
        ".",
    ),
    (
        files(tokenizer__json=[]),
        ".",
        nothing,
        "as a tokenizer is; download it again",
        files(tokenizer__json=wordpiece_json()),
        ".",
    ),
    (
        lambda folder: (folder / "vocab.txt").write_bytes(b"[UNK]\nM\xfcll\n"),
        ".",
        nothing,
        "pass a vocabulary in UTF-8",
        files(vocab__txt="[UNK]\nMüll\n"),
        ".",
    ),
    (
        lambda folder: (bpe("a b")(folder), (folder / "merges.txt").write_text("a b\nb c\n")),
        ".",
        nothing,
        "take both files from the same tokenizer",
        bpe("a b", "b c"),
        ".",
    ),
    (vocab("a", "b"), ".", nothing, "; put it back, or use another", vocab("[UNK]", "a"), "."),
    (
        vocab(*UNMASKED),
        ".",
        require("mask"),
        ", which is needed here; use a vocabulary with it, or name one",
        vocab(),
        ".",
    ),
    (
        vocab(*UNMASKED),
        ".",
        require("mask"),
        "or name one as {}_token in a tokenizer_config.json next to this file",
        files(tokenizer_config__json={"mask_token": "[unused0]"}),
        ".",
    ),
    (
        bpe("a b"),
        ".",
        Tokenizer.end_of_text_id,
        "or [SEP] to put between documents; use a vocabulary with one",
        bpe("a b", extra=("<|endoftext|>",)),
        ".",
    ),
    (
        bpe("a b", extra=("[END]",)),
        ".",
        Tokenizer.end_of_text_id,
        "use a vocabulary with one, or name one as eos_token in a tokenizer_config.json",
        files(tokenizer_config__json={"eos_token": "[END]"}),
        ".",
    ),
    (
        vocab(),
        ".",
        lambda tokenizer: tokenizer.sentinel_ids(2),
        "train a vocabulary with that many (--special-token '<extra_id_0>' and so on)",
        vocab(*TINY_VOCAB, "[unused1]"),
        ".",
    ),
    (
        files(tokenizer__json=ELSEWHERE, tokenizer_config__json={"unk_token": "[UNK]"}),
        ".",
        nothing,
        "name {} there, or use a vocabulary with the ids that its class expects",
        files(tokenizer_config__json={"unk_token": "[X]"}),
        ".",
    ),
    (
        files(vocab__txt="[UNK]", tokenizer_config__json={"added_tokens_decoder": [1]}),
        ".",
        nothing,
        ": damaged ({}); download it again",
        files(tokenizer_config__json={}),
        ".",
    ),
    (
        files(
            tokenizer__json=wordpiece_json(normalizer={"type": "Prepend", "prepend": "x" * 2000})
        ),
        ".",
        nothing,
        ": its {}; use another tokenizer",
        files(tokenizer__json=wordpiece_json()),
        ".",
    ),
    (
        files(tokenizer__json=wordpiece_json(normalizer=CHARSMAP)),
        ".",
        nothing,
        "{}: its precompiled_charsmap is damaged; download it again",
        files(tokenizer__json=wordpiece_json()),
        ".",
    ),
    (
        files(tokenizer__json=wordpiece_json(model={"type": "Sorcery"})),
        ".",
        nothing,
        "{}: the tokenizers library cannot load it ({}); save it with a release of transformers that uses",
        save,
        "tokenizer.json",
    ),
    (
        files(
            tokenizer__json={**wordpiece_json(pre_tokenizer=None, normalizer=None), "model": BYTES}
        ),
        "tokenizer.json",
        encode("<s>"),
        ", and there is no unknown token to use instead; name one as unk_token in a tokenizer_config.json",
        files(tokenizer_config__json={"unk_token": "a"}),
        "tokenizer.json",
    ),
    (
        files(tokenizer_config__json={"tokenizer_class": "RagTokenizer"}, vocab__txt=WORDS),
        ".",
        nothing,
        "{} runs in Python, not in the tokenizers library; take a tokenizer whose class is fast",
        files(tokenizer_config__json={"tokenizer_class": "BertTokenizer"}),
        ".",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[3] for row in ROWS])
def test_tokenizers_are_loaded_after_their_remedy(tmp_path: Path, row: Row) -> None:
    written, name, use, fault, mended, other_name = row
    written(tmp_path)
    with pytest.raises(TokkitError) as error:
        use(load_tokenizer(tmp_path / name))
    for part in fault.split("{}"):
        assert part in str(error.value)
    mended(tmp_path)
    use(load_tokenizer(tmp_path / other_name))


def test_a_file_is_taken_as_it_is_where_its_class_changes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    parts = [{"type": "BertPreTokenizer"}, digits]
    definition = wordpiece_json(pre_tokenizer={"type": "Sequence", "pretokenizers": parts})
    files(tokenizer__json=definition, config__json={"model_type": "bert"})(tmp_path)
    assert not load_tokenizer(tmp_path).splits_digits
    assert "to use this file as it is, pass it itself" in caplog.text
    caplog.clear()
    assert load_tokenizer(tmp_path / "tokenizer.json").splits_digits
    assert not caplog.text


def test_folders_of_sentencepiece(tmp_path: Path, shared: Path) -> None:
    model = next((shared / "vocabs").rglob("*.model")).read_bytes()
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(model)
    with pytest.raises(TokkitError, match=r"holds .* and .*; pass the one to use"):
        load_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "a.model")
    with pytest.raises(TokkitError, match="sentencepiece finds no special tokens") as error:
        tokenizer.allow_in_text(["<s>"])
    assert "leave out --allow-special-tokens, or use a folder whose" in str(error.value)
    for content, fault in ((b"", ": empty; download it again"), (b"a", "model; download it again")):
        (tmp_path / "c.model").write_bytes(content)
        with pytest.raises(TokkitError, match=fault):
            load_tokenizer(tmp_path / "c.model")


def test_a_file_of_more_values_than_a_tokenizer_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.tokenizer.file_checks._MAX_VALUES", 50)
    files(tokenizer__json=wordpiece_json())(tmp_path)
    with pytest.raises(TokkitError) as error:
        load_tokenizer(tmp_path)
    assert " values, which no tokenizer has; pass another" in str(error.value)
    load_tokenizer(write_vocab(tmp_path / "other"))
