"""Learning a vocabulary with the trainers of the tokenizers library, made repeatable.

Byte-level BPE comes out the same at every run: its alphabet is the 256 bytes, sorted, and pairs
that occur as often are merged in the order of their ids.

WordPiece does not. Its trainer numbers the pieces ``##c`` in the order in which a hash table
yields the words, so ids differ from run to run, with them the order of pairs that occur as often,
and soon the vocabulary. So the alphabet is counted first and handed over complete and in order, as
if its pieces were control tokens; these get the first ids:

    [PAD] [UNK] [CLS] [SEP] [MASK]   ! g n o   ##n ##o   then what merging gives
    control tokens                   alphabet            on  go ...

Afterwards the tokenizer is made anew from the bare vocabulary, where only the true control tokens
are special. A limited alphabet, too, is settled by the count: among characters that occur as
often, the trainer would keep any.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tokkit.errors import TokkitError, UsageError
from tokkit.vocab.alphabet import Alphabet, AlphabetCounter
from tokkit.vocab.characters import CharacterTable
from tokkit.vocab.config import TrainConfig
from tokkit.vocab.cutting import cut_at_spaces, cut_at_words
from tokkit.vocab.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    byte_level_bpe,
    mark_control_tokens,
    wordpiece,
)

# The trainers' time grows with the square of a word's length. What a longer word has beyond this
# is not learned from: the word is cut short for WordPiece, and into several for BPE.
LONGEST_WORD = 1 << 14

Pass = Callable[[], Iterator[list[str]]]


def train_wordpiece(config: TrainConfig, read: Pass) -> tuple[dict[str, Any], Alphabet]:
    """Learn a WordPiece vocabulary as BERT has it.

    Args:
        config: sizes, special tokens and normalization.
        read: starts a pass over the corpus, in batches of documents; it is called twice.

    Returns:
        The object of a ``tokenizer.json``, and the alphabet.

    Raises:
        TokkitError: where the alphabet alone is more than ``vocab_size``.
    """
    normalizer = normalizers.BertNormalizer(
        lowercase=not config.cased, strip_accents=config.strip_accents
    )
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _refuse_words(config, normalizer, pre_tokenizer, decoders.WordPiece(cleanup=False))
    table = CharacterTable(normalizer, pre_tokenizer)
    counter = AlphabetCounter(table)
    for texts in read():
        counter.add(texts)
    alphabet = counter.alphabet(config.limit_alphabet)
    pieces = [
        *config.special_tokens,
        *alphabet.characters,
        *(CONTINUING_SUBWORD_PREFIX + char for char in alphabet.continuing),
    ]
    if len(pieces) > config.vocab_size:
        raise TokkitError(
            f"--vocab-size {config.vocab_size}: less than the {len(pieces)} entries that special "
            f"tokens and single characters take; raise it, or lower --limit-alphabet"
        )
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  no password
    library.normalizer = normalizer
    library.pre_tokenizer = pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=pieces,
        initial_alphabet=list(alphabet.characters),
        limit_alphabet=len(alphabet.characters),
        continuing_subword_prefix=CONTINUING_SUBWORD_PREFIX,
        show_progress=False,
    )
    library.train_from_iterator(
        _cut(read(), lambda text: cut_at_words(text, table, LONGEST_WORD)), trainer
    )
    tokens = _tokens(library)
    definition = wordpiece(
        {token: number for number, token in enumerate(tokens)},
        unknown="[UNK]",
        named={},
        lowercase=not config.cased,
        strip_accents=config.strip_accents,
    )
    return mark_control_tokens(definition, tokens, config.special_tokens), alphabet


def train_bpe(config: TrainConfig, read: Pass) -> dict[str, Any]:
    """Learn a byte-level BPE vocabulary as GPT-2 has it, with control tokens of one's choice.

    Args:
        config: sizes and special tokens.
        read: starts a pass over the corpus, in batches of documents; it is called once.

    Returns:
        The object of a ``tokenizer.json``.
    """
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _refuse_words(config, None, pre_tokenizer, decoders.ByteLevel())
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(config.special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(_cut(read(), _cut_anyway), trainer)
    tokens = _tokens(library)
    merges = json.loads(library.to_str())["model"]["merges"]
    definition = byte_level_bpe(
        {token: number for number, token in enumerate(tokens)},
        merges,
        named={},
        add_prefix_space=False,
    )
    return mark_control_tokens(definition, tokens, config.special_tokens)


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


def _cut(batches: Iterable[list[str]], cut: Callable[[str], Iterator[str]]) -> Iterator[list[str]]:
    """Documents as the trainer gets them: long ones in pieces, so that no word is too long."""
    for texts in batches:
        yield [text for text in texts if len(text) <= LONGEST_WORD]
        for text in texts:
            if len(text) > LONGEST_WORD:
                for piece in cut(text):
                    yield [piece]


def _cut_anyway(text: str) -> Iterator[str]:
    """Cut at spaces, and through a stretch that has none."""
    for piece in cut_at_spaces(text, LONGEST_WORD):
        step = len(piece) if len(piece) <= 2 * LONGEST_WORD else LONGEST_WORD
        for start in range(0, len(piece), step):
            yield piece[start : start + step]


def _tokens(library: Tokenizer) -> list[str]:
    """The entries of a trained model, by id."""
    ids = library.get_vocab(with_added_tokens=False)
    return sorted(ids, key=ids.__getitem__)
