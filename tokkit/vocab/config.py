"""The options of ``tokkit train``."""

from dataclasses import dataclass
from pathlib import Path

from tokkit.corpus.config import CorpusConfig
from tokkit.errors import require

MODELS = ("wordpiece", "bpe")
BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CorpusConfig):
    """What ``train`` needs to know, beside how the corpus is read.

    Attributes:
        output: the tokenizer folder to write.
        model: ``wordpiece`` (BERT) or ``bpe`` (byte-level, as GPT-2 and RoBERTa).
        vocab_size: entries, the special tokens among them.
        min_frequency: how often a pair must occur to be merged.
        limit_alphabet: how many distinct characters are kept, the most frequent first
            (``wordpiece``; byte-level BPE always has its 256).
        special_tokens: the control tokens, which get the first ids in this order.
        cased: keep upper case (``wordpiece``).
        strip_accents: remove combining marks; None does as BERT does, with lower-casing only.
        workers: threads of the trainer; the vocabulary does not depend on them.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    output: Path
    model: str = "wordpiece"
    vocab_size: int = 30522
    min_frequency: int = 2
    limit_alphabet: int = 1000
    special_tokens: tuple[str, ...] = BERT_SPECIAL_TOKENS
    cased: bool = False
    strip_accents: bool | None = None
    workers: int = 1
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(self.model in MODELS, f"--model must be one of {', '.join(MODELS)}")
        require(self.min_frequency >= 1, "--min-frequency must be at least 1")
        require(self.limit_alphabet >= 1, "--limit-alphabet must be at least 1")
        require(self.workers >= 0, "--workers must be 0 or more")
        require(
            len(set(self.special_tokens)) == len(self.special_tokens) and all(self.special_tokens),
            "--special-token must name distinct, non-empty tokens",
        )
        smallest = len(self.special_tokens) + (256 if self.model == "bpe" else 1)
        require(
            smallest <= self.vocab_size <= 1 << 31,
            f"--vocab-size must be at least {smallest} (special tokens and alphabet)",
        )
        require(
            self.model != "wordpiece" or "[UNK]" in self.special_tokens,
            "--special-token: wordpiece needs [UNK] among its special tokens",
        )
