"""BERT's tokenizers: what the kernel must be told of normalizer, pre-tokenizer and model.

The library's own normalizer and pre-tokenizer say what becomes of each character, so the two
cannot disagree. They work character by character, but for one thing: where accents are stripped,
NFD orders combining marks anew, and a few of them are not accents (Hangul's tone marks U+302E and
U+302F, musical stems). A chunk with one of these goes through the library.
"""

from typing import Any

import numpy as np

from tokkit.encoding.encoded import forbidden_ids
from tokkit.encoding.kernels import UNICODE_SIZE, KernelEncoder
from tokkit.kernels.trie import CONTINUED, NO_ENTRY, ROOT, Trie, fill_trie
from tokkit.kernels.wordpiece import (
    CONTEXT,
    NOTHING,
    SEVERAL,
    SINGLE,
    SPACE,
    WORD,
    Characters,
    Vocabulary,
    encode_wordpiece,
)
from tokkit.vocab.characters import is_mark
from tokkit.vocab.tokenizer import Tokenizer

# Code points that Hangul syllables come to are 33,000.
_MOST_FORMS = 1 << 16
_LONGEST_FORM = 15


class WordPieceEncoder(KernelEncoder):
    """Encodes with ``BertNormalizer``, ``BertPreTokenizer`` and ``WordPiece``."""

    _kernel = staticmethod(encode_wordpiece)

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        model = tokenizer.definition["model"]
        ids = _ids_of_text(tokenizer)
        self._single_ids = {token: number for token, number in ids.items() if len(token) == 1}
        limit = model["max_input_chars_per_word"]
        self._vocabulary = Vocabulary(
            trie=_make_trie(ids, model["continuing_subword_prefix"]),
            unknown=ids[model["unk_token"]],
            max_word_chars=limit,
            word=np.empty(limit + 1, np.uint32),
        )
        self._characters = Characters(
            kinds=np.zeros(UNICODE_SIZE, np.uint8),
            meanings=np.zeros(UNICODE_SIZE, np.uint32),
            forms=np.zeros(_MOST_FORMS, np.uint32),
            is_space=np.zeros(256, np.bool_),
        )
        self._num_forms = 0
        self._learn_page(0)
        self._characters.is_space[:33] = self._characters.kinds[:33] == SPACE

    @property
    def _tables(self) -> tuple[Any, ...]:
        return (self._characters, self._vocabulary)

    def _learn(self, code: int) -> None:
        """Ask normalizer and pre-tokenizer about a character."""
        library = self._tokenizer.library
        assert library is not None  # noqa: S101  the pipeline is one of the library's
        assert library.normalizer is not None  # noqa: S101  likewise
        assert library.pre_tokenizer is not None  # noqa: S101  likewise
        kinds, meanings = self._characters.kinds, self._characters.meanings
        form = library.normalizer.normalize_str(chr(code))
        # What stands between two letters is a part of their word, or parts them.
        pieces = [piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(f"a{form}a")]
        inner = pieces[1:-1]
        if not form:
            kinds[code] = NOTHING
        elif pieces == [f"a{form}a"]:
            self._learn_letter(code, form)
        elif not inner and "".join(pieces) == "aa":
            kinds[code] = SPACE
        elif pieces == ["a", form.strip(" "), "a"] and len(inner[0]) == 1:
            kinds[code] = SINGLE
            meanings[code] = self._single_id(inner[0])
        else:
            kinds[code] = CONTEXT

    def _learn_letter(self, code: int, form: str) -> None:
        """Enter what a character that joins its neighbours is normalized to."""
        kinds, meanings, forms, _ = self._characters
        stop = self._num_forms + len(form)
        # No more code points than bytes: so no text has more tokens than bytes.
        fits = len(form) <= min(len(chr(code).encode()), _LONGEST_FORM) and stop <= len(forms)
        if not fits or (self._orders_marks() and any(map(is_mark, form))):
            kinds[code] = CONTEXT
            return
        kinds[code] = WORD
        meanings[code] = ord(form[0])
        if len(form) > 1:
            meanings[code] = SEVERAL + self._num_forms * 16 + len(form)
            forms[self._num_forms : stop] = [ord(char) for char in form]
            self._num_forms = stop

    def _single_id(self, char: str) -> int:
        """The id of a word of one character."""
        if self._vocabulary.max_word_chars < 1:
            return self._vocabulary.unknown
        return self._single_ids.get(char, self._vocabulary.unknown)

    def _orders_marks(self) -> bool:
        """Whether the normalizer brings combining marks into canonical order."""
        normalizer = self._tokenizer.definition["normalizer"]
        strips: bool | None = normalizer["strip_accents"]
        return normalizer["lowercase"] if strips is None else strips


def _ids_of_text(tokenizer: Tokenizer) -> dict[str, int]:
    """The model's entries and their ids; of control tokens that of ``unk``, as text never is one."""
    vocabulary: dict[str, int] = dict(tokenizer.definition["model"]["vocab"])
    unknown = vocabulary[tokenizer.definition["model"]["unk_token"]]
    forbidden = forbidden_ids(tokenizer)
    return {token: unknown if forbidden[number] else number for token, number in vocabulary.items()}


def _make_trie(ids: dict[str, int], prefix: str) -> Trie:
    """Hang up entries: those that begin with the prefix continue a word, and all may begin one."""
    roots: list[int] = []
    texts: list[str] = []
    numbers: list[int] = []
    for token, number in ids.items():
        for root, text in ((ROOT, token), (CONTINUED, token.removeprefix(prefix))):
            if text and (root == ROOT or token.startswith(prefix)):
                roots.append(root)
                texts.append(text)
                numbers.append(number)
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    size = 1 << max(4, (2 * len(codes)).bit_length())
    shift = 65 - size.bit_length()
    keys = np.zeros(size, np.uint64)
    children = np.zeros(size, np.int32)
    entries = np.full(len(codes) + 2, NO_ENTRY, np.int64)
    num_nodes = fill_trie(
        codes,
        offsets,
        np.array(roots, np.int64),
        np.array(numbers, np.int64),
        shift,
        keys,
        children,
        entries,
    )
    return Trie(keys, children, shift, entries[:num_nodes].copy())
