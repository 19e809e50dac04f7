"""Makes tokenizers of sentencepiece's BPE for tests, of both kinds of files."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
)
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer, make_tokenizer

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREPEND = {"type": "Prepend", "prepend": "\u2581"}
LLAMA = {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
GEMMA = {"normalizer": REPLACE, "pre_tokenizer": {**SPLIT, "invert": False}}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def metaspace(scheme: str, *, split: bool) -> dict[str, Any]:
    """Return a definition's parts with the pre-tokenizer ``Metaspace``."""
    part = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": part}


def make_metaspace_bpe(
    merges: Iterable[Sequence[str]],
    parts: Mapping[str, Any] = LLAMA,
    *,
    symbols: str = "\u2581ab\u00e9\u5b57",
    added: Sequence[dict[str, Any]] = (),
    **model: Any,
) -> Tokenizer:
    """Return a tokenizer of these characters, bytes and merges.

    Args:
        merges: pairs of tokens.
        parts: normalizer and pre-tokenizer.
        symbols: characters that are tokens.
        added: rows of added tokens.
        model: options of the model.
    """
    pairs = [list(pair) for pair in merges]
    tokens = dict.fromkeys(("<unk>", *BYTES, *symbols, *map("".join, pairs)))
    definition = {
        "added_tokens": list(added),
        "pre_tokenizer": None,
        **parts,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": pairs,
            **model,
        },
    }
    return make_tokenizer(TokenizerFiles(Path("metaspace.json"), definition))


def make_sentencepiece_bpe(
    folder: Path,
    pieces: Iterable[tuple[str, float, int]],
    *,
    byte_fallback: bool = False,
    normalizer: Mapping[int, int] | None = None,
) -> Tokenizer:
    """Write and load a sentencepiece model of BPE.

    Args:
        folder: where to write it.
        pieces: text, score and kind.
        byte_fallback: whether it has bytes.
        normalizer: values of fields of its normalizer, by number.
    """
    rows = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), *pieces]
    if byte_fallback:
        rows += [(piece, 0.0, BYTE) for piece in BYTES]
    trainer = _number(3, 2) + _number(35, int(byte_fallback))
    model = b"".join(_message(1, _encode_piece(*row)) for row in rows) + _message(2, trainer)
    fields = {4: 0, **(normalizer or {})}
    model += _message(3, b"".join(_number(field, value) for field, value in fields.items()))
    path = folder / "made.model"
    path.write_bytes(model)
    return load_tokenizer(path)


def _encode_piece(text: str, score: float, kind: int) -> bytes:
    return _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low | 0x80]) + _varint(value >> 7) if value > low else bytes([low])


@st.composite
def metaspace_bpes(draw: st.DrawFn) -> Tokenizer:
    """Any BPE that merges a few characters, in any order, often only after spaces."""
    entries = ["\u2581", "a", "b", "\u00e9", "\u5b57"]
    merges = []
    has_inner = draw(st.booleans())
    for _ in range(draw(st.integers(0, 16))):
        pair = draw(st.tuples(st.sampled_from(entries), st.sampled_from(entries)))
        token = "".join(pair)
        if len(token) < 10 and (has_inner or "\u2581" not in token.lstrip("\u2581")):
            merges.append(pair)
            entries.append(token)
    parts = [LLAMA, GEMMA, *(metaspace(scheme, split=False) for scheme in ("first", "never"))]
    return make_metaspace_bpe(
        draw(st.permutations(merges)) if draw(st.booleans()) else merges,
        draw(st.sampled_from([*parts, metaspace("always", split=True)])),
        byte_fallback=draw(st.booleans()),
        fuse_unk=draw(st.booleans()),
    )


@st.composite
def scored_pieces(draw: st.DrawFn) -> list[tuple[str, float, int]]:
    """Pieces of a sentencepiece model, some with the same score."""
    symbols = ["\u2581", "a", "b", "\u00e9"]
    texts = st.text("ab\u00e9", min_size=1, max_size=5)
    before = st.sampled_from(["", "", "\u2581", "\u2581", "\u2581\u2581", "a\u2581"])
    words = draw(st.lists(st.tuples(before, texts), max_size=20))
    runs = ["\u2581" * size for size in range(2, draw(st.integers(2, 6)))]
    several = dict.fromkeys(piece for piece in map("".join, words) if len(piece) > 1)
    scores = (
        st.floats(-9, 0, width=32) if draw(st.booleans()) else st.sampled_from([-1.0, -2.0, -3.0])
    )
    pieces = [(piece, draw(scores), NORMAL) for piece in several]
    pieces += [(piece, -1e9, NORMAL) for piece in [*symbols, *runs]]
    pieces += draw(
        st.sampled_from([[], [("ba", 0.0, USER_DEFINED), ("b\u00e9b", 0.0, USER_DEFINED)]])
    )
    return list({piece[0]: piece for piece in pieces}.values())
