"""The options of ``tokkit train``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.errors import require

MODELS = ("wordpiece", "bpe", "unigram")
SCORES = ("frequency", "likelihood")
BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

LEAST_MEMORY = 64_000_000
LARGEST_WEIGHT = 1_000_000
LONGEST_UNIGRAM_TOKEN = 512

# The models that an option means something to; it may not be set for others.
ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "score": ("wordpiece",),
    "min_frequency": ("wordpiece", "bpe"),
    "limit_alphabet": ("wordpiece",),
    "initial_alphabet": ("wordpiece", "unigram"),
    "cased": ("wordpiece", "unigram"),
    "strip_accents": ("wordpiece",),
    "byte_fallback": ("unigram",),
}
FLAGS: Mapping[str, str] = {"strip_accents": "strip-accents/--keep-accents"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CorpusConfig):
    """What ``train`` needs to know, beside how the corpus is read.

    Attributes:
        output: the tokenizer folder to write.
        model: ``wordpiece`` (BERT), ``bpe`` (byte-level, as GPT-2 and RoBERTa) or ``unigram``
            (sentencepiece).
        score: which pair WordPiece merges next: the most frequent, as Hugging Face does, or the one
            that raises the likelihood of the corpus most, as published.
        vocab_size: entries, the special tokens among them.
        min_frequency: how often a pair must occur to be merged.
        min_word_count: words that occur less often are not learned from; 1 learns from all.
        limit_alphabet: how many distinct characters are kept, the most frequent first
            (``wordpiece``; byte-level BPE always has its 256, and unigram the characters that
            make up 99.95% of the text).
        initial_alphabet: a file whose characters the alphabet has, whether they occur or not.
        max_token_length: characters that an entry has at most, ``##`` not counted; None for any
            (``unigram``: for 16).
        special_tokens: the control tokens, which get the first ids in this order.
        unused: how many entries ``[unused0]``, ``[unused1]`` … stand behind them, for later use.
        cased: keep upper case (``wordpiece``, ``unigram``).
        strip_accents: remove combining marks (``wordpiece``); False keeps them: lower-casing need
            not destroy Devanagari vowel signs.
        split_digits: each digit is a word of its own.
        byte_fallback: bytes are entries, for characters that are not (``unigram``).
        weights: how often the words of an input count, by its name; 1 for the others. Of three
            decimals.
        held_out: share of the documents that is not learned from, for the report.
        memory: bytes that counting takes at most; what does not fit goes to disk.
        save_counts: a file to write the words and counts to.
        compare: other tokenizers that the report puts beside this one.
        workers: processes that count; the vocabulary does not depend on them.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    output: Path
    model: str = "wordpiece"
    score: str = "frequency"
    vocab_size: int = 30522
    min_frequency: int = 2
    min_word_count: int = 1
    limit_alphabet: int = 1000
    initial_alphabet: Path | None = None
    max_token_length: int | None = None
    special_tokens: tuple[str, ...] = BERT_SPECIAL_TOKENS
    unused: int = 0
    cased: bool = False
    strip_accents: bool | None = None
    split_digits: bool = False
    byte_fallback: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    held_out: float = 0.01
    memory: int = 2 << 30
    save_counts: Path | None = None
    compare: tuple[str, ...] = ()
    workers: int = 1
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range, and options that would have no effect."""
        super().__post_init__()
        require(self.model in MODELS, f"--model must be one of {', '.join(MODELS)}")
        require(self.score in SCORES, f"--score must be one of {', '.join(SCORES)}")
        require(self.min_frequency >= 1, "--min-frequency must be at least 1")
        require(self.min_word_count >= 1, "--min-word-count must be at least 1")
        require(self.limit_alphabet >= 1, "--limit-alphabet must be at least 1")
        require(self.unused >= 0, "--unused must be 0 or more")
        require(self.workers >= 0, "--workers must be 0 or more")
        require(0 <= self.held_out < 1, "--held-out must be at least 0 and less than 1")
        require(self.memory >= LEAST_MEMORY, "--memory must be at least 64MB")
        self._check_token_length()
        self._check_effects()
        self._check_weights()
        self._check_special_tokens()

    def _check_token_length(self) -> None:
        length = self.max_token_length
        require(length is None or length >= 2, "--max-token-length must be at least 2")
        require(
            self.model != "unigram" or length is None or length <= LONGEST_UNIGRAM_TOKEN,
            f"--max-token-length: sentencepiece takes at most {LONGEST_UNIGRAM_TOKEN}",
        )

    def _check_effects(self) -> None:
        """Refuse an option that the model does not know, so that nobody counts on it."""
        for name, models in ONLY_FOR.items():
            changed = getattr(self, name) != type(self).__dataclass_fields__[name].default
            require(
                self.model in models or not changed,
                f"--{FLAGS.get(name, name).replace('_', '-')} has no effect with "
                f"--model {self.model}, but only with {' or '.join(models)}; leave it out",
            )

    def _check_weights(self) -> None:
        for source, weight in self.weights.items():
            require(
                source in self.inputs,
                f"--weight {source}={weight:g}: no such INPUT; name one of {', '.join(self.inputs)}",
            )
            require(
                0 < weight <= LARGEST_WEIGHT and round(weight, 3) == weight,
                f"--weight {source}={weight!r}: must be more than 0, at most {LARGEST_WEIGHT:,}, "
                f"and have at most three decimals",
            )

    def _check_special_tokens(self) -> None:
        require(
            len(set(self.special_tokens)) == len(self.special_tokens) and all(self.special_tokens),
            "--special-token must name distinct, non-empty tokens",
        )
        doubled = sorted(set(self.special_tokens) & set(self.unused_tokens))
        require(not doubled, f"--special-token {' '.join(doubled)}: --unused makes it already")
        least = len(self.special_tokens) + self.unused
        least += 256 if self.model == "bpe" or self.byte_fallback else 1
        require(
            least <= self.vocab_size <= 1 << 31,
            f"--vocab-size must be at least {least} (special tokens, unused ones and alphabet)",
        )
        require(
            self.model != "wordpiece" or "[UNK]" in self.special_tokens,
            "--special-token: wordpiece needs [UNK] among its special tokens",
        )
        require(
            self.model != "unigram" or not {"[UNK]", "<unk>"}.isdisjoint(self.special_tokens),
            "--special-token: unigram needs [UNK] or <unk> among its special tokens",
        )

    @property
    def unused_tokens(self) -> tuple[str, ...]:
        """The entries for later use."""
        return tuple(f"[unused{number}]" for number in range(self.unused))
