"""Which kernel encodes for a tokenizer, or why its own library must."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tokkit.tokenizer.definitions import list_parts
from tokkit.tokenizer.encoded import NO_ID, forbidden_mask, read_merges, read_token_bytes
from tokkit.tokenizer.metaspace_vocabulary import is_metaspace_bpe, metaspace_obstacles
from tokkit.tokenizer.piece_vocabulary import PieceProcessor
from tokkit.tokenizer.segments import text_obstacles
from tokkit.tokenizer.split_pattern import PatternParser, UnknownPatternError
from tokkit.tokenizer.splitter import TextSplitter, read_levels
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall
from tokkit.tokenizer.unigram_vocabulary import is_unigram, unigram_obstacles

_MAX_MERGES = 1 << 26  # ranks that fit in the keys of ``tokkit.kernels.encode.bpe_merges``
_MAX_WORD_CHARS = 1 << 20


class KernelChoice(NamedTuple):
    """The answer to which kernel encodes.

    Attributes:
        name: ``wordpiece``, ``bpe``, ``metaspace-bpe``, ``unigram``, or None for the tokenizer's own
            library.
        obstacle: the feature that no kernel supports, as a phrase; empty with a kernel.
    """

    name: str | None
    obstacle: str = ""


@lru_cache(maxsize=1)
def choose_kernel(tokenizer: Tokenizer) -> KernelChoice:
    """Return which kernel gives the ids of a tokenizer."""
    return recall(tokenizer.digest, "kernel", lambda: _choose(tokenizer))


def _choose(tokenizer: Tokenizer) -> KernelChoice:
    obstacles: Iterator[str]
    if isinstance(tokenizer.processor, PieceProcessor):
        return KernelChoice(None, "pieces that are looked up in another vocabulary")
    if tokenizer.kind == "wordpiece":
        name, obstacles = "wordpiece", _wordpiece_obstacles(tokenizer)
    elif is_metaspace_bpe(tokenizer):
        name, obstacles = "metaspace-bpe", metaspace_obstacles(tokenizer)
    elif tokenizer.kind == "bpe":
        name, obstacles = "bpe", _byte_level_obstacles(tokenizer)
    elif is_unigram(tokenizer):
        name, obstacles = "unigram", unigram_obstacles(tokenizer)
    else:
        return KernelChoice(None, f"a {tokenizer.kind} model")
    obstacle = next(obstacles, "")
    return KernelChoice(None if obstacle else name, obstacle)


def _wordpiece_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel of BERT's tokenizer does not know."""
    model = tokenizer.definition["model"]
    if tokenizer.pipeline != "bert":
        yield "a normalizer, pre-tokenizer or added token that BERT's tokenizer lacks"
    elif model["unk_token"] not in model["vocab"]:
        yield "no token for unknown words"
    elif model["max_input_chars_per_word"] > _MAX_WORD_CHARS:
        yield f"words of {model['max_input_chars_per_word']:,} characters"


def _byte_level_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel of byte-level BPE does not know."""
    definition = tokenizer.definition
    parts = list_parts(definition["pre_tokenizer"])
    places = [place for place, part in enumerate(parts) if part["type"] == "ByteLevel"]
    if len(places) != 1:
        yield "BPE without one pre-tokenizer ByteLevel"
        return
    adds_space = parts[places[0]]["add_prefix_space"]
    if places[0] and adds_space:
        yield "a space added to words"
    try:
        list(read_levels(definition["pre_tokenizer"], PatternParser()))
    except UnknownPatternError as error:
        yield str(error)
    yield from text_obstacles(tokenizer, spaced=False)
    if adds_space and not all(row["special"] for row in definition["added_tokens"]):
        yield "a space added to texts and added tokens"
    yield from _merge_obstacles(tokenizer)


def _merge_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel does not know of a model of bytes and their merges."""
    model = tokenizer.definition["model"]
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model[option]:
            yield f"a {option} in BPE"
    if len(model["merges"]) >= _MAX_MERGES:
        yield f"{len(model['merges']):,} merges"
        return
    byte_ids, _, _, merged_ids = read_merges(tokenizer)
    is_missing = byte_ids == NO_ID
    if is_missing.any() and (model["unk_token"] is not None or model["byte_fallback"]):
        yield "bytes without a token"
    reachable = np.concatenate([byte_ids[~is_missing], merged_ids])
    if model.get("ignore_merges"):
        reachable = np.fromiter(model["vocab"].values(), np.int64)
    special = reachable[forbidden_mask(tokenizer)[reachable]]
    if len(special):
        splitter = TextSplitter(tokenizer.definition["pre_tokenizer"])
        for number in special.tolist():
            values, _ = read_token_bytes([tokenizer.tokens[number]])
            if not splitter.is_always_cut(values.tobytes()):
                yield f"its special token {tokenizer.tokens[number]!r}, which merges make of text"
