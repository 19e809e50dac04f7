"""BERT's normalizer, pre-tokenizer and WordPiece vocabulary as tables for the kernel."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from tokkit.kernels.encode.cut_rules import NUM_CLASSES, SINGLE, SPACE, new_cut_rules
from tokkit.kernels.encode.encode_wordpiece import (
    CONTINUED,
    WORD,
    Vocabulary,
    encode_wordpiece,
)
from tokkit.kernels.encode.tries import Cells, find_base, make_cells
from tokkit.shards.arrow import text_arrays
from tokkit.tokenizer.characters import WordCharacters
from tokkit.tokenizer.segments import Segmenter, added_obstacles
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall

_MAX_WORD_CHARS = 1 << 20


class WordPieceModel:
    """Tables for ``encode_wordpiece``.

    Attributes:
        characters: the table of characters, which grows.
        tables: the kernel's arguments between the text and the cache.
        read_texts: returns texts as the kernel gets them; see ``Segmenter.cut``.
        rules: where a text can be cut.
        num_bytes: None, because a token does not say how many bytes of text it stands for.
    """

    num_bytes: ClassVar[None] = None
    library_continues: ClassVar[bool] = True  # it goes on at white space
    longest_word: ClassVar[int] = 0
    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_wordpiece)

    def __init__(self, tokenizer: Tokenizer) -> None:
        model = tokenizer.definition["model"]
        max_word_chars = model["max_input_chars_per_word"]
        unknown = model["vocab"][model["unk_token"]]
        # Text never becomes a special token.
        ids = {
            token: unknown if tokenizer.forbidden[i] else i for token, i in model["vocab"].items()
        }
        cells = recall(
            tokenizer.digest,
            "cells",
            lambda: _make_cells(ids, model["continuing_subword_prefix"]),
        )
        vocabulary = Vocabulary(
            cells=cells,
            continued=find_base(cells, CONTINUED),
            unknown=unknown,
            max_word_chars=max_word_chars,
            word=np.empty(4 * max_word_chars + 1, np.uint8),
        )
        single_ids = {token: i for token, i in ids.items() if len(token) == 1 <= max_word_chars}
        self.characters = WordCharacters.of_definition(
            tokenizer.definition, word_id=lambda char: single_ids.get(char, unknown)
        )
        self.tables: tuple[Any, ...] = (self.characters.characters, vocabulary)
        self.read_texts = Segmenter(tokenizer, normalizes=False).cut
        allowed = np.zeros((NUM_CLASSES, NUM_CLASSES), np.bool_)
        allowed[:, (SPACE, SINGLE)] = True
        allowed[(SPACE, SINGLE), WORD] = True
        self.rules = new_cut_rules(self.characters.characters.kinds, allowed)

    def make_room(self, num_bytes: int) -> None:
        """Never called: a word of any length fits."""
        raise NotImplementedError


def _make_cells(ids: dict[str, int], prefix: str) -> Cells:
    """Insert all tokens as beginnings of words, and those with the prefix as continuations, too."""
    begins = [(token.encode(), number) for token, number in ids.items()]
    continues = [
        (token.removeprefix(prefix).encode(), number)
        for token, number in ids.items()
        if token.startswith(prefix)
    ]
    rows = begins + [(bytes([CONTINUED]) + token, number) for token, number in continues if token]
    rows = sorted(row for row in rows if row[0])
    numbers = np.array([number for _, number in rows], np.int64)
    return make_cells(*text_arrays([token for token, _ in rows]), numbers)


def wordpiece_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel of BERT's tokenizer does not know."""
    model = tokenizer.definition["model"]
    if tokenizer.word_pipeline != "bert":
        yield "a normalizer or pre-tokenizer that BERT's tokenizer lacks"
    elif model["unk_token"] not in model["vocab"]:
        yield "no token for unknown words"
    elif model["max_input_chars_per_word"] > _MAX_WORD_CHARS:
        yield f"words of {model['max_input_chars_per_word']:,} characters"
    else:
        # The kernel gets text that is not normalized.
        for row in tokenizer.definition["added_tokens"]:
            if row["normalized"] and not row["special"]:
                yield f"its added token {row['content']!r}, which is searched for in normalized text"
        yield from added_obstacles(tokenizer, spaced=False)
