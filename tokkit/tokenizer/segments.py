"""Texts as a model's kernel gets them: cut at added tokens, normalized, cut at ends of sentences.

text        "Le <mask> été. Oui."        ends 16, 21 (bytes)
segments    "Le ", <mask>, " été. Oui."
cuts        also before " Oui.", where a cut changes no token
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.encode.chunks import NO_ADDED
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.cuts import find_cuts
from tokkit.shards.arrow import read_only
from tokkit.tokenizer.added_tokens import AddedTokens, explain_added, make_added_tokens
from tokkit.tokenizer.character_rules import UnknownNormalizerError
from tokkit.tokenizer.normalizer_steps import Text
from tokkit.tokenizer.text_normalizer import TextNormalizer
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Segments:
    """Consecutive parts of texts.

    Attributes:
        values: uint8, valid UTF-8.
        bounds: int64 ``[num_segments + 1]``, where each begins in ``values`` and the last ends.
        added: int64 ``[num_segments]``, -1, or the id of the added token that a segment is; empty
            if there are none.
        firsts: int64 ``[num_texts + 1]``, the number of the first segment of each text, and of all
            segments; None if each text is one.
        ends: int64 ``[num_sentences]``, where sentences end in ``values``; None if each text is one.
    """

    values: Bytes
    bounds: Int64
    added: Int64
    firsts: Int64 | None
    ends: Int64 | None

    def find_text(self, position: int) -> int:
        """Return the number of the text with a byte of ``values``."""
        bounds = self.bounds if self.firsts is None else self.bounds[self.firsts]
        return int(np.searchsorted(bounds, position, "right")) - 1


@dataclass(frozen=True)
class Cuts:
    """Where each end of a sentence is among the bounds of segments.

    Attributes:
        before: int64 ``[num_ends]``, index of the last bound up to each end.
        after: int64 ``[num_ends]``, index of the first bound from each end on.
    """

    before: Int64
    after: Int64


def text_obstacles(tokenizer: Tokenizer, *, spaced: bool) -> Iterator[str]:
    """Yield which part of the normalizer, and which added token, only the library knows.

    Args:
        tokenizer: defines both.
        spaced: whether normalized text has spaces in place of U+2581.
    """
    try:
        TextNormalizer.of_tokenizer(tokenizer)
    except UnknownNormalizerError as error:
        yield str(error)
    if (obstacle := explain_added(tokenizer, spaced=spaced)) is not None:
        yield obstacle


class Segmenter:
    """Cuts texts at added tokens and normalizes what lies between them.

    Args:
        tokenizer: defines both.
        spaced: whether normalized text has spaces in place of U+2581.
        normalize: the normalizer; None if there is none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        spaced: bool = False,
        normalize: Callable[[Bytes, Int64, Int64 | None], Text] | None = None,
    ) -> None:
        self._raw, self._normalized = make_added_tokens(tokenizer, spaced=spaced)
        self._normalize = normalize

    def cut(self, values: Bytes, offsets: Int64, ends: Int64 | None) -> Segments:
        """Return the segments of texts.

        Args:
            values: uint8, valid UTF-8.
            offsets: int64 ``[num_texts + 1]``, into ``values``.
            ends: int64, where sentences end in ``values``, ascending; the end of each text is among
                them. None if each text is one sentence.
        """
        bounds, added, firsts = offsets, None, None
        if self._raw is not None:
            bounds, added, firsts = self._raw.cut(values, bounds)
        if self._normalize is not None:
            values, bounds, ends = self._normalize(values, bounds, ends)
        if self._normalized is not None:
            bounds, added, again = self._normalized.cut(values, bounds, added)
            if again is not None:
                firsts = again if firsts is None else again[firsts]
        return Segments(values, bounds, NO_ADDED if added is None else added, firsts, ends)


class MetaspaceSegmenter(Segmenter):
    """Cuts and normalizes texts of a tokenizer in which U+2581 stands for spaces.

    Args:
        tokenizer: defines both.
        pieces: further tokens to search for in normalized text, with their ids; None for none.
    """

    def __init__(self, tokenizer: Tokenizer, pieces: Mapping[bytes, int] | None = None) -> None:
        self._prefixer = TextNormalizer.of_tokenizer(tokenizer)
        super().__init__(tokenizer, spaced=True, normalize=self._prefixer.normalize)
        if pieces:
            self._normalized = AddedTokens(pieces)

    def cut(self, values: Bytes, offsets: Int64, ends: Int64 | None) -> Segments:
        """Return the segments of texts, with spaces in front; see ``Segmenter.cut``."""
        segments = super().cut(values, offsets, ends)
        is_first = None
        if segments.firsts is not None:
            is_first = np.zeros(len(segments.bounds) - 1, np.bool_)
            is_first[segments.firsts[:-1]] = True
        text = segments.values, segments.bounds, segments.ends
        values, bounds, ends = self._prefixer.add_prefix(*text, is_first)
        return replace(segments, values=values, bounds=bounds, ends=ends)


def cut_at_ends(segments: Segments, rules: CutRules) -> tuple[Segments, Cuts]:
    """Cut segments further, so that each end of a sentence is at a bound or between two.

    Args:
        segments: with ends.
        rules: where texts can be cut.

    Returns:
        The segments, without empty ones, and where the ends are among them.
    """
    values, bounds, added, ends = segments.values, segments.bounds, segments.added, segments.ends
    assert ends is not None  # noqa: S101  the caller has seen them
    before, after = np.empty(len(ends), np.int64), np.empty(len(ends), np.int64)
    find_cuts(values, read_only(bounds), read_only(ends), rules, before, after)
    if len(added):
        owners = np.searchsorted(bounds, ends) - 1
        is_inside = (added[owners] >= 0) & (ends < bounds[owners + 1])
        before = np.where(is_inside, bounds[owners], before)
        after = np.where(is_inside, bounds[owners + 1], after)
    # All three are nearly sorted, which this sort makes use of; numpy.unique hashes first.
    places = np.sort(np.concatenate([bounds, before, after]), kind="stable")
    places = places[np.flatnonzero(np.diff(places, prepend=-1))]
    if len(added):
        added = added[np.searchsorted(bounds, places[:-1], "right") - 1]
    cuts = Cuts(np.searchsorted(places, before), np.searchsorted(places, after))
    return replace(segments, bounds=places, added=added), cuts
