"""Learning a vocabulary from words and their counts.

Entries have their ids in this order, and those that merging gives in the order of the merges:

    wordpiece   [PAD] [UNK] [CLS] [SEP] [MASK]   [unused0] …   ! g n o   ##n ##o   on ##on go …
    bpe         the same                         likewise      ! " # … Ġ ġ …       Ġt he Ġthe …
                control tokens                   for later     alphabet            merged

Byte-level BPE comes out as from the trainer of the tokenizers library. Its WordPiece comes out as
another vocabulary at every run, since the trainer numbers the pieces ``##c`` in the order in which
a hash table yields the words; what it gives when it is handed the alphabet in order, as above, is
what comes out here.

The library's ``max_token_length`` is one more than ours: its entries stay below it.

The alphabet of a corpus: which characters a WordPiece vocabulary is made of.

The characters of all words are counted, and the most frequent are kept, of two that occur as often
the one with the lower code point. A kept character is an entry by itself, and where some word has
it after its beginning, ``##c`` is one too. Of "Go on!":

    counts       o 2   g 1   n 1   ! 1        (uncased)
    characters   ! g n o
    continuing   n o                          ##n ##o

Characters that the user names go before all others, whether they occur or not.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import decoders, normalizers, pre_tokenizers

from tokkit.errors import TokkitError, UsageError
from tokkit.kernels.vocab.merge_by_frequency import merge_by_frequency
from tokkit.kernels.vocab.merge_by_likelihood import merge_by_likelihood
from tokkit.kernels.vocab.symbols import NO_SYMBOL, Words, count_characters, lay_out_words
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    byte_level_alphabet,
    byte_level_bpe,
    mark_special_tokens,
    wordpiece,
)
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counts import WordCounts


@dataclass(frozen=True)
class Alphabet:
    """The characters that were kept, and how many were not.

    Attributes:
        characters: kept, by code point.
        continuing: those of them that occur after the beginning of a word.
        num_distinct: different characters of the words.
        num_characters: occurrences of characters in the words.
        num_removed: occurrences of those that were not kept.
    """

    characters: tuple[str, ...]
    continuing: tuple[str, ...]
    num_distinct: int
    num_characters: int
    num_removed: int


def count_alphabet(
    words: WordCounts, limit: int, initial: AbstractSet[str] = frozenset()
) -> Alphabet:
    """The alphabet of some words.

    Args:
        words: UTF-8, normalized.
        limit: how many characters are kept.
        initial: characters that go before all others.

    Example:
        >>> count_alphabet(WordCounts.from_mapping({b"go": 1, b"on": 1}), 2).characters
        ('g', 'o')
    """
    counts = np.zeros(UNICODE_SIZE, np.int64)
    continues = np.zeros(UNICODE_SIZE, np.bool_)
    count_characters(words.values, words.offsets, words.counts, counts, continues)
    occurring = np.flatnonzero(counts).tolist()
    named = {ord(char) for char in initial}
    kept = sorted(
        sorted(named.union(occurring), key=lambda code: (code not in named, -counts[code], code))[
            :limit
        ]
    )
    return Alphabet(
        characters=tuple(map(chr, kept)),
        continuing=tuple(chr(code) for code in kept if continues[code]),
        num_distinct=len(occurring),
        num_characters=int(counts.sum()),
        num_removed=int(counts.sum() - counts[kept].sum()),
    )


def read_characters(path: Path) -> str:
    """The text of a file of characters, for ``--initial-alphabet``.

    Raises:
        TokkitError: where there is none, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TokkitError(
            f"{path}: {error.strerror}; --initial-alphabet takes a file of characters"
        ) from error
    except UnicodeDecodeError as error:
        raise TokkitError(
            f"{path}: invalid UTF-8 at byte {error.start}; --initial-alphabet takes UTF-8"
        ) from error


_ANY_LENGTH = (1 << 31) - 1
_MAX_CELLS = (1 << 31) - 1

Ids = npt.NDArray[np.int32]
Merger = Callable[[Words, Ids, int, int, int], Ids]


def train_wordpiece(config: TrainConfig, words: WordCounts) -> tuple[dict[str, Any], Alphabet]:
    """Learn a WordPiece vocabulary as BERT has it.

    Args:
        config: sizes, score, special tokens and normalization.
        words: normalized, UTF-8.

    Returns:
        The object of a ``tokenizer.json``, and the alphabet.

    Raises:
        TokkitError: where the alphabet alone is more than ``vocab_size``, or the words do not give
            so many entries.
    """
    normalizer = normalizers.BertNormalizer(
        lowercase=not config.cased, strip_accents=config.strip_accents
    )
    _refuse_words(
        config, normalizer, pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    )
    _refuse_size(words)
    initial: set[str] = set()
    if config.initial_alphabet is not None:
        text = normalizer.normalize_str(read_characters(config.initial_alphabet))
        initial.update(*text.split())
    alphabet = count_alphabet(words, config.limit_alphabet, initial)
    tokens = [
        *_reserved(config),
        *alphabet.characters,
        *(CONTINUING_SUBWORD_PREFIX + char for char in alphabet.continuing),
    ]
    ids = {token: number for number, token in enumerate(tokens)}
    first_ids = np.full(UNICODE_SIZE, NO_SYMBOL, np.int32)
    next_ids = first_ids.copy()
    for char in alphabet.characters:
        first_ids[ord(char)] = ids[char]
    for char in alphabet.continuing:
        next_ids[ord(char)] = ids[CONTINUING_SUBWORD_PREFIX + char]
    num_symbols = len(alphabet.characters) + len(alphabet.continuing)
    laid_out = _lay_out(words, first_ids, next_ids, as_bytes=False)
    merger = merge_by_likelihood if config.score == "likelihood" else merge_by_frequency
    _merge(config, laid_out, tokens, num_symbols, merger, prefix=CONTINUING_SUBWORD_PREFIX)
    definition = wordpiece(
        {token: number for number, token in enumerate(tokens)},
        unknown="[UNK]",
        named={},
        lowercase=not config.cased,
        strip_accents=config.strip_accents,
        split_digits=config.split_digits,
    )
    return mark_special_tokens(definition, tokens, config.special_tokens), alphabet


def train_bpe(config: TrainConfig, words: WordCounts) -> dict[str, Any]:
    """Learn a byte-level BPE vocabulary as GPT-2 has it, with control tokens of one's choice.

    Args:
        config: sizes and special tokens.
        words: pieces of GPT-2's split pattern, as bytes of text.

    Returns:
        The object of a ``tokenizer.json``.

    Raises:
        TokkitError: where the words do not give as many entries as ``vocab_size``.
    """
    _refuse_words(
        config, None, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    )
    _refuse_size(words)
    spellings = byte_level_alphabet()
    tokens = [*_reserved(config), *sorted(spellings)]
    ids = {token: number for number, token in enumerate(tokens)}
    byte_ids = np.array([ids[spelling] for spelling in spellings], np.int32)
    laid_out = _lay_out(words, byte_ids, byte_ids, as_bytes=True)
    merges = _merge(config, laid_out, tokens, len(spellings), merge_by_frequency, prefix="")
    definition = byte_level_bpe(
        {token: number for number, token in enumerate(tokens)},
        merges,
        named={},
        add_prefix_space=False,
        split_digits=config.split_digits,
    )
    return mark_special_tokens(definition, tokens, config.special_tokens)


def _reserved(config: TrainConfig) -> list[str]:
    """The entries that text never becomes: control tokens, and those for later use."""
    return [*config.special_tokens, *config.unused_tokens]


def _refuse_size(words: WordCounts) -> None:
    """Refuse more words than places of 32 bits can tell apart."""
    size = len(words.values) + len(words) + 1
    if size > _MAX_CELLS:
        raise TokkitError(
            f"the distinct words have {len(words.values):,} bytes, more than can be learned from; "
            f"pass --min-word-count {int(words.counts.min()) + 1} or less text"
        )


def _lay_out(words: WordCounts, first_ids: Ids, next_ids: Ids, *, as_bytes: bool) -> Words:
    """The words as symbols; the counts are copied, since compiled code tells read-only arrays."""
    return lay_out_words(
        words.values, words.offsets, words.counts.copy(), first_ids, next_ids, as_bytes=as_bytes
    )


def _merge(
    config: TrainConfig,
    words: Words,
    tokens: list[str],
    num_symbols: int,
    merger: Merger,
    *,
    prefix: str,
) -> list[tuple[str, str]]:
    """Learn the merges, and append to ``tokens`` what they make.

    Args:
        config: sizes.
        words: are changed.
        tokens: reserved entries and alphabet.
        num_symbols: entries of the alphabet, which are the last.
        merger: kernel that learns.
        prefix: what an entry that continues a word begins with.
    """
    first = len(tokens)
    if first > config.vocab_size:
        raise TokkitError(
            f"--vocab-size {config.vocab_size}: less than the {first} entries that special "
            f"tokens and single characters take; raise it, or lower --limit-alphabet"
        )
    lengths = np.zeros(min(config.vocab_size, first + len(words.cells)), np.int32)
    lengths[first - num_symbols : first] = 1
    limit = _ANY_LENGTH if config.max_token_length is None else config.max_token_length
    merged = merger(words, lengths, first, max(config.min_frequency, 1), limit)
    merges = []
    for left, right in merged.tolist():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right].removeprefix(prefix))
    _refuse_shortage(config, tokens)
    return merges


def _refuse_shortage(config: TrainConfig, tokens: Sequence[str]) -> None:
    """Refuse a vocabulary that the corpus cannot fill."""
    if len(tokens) < config.vocab_size:
        raise TokkitError(
            f"--vocab-size {config.vocab_size}: the corpus gives {len(tokens):,} entries with "
            f"--min-frequency {config.min_frequency}; pass --vocab-size {len(tokens)} or less, "
            f"or more text"
        )


def _refuse_words(
    config: TrainConfig,
    normalizer: normalizers.Normalizer | None,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    decoder: decoders.Decoder,
) -> None:
    """Refuse a control token that is a word, since words of text would become it.

    ``[PAD]`` is three words to both pre-tokenizers, so that no merge can make it.
    """
    for token in config.special_tokens:
        text = decoder.decode([token]).removeprefix(CONTINUING_SUBWORD_PREFIX)
        normalized = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(normalized)]
        if words in ([token], [token.removeprefix(CONTINUING_SUBWORD_PREFIX)]):
            raise UsageError(
                f"--special-token {token}: text has such words, which would become this control "
                f"token; set it apart, as in [{token}]"
            )
