"""Unigram vocabularies of ``tokenizer.json`` files as tables for the kernel.

Tokens are stored with a space for U+2581, as the normalized text has it.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tokkit.kernels.encode.chunks import SPACE
from tokkit.kernels.encode.cuts import new_rules
from tokkit.kernels.encode.encode_unigram import encode_unigram
from tokkit.kernels.encode.tries import NO_TOKEN, make_cells
from tokkit.kernels.encode.unigram_lattice import UnigramTables
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import WORD_BEGINNING
from tokkit.tokenizer.encoded import forbidden_mask
from tokkit.tokenizer.tokenizer import Tokenizer

LONGEST_WORD = 8 << 20  # bytes that cannot be cut, which take 200 MB
_FIRST_WORD = 1 << 13
_UNKNOWN_PENALTY = 10.0
_OTHER = 1


class UnigramModel:
    """Tables for ``encode_unigram``.

    Args:
        tokenizer: whose ``kind`` is ``unigram`` and whose words begin with U+2581.
        longest_word: most bytes of text that cannot be cut; None for ``LONGEST_WORD``.

    Attributes:
        kinds: of characters, for ``find_cuts``.
        rules: a text can be cut before a space.
        joiner: as in ``find_cuts``.
        num_bytes: None, because unknown text of any length is one token.
    """

    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_unigram)
    joiner: ClassVar[int] = -1
    num_bytes: ClassVar[None] = None

    def __init__(self, tokenizer: Tokenizer, longest_word: int | None = None) -> None:
        self._longest_word = LONGEST_WORD if longest_word is None else longest_word
        self._model = _make_tables(tokenizer)
        self._is_space = np.zeros(256, np.bool_)
        self._is_space[ord(" ")] = True
        self.kinds = np.full(UNICODE_SIZE, _OTHER, np.uint8)
        self.kinds[ord(" ")] = SPACE
        self.rules = new_rules()
        self.rules[:, SPACE] = True

    @property
    def tables(self) -> tuple[Any, ...]:
        """The kernel's arguments between the text and the cache."""
        return self._model, self._is_space

    def allow_word(self, num_bytes: int) -> bool:
        """Allocate memory for words of this length; returns False if it is above the limit."""
        if num_bytes > self._longest_word:
            return False
        self._model = _with_room(self._model, 2 * num_bytes)
        return True


def _with_room(model: UnigramTables, num_bytes: int) -> UnigramTables:
    """Return the tables with memory for texts of so many bytes."""
    size = num_bytes + 1
    return model._replace(
        best=np.zeros(size, np.float64),
        seconds=np.zeros(size, np.float64),
        links=np.zeros(size, np.int64),
        path=np.zeros(size, np.int64),
    )


def _make_tables(tokenizer: Tokenizer) -> UnigramTables:
    model = tokenizer.definition["model"]
    vocabulary = model["vocab"]
    unknown = model["unk_id"]
    ids = {token: number for number, (token, _) in enumerate(vocabulary)}
    # No text has a space where the library has U+2581, and an empty token is never found.
    found = sorted(
        (token.replace(WORD_BEGINNING, " ").encode(), number)
        for token, number in ids.items()
        if token and " " not in token
    )
    tokens = [token for token, _ in found]
    numbers = np.array([number for _, number in found], np.int64)
    scores = np.array([score for _, score in vocabulary], np.float64)
    is_unknown = np.flatnonzero(numbers == unknown)
    is_forbidden = forbidden_mask(tokenizer)
    own_ids = np.arange(tokenizer.vocab_size)
    own_ids[is_forbidden] = tokenizer.special_ids.get("unk", unknown)
    byte_ids = np.full(256, NO_TOKEN, np.int64)
    if model["byte_fallback"]:
        for byte in range(256):
            number = ids.get(f"<0x{byte:02X}>")
            if number is not None:
                byte_ids[byte] = own_ids[number]
    nothing = np.zeros(0)
    model = UnigramTables(
        cells=make_cells(
            np.frombuffer(b"".join(tokens), np.uint8),
            np.cumsum([0, *map(len, tokens)]),
            np.arange(len(tokens)),
        ),
        scores=np.append(scores[numbers], scores.min() - _UNKNOWN_PENALTY),
        ids=np.append(own_ids[numbers], own_ids[unknown]),
        unknown=int(is_unknown[0]) if is_unknown.size else NO_TOKEN,
        byte_ids=byte_ids,
        best=nothing,
        seconds=nothing,
        links=nothing,
        path=nothing,
    )
    return _with_room(model, _FIRST_WORD)
