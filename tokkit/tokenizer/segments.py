"""Texts as a model's kernel gets them: cut at added tokens, normalized, cut at ends of sentences.

text        "Le <mask> été. Oui."        ends 16, 21 (bytes)
segments    "Le ", <mask>, " été. Oui."
cuts        also before " Oui.", where a cut changes no token

A tokenizer searches for two kinds of added tokens: in the text as it is, then in the text as its
normalizer leaves it. It skips special tokens, but not what overlaps with them: after ``<s>x`` that
is special, the search goes on behind the ``x``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.encode.chunks import NO_ADDED
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.cuts import find_cuts
from tokkit.kernels.encode.find_added import (
    BLOCK,
    NUM_FOUND,
    NUM_SEGMENTS,
    PLAIN,
    REACHED,
    START,
    STATE_SIZE,
    AddedTable,
    find_added,
)
from tokkit.kernels.encode.tries import make_cells
from tokkit.shards.arrow import text_arrays
from tokkit.tokenizer.definitions import WORD_BEGINNING, list_parts
from tokkit.tokenizer.library_calls import make_empty_library
from tokkit.tokenizer.text_normalizer import TextNormalizer
from tokkit.tokenizer.tokenizer import Tokenizer

_MAX_COMPARED = 64  # pairs of bytes that blocks are compared with, rather than looked up
_FIRST_SEGMENTS = 1 << 10
_KEPT = "0"  # stands for added tokens


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
    """Yield which added tokens only the library supports.

    Args:
        tokenizer: defines them.
        spaced: whether normalized text has spaces in place of U+2581.

    Raises:
        UnsupportedError: naming a part of the normalizer that only the library supports.
    """
    TextNormalizer.of_tokenizer(tokenizer)  # for its error
    yield from added_obstacles(tokenizer, spaced=spaced)


class Segmenter:
    """Cuts texts at added tokens, normalizes the text between them, and puts spaces in front.

    Args:
        tokenizer: defines all of this.
        normalizes: whether to normalize; else the kernel does.
        spaced: whether normalized text has spaces in place of U+2581.
        pieces: tokens to search for in normalized text in place of added tokens, with their ids.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        normalizes: bool = True,
        spaced: bool = False,
        pieces: Mapping[bytes, int] | None = None,
    ) -> None:
        self._raw, self._normalized = make_added_tokens(tokenizer, spaced=spaced)
        if pieces:
            self._normalized = AddedTokens(pieces)
        self._normalizer = TextNormalizer.of_tokenizer(tokenizer) if normalizes else None
        self._removes = self._normalizer is not None and self._removes_added(tokenizer)

    def cut(self, values: Bytes, offsets: Int64, ends: Int64 | None) -> Segments:
        """Return the segments of texts.

        Args:
            values: uint8, valid UTF-8.
            offsets: int64 ``[num_texts + 1]``, into ``values``.
            ends: int64, where sentences end in ``values``, ascending; the end of each text is among
                them. None if each text is one sentence.
        """
        bounds, added, firsts = self._raw.cut(values, offsets)
        if self._normalizer is not None:
            values = self._keep_added(values, bounds, added)
            values, bounds, ends = self._normalizer.normalize(values, bounds, ends)
        bounds, added, again = self._normalized.cut(values, bounds, added)
        if again is not None:
            firsts = again if firsts is None else again[firsts]
        if self._normalizer is not None:
            is_first = None
            if firsts is not None:
                is_first = np.zeros(len(bounds) - 1, np.bool_)
                is_first[firsts[:-1]] = True
            values = self._keep_added(values, bounds, added)
            values, bounds, ends = self._normalizer.add_prefix(values, bounds, ends, is_first)
        return Segments(values, bounds, NO_ADDED if added is None else added, firsts, ends)

    def _removes_added(self, tokenizer: Tokenizer) -> bool:
        """Return whether nothing would be left of an added token that was normalized."""
        assert self._normalizer is not None  # noqa: S101  the caller has seen it
        rows = chain.from_iterable(read_rows(tokenizer))
        values, offsets = text_arrays([content for content, row in rows if not row["special"]])
        values, bounds, _ = self._normalizer.normalize(values, offsets)
        _, bounds, _ = self._normalizer.add_prefix(values, bounds)
        return not np.diff(bounds).all()

    def _keep_added(self, values: Bytes, bounds: Int64, added: Int64 | None) -> Bytes:
        """Return texts with another character in place of added tokens, if these may be removed."""
        if added is None or not self._removes:
            return values
        found = np.flatnonzero(added >= 0)
        sizes = bounds[found + 1] - bounds[found]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        values = values.copy()
        values[np.repeat(bounds[found], sizes) + within] = ord(_KEPT)
        return values


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
    find_cuts(values, bounds, ends, rules, before, after)
    if len(added):
        owners = np.searchsorted(bounds, ends) - 1
        is_inside = (added[owners] >= 0) & (ends < bounds[owners + 1])
        before = np.where(is_inside, bounds[owners], before)
        after = np.where(is_inside, bounds[owners + 1], after)
    # All three are nearly sorted, which makes this sort fast; numpy.unique hashes first.
    places = np.sort(np.concatenate([bounds, before, after]), kind="stable")
    places = places[np.flatnonzero(np.diff(places, prepend=-1))]
    if len(added):
        added = added[np.searchsorted(bounds, places[:-1], "right") - 1]
    cuts = Cuts(np.searchsorted(places, before), np.searchsorted(places, after))
    return replace(segments, bounds=places, added=added), cuts


def added_obstacles(tokenizer: Tokenizer, *, spaced: bool) -> Iterator[str]:
    """Yield which added tokens need the tokenizer's library.

    Of two tokens that are equal once they are normalized the library takes any.
    """
    raw, normalized = read_rows(tokenizer)
    counts = Counter(content for content, _ in normalized)
    # Where the normalizer keeps spaces, the pre-tokenizer puts U+2581 in their place.
    normalize = _make_normalize(tokenizer)
    keeps_spaces = spaced and " " in normalize("a b")
    marks = (b" ", WORD_BEGINNING.encode()) if keeps_spaces else ()
    for content, row in [*raw, *normalized]:
        name = f"its added token {row['content']!r}"
        for flag in ("lstrip", "rstrip", "single_word"):
            if row[flag] and not row["special"]:
                yield f"{flag} of {name}"
        if not row["special"] and not normalize(_KEPT):
            yield f"{name} and a normalizer that removes digits"
        if row["normalized"] and (content == b"" or counts[content] > 1):
            yield f"{name}, which is normalized to {content.decode()!r}"
        if row["normalized"] and any(mark in content for mark in marks):
            yield f"{name}, which has white space"


def prefix_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield after which normalizers only the library puts a space in front of the first word."""
    if any(part.get("prepend_scheme") == "first" for part in tokenizer.pre_tokenizers):
        # It puts none in front of a text whose first character was removed.
        for part in list_parts(tokenizer.definition["normalizer"]):
            if not _keeps_beginnings(part):
                yield f"prepend_scheme first after the normalizer {part['type']}"


def _keeps_beginnings(part: Mapping[str, Any]) -> bool:
    """Return whether a normalizer never removes the first character of a text.

    Of several characters that are replaced together, the library keeps the last one.
    """
    if part["type"] == "Strip":
        return not part["strip_left"]
    if part["type"] == "Replace":
        return part["content"] != "" and len(part["pattern"].get("String", "")) == 1
    return part["type"] in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend")


def read_rows(tokenizer: Tokenizer) -> list[list[tuple[bytes, Mapping[str, Any]]]]:
    """Return the added tokens to search for before and after normalization, with their contents.

    A kind without a token that text may become is left out.
    """
    kinds: list[list[tuple[bytes, Mapping[str, Any]]]] = [[], []]
    normalize = _make_normalize(tokenizer)
    for row in tokenizer.definition.get("added_tokens", ()):
        content = normalize(row["content"]) if row["normalized"] else row["content"]
        kinds[row["normalized"]].append((content.encode(), row))
    return [rows if any(not row["special"] for _, row in rows) else [] for rows in kinds]


def _make_normalize(tokenizer: Tokenizer) -> Callable[[str], str]:
    part = tokenizer.definition.get("normalizer")
    return make_empty_library(part).normalizer.normalize_str if part else str


class AddedTokens:
    """Added tokens of one kind.

    Args:
        ids: the id of each token by the bytes that are searched for, -1 for a special token; may be
            empty.
    """

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        self._table = _make_table(ids) if ids else None

    def cut(
        self, values: Bytes, bounds: Int64, ids: Int64 | None = None
    ) -> tuple[Int64, Int64 | None, Int64 | None]:
        """Cut texts before and behind each token.

        Args:
            values: uint8, valid UTF-8.
            bounds: int64 ``[num_texts + 1]``, where texts begin in ``values`` and the last ends.
            ids: int64 ``[num_texts]``, -1, or the id of the added token that a text is already;
                None if there are none.

        Returns:
            Where segments begin and the last ends, int64 ``[num_segments + 1]``; the id of the added
            token that each segment is, or -1; and the number of the first segment of each text, and
            of all segments, int64 ``[num_texts + 1]``. A segment is empty only where a text is. If
            no token is found: ``bounds``, ``ids`` and None.
        """
        if self._table is None:
            return bounds, ids, None
        state = np.zeros(STATE_SIZE, np.int64)
        state[[BLOCK, START, REACHED]] = bounds[0]
        before = np.zeros(0, np.int64) if ids is None else ids
        size = len(bounds) + _FIRST_SEGMENTS
        out_bounds = np.empty(size + 1, np.int64)
        out_bounds[0] = bounds[0]
        out_ids = np.empty(size, np.int64)
        firsts = np.zeros(len(bounds), np.int64)
        texts = values, bounds, before, self._table, state
        while not find_added(*texts, out_bounds, out_ids, firsts):
            size *= 2
            out_bounds = np.resize(out_bounds, size + 1)
            out_ids = np.resize(out_ids, size)
        if not state[NUM_FOUND]:
            return bounds, ids, None
        num_segments = int(state[NUM_SEGMENTS])
        return out_bounds[: num_segments + 1], out_ids[:num_segments], firsts


def make_added_tokens(tokenizer: Tokenizer, *, spaced: bool) -> tuple[AddedTokens, AddedTokens]:
    """Return the added tokens to search for in text, before and after its normalization.

    Args:
        tokenizer: for which ``added_obstacles`` yields nothing.
        spaced: whether normalized text has spaces in place of U+2581.
    """
    raw, normalized = (
        {content: PLAIN if row["special"] else row["id"] for content, row in rows}
        for rows in read_rows(tokenizer)
    )
    if spaced:
        mark, space = WORD_BEGINNING.encode(), b" "
        normalized = {content.replace(mark, space): i for content, i in normalized.items()}
    return AddedTokens(raw), AddedTokens(normalized)


def _make_table(ids: Mapping[bytes, int]) -> AddedTable:
    """Return the table of tokens, by content; at least one."""
    contents = sorted(ids)
    is_start = np.zeros(1 << 16, np.bool_)
    seconds: list[int] = []
    counts = []
    for first, group in groupby(contents, key=lambda content: content[0]):
        following = sorted({content[1:2] for content in group})
        if not following[0]:  # the byte is a token
            is_start[first << 8 : (first + 1) << 8] = True
            counts.append(0)
            continue
        is_start[[first << 8 | second[0] for second in following]] = True
        seconds += [second[0] for second in following]
        seconds += seconds[-1:] * (len(following) % 2)
        counts.append((len(following) + 1) // 2)
    firsts = sorted({content[0] for content in contents})
    if len(firsts) + len(seconds) // 2 > _MAX_COMPARED:
        firsts = []
    return AddedTable(
        cells=make_cells(*text_arrays(contents), np.arange(len(contents))),
        ids=np.array([ids[content] for content in contents], np.int64),
        firsts=np.array(firsts, np.int64),
        offsets=np.cumsum([0, *counts]),
        seconds=np.array(seconds, np.int64).reshape(-1, 2),
        is_start=is_start,
    )
