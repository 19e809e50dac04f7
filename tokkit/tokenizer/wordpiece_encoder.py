"""BERT's tokenizers: what the kernel must be told of normalizer, pre-tokenizer and model."""

from typing import Any

import numpy as np

from tokkit.kernels.encode.encode_wordpiece import Vocabulary, encode_wordpiece
from tokkit.kernels.encode.tries import CONTINUED, NO_ENTRY, ROOT, Trie, fill_trie
from tokkit.tokenizer.character_tables import WordCharacters
from tokkit.tokenizer.encoded import forbidden_ids
from tokkit.tokenizer.kernel_encoder import KernelEncoder
from tokkit.tokenizer.tokenizer import Tokenizer


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
        library = tokenizer.library
        assert library is not None  # noqa: S101  the pipeline is one of the library's
        assert library.normalizer is not None  # noqa: S101  likewise
        normalizer = tokenizer.definition["normalizer"]
        strips: bool | None = normalizer["strip_accents"]
        self._characters = WordCharacters(
            library.normalizer.normalize_str,
            library.pre_tokenizer,
            orders_marks=normalizer["lowercase"] if strips is None else strips,
            meaning_of=self._single_id,
        )

    @property
    def _tables(self) -> tuple[Any, ...]:
        return (self._characters.characters, self._vocabulary)

    def _learn_page(self, code: int) -> None:
        self._characters.learn_page(code)

    def _single_id(self, char: str) -> int:
        """The id of a word of one character."""
        if self._vocabulary.max_word_chars < 1:
            return self._vocabulary.unknown
        return self._single_ids.get(char, self._vocabulary.unknown)


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
