"""How tokenizers cut any text, without a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tokkit.inspection.row_text import show_tokens
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.tokenizer import load_tokenizer


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
