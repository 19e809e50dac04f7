"""The options of ``tokkit train``."""

from collections.abc import Mapping
from pathlib import Path

from tokkit.corpus.corpus_config import DOCUMENT_FORMATS, FORMAT_HELP, FORMATS, CorpusConfig
from tokkit.engine.stage_config import StageConfig
from tokkit.errors import UsageError, require
from tokkit.options import option, parse_size, parse_weight
from tokkit.tokenizer.definitions import UnsupportedError
from tokkit.tokenizer.split_pattern import SPLIT_PATTERNS, PatternParser

MODELS = ("wordpiece", "bpe", "unigram")
SCORES = ("frequency", "likelihood")
BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

LARGEST_WEIGHT = 1_000_000
LONGEST_UNIGRAM_TOKEN = 512


class TrainConfig(CorpusConfig, StageConfig):
    """The options of ``train``: how the corpus is read, and which vocabulary is learned from it.

    ``bpe`` is the byte-level BPE of GPT-2 and Llama 3, whose alphabet is always the 256 bytes; with
    ``--metaspace`` it is that of Llama 2 and Mistral, whose alphabet is the most frequent characters.
    ``unigram`` is that of sentencepiece; its alphabet is the characters that make up 99.95% of the
    text. WordPiece merges the most frequent pair, as Hugging Face does, or by ``likelihood`` the
    pair that raises the likelihood of the corpus most, as published. Keep the accents where
    lower-casing must not destroy Devanagari vowel signs.
    """

    format: str = option(
        f"{FORMAT_HELP} counts: words and their counts.",
        default="auto",
        choices=("auto", *FORMATS),
    )
    output: Path = option("Tokenizer folder to write.", flags=("-o", "--output"))
    model: str = option("Kind of vocabulary.", default="wordpiece", choices=MODELS)
    score: str = option(
        "Merge the most frequent pair, or the one that makes the corpus most likely.",
        default="frequency",
        choices=SCORES,
        only_with={"model": ("wordpiece",)},
    )
    vocab_size: int = option(
        "Number of tokens in the vocabulary, special ones included.", default=30522, maximum=1 << 31
    )
    min_frequency: int = option(
        "Minimum frequency of a pair to be merged.",
        default=2,
        minimum=1,
        only_with={"model": ("wordpiece", "bpe")},
    )
    min_word_count: int = option(
        "Minimum count of a word to be learned from.", default=1, minimum=1
    )
    limit_alphabet: int = option(
        "Maximum number of distinct characters, the most frequent first.",
        default=1000,
        minimum=1,
        only_with={"model": ("wordpiece", "bpe")},
    )
    initial_alphabet: Path | None = option(
        "File whose characters are in the alphabet even if they do not occur.",
        default=None,
    )
    max_token_length: int | None = option(
        "Maximum number of characters in a token, without ##.",
        default=None,
        minimum=2,
        shown_default="any; 16 for unigram",
    )
    special_tokens: tuple[str, ...] = option(
        "Special token; repeat the option for each, in the order of their ids.",
        default=BERT_SPECIAL_TOKENS,
        flags=("--special-token",),
    )
    unused: int = option(
        "Number of tokens [unused0], [unused1] ... reserved for later use.", default=0, minimum=0
    )
    cased: bool = option(
        "Keep upper case.",
        default=False,
        flags=("--cased/--uncased",),
        only_with={"model": ("wordpiece", "unigram")},
    )
    strip_accents: bool | None = option(
        "Remove combining marks.",
        default=None,
        flags=("--strip-accents/--keep-accents",),
        only_with={"model": ("wordpiece",)},
        shown_default="strip if uncased, as BERT does",
    )
    split_digits: bool = option(
        "Make each digit a word of its own.", default=False, flags=("--split-digits",)
    )
    split: str = option(
        f"Words to merge within: those of a model ({', '.join(SPLIT_PATTERNS)}), or the matches of a "
        f"regular expression.",
        default="gpt2",
        only_with={"model": ("bpe",)},
    )
    normalize: str = option(
        "Unicode normalization.",
        default="none",
        choices=("none", "nfc", "nfkc"),
        only_with={"model": ("bpe",)},
    )
    metaspace: bool = option(
        "Merge characters in place of bytes, in words that begin with \u2581 for a space.",
        default=False,
        flags=("--metaspace",),
        only_with={"model": ("bpe",)},
    )
    byte_fallback: bool = option(
        "Spell characters that are not in the vocabulary as bytes.",
        default=False,
        flags=("--byte-fallback",),
        only_with={"model": ("unigram", "bpe")},
    )
    weights: Mapping[str, float] = option(
        "Factor for the word counts of an INPUT, as in books.txt=2.0; repeatable.",
        default=dict,
        flags=("--weight",),
        parse=parse_weight,
    )
    held_out: float = option(
        "Share of the documents that is kept from training, for the report.",
        default=0.01,
        minimum=0,
        below=1,
        only_with={"format": DOCUMENT_FORMATS},
    )
    sample: int | None = option(
        "Approximate size of the sample to count, such as 150GB; documents are chosen by hashing their names.",
        default=None,
        minimum=1,
        parse=parse_size,
        only_with={"format": DOCUMENT_FORMATS},
        shown_default="all text",
    )
    memory: int = option(
        "Maximum memory for counting, such as 512MB or 4GiB; what exceeds it goes to disk.",
        default=2 << 30,
        minimum=64_000_000,
        parse=parse_size,
        shown_default="2GiB",
    )
    save_counts: Path | None = option("File to write the words and their counts to.", default=None)
    compare: tuple[str, ...] = option(
        "Another tokenizer to compare with in the report; repeatable.", default=()
    )

    def __post_init__(self) -> None:
        """Refuse weights and special tokens that do not fit, and what every config refuses."""
        super().__post_init__()
        require(
            self.model != "unigram" or (self.max_token_length or 0) <= LONGEST_UNIGRAM_TOKEN,
            f"--max-token-length: sentencepiece takes at most {LONGEST_UNIGRAM_TOKEN}",
        )
        require(
            self.sample is None or "-" not in self.inputs,
            "--sample draws from files, and the size of standard input (-) is not known; leave it out",
        )
        self._check_bpe()
        self._check_weights()
        self._check_special_tokens()

    def _check_bpe(self) -> None:
        if self.model == "bpe":
            of_bytes = {"split", "split_digits"}
            of_characters = {"limit_alphabet", "initial_alphabet", "byte_fallback"}
            for name in sorted(of_bytes if self.metaspace else of_characters):
                require(
                    getattr(self, name) == self.options[name].default,
                    f"{self.options[name].flag} has no effect with --model bpe "
                    f"{'and' if self.metaspace else 'without'} --metaspace; leave it out",
                )
        try:
            PatternParser().parse(self.split_pattern)
        except UnsupportedError as error:
            raise UsageError(
                f"--split {self.split!r}: {error} is not supported; use {', '.join(SPLIT_PATTERNS)}, "
                f"or a pattern of sets, groups, repeats and lookahead at one character"
            ) from None

    def _check_weights(self) -> None:
        for source, weight in self.weights.items():
            require(
                source in self.inputs,
                f"--weight {source}={weight:g}: no such INPUT; name one of {', '.join(self.inputs)}",
            )
            require(
                0 < weight <= LARGEST_WEIGHT and round(weight, 3) == weight,
                f"--weight {source}={weight!r}: must be above 0 and at most {LARGEST_WEIGHT:,}, "
                f"and have at most three decimals",
            )

    def _check_special_tokens(self) -> None:
        require(
            len(set(self.special_tokens)) == len(self.special_tokens) and all(self.special_tokens),
            "--special-token must name distinct, non-empty tokens",
        )
        doubled = sorted(set(self.special_tokens) & set(self.unused_tokens))
        require(not doubled, f"--special-token {' '.join(doubled)}: --unused adds it already")
        least = len(self.special_tokens) + self.unused
        is_byte_level = self.model == "bpe" and not self.metaspace
        least += 256 if is_byte_level or self.byte_fallback else 1
        require(
            self.vocab_size >= least,
            f"--vocab-size must be at least {least:,} (special tokens, unused ones and alphabet)",
        )
        require(
            self.model != "wordpiece" or "[UNK]" in self.special_tokens,
            "--special-token: wordpiece needs [UNK] among its special tokens",
        )
        what = "--metaspace" if self.metaspace else "unigram"
        require(
            not (self.metaspace or self.model == "unigram") or self.unknown_token is not None,
            f"--special-token: {what} needs [UNK] or <unk> among its special tokens",
        )

    @property
    def split_pattern(self) -> str:
        """The pattern whose matches are words of ``bpe``."""
        return SPLIT_PATTERNS.get(self.split, self.split)

    @property
    def normalizer(self) -> dict[str, str] | None:
        """The normalizer of ``bpe``, as ``tokenizer.json`` has it."""
        return None if self.normalize == "none" else {"type": self.normalize.upper()}

    @property
    def unknown_token(self) -> str | None:
        """The special token for unknown characters."""
        return next((token for token in self.special_tokens if token in ("[UNK]", "<unk>")), None)

    @property
    def unused_tokens(self) -> tuple[str, ...]:
        """The tokens that are reserved for later use."""
        return tuple(f"[unused{number}]" for number in range(self.unused))
