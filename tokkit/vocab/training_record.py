"""``training.json``: the record of a finished tokenizer folder, which is written last."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from tokkit import __version__
from tokkit.engine.accounts import Accounts
from tokkit.engine.json_files import Count, FileRow, check_options, write_record
from tokkit.engine.manifest import TRAINING, read_record

FORMAT_VERSION = 2


class RemovedCharacter(TypedDict):
    """A character that normalization removed from the corpus."""

    character: str
    name: str
    count: Count


class HeldOutText(TypedDict):
    """The size of the text on which a vocabulary was measured."""

    documents: Count
    words: Count
    characters: Count


class Measured(TypedDict):
    """How a tokenizer encodes text; see ``tokkit.vocab.measure``."""

    tokens_per_word: float
    characters_per_token: float
    unknown: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """A vocabulary, and how it encodes text that it was not learned from.

    Attributes:
        entries: number of tokens of each kind.
        longest: tokens with the most characters, as text, longest first.
        coverage: share of the held-out characters, except white space, that are tokens after
            normalization; None without such text.
        removed: characters that normalization removed, most frequent first; at most 50.
        held_out: size of the measured text.
        measured: ``Measured``; empty without text.
    """

    entries: Mapping[str, Count]
    longest: Sequence[str]
    coverage: float | None
    removed: Sequence[RemovedCharacter]
    held_out: HeldOutText
    measured: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse measurements that are incomplete; msgspec calls this, too."""
        if self.measured:
            msgspec.convert(self.measured, Measured)


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """The content of ``training.json``: what a vocabulary was learned from, and how.

    Attributes:
        key: content key over inputs and options.
        options: every option that the vocabulary depends on.
        tokenizer_fingerprint: fingerprint of the tokenizer that was made.
        vocab_size: number of tokens in its vocabulary.
        inputs: files that were read.
        accounts: see ``tokkit.engine.accounts``: documents, and for WordPiece characters.
        trainer: name and version of the trainer.
        report: of the vocabulary.
        left_out: files of the inputs that were left out.
        compared: rows of ``measure.compare``; not in the file, since the vocabulary does not depend
            on the tokenizers that it is compared with.
        format_version: version of the file's format.
        tokkit_version: release that wrote the file.
    """

    key: str
    options: Mapping[str, Any]
    tokenizer_fingerprint: str
    vocab_size: Count
    inputs: Sequence[FileRow]
    accounts: Mapping[str, Any]
    trainer: str
    report: Report
    left_out: Sequence[str] = ()
    compared: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    format_version: int = FORMAT_VERSION
    tokkit_version: str = __version__

    def write(self, folder: Path) -> None:
        """Write the record atomically, which makes the folder finished."""
        data = {**vars(self), "report": asdict(self.report)}
        del data["compared"]
        write_record(folder / TRAINING, data)

    @classmethod
    def read(cls, folder: Path) -> "TrainingRecord":
        """Read a folder's record.

        Raises:
            TokkitError: if it is missing or damaged, or has an unknown format version.
        """
        return read_record(folder / TRAINING, cls, FORMAT_VERSION)

    def __post_init__(self) -> None:
        """Refuse what readers of options and accounts cannot use; msgspec calls this, too."""
        check_options(self.options)
        Accounts.from_dict(self.accounts)
