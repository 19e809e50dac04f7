"""How a corpus is read: the options that every stage reading text has in common."""

from dataclasses import dataclass

from tokkit.errors import require

FORMATS = ("auto", "text", "jsonl", "parquet", "arrow", "counts")
DOCUMENTS = ("blank-line", "line", "file")
ERRORS = ("strict", "replace", "skip")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which text is read and how it falls into documents.

    Attributes:
        inputs: files, folders, globs, URIs, or ``-`` for standard input, in the order of reading.
        format: what the files hold; ``auto`` goes by the file's name.
        documents: how plain text is cut: at blank lines, at every line end, or not at all.
        text_field: the field of a record, or the column of a table, that holds the text.
        id_field: the field that names a record; where a record lacks it, its position does.
        errors: what invalid UTF-8 does: ``strict`` stops, ``replace`` puts U+FFFD, ``skip`` drops
            the document and counts it.
    """

    inputs: tuple[str, ...]
    format: str = "auto"
    documents: str = "blank-line"
    text_field: str = "text"
    id_field: str = "id"
    errors: str = "strict"

    def __post_init__(self) -> None:
        """Refuse values that no reader knows."""
        require(len(self.inputs) > 0, "no input: name a file, a folder, a glob, a URI, or - ")
        require(self.inputs.count("-") <= 1, "standard input (-) can be read once only")
        require(self.format in FORMATS, f"--format must be one of {', '.join(FORMATS)}")
        require(self.documents in DOCUMENTS, f"--documents must be one of {', '.join(DOCUMENTS)}")
        require(self.errors in ERRORS, f"--errors must be one of {', '.join(ERRORS)}")
