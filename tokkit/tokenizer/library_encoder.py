"""Encoding with the tokenizer's own library, for what our kernels do not know.

The library makes objects of about 100 bytes a token, so it gets about a megabyte of text at a time:
several short sentences, or a piece of a long one. A piece ends where a word ends whatever
surrounds it, so that the ids of the pieces, one after another, are those of the text.

For BERT's tokenizers that is before white space, punctuation and ideographs. A word longer than the
model accepts (``max_input_chars_per_word``) is ``[UNK]`` whatever its end, so most of it is left
out, and pieces of a text without any space are bounded, too. With at most 3 characters a word and
8 a piece:

    "an abcdefghijk, no"   →   "an", " abcdef,", " no"

For byte-level BPE that is before white space that follows something else, because a word of
GPT-2's pattern has white space in front or none. Where the tokenizer puts a space in front of a
text that has none, a piece must begin with a space.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.kernels.encode.chunks import SPACE
from tokkit.kernels.encode.encode_wordpiece import CONTEXT, NOTHING, SINGLE
from tokkit.shards.arrow import id_dtype, string_buffers, to_arrow
from tokkit.tokenizer.characters import WordCharacters
from tokkit.tokenizer.definitions import WORD_BEGINNING
from tokkit.tokenizer.encoded import Encoded, Ids, SentenceTooLongError, forbidden_mask
from tokkit.tokenizer.tokenizer import Tokenizer

_SLICE_BYTES = 1 << 20
_LONGEST_PIECE = 4 << 20

# \S excludes every character that the tokenizer's pattern takes for white space.
_WHITE_SPACE = re.compile(r"(?<=\S)[ \t\n\r]")
_SPACE = re.compile(r"(?<=\S) ")


class LibraryEncoder:
    """Encodes sentences with ``tokenizers`` or ``sentencepiece``.

    A token begins a word if its word differs from that of the token before, or if it is the first
    of its sentence; in sentencepiece if it begins with U+2581.

    Args:
        tokenizer: defines the ids.
        slice_bytes: about how many bytes of text the library gets at a time.
        longest_piece: most bytes that it gets of a text that cannot be cut.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        slice_bytes: int = _SLICE_BYTES,
        longest_piece: int = _LONGEST_PIECE,
    ) -> None:
        self._tokenizer = tokenizer
        self._slice_bytes = slice_bytes
        self._longest_piece = longest_piece
        self._id_dtype = id_dtype(tokenizer.vocab_size)
        self._forbidden = forbidden_mask(tokenizer)
        # Whether each token begins a word; None if the library must say.
        self._begins_word: npt.NDArray[np.bool_] | None = None
        if tokenizer.processor is not None or tokenizer.definition["pre_tokenizer"] is None:
            self._begins_word = np.array([t.startswith(WORD_BEGINNING) for t in tokenizer.tokens])

    def encode(self, sentences: pa.LargeStringArray) -> Encoded:
        """Encode sentences, in order; see ``Encoder.encode``."""
        lengths = [np.zeros(1, np.int64)]
        ids = [np.zeros(0, self._id_dtype)]
        word_starts = [np.zeros(0, np.bool_)]
        for start, stop in self._slices(sentences):
            texts = sentences[start:stop].to_pylist()
            if len(texts) > 1:
                counts, found, starts = self._encode_texts(texts)
            else:
                found, starts = self.encode_text(texts[0], start)
                counts = np.array([len(found)], np.int64)
            lengths.append(counts)
            ids.append(found)
            word_starts.append(starts)
        return Encoded(
            ids=np.concatenate(ids),
            offsets=np.concatenate(lengths).cumsum(),
            word_starts=to_arrow(np.concatenate(word_starts)),
        )

    def encode_text(self, text: str, sentence: int = 0) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """Return the ids of one text of any length, and which of them begin words.

        Args:
            text: the text.
            sentence: its number, for the error.

        Raises:
            SentenceTooLongError: if it has millions of bytes that cannot be cut.
        """
        if len(text) <= self._slice_bytes // 4:
            return self._encode_texts([text])[1:]
        ids, word_starts = [], []
        for piece in cut_text(self._tokenizer, text, self._slice_bytes):
            num_bytes = len(piece.encode())
            if num_bytes > self._longest_piece:
                raise SentenceTooLongError(num_bytes, sentence)
            _, piece_ids, piece_starts = self._encode_texts([piece])
            ids.append(piece_ids)
            word_starts.append(piece_starts)
        return np.concatenate(ids), np.concatenate(word_starts)

    def _slices(self, sentences: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
        """Yield bounds of runs of at least one sentence, of about ``slice_bytes`` together."""
        _, offsets = string_buffers(sentences)
        start = 0
        while start < len(sentences):
            limit = offsets[start] + self._slice_bytes
            stop = max(start + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
            yield start, stop
            start = stop

    def _encode_texts(
        self, texts: list[str]
    ) -> tuple[npt.NDArray[np.int64], Ids, npt.NDArray[np.bool_]]:
        """Return how many tokens each text has, all their ids, and which of them begin words."""
        with library_threads(1):
            lists, words = self._call_library(texts)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        num_tokens = int(lengths.sum())
        ids: Ids = np.fromiter(chain.from_iterable(lists), self._id_dtype, num_tokens)
        if self._begins_word is not None:
            word_starts = self._begins_word[ids]
        else:
            numbers = np.fromiter(chain.from_iterable(words), np.int64, num_tokens)
            word_starts = np.diff(numbers, prepend=-1) != 0
        word_starts[(lengths.cumsum() - lengths)[lengths > 0]] = True
        self._replace_special(ids)
        return lengths, ids, word_starts

    def _call_library(self, texts: list[str]) -> tuple[list[list[int]], Iterable[list[int | None]]]:
        """Return the ids of each text, and the word number of each token unless tokens tell it."""
        library, processor = self._tokenizer.library, self._tokenizer.processor
        if processor is not None:
            return processor.encode(texts, out_type=int, num_threads=1), ()
        assert library is not None  # noqa: S101  a tokenizer has one or the other
        encodings = library.encode_batch(texts, add_special_tokens=False)
        return [e.ids for e in encodings], (e.word_ids for e in encodings)

    def _replace_special(self, ids: Ids) -> None:
        """Replace special tokens by ``unk``, in place.

        Some models find them in text: a WordPiece that cuts at white space alone finds ``[SEP]`` in
        its vocabulary, and sentencepiece does where ``[SEP]`` is a user-defined symbol.

        Raises:
            TokkitError: if there is no ``unk``.
        """
        found = np.flatnonzero(self._forbidden[ids])
        if not len(found):
            return
        unknown = self._tokenizer.special_ids.get("unk")
        if unknown is None:
            raise TokkitError(
                f"{self._tokenizer.path}: text becomes the special token "
                f"{self._tokenizer.tokens[ids[found[0]]]!r}, and there is no token for unknown words "
                f"to replace it; name one as unk_token in a tokenizer_config.json next to this file"
            )
        ids[found] = unknown


@contextmanager
def library_threads(count: int) -> Iterator[None]:
    """Set how many threads the tokenizers library uses within the block; 0 and 1 use this one.

    The library reads its switch from the environment at each call, but makes its thread pool once
    in a process, with as many threads as ``RAYON_NUM_THREADS`` says at the first call.
    """
    switches = {
        "TOKENIZERS_PARALLELISM": "true" if count > 1 else "false",
        "RAYON_NUM_THREADS": str(max(count, 1)),
    }
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)  # another thread may have removed it
            else:
                os.environ[name] = value


def cut_text(tokenizer: Tokenizer, text: str, piece_chars: int) -> Iterator[str]:
    """Cut a text into pieces whose ids, one after another, are those of the text.

    Args:
        tokenizer: whose ids they are.
        text: of any length.
        piece_chars: about how long a piece is, as far as places for a cut are known.
    """
    if tokenizer.pipeline == "bert":
        characters = WordCharacters.of_tokenizer(tokenizer)
        limit = tokenizer.definition["model"]["max_input_chars_per_word"]
        yield from cut_at_words(text, characters, limit, piece_chars)
    elif tokenizer.pipeline == "byte-level":
        yield from cut_at_spaces(text, piece_chars, add_prefix_space=tokenizer.add_prefix_space)
    else:
        yield text


def cut_at_words(
    text: str, characters: WordCharacters, max_word_chars: int, piece_chars: int
) -> Iterator[str]:
    """Cut a text for BERT's normalizer and pre-tokenizer.

    Args:
        text: of any length.
        characters: the tokenizer's.
        max_word_chars: a word of more normalized characters is unknown to the model.
        piece_chars: about how long pieces are: at most twice this, and what a word of
            ``max_word_chars`` adds.
    """
    rest = np.empty(0, np.uint32)
    for start in range(0, len(text), piece_chars):
        block = text[start : start + piece_chars].encode("utf-32-le")
        codes = np.concatenate([rest, np.frombuffer(block, np.uint32)])
        codes, is_break = _shorten_words(codes, characters, max_word_chars)
        cut = int(np.max(np.flatnonzero(is_break), initial=0))
        if cut:
            yield codes[:cut].tobytes().decode("utf-32-le")
        rest = codes[cut:]
    yield rest.tobytes().decode("utf-32-le")


def _shorten_words(
    codes: npt.NDArray[np.uint32], characters: WordCharacters, max_word_chars: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """Drop removed characters and the ends of words that are too long.

    Returns:
        The code points that stay, and which of them end the word before them.
    """
    kinds, lengths = characters.classify(codes)
    is_context = kinds == CONTEXT
    is_break = (kinds == SPACE) | (kinds == SINGLE) | (is_context & (lengths == 0))
    num_letters = lengths.cumsum(dtype=np.int64)
    # Letters up to the last break: those before the word that each character is in.
    before_word = np.maximum.accumulate(np.where(is_break, num_letters, 0))
    is_kept = is_break | (num_letters - before_word <= max_word_chars + 3)
    # A removed character between two marks keeps NFD from changing their order.
    if not is_context.any():
        is_kept &= kinds != NOTHING
    return codes[is_kept], is_break[is_kept]


def cut_at_spaces(text: str, piece_chars: int, *, add_prefix_space: bool) -> Iterator[str]:
    """Cut a text for byte-level BPE; a stretch without white space stays whole.

    Args:
        text: of any length.
        piece_chars: a piece ends at the first place for a cut after this many characters, at least 1.
        add_prefix_space: as the tokenizer has it.
    """
    place = _SPACE if add_prefix_space else _WHITE_SPACE
    start = 0
    while start < len(text):
        space = place.search(text, start + piece_chars)
        stop = space.start() if space else len(text)
        yield text[start:stop]
        start = stop
