"""``training.json``: what a vocabulary was learned from, with which options and counts.

It is written last, so a folder of ours without it is unfinished. Its content key tells whether the
same command, run again, would learn the same; the inputs' time stamps, by which their content need
not be compared each time, are in the journal beside it, since they differ between two machines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokkit import __version__
from tokkit.engine.files import read_json, write_json
from tokkit.errors import TokkitError
from tokkit.tokenizer.loading import TRAINING

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Training:
    """The facts of a learned vocabulary.

    Attributes:
        key: content key over inputs and options.
        options: every option in force that the vocabulary depends on.
        tokenizer_fingerprint: of the tokenizer that was made.
        vocab_size: entries that it has; fewer than were asked for where the corpus gives no more.
        inputs: rows with ``name``, ``bytes`` and ``sha256``.
        accounts: see ``tokkit.engine.accounts``: documents, and for WordPiece characters.
        trainer: what learned it, with its version.
        report: see ``tokkit.vocab.measure.Report``.
        compared: rows of ``report.compare``; not in the file, since the vocabulary does not depend
            on what it is compared with.
        format_version: of the file; a reader refuses another.
        tokkit_version: that wrote it.
    """

    key: str
    options: Mapping[str, Any]
    tokenizer_fingerprint: str
    vocab_size: int
    inputs: Sequence[Mapping[str, Any]]
    accounts: Mapping[str, Any]
    trainer: str
    report: Mapping[str, Any]
    compared: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    format_version: int = FORMAT_VERSION
    tokkit_version: str = __version__

    def write(self, folder: Path) -> None:
        """Write it atomically; from now on the folder is finished."""
        form = asdict(self)
        del form["compared"]
        write_json(folder / TRAINING, form)

    @classmethod
    def read(cls, folder: Path) -> "Training | None":
        """Read a folder's record; None where there is none.

        Raises:
            TokkitError: where it is damaged, or of a format version that is not known.
        """
        path = folder / TRAINING
        if not path.is_file():
            return None
        form = read_json(path)
        version = form.get("format_version") if isinstance(form, dict) else None
        if version != FORMAT_VERSION:
            raise TokkitError(
                f"{path}: format version {version} is not known to tokkit {__version__}, "
                f"which reads {FORMAT_VERSION}; install the release that wrote it"
            )
        try:
            return cls(**form)
        except TypeError as error:
            raise TokkitError(f"{path}: not a record of training ({error})") from error
