"""The options of ``tokkit encode``."""

from pathlib import Path

from tokkit.corpus.corpus_config import RECORD_FORMATS, CorpusConfig, require_language
from tokkit.engine.stage_config import StageConfig
from tokkit.options import option, parse_size
from tokkit.shards import COMPRESSIONS

SENTENCES = ("auto", "lines", "none")
WORDS = ("tokenizer", "spaces")


class EncodeConfig(CorpusConfig, StageConfig):
    """The options of ``encode``: how the corpus is read, split into sentences, and written.

    ``sentences="auto"`` splits documents with sentencex. Uncompressed shards are memory-mapped
    without a copy.
    """

    tokenizer: Path = option(
        "Tokenizer: a folder of tokkit or Hugging Face, a name on the Hugging Face Hub, tokenizer.json, vocab.txt or sentencepiece model.",
        flags=("-t", "--tokenizer"),
    )
    output: Path = option("Token folder to write.", flags=("-o", "--output"))
    allow_special_tokens: tuple[str, ...] = option(
        "Special token to recognize in text, where others are encoded as plain text; repeatable.",
        default=(),
    )
    sentences: str = option(
        "How documents are split into sentences: by language, at line ends, or not at all.",
        default="auto",
        choices=SENTENCES,
    )
    language: str = option(
        "Language of the text, an ISO 639 code.", default="en", only_with={"sentences": ("auto",)}
    )
    language_field: str | None = option(
        "Field of a record that holds its language, in place of --language.",
        default=None,
        only_with={"sentences": ("auto",), "format": RECORD_FORMATS},
    )
    words: str = option(
        "Words for whole-word masking: the tokenizer's, or what white space separates, for pre-segmented text.",
        default="tokenizer",
        choices=WORDS,
    )
    compression: str = option("Compression of the shards.", default="none", choices=COMPRESSIONS)
    unit_bytes: int = option(
        "Approximate maximum of input bytes for a shard of a large file.",
        default=32 << 20,
        minimum=1 << 10,
        parse=parse_size,
        shown_default="32MiB",
    )

    def __post_init__(self) -> None:
        """Refuse an unknown language, and what every config refuses."""
        super().__post_init__()
        require_language(self.language)
