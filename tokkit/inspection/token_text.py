"""Tokens as text, for a terminal: those of one word without a space between them.

the cat un|aff|able [MASK→sat]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tokkit.errors import escape_controls, keep_ends
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

# Pale backgrounds of a terminal's 256 colours, for black text.
_BACKGROUNDS = (153, 223, 158, 225)
_MASKED, _UNKNOWN = 220, 210
BYTE_OF = {char: byte for byte, char in enumerate(byte_level_alphabet())}


@dataclass(frozen=True)
class CutText:
    """A text as one tokenizer cuts it.

    Attributes:
        tokenizer: as it was named.
        ids: of the tokens.
        tokens: as the vocabulary has them.
        word_starts: whether a word begins at each.
        shown: the tokens as text, with borders or colours between them.
    """

    tokenizer: str
    ids: list[int]
    tokens: list[str]
    word_starts: list[bool]
    shown: str


def tokenize(text: str, names: Sequence[str], *, color: bool = False) -> list[CutText]:
    """Encode a text as ``encode`` would.

    Args:
        text: one document.
        names: tokenizers, as ``-t`` takes them.
        color: whether to tell tokens apart by their background, for a terminal; else a bar stands
            between the tokens of a word.

    Raises:
        TokkitError: if a tokenizer cannot be loaded.
    """
    texts = pa.array([text] if text else [], pa.large_string())
    cut = []
    for name in names:
        tokenizer = load_tokenizer(find_folder(Path(name)))
        encoded = Encoder(tokenizer).encode(texts)
        ids, word_starts = encoded.ids.tolist(), encoded.word_starts.to_pylist()
        border = "" if color else "|"
        cut.append(
            CutText(
                tokenizer=name,
                ids=ids,
                tokens=[tokenizer.tokens[number] for number in ids],
                word_starts=word_starts,
                shown=show_tokens(ids, word_starts, tokenizer, color=color, border=border),
            )
        )
    return cut


def show_tokens(
    ids: Sequence[int],
    word_starts: Sequence[bool],
    tokenizer: Tokenizer,
    masks: dict[int, int] | None = None,
    *,
    color: bool = False,
    border: str = "",
) -> str:
    """Show tokens, those of one word without a space between them.

    Args:
        ids: token ids.
        word_starts: whether a word begins at each token; special tokens always stand alone.
        tokenizer: the tokenizer of the ids.
        masks: the id to be predicted at each masked position.
        color: whether to tell tokens apart by their background, for a terminal.
        border: what stands between the tokens of a word.
    """
    masks = masks or {}
    text = ""
    for position, (token, begins_word) in enumerate(zip(ids, word_starts, strict=True)):
        shown = show_token(token, tokenizer)
        if position in masks:
            if token == tokenizer.special_ids.get("mask"):
                shown = shown.strip("[]<>")
            shown = f"[{shown}→{show_token(masks[position], tokenizer)}]"
        if color:
            shown = _paint(shown, token, tokenizer, position, is_masked=position in masks)
        alone = begins_word or token in tokenizer.all_special_ids
        text += f" {shown}" if alone else f"{border}{shown}"
    return text.strip()


def _paint(text: str, token: int, tokenizer: Tokenizer, position: int, *, is_masked: bool) -> str:
    """Return a token with the escape sequences of its background."""
    background = _BACKGROUNDS[position % len(_BACKGROUNDS)]
    if is_masked:
        background = _MASKED
    elif token == tokenizer.special_ids.get("unk"):
        background = _UNKNOWN
    elif token in tokenizer.all_special_ids:
        return f"\x1b[2m{text}\x1b[0m"
    return f"\x1b[30;48;5;{background}m{text}\x1b[0m"


def show_token(token: int, tokenizer: Tokenizer) -> str:
    """Show a token without the mark of where it stands in a word; never as nothing.

    A part of a character is shown by its bytes, as in ``e2 80``, and white space by escapes or ``␣``.
    """
    decoded = tokenizer.decode([token])
    text = decoded.strip() or decoded.encode("unicode_escape").decode().replace(" ", "␣")
    if "\N{REPLACEMENT CHARACTER}" in text:
        text = name = tokenizer.tokens[token]  # such as <0xE2>
        if is_byte_level(tokenizer):
            text = " ".join(f"{BYTE_OF[char]:02x}" for char in name if char in BYTE_OF)
    if tokenizer.kind == "wordpiece":
        text = text.removeprefix("##")
    return escape_controls(keep_ends(text or tokenizer.tokens[token]))


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Return whether the characters of tokens stand for bytes, as ``BYTE_OF`` says."""
    return "ByteLevel" in str(tokenizer.definition.get("decoder"))
