"""Words and how often they occur: all that a trainer needs to know of a corpus.

    values   h e l o w   offsets 0 2 4 5      "he" 7 times, "lo" 3 times, "w" once
    counts   7 3 1

A word is a stretch of text within which entries of the vocabulary lie: what the pre-tokenizer cuts
from normalized text (WordPiece), what the split pattern matches (byte-level BPE), or what stands
between white space (unigram).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class WordCounts:
    """Distinct words in the order of their bytes.

    Attributes:
        values: uint8, the words' bytes, one after another.
        offsets: int64 ``[num_words + 1]``, into ``values``.
        counts: int64 ``[num_words]``, each at least 1.
    """

    values: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many distinct words there are."""
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Each word with its count."""
        data = self.values.tobytes()
        for word, count in enumerate(self.counts.tolist()):
            yield data[self.offsets[word] : self.offsets[word + 1]], count

    @classmethod
    def from_mapping(cls, counts: Mapping[bytes, int]) -> "WordCounts":
        """Of a few words.

        Example:
            >>> WordCounts.from_mapping({b"b": 1, b"ab": 3}).offsets.tolist()
            [0, 2, 3]
        """
        words = sorted(counts)
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        return cls(
            values=np.frombuffer(b"".join(words), np.uint8),
            offsets=offsets,
            counts=np.array([counts[word] for word in words], np.int64),
        )
