"""Makes tokenizers for tests of exactness, and the reference implementation of any tokenizer."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from hardtexts import alphabet, random_texts
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from reference.bpe import ByteLevelBPE
from reference.wordpiece import WordPiece
from tokkit.tokenizer.definitions import byte_level_alphabet, byte_level_bpe, wordpiece
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.tokenizer import Tokenizer, make_tokenizer

FLAGS = [
    dict(
        zip(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), row, strict=True)
    )
    for row in product((True, False), (True, False), (None, True, False), (True, False))
]

FLAG_NAMES = ["clean={} han={} strip={} lower={}".format(*flags.values()) for flags in FLAGS]
# Rows in which any two values of two flags meet; in every other of them is each value of a flag.
PAIRED_FLAGS = (0, 3, 17, 10, 20, 19)


def rows_of_flags(part: int, *, full: bool) -> Iterable[int]:
    """Return one of ``PAIRED_FLAGS``, or a part of all rows that is as large as any other."""
    return range(part, len(FLAGS), len(PAIRED_FLAGS)) if full else (PAIRED_FLAGS[part],)


def twin_of(tokenizer: Tokenizer) -> WordPiece | ByteLevelBPE:
    """Return the reference implementation of a tokenizer, with the library's tables of characters."""
    library, model = tokenizer.library, tokenizer.definition["model"]
    assert library is not None
    assert library.pre_tokenizer is not None
    if tokenizer.kind == "bpe":
        return ByteLevelBPE(
            kind=kind_for_gpt2,
            ids=model["vocab"],
            ranks={tuple(pair): rank for rank, pair in enumerate(model["merges"])},
            add_prefix_space=tokenizer.definition["pre_tokenizer"]["add_prefix_space"],
        )
    assert library.normalizer is not None
    cut = library.pre_tokenizer.pre_tokenize_str
    kinds = ("letter", "space", "punctuation")
    return WordPiece(
        normalize=functools.cache(library.normalizer.normalize_str),
        kind=functools.cache(lambda char: kinds[len(cut(f"a{char}b")) - 1]),
        ids=model["vocab"],
        unknown=model["unk_token"],
        prefix=model["continuing_subword_prefix"],
        max_chars=model["max_input_chars_per_word"],
    )


@functools.cache
def kind_for_gpt2(char: str) -> str:
    r"""Return which of the library's ``\p{L}``, ``\p{N}`` and ``\s`` matches a character."""
    for kind, pattern in (("letter", r"\p{L}"), ("number", r"\p{N}"), ("space", r"\s")):
        if not Split(Regex(pattern), "removed").pre_tokenize_str(char):
            return kind
    return "other"


def make_wordpiece(
    entries: Iterable[str],
    name: str = "made",
    *,
    unknown: str = "[UNK]",
    flags: Mapping[str, Any] | None = None,
    added: Sequence[dict[str, Any]] = (),
    **model: Any,
) -> Tokenizer:
    """Return BERT's tokenizer with these tokens.

    Args:
        entries: the tokens.
        name: of its file.
        unknown: the token for unknown words.
        flags: options of the normalizer.
        added: rows of added tokens.
        model: options of the model.
    """
    ids = {entry: number for number, entry in enumerate(dict.fromkeys((*entries, unknown)))}
    form = wordpiece(ids, unknown=unknown, lowercase=True, strip_accents=None)
    form["added_tokens"] = list(added)
    form["normalizer"].update(flags or {})
    form["model"].update(model)
    return make_tokenizer(TokenizerFiles(Path(f"{name}.json"), form))


def make_bpe(
    merges: Iterable[Sequence[str]],
    name: str = "made",
    *,
    without: str = "",
    extra: Iterable[str] = (),
    seed: int = 0,
    add_prefix_space: bool = False,
    **model: Any,
) -> Tokenizer:
    """Return byte-level BPE with the bytes, without some, and merged tokens, the ids in any order."""
    merges = [list(pair) for pair in merges]
    alphabet = [char for char in byte_level_alphabet() if char not in without]
    entries = list(dict.fromkeys((*alphabet, *extra, *map("".join, merges))))
    order = np.random.default_rng(seed).permutation(len(entries)).tolist()
    ids = {entries[place]: number for number, place in enumerate(order)}
    form = byte_level_bpe(ids, merges, add_prefix_space=add_prefix_space)
    form["model"].update(model)
    return make_tokenizer(TokenizerFiles(Path(f"{name}.json"), form))


@functools.lru_cache(maxsize=1)
def bert_of_characters(flags: int, *, full: bool) -> Tokenizer:
    """Return BERT's tokenizer whose tokens are all characters, so that no word is unknown."""
    chars = alphabet(full=full)
    entries = [*chars, *(f"##{char}" for char in chars)]
    return make_wordpiece(entries, FLAG_NAMES[flags], flags=FLAGS[flags])


@functools.cache
def bpe_of_pairs(*, add_prefix_space: bool) -> Tokenizer:
    """Return byte-level BPE that merges the bytes of many characters, in part and in full."""
    alphabet = byte_level_alphabet()
    draws = np.random.default_rng(7)
    texts = [word for text in random_texts(200, 7) for word in text.split(" ")]
    words = [[alphabet[byte] for byte in f" {word}".encode()] for word in texts]
    pairs = {(word[i], word[i + 1]) for word in words for i in range(len(word) - 1)}
    merges = sorted(pairs)
    draws.shuffle(merges)
    merges += [("".join(pair), byte) for pair in merges[::3] for byte in "abĠÃĤ'"]
    name = f"pairs, add_prefix_space={add_prefix_space}"
    return make_bpe(merges, name, seed=3, add_prefix_space=add_prefix_space)


@st.composite
def wordpieces(draw: st.DrawFn) -> Tokenizer:
    """Any WordPiece over a few characters."""
    prefix = draw(st.sampled_from(["##", "@@", "", "a", "é"]))
    words = draw(st.lists(st.text("abé#@0\u0301字.", max_size=6), max_size=25))
    inner = draw(st.lists(st.text("abé#@0\u0301字.", max_size=5), max_size=25))
    booleans = st.booleans()
    return make_wordpiece(
        [*words, *(prefix + word for word in inner)],
        flags={
            "clean_text": draw(booleans),
            "handle_chinese_chars": draw(booleans),
            "strip_accents": draw(st.sampled_from([None, True, False])),
            "lowercase": draw(booleans),
        },
        unknown=draw(st.sampled_from(["[UNK]", "a", "ab", "?", ""])),
        continuing_subword_prefix=prefix,
        max_input_chars_per_word=draw(st.sampled_from([1, 2, 5, 100])),
    )


@st.composite
def bpes(draw: st.DrawFn) -> Tokenizer:
    """Any byte-level BPE that merges a few characters, in any order, some merges twice."""
    entries = ["a", "b", "Ġ", "Ã", "©", "'"]
    merges = []
    for _ in range(draw(st.integers(0, 14))):
        pair = draw(st.tuples(st.sampled_from(entries), st.sampled_from(entries)))
        merges.append(pair)
        if len("".join(pair)) < 12:
            entries.append("".join(pair))
    doubled = draw(st.lists(st.sampled_from(merges), max_size=3)) if merges else []
    return make_bpe(
        draw(st.permutations([*merges, *doubled])),
        without=draw(st.sampled_from(["", "c", "cĊ."])),
        seed=draw(st.integers(0, 100)),
        add_prefix_space=draw(st.booleans()),
    )


@st.composite
def ordered_bpes(draw: st.DrawFn) -> Tokenizer:
    """Byte-level BPE as trainers make it: a merge for each token, after the merges of its parts."""
    entries = ["a", "b", "Ġ", *(byte_level_alphabet()[byte] for byte in "é字".encode())]
    merges = []
    for _ in range(draw(st.integers(0, 20))):
        pair = draw(st.tuples(st.sampled_from(entries), st.sampled_from(entries)))
        if "".join(pair) not in entries:
            merges.append(pair)
            entries.append("".join(pair))
    return make_bpe(merges, seed=draw(st.integers(0, 100)), add_prefix_space=draw(st.booleans()))
