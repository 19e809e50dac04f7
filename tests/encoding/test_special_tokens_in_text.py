"""Special tokens become themselves in text where --allow-special-tokens says so, and no others."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tinytokenizers import TINY_VOCAB, added, wordpiece_json, write_json, write_vocab

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import UsageError
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

SIZE = len(TINY_VOCAB)
ROWS = [
    {**added("[E1]", SIZE, special=True), "lstrip": True},
    {**added("[E2]", SIZE + 1, special=True), "rstrip": True, "single_word": True},
    {**added("[e3]", SIZE + 2, special=True), "normalized": True},
    added("[E4]", SIZE + 3, special=True),
]
ALLOWED = ("[E1]", "[E2]", "[e3]")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return load_tokenizer(write_json(path, wordpiece_json(added_tokens=ROWS)))


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [*Encoder(tokenizer).encode(pa.array(texts, pa.large_string())).ids.tolist()]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*ALLOWED, "[E3]", "a", " ", "the cat", ".", "中"]), max_size=12))
def test_allowed_tokens_are_matched_as_the_library_matches_them(
    tokenizer: Tokenizer, parts: list[str]
) -> None:
    library = tokenizers.Tokenizer.from_str(json.dumps(wordpiece_json(added_tokens=ROWS)))
    text = "".join(parts)
    wanted = library.encode(text, add_special_tokens=False).ids
    assert encode_texts(tokenizer.allow_in_text(ALLOWED), [text]) == wanted


def test_other_special_tokens_stay_text(tokenizer: Tokenizer) -> None:
    plain = encode_texts(tokenizer, ["[E4] [MASK]"])
    assert encode_texts(tokenizer.allow_in_text(ALLOWED), ["[E4] [MASK]"]) == plain
    assert not {SIZE + 3, TINY_VOCAB.index("[MASK]")} & {*plain}


def run(folder: Path, tokenizer: Path, text: str, *allowed: str) -> tuple[list[int], str]:
    """Return the ids of a text, and the fingerprint of its folder."""
    (folder / "text.txt").write_text(text)
    config = EncodeConfig(
        inputs=(str(folder / "text.txt"),),
        tokenizer=tokenizer,
        output=folder / "out",
        allow_special_tokens=allowed,
        sentences="none",
        workers=0,
        overwrite=True,
        progress=False,
    )
    fingerprint = str(encode(config).tokenizer_fingerprint)
    table = pa.ipc.open_file(folder / "out" / "shard-0000000.arrow").read_all()
    return table["input_ids"].to_pylist()[0], fingerprint


def test_encode_allows_them_and_keeps_the_tokenizer(tmp_path: Path) -> None:
    vocab = write_vocab(tmp_path / "tokenizer", (*TINY_VOCAB, "[E1]"), do_lower_case=True)
    marked, fingerprint = run(tmp_path, vocab, "the [E1] cat [SEP]", "[E1]")
    expected = [TINY_VOCAB.index("the"), SIZE, TINY_VOCAB.index("cat")]
    assert marked[:3] == expected
    assert TINY_VOCAB.index("[SEP]") not in marked
    assert fingerprint == load_tokenizer(vocab).fingerprint
    plain, same = run(tmp_path, vocab, "the [E1] cat [SEP]")
    assert SIZE not in plain
    assert same == fingerprint
    # Texts without the token are encoded by the kernel.
    assert run(tmp_path, vocab, "the cat", "[E1]") == run(tmp_path, vocab, "the cat")


def test_a_token_that_is_missing_is_a_usage_error(tmp_path: Path) -> None:
    vocab = write_vocab(tmp_path / "tokenizer", (*TINY_VOCAB, "[E1]"), do_lower_case=True)
    with pytest.raises(
        UsageError, match=r"has no token '\[e1\]' \(it has '\[E1\]': capitals matter"
    ):
        run(tmp_path, vocab, "the cat", "[e1]")
