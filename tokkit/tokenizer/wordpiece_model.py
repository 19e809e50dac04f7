"""BERT's normalizer, pre-tokenizer and WordPiece vocabulary as tables for the kernel."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tokkit.kernels.arrays import Int64
from tokkit.kernels.encode.chunks import SPACE
from tokkit.kernels.encode.cut_rules import NUM_CLASSES, new_cut_rules
from tokkit.kernels.encode.encode_wordpiece import SINGLE, WORD, Vocabulary, encode_wordpiece
from tokkit.kernels.encode.tries import CONTINUED, NO_TOKEN, ROOT, Trie, fill_trie
from tokkit.shards.arrow import string_buffers
from tokkit.tokenizer.characters import WordCharacters
from tokkit.tokenizer.encoded import forbidden_mask
from tokkit.tokenizer.segments import Segmenter, Segments
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall


class WordPieceModel:
    """Tables for ``encode_wordpiece``.

    Attributes:
        characters: the table of characters, which grows.
        tables: the kernel's arguments between the text and the cache.
        rules: where a text can be cut.
        num_bytes: None, because a token does not say how many bytes of text it stands for.
    """

    num_bytes: ClassVar[None] = None
    library_continues: ClassVar[bool] = True  # it goes on at white space

    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_wordpiece)

    def __init__(self, tokenizer: Tokenizer) -> None:
        model = tokenizer.definition["model"]
        max_word_chars = model["max_input_chars_per_word"]
        ids = _ids_of_text(tokenizer)
        unknown = ids[model["unk_token"]]
        vocabulary = Vocabulary(
            trie=recall(
                tokenizer.digest,
                "trie",
                lambda: _make_trie(ids, model["continuing_subword_prefix"]),
            ),
            unknown=unknown,
            max_word_chars=max_word_chars,
            word=np.empty(max_word_chars + 1, np.uint32),
        )
        single_ids = {token: i for token, i in ids.items() if len(token) == 1 <= max_word_chars}
        self.characters = WordCharacters.of_tokenizer(
            tokenizer, word_id=lambda char: single_ids.get(char, unknown)
        )
        self.tables: tuple[Any, ...] = (self.characters.characters, vocabulary)
        self._segmenter = Segmenter(tokenizer)
        allowed = np.zeros((NUM_CLASSES, NUM_CLASSES), np.bool_)
        allowed[:, (SPACE, SINGLE)] = True
        allowed[(SPACE, SINGLE), WORD] = True
        self.rules = new_cut_rules(self.characters.characters.kinds, allowed)

    def read_texts(self, texts: pa.LargeStringArray, ends: Int64 | None) -> Segments:
        """Return texts as the kernel gets them; see ``Segmenter.cut``."""
        return self._segmenter.cut(*string_buffers(texts), ends)

    def allow_word(self, num_bytes: int) -> bool:
        """Never called: a word of any length fits."""
        raise NotImplementedError


def _ids_of_text(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the id of each token; for special tokens that of ``unk``, since text never is one."""
    vocabulary: dict[str, int] = dict(tokenizer.definition["model"]["vocab"])
    unknown = vocabulary[tokenizer.definition["model"]["unk_token"]]
    forbidden = forbidden_mask(tokenizer)
    return {token: unknown if forbidden[i] else i for token, i in vocabulary.items()}


def _make_trie(ids: dict[str, int], prefix: str) -> Trie:
    """Insert all tokens as beginnings of words, and those with the prefix as continuations, too."""
    begins = [(ROOT, token, number) for token, number in ids.items()]
    continues = [
        (CONTINUED, token.removeprefix(prefix), number)
        for token, number in ids.items()
        if token.startswith(prefix)
    ]
    rows = [row for row in begins + continues if row[1]]
    texts = [text for _, text, _ in rows]
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    size = 1 << max(4, (2 * len(codes)).bit_length())
    shift = 65 - size.bit_length()
    keys = np.zeros(size, np.uint64)
    children = np.zeros(size, np.int32)
    token_ids = np.full(len(codes) + 2, NO_TOKEN, np.int64)
    num_nodes = fill_trie(
        codes,
        offsets,
        np.array([root for root, _, _ in rows], np.int64),
        np.array([number for _, _, number in rows], np.int64),
        shift,
        keys,
        children,
        token_ids,
    )
    return Trie(keys, children, shift, token_ids[:num_nodes].copy())
