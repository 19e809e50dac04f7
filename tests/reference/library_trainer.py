"""The trainers of the tokenizers library, which tokkit's equal.

Words are passed as texts that are split at spaces. The library's WordPiece trainer numbers the
pieces ``##c`` in the order of a hash table, so it gives another vocabulary at every run. Passing the
complete alphabet in order, as if its pieces were special tokens, makes it repeatable.
"""

import json
from collections.abc import Iterator, Mapping

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from reference.wordpiece_trainer import count_alphabet
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.vocab.train_config import TrainConfig

Learned = tuple[list[str], list[tuple[str, str]]]


def train_bpe(config: TrainConfig, words: Mapping[bytes, int]) -> Learned:
    """Return the tokens by id, and the merges in order."""
    spellings = byte_level_alphabet()
    library = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(config.special_tokens),
        initial_alphabet=spellings,
        show_progress=False,
        max_token_length=config.max_token_length and config.max_token_length + 1,
    )
    spelled = {"".join(spellings[byte] for byte in word): count for word, count in words.items()}
    return _train(library, trainer, spelled)


def train_wordpiece(config: TrainConfig, words: Mapping[bytes, int]) -> list[str]:
    """Return the tokens by id."""
    texts = {word.decode(): count for word, count in words.items()}
    alphabet = count_alphabet(texts, config.limit_alphabet)
    continuing = [f"##{char}" for char in alphabet.continuing]
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  no password
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*config.special_tokens, *alphabet.characters, *continuing],
        initial_alphabet=list(alphabet.characters),
        limit_alphabet=len(alphabet.characters),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    return _train(library, trainer, texts)[0]


def _train(library: Tokenizer, trainer: trainers.Trainer, words: Mapping[str, int]) -> Learned:
    library.pre_tokenizer = pre_tokenizers.Split(" ", "removed")

    def texts() -> Iterator[str]:
        for word, count in words.items():
            yield " ".join([word] * count)

    library.train_from_iterator(texts(), trainer)
    ids = library.get_vocab(with_added_tokens=False)
    merges = json.loads(library.to_str())["model"].get("merges", [])
    return sorted(ids, key=ids.__getitem__), [(left, right) for left, right in merges]
