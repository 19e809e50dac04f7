"""The options of ``tokkit encode``."""

from dataclasses import dataclass
from pathlib import Path

from tokkit.corpus.corpus_config import CorpusConfig, require_language
from tokkit.errors import require
from tokkit.shards import COMPRESSIONS

SENTENCES = ("auto", "lines", "none")


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(CorpusConfig):
    """What ``encode`` needs to know, beside how the corpus is read.

    Attributes:
        tokenizer: a folder of ours or of Hugging Face, ``tokenizer.json``, ``vocab.txt``, or a
            sentencepiece model.
        output: the token folder to write.
        sentences: ``auto`` splits documents with sentencex, ``lines`` takes each line as a
            sentence, ``none`` keeps a document whole.
        language: ISO 639 code for ``auto``.
        language_field: the field of a record that holds its language, over ``language``.
        compression: of the shards' buffers; ``none`` lets them be memory-mapped without a copy.
        unit_bytes: about how many bytes of a large file make one work unit, and so one shard.
        workers: processes; 0 works in this one.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    tokenizer: Path
    output: Path
    sentences: str = "auto"
    language: str = "en"
    language_field: str | None = None
    compression: str = "none"
    unit_bytes: int = 32 << 20
    workers: int = 1
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require_language(self.language)
        require(self.sentences in SENTENCES, f"--sentences must be one of {', '.join(SENTENCES)}")
        require(
            self.compression in COMPRESSIONS,
            f"--compression must be one of {', '.join(COMPRESSIONS)}",
        )
        require(self.unit_bytes >= 1 << 10, "--unit-bytes must be at least 1024")
        require(self.workers >= 0, "--workers must be 0 or more")
