"""A sentencepiece model with the ids of another vocabulary gives those of its class."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfolders import WORDS, encode, spm_model, theirs
from tinytokenizers import write_json

from tokkit.errors import TokkitError
from tokkit.tokenizer import conversion
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.sentencepiece_model import LOOKUP_CLASSES
from tokkit.tokenizer.tokenizer import load_tokenizer


def write_looked_up(folder: Path, name: str, **config: Any) -> Path:
    """Write a folder whose class looks up the pieces of a sentencepiece model.

    Its vocabulary lacks pieces, and has characters and their runs that the model does not know.
    """
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **config})
    model = spm_model()
    for file in ("source.spm", "target.spm", "sentencepiece.bpe.model", "spiece.model"):
        (folder / file).write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    known = [pieces.id_to_piece(number) for number in range(3, len(pieces))]
    tokens = ["</s>", "<unk>", "œ", "œß", ">>fr<<", *reversed(known[:60] + known[80:]), "<pad>"]
    tokens = ["<s>", *tokens] if name != "MarianTokenizer" else tokens
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    (folder / "dict.txt").write_text("".join(f"{token} 1\n" for token in tokens[3:-1]))
    return folder


def test_transformers_takes_the_memory_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_looked_up(tmp_path, "MarianTokenizer")
    calls: list[Any] = []

    def call_here(call: Any) -> Any:
        calls.append(call)
        return call()

    monkeypatch.setattr(conversion, "call_in_copy", call_here)
    load_tokenizer(folder)
    assert len(calls) == 1


LOOKED_UP = (*LOOKUP_CLASSES, "the tokenizer of marian")


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", LOOKED_UP)
def test_pieces_of_sentencepiece_are_looked_up_as_their_class_does(
    tmp_path: Path, name: str
) -> None:
    folder = write_looked_up(tmp_path / "theirs", name)
    if name == LOOKED_UP[-1]:
        (folder / "tokenizer_config.json").unlink()
        write_json(folder / "config.json", {"model_type": "marian"})
    tokenizer, other = load_tokenizer(folder), theirs(folder)
    other.split_special_tokens = True
    assert {tokenizer.tokens[number]: number for number in other.get_vocab().values()} == (
        other.get_vocab()
    )
    assert {*other.all_special_ids} <= {*tokenizer.all_special_ids}
    for role, number in tokenizer.special_ids.items():
        assert getattr(other, f"{role}_token_id") in (number, None)

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.lists(st.sampled_from([*WORDS, "œ", "œß", ">>fr<<", ">>", "</s>", "__en__"])).map(
                " ".join
            )
            | st.text(st.sampled_from("œß >fr<abc.é中"), max_size=9),
            min_size=1,
        )
    )
    def check(texts: list[str]) -> None:
        expected = other(texts, add_special_tokens=False)["input_ids"]
        assert encode(tokenizer, texts) == expected

    check()
    long = "the cat sat on œ a mat. " * 400
    windows = LibraryEncoder(tokenizer, window_bytes=2000).encode(
        pa.array([long], pa.large_string())
    )
    assert windows.ids.tolist() == other(long, add_special_tokens=False)["input_ids"]
    text = ">>fr<< the cat sat"
    ends = np.array([len(">>fr<< the cat"), len(text)])
    cut = LibraryEncoder(tokenizer).encode(pa.array([text], pa.large_string()), ends)
    lengths = [len(row) for row in encode(tokenizer, [">>fr<< the cat", text])]
    assert cut.offsets.tolist() == [0, *lengths]
    assert tokenizer.decode(encode(tokenizer, ["the cat"])[0]) == "the cat"
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    assert theirs(tmp_path / "saved").get_vocab() == other.get_vocab()


@pytest.mark.parametrize(
    "config",
    [
        {"sp_model_kwargs": {"enable_sampling": True}},
        {"added_tokens_decoder": {"900": {"content": "<xy>"}}},
    ],
)
def test_a_class_that_does_more_than_look_up_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(TokkitError, match=r"cannot load MarianTokenizer: .* not supported$"):
        load_tokenizer(write_looked_up(tmp_path, "MarianTokenizer", **config))
