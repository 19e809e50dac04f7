"""Sentences of text in, token ids and word starts out, as the tokenizer's own library gives them.

    sentences    "Unaffable, yes."   "No."
    ids          una ##ffa ##ble , yes .   no .
    offsets      0                         6    8
    word_starts  1   0     0     1 1   1   1  1

Text never yields control tokens: ``[SEP]`` in a sentence is three words. BERT's and GPT-2's
tokenizers are encoded by our kernels, others by their library.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.encode.word_cache import NUM_COUNTERS
from tokkit.tokenizer.bpe_encoder import BPEEncoder
from tokkit.tokenizer.encoded import Encoded, choose_kernel
from tokkit.tokenizer.kernel_encoder import KernelEncoder
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.wordpiece_encoder import WordPieceEncoder


class Encoder:
    """Encodes batches of sentences; each thread needs one of its own.

    Args:
        tokenizer: whose ids they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        kernel = choose_kernel(tokenizer)
        self._encoder: KernelEncoder | LibraryEncoder
        if kernel == "wordpiece":
            self._encoder = WordPieceEncoder(tokenizer)
        elif kernel == "bpe":
            self._encoder = BPEEncoder(tokenizer)
        else:
            self._encoder = LibraryEncoder(tokenizer)

    @property
    def counters(self) -> npt.NDArray[np.int64]:
        """How often chunks and words were found in the cache; see ``tokkit.kernels.encode.word_cache``.

        Zeros where the library encodes, which has a cache of its own.
        """
        if isinstance(self._encoder, KernelEncoder):
            return self._encoder.counters
        return np.zeros(NUM_COUNTERS, np.int64)

    def encode(self, sentences: pa.LargeStringArray) -> Encoded:
        """Encode sentences, in order.

        Args:
            sentences: valid UTF-8 without nulls; a slice of a larger array will do.

        Raises:
            SentenceTooLongError: where a stretch without a place for a cut has millions of bytes.
        """
        return self._encoder.encode(sentences)
