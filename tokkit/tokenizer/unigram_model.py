"""Unigram tokenizers, of ``tokenizer.json`` and sentencepiece's ``.model``, as tables for kernels.

file                 pieces with scores, the unknown token, tokens for bytes
UnigramVocabulary    the same of either kind of file, and which part no kernel knows
UnigramModel         a trie, scores and ids; with a space for U+2581, as normalized text has it
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Float64, Int32, Int64
from tokkit.kernels.encode.cut_rules import CUT, NO_CUT, NUM_CLASSES, SPACE, CutRules
from tokkit.kernels.encode.encode_unigram import encode_unigram, find_token_begins
from tokkit.kernels.encode.encode_unigram_text import RunningSum, encode_unigram_text
from tokkit.kernels.encode.tries import NO_TOKEN, make_cells
from tokkit.kernels.encode.unigram_lattice import UnigramTables
from tokkit.kernels.encode.word_cache import SHORT_KEY
from tokkit.shards.arrow import text_arrays
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import WORD_BEGINNING, fallback_tokens, with_spaces
from tokkit.tokenizer.segments import Segmenter, Segments, prefix_obstacles, text_obstacles
from tokkit.tokenizer.sentencepiece_model import (
    BYTE,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SentencepieceModel,
)
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall

_SIGN = WORD_BEGINNING.encode()
_FIRST_WORD = 1 << 13
_OTHER = 1
_UNKNOWN_PENALTY = 10.0
_USER_DEFINED_SCORE = 0.1  # for each byte of the token but the first
_LARGEST_SCORE = 1e100  # sums of larger ones may be infinite
# The release whose rules for scores of whole texts these are.
_KNOWN_SENTENCEPIECE = "0.2.3"


class UnigramModel:
    """Tables for ``encode_unigram``, or ``encode_unigram_text`` for a sentencepiece model.

    Args:
        tokenizer: for which ``unigram_obstacles`` yields nothing.

    Attributes:
        kernel: one of the two.
        rules: where texts can be cut: before spaces, unless scores are summed over whole texts.
        num_bytes: int32 ``[vocab_size]``, of the text that each token stands for; 0 for tokens that
            stand for texts of several lengths.
    """

    library_continues: ClassVar[bool] = False  # the library cannot go on from the sums of scores
    longest_word: ClassVar[int] = 8 << 20  # bytes that cannot be cut, which take 200 MB

    def __init__(self, tokenizer: Tokenizer) -> None:
        is_whole = tokenizer.processor is not None
        self.kernel: Callable[..., int] = encode_unigram_text if is_whole else encode_unigram
        tables = recall(tokenizer.digest, "tables", lambda: _make_tables(tokenizer))
        self._tables, self.num_bytes, scores = tables
        self._words = _new_rules(before_spaces=True)
        self.rules = _new_rules(before_spaces=not is_whole)
        largest = float(np.abs(self._tables.scores).max())
        self._drops_spaces = {"type": "WhitespaceSplit"} in tokenizer.pre_tokenizers
        self._segmenter = Segmenter(tokenizer, spaced=True)
        self._sum = RunningSum(scores, largest, np.zeros(1), np.zeros(1, np.int64))

    @property
    def tables(self) -> tuple[Any, ...]:
        """The kernel's arguments between the text and the cache."""
        if self.kernel is encode_unigram:
            return self._tables, self._words
        return self._tables, self._sum, self._words

    def read_texts(self, data: Bytes, offsets: Int64, raw_ends: Int64 | None) -> Segments:
        """Return texts as the kernel gets them; see ``Segmenter.cut``."""
        segments = self._segmenter.cut(data, offsets, raw_ends)
        ends = segments.ends
        if ends is None or raw_ends is None or not (self._drops_spaces and len(segments.values)):
            return segments
        # A space in front of a word is not the one in the text, which is dropped, unless it was U+2581
        # there.
        is_behind = (segments.values[ends - 1] == ord(" ")) & (data[raw_ends - 1] != _SIGN[-1])
        return replace(segments, ends=ends - (is_behind & (ends > segments.bounds[0])))

    def make_room(self, num_bytes: int) -> None:
        """Allocate memory for words of this length."""
        self._tables = _with_room(self._tables, min(2 * num_bytes, self.longest_word))

    def find_begins(self, data: Bytes) -> Int64:
        """Return the byte at which each token of some text begins: int64 ``[num_tokens]``.

        Args:
            data: normalized text that was cut where ``rules`` allow it.
        """
        begins = np.empty(len(data), np.int64)
        is_single = self.kernel is encode_unigram_text
        while True:
            count = find_token_begins(data, self._tables, is_single, begins)
            if count >= 0:
                return begins[:count]
            self._tables = _with_room(self._tables, -2 * count)


def _make_tables(tokenizer: Tokenizer) -> tuple[UnigramTables, Int32, Float64]:
    """Return the tables, ``num_bytes`` of the model, and the scores of the tokens that have these."""
    vocabulary = read_vocabulary(tokenizer)
    unknown_id = tokenizer.special_ids.get("unk", vocabulary.unknown_id)
    own_ids = np.arange(tokenizer.vocab_size)  # what each becomes in text
    own_ids[tokenizer.forbidden] = unknown_id
    num_bytes = np.zeros(tokenizer.vocab_size, np.int32)
    known_scores = np.full(tokenizer.vocab_size, np.nan)
    several = {*vocabulary.byte_ids, vocabulary.unknown_id, tokenizer.special_ids.get("unk")}
    for piece, number, score in vocabulary.pieces:
        if number not in several and own_ids[number] == number:
            num_bytes[number] = len(with_spaces(piece).encode())
            known_scores[number] = score
    # No text has a space where the library has U+2581, and an empty token is never found.
    rows = sorted(
        (with_spaces(piece).encode(), number, score)
        for piece, number, score in vocabulary.pieces
        if piece and " " not in piece
    )
    numbers = np.array([number for _, number, _ in rows], np.int64)
    is_unknown = np.flatnonzero(numbers == vocabulary.unknown_id)
    ids = np.append(numbers, vocabulary.unknown_id)
    no_scores, no_links = np.zeros(0), np.zeros(0, np.int64)
    tables = UnigramTables(
        cells=make_cells(*text_arrays([token for token, _, _ in rows]), np.arange(len(rows))),
        scores=np.array([*(score for _, _, score in rows), vocabulary.unknown_score], np.float64),
        ids=own_ids[ids],
        unknown=int(is_unknown[0]) if is_unknown.size else NO_TOKEN,
        byte_ids=np.array([n if n < 0 else own_ids[n] for n in vocabulary.byte_ids], np.int64),
        joins_unknown=tokenizer.processor is None,
        best=no_scores,
        seconds=np.zeros(SHORT_KEY + 1, np.float64),
        links=no_links,
        path=no_links,
    )
    return _with_room(tables, _FIRST_WORD), num_bytes, known_scores


def _with_room(tables: UnigramTables, num_bytes: int) -> UnigramTables:
    """Return the tables with memory for texts of so many bytes."""
    size = num_bytes + 1
    return tables._replace(
        best=np.zeros(size, np.float64),
        links=np.zeros(size, np.int64),
        path=np.zeros(size, np.int64),
    )


def _new_rules(*, before_spaces: bool) -> CutRules:
    """Return the rules for cutting before each space, or nowhere."""
    classes = np.full(UNICODE_SIZE, _OTHER, np.uint8)
    classes[ord(" ")] = SPACE
    allowed = np.zeros((NUM_CLASSES, NUM_CLASSES), np.bool_)
    allowed[:, SPACE] = before_spaces
    before = np.zeros((256, 64), np.uint8)
    before[:, ord(" ")] = CUT if before_spaces else NO_CUT
    none = np.zeros(64 * 256, np.uint8)
    return CutRules(classes, allowed, before.ravel(), none, allowed, none)


class UnigramVocabulary(NamedTuple):
    """A unigram vocabulary.

    Attributes:
        pieces: tokens that are found in text, with their ids and scores.
        unknown_id: of unknown text.
        unknown_score: of an unknown character.
        byte_ids: for each byte the id of the token that spells it, or ``NO_TOKEN``.
    """

    pieces: list[tuple[str, int, float]]
    unknown_id: int
    unknown_score: float
    byte_ids: list[int]


def is_unigram(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer has a unigram model, in either kind of file."""
    algorithm = tokenizer.kind if tokenizer.model is None else tokenizer.model.algorithm
    return algorithm == "unigram"


def unigram_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernels do not know of a tokenizer with a unigram model."""
    if tokenizer.model is None:
        yield from _definition_obstacles(tokenizer)
    else:
        yield from _model_obstacles(tokenizer.model)
    yield from text_obstacles(tokenizer, spaced=True)
    vocabulary = read_vocabulary(tokenizer)
    if max(abs(score) for _, _, score in vocabulary.pieces) > _LARGEST_SCORE:
        yield f"scores above {_LARGEST_SCORE}"
    has_space = any(piece == WORD_BEGINNING for piece, _, _ in vocabulary.pieces)
    has_byte_tokens = max(vocabulary.byte_ids) > NO_TOKEN
    if not has_space and (has_byte_tokens or tokenizer.model is not None):
        yield "no token for a space"  # it is one byte in our texts, and three in others
    unknown = {piece for piece, number, _ in vocabulary.pieces if number == vocabulary.unknown_id}
    if has_byte_tokens and any(WORD_BEGINNING in piece for piece in unknown):
        yield "an unknown token with a space, with byte fallback"  # of three bytes in the library


def _definition_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel does not know of a ``tokenizer.json``."""
    *before, last = tokenizer.pre_tokenizers
    kinds = " and ".join(str(part["type"]) for part in (*before, last))
    is_known = last["type"] == "Metaspace" and last["split"]
    if not is_known or before not in ([], [{"type": "WhitespaceSplit"}]):
        yield f"the pre-tokenizer {kinds} before Unigram"
    yield from prefix_obstacles(tokenizer)
    if tokenizer.definition["model"]["unk_id"] is None:
        yield "no token for unknown words"


def _model_obstacles(model: SentencepieceModel) -> Iterator[str]:
    """Yield what the kernel does not know of a sentencepiece model."""
    import sentencepiece

    if sentencepiece.__version__ != _KNOWN_SENTENCEPIECE:
        yield f"unigram models of sentencepiece {sentencepiece.__version__}"
    for piece, kind in zip(model.pieces, model.kinds, strict=True):
        if kind in (NORMAL, USER_DEFINED) and WORD_BEGINNING in piece[1:]:
            yield f"the token {piece!r}, which has a space after another character"


def read_vocabulary(tokenizer: Tokenizer) -> UnigramVocabulary:
    """Return the vocabulary of a tokenizer with a unigram model."""
    if tokenizer.model is not None:
        return _read_pieces(tokenizer.model)
    model = tokenizer.definition["model"]
    # Of a doubled token the last counts.
    ids = {token: number for number, (token, _) in enumerate(model["vocab"])}
    return UnigramVocabulary(
        pieces=[(token, number, model["vocab"][number][1]) for token, number in ids.items()],
        unknown_id=model["unk_id"],
        unknown_score=min(score for _, score in model["vocab"]) - _UNKNOWN_PENALTY,
        byte_ids=_find_bytes(ids if model["byte_fallback"] else {}),
    )


def _read_pieces(model: SentencepieceModel) -> UnigramVocabulary:
    """Return the vocabulary of a sentencepiece model, with its scores of single precision."""
    rows = list(zip(model.pieces, range(len(model.pieces)), model.scores, model.kinds, strict=True))
    pieces = [(piece, number, score) for piece, number, score, kind in rows if kind == NORMAL]
    lowest = min((score for _, _, score in pieces), default=float(np.finfo(np.float32).max))
    for piece, number, _, kind in rows:
        if kind == USER_DEFINED:
            score = float(np.float32(_USER_DEFINED_SCORE * (len(piece.encode()) - 1)))
            pieces.append((piece, number, score))
    return UnigramVocabulary(
        pieces=pieces,
        unknown_id=model.kinds.index(UNKNOWN),
        unknown_score=float(np.float32(lowest) - np.float32(_UNKNOWN_PENALTY)),
        byte_ids=_find_bytes({piece: number for piece, number, _, kind in rows if kind == BYTE}),
    )


def _find_bytes(ids: Mapping[str, int]) -> list[int]:
    return [ids.get(token, NO_TOKEN) for token in fallback_tokens()]
