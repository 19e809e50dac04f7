"""Learns a vocabulary from words and their counts, whatever its model.

Tokens have their ids in this order, and those made by merging in the order of the merges:

    wordpiece   [PAD] [UNK] [CLS] [SEP] [MASK]   [unused0] …     ! g n o   ##n ##o   on ##on go …
    bpe         [PAD] [UNK] [CLS] [SEP] [MASK]   [unused0] …     ! " # … Ġ ġ …       Ġt he Ġthe …
    metaspace   [PAD] [UNK] [CLS] [SEP] [MASK]   <0x00> … <0xFF> ! g n o ▁           ▁t he ▁the …
                special tokens                   for later use   alphabet            merged

Byte-level BPE is what the trainer of the tokenizers library learns. Its WordPiece trainer gives
another vocabulary at every run, since it numbers the pieces ``##c`` in the order in which a hash
table yields the words; given the alphabet in order, as above, it learns what is learned here. The
library's ``max_token_length`` is one more than ours: its tokens are shorter than it.

The alphabet of a WordPiece vocabulary are the most frequent characters of all words; of two that
occur as often, the one with the lower code point first. A character is a token by itself, and
if some word has it after its beginning, ``##c`` is one, too. For "Go on!":

    counts       o 2   g 1   n 1   ! 1        (uncased)
    characters   ! g n o
    continuing   n o                          ##n ##o

Characters that the user names go before all others, whether they occur or not.

A unigram vocabulary is learned by sentencepiece; see ``tokkit.vocab.unigram_trainer``.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from tokkit import __version__
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import read_whole
from tokkit.errors import TokkitError, UsageError
from tokkit.kernels.arrays import Int32
from tokkit.kernels.vocab.merge_by_frequency import merge_by_frequency
from tokkit.kernels.vocab.merge_by_likelihood import merge_by_likelihood
from tokkit.kernels.vocab.symbols import NO_SYMBOL, Words, count_characters, lay_out_words
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    WORD_BEGINNING,
    byte_level_alphabet,
    byte_level_bpe,
    fallback_tokens,
    mark_special_tokens,
    metaspace_bpe,
    wordpiece,
)
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counts import WordCounts

_MAX_ALPHABET_BYTES = 1 << 24  # four times all of Unicode
_LARGEST = (1 << 31) - 1

Merger = Callable[[Words, Int32, int, int, int], Int32]


@dataclass(frozen=True)
class LearnedVocabulary:
    """A vocabulary as a tokenizer's files have it.

    Attributes:
        definition: content of ``tokenizer.json``.
        trainer: name and version of what learned it.
        model: content of a sentencepiece ``.model``; empty for other kinds.
    """

    definition: dict[str, Any]
    trainer: str
    model: bytes = b""


def learn(config: TrainConfig, words: WordCounts, accounts: Accounts) -> LearnedVocabulary:
    """Learn a vocabulary.

    Args:
        config: what to learn, and how; the caller holds the lock of its output folder.
        words: words to learn from.
        accounts: receives what was kept and dropped of the characters (``wordpiece``).

    Raises:
        TokkitError: if the words give fewer tokens than ``vocab_size``, or single characters alone
            are more.
    """
    if config.model == "unigram":
        import sentencepiece

        from tokkit.vocab.unigram_trainer import define_unigram, train_apart

        model = train_apart(config, words)
        definition = define_unigram(model, config.special_tokens)
        return LearnedVocabulary(definition, f"sentencepiece {sentencepiece.__version__}", model)
    if config.model == "bpe" and not config.metaspace:
        return LearnedVocabulary(train_bpe(config, words), f"tokkit {__version__}")
    train = train_metaspace_bpe if config.metaspace else train_wordpiece
    definition, alphabet = train(config, words)
    accounts.add("characters", alphabet.num_characters)
    accounts.keep("characters", alphabet.num_characters - alphabet.num_removed)
    accounts.drop("characters", "beyond --limit-alphabet", alphabet.num_removed)
    accounts.count("distinct_characters", alphabet.num_distinct)
    accounts.count("alphabet", len(alphabet.characters))
    return LearnedVocabulary(definition, f"tokkit {__version__}")


@dataclass(frozen=True)
class Alphabet:
    """The characters that a vocabulary is made of.

    Attributes:
        characters: kept characters, by code point.
        continuing: kept characters that occur after the beginning of a word, by code point.
        num_distinct: number of different characters in the words.
        num_characters: number of occurrences of characters in the words.
        num_removed: number of occurrences of characters that were not kept.
    """

    characters: tuple[str, ...]
    continuing: tuple[str, ...]
    num_distinct: int
    num_characters: int
    num_removed: int


def count_alphabet(
    words: WordCounts, limit: int, initial: AbstractSet[str] = frozenset()
) -> Alphabet:
    """Return the alphabet of some words.

    Args:
        words: UTF-8, normalized.
        limit: number of characters to keep.
        initial: characters that go before all others.

    Example:
        >>> words = WordCounts(np.frombuffer(b"goon", np.uint8), np.array([0, 2, 4]), np.array([1, 1]))
        >>> count_alphabet(words, 2).characters
        ('g', 'o')
    """
    counts = np.zeros(UNICODE_SIZE, np.int64)
    continues = np.zeros(UNICODE_SIZE, np.bool_)
    count_characters(words.values, words.offsets, words.counts, counts, continues)
    occurring = np.flatnonzero(counts).tolist()
    named = {ord(char) for char in initial}
    by_rank = sorted(
        named.union(occurring), key=lambda code: (code not in named, -counts[code], code)
    )
    kept = sorted(by_rank[:limit])
    return Alphabet(
        characters=tuple(map(chr, kept)),
        continuing=tuple(chr(code) for code in kept if continues[code]),
        num_distinct=len(occurring),
        num_characters=int(counts.sum()),
        num_removed=int(counts.sum() - counts[kept].sum()),
    )


def read_characters(path: Path) -> str:
    """Read the file of characters that ``--initial-alphabet`` names.

    Raises:
        TokkitError: if it cannot be read, or is not UTF-8.
    """
    try:
        return read_whole(path, _MAX_ALPHABET_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokkitError(
            f"{path}: invalid UTF-8 at byte {error.start}; --initial-alphabet takes UTF-8"
        ) from error


def train_wordpiece(config: TrainConfig, words: WordCounts) -> tuple[dict[str, Any], Alphabet]:
    """Learn a WordPiece vocabulary like BERT's.

    Args:
        config: sizes, score, special tokens and normalization.
        words: UTF-8, normalized.

    Returns:
        The content of ``tokenizer.json``, and the alphabet.

    Raises:
        TokkitError: see ``learn``.
    """
    normalizer = normalizers.BertNormalizer(
        lowercase=not config.cased, strip_accents=config.strip_accents
    )
    _refuse_words(
        config, normalizer, pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    )
    initial: set[str] = set()
    if config.initial_alphabet is not None:
        text = normalizer.normalize_str(read_characters(config.initial_alphabet))
        initial.update(*text.split())
    alphabet = count_alphabet(words, config.limit_alphabet, initial)
    first = {ord(char): char for char in alphabet.characters}
    following = {ord(char): CONTINUING_SUBWORD_PREFIX + char for char in alphabet.continuing}
    ids, _ = _learn_tokens(
        config,
        words,
        [*first.values(), *following.values()],
        (first, following),
        merger=merge_by_likelihood if config.score == "likelihood" else merge_by_frequency,
        prefix=CONTINUING_SUBWORD_PREFIX,
    )
    definition = wordpiece(
        ids,
        unknown="[UNK]",
        lowercase=not config.cased,
        strip_accents=config.strip_accents,
        split_digits=config.split_digits,
    )
    return mark_special_tokens(definition, config.special_tokens), alphabet


def train_bpe(config: TrainConfig, words: WordCounts) -> dict[str, Any]:
    """Learn a byte-level BPE vocabulary like GPT-2's, with any special tokens.

    Args:
        config: sizes and special tokens.
        words: matches of the split pattern, as bytes of text.

    Returns:
        The content of ``tokenizer.json``.

    Raises:
        TokkitError: see ``learn``.
    """
    split = pre_tokenizers.Split(Regex(config.split_pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = pre_tokenizers.Sequence([split, byte_level])
    _refuse_words(config, None, splits, decoders.ByteLevel())
    spellings = byte_level_alphabet()
    symbols = dict(enumerate(spellings))
    ids, merges = _learn_tokens(config, words, sorted(spellings), (symbols, symbols), as_bytes=True)
    definition = byte_level_bpe(
        ids,
        merges,
        split_digits=config.split_digits,
        pattern=config.split_pattern,
        normalizer=config.normalizer,
    )
    return mark_special_tokens(definition, config.special_tokens)


def train_metaspace_bpe(config: TrainConfig, words: WordCounts) -> tuple[dict[str, Any], Alphabet]:
    """Learn a BPE vocabulary of characters, whose words begin with ``\u2581``.

    Args:
        config: sizes, special tokens and normalization.
        words: UTF-8, normalized, with a space for ``\u2581``.

    Returns:
        The content of ``tokenizer.json``, and the alphabet.

    Raises:
        TokkitError: see ``learn``.
    """
    initial = {" "}
    if config.initial_alphabet is not None:
        initial.update(*read_characters(config.initial_alphabet).split())
    alphabet = count_alphabet(words, config.limit_alphabet, initial - {WORD_BEGINNING})
    symbols = {ord(char): char.replace(" ", WORD_BEGINNING) for char in alphabet.characters}
    outside = fallback_tokens() if config.byte_fallback else []
    ids, merges = _learn_tokens(
        config, words, sorted(symbols.values()), (symbols, symbols), outside=outside
    )
    definition = metaspace_bpe(
        ids,
        merges,
        unknown=str(config.unknown_token),
        byte_fallback=config.byte_fallback,
        normalizer=config.normalizer,
    )
    return mark_special_tokens(definition, config.special_tokens), alphabet


def _refuse_words(
    config: TrainConfig,
    normalizer: normalizers.Normalizer | None,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    decoder: decoders.Decoder,
) -> None:
    """Refuse a special token that is a word, since words of text would become it.

    ``[PAD]`` is three words to both pre-tokenizers, so no merge can make it.
    """
    for token in config.special_tokens:
        text = decoder.decode([token]).removeprefix(CONTINUING_SUBWORD_PREFIX)
        normalized = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(normalized)]
        if words in ([token], [token.removeprefix(CONTINUING_SUBWORD_PREFIX)]):
            raise UsageError(
                f"--special-token {token}: text has such words, which would become this special "
                f"token; add punctuation, as in [{token}]"
            )


def _learn_tokens(
    config: TrainConfig,
    words: WordCounts,
    symbols: list[str],
    spellings: tuple[Mapping[int, str], Mapping[int, str]],
    *,
    outside: Sequence[str] = (),
    merger: Merger = merge_by_frequency,
    prefix: str = "",
    as_bytes: bool = False,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn merges, and return the ids of all tokens, and the merges by rank.

    Args:
        config: sizes and special tokens.
        words: words to learn from.
        symbols: tokens of the alphabet, in the order of their ids.
        spellings: the symbol of each code point, or byte, where it begins a word, and where it
            continues one.
        outside: tokens before the alphabet that are not merged.
        merger: kernel that learns.
        prefix: prefix of a token that continues a word.
        as_bytes: whether words consist of bytes, in place of characters.

    Raises:
        TokkitError: see ``learn``; or if merges make a special token, which text must not become.
    """
    if len(words.values) + len(words) + 1 > _LARGEST:  # positions of symbols have 32 bits
        raise TokkitError(
            f"the distinct words have {len(words.values):,} bytes, more than can be learned from; "
            f"pass --min-word-count {int(words.counts.min()) + 1} or less text"
        )
    tokens = [*config.special_tokens, *config.unused_tokens, *outside, *symbols]
    first = len(tokens)
    if first > config.vocab_size:
        raise TokkitError(
            f"--vocab-size {config.vocab_size}: less than the {first} tokens that special tokens "
            f"and single characters take; raise it, or lower --limit-alphabet"
        )
    ids = {token: number for number, token in enumerate(tokens)}
    tables = np.full((2, UNICODE_SIZE), NO_SYMBOL, np.int32)
    for table, spelled in zip(tables, spellings, strict=True):
        table[list(spelled)] = [ids[symbol] for symbol in spelled.values()]
    laid_out = lay_out_words(words.values, words.offsets, words.counts, *tables, as_bytes=as_bytes)
    lengths = np.zeros(min(config.vocab_size, first + len(laid_out.cells)), np.int32)
    lengths[first - len(symbols) : first] = 1
    limit = _LARGEST if config.max_token_length is None else config.max_token_length
    merges = []
    for left, right in merger(laid_out, lengths, first, config.min_frequency, limit).tolist():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right].removeprefix(prefix))
    if len(tokens) < config.vocab_size:
        raise TokkitError(
            f"--vocab-size {config.vocab_size}: the corpus gives {len(tokens):,} tokens with "
            f"--min-frequency {config.min_frequency}; pass --vocab-size {len(tokens)} or less, "
            f"or more text"
        )
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        token = Counter(tokens).most_common(1)[0][0]
        raise TokkitError(
            f"the corpus contains {token} so often that it would be learned as an ordinary token; "
            f"remove it from the text, or pass other tokens as --special-token"
        )
    return ids, merges
