"""The options of ``tokkit report``."""

from pathlib import Path

from tokkit.errors import require
from tokkit.options import Config, option


class ReportConfig(Config):
    """What is on a page, and on which texts tokenizers are measured."""

    paths: tuple[Path, ...] = option(
        "Folders that stages wrote, or folders of recipes.", argument="PATH..."
    )
    output: Path = option(
        "HTML file to write.", default=Path("report.html"), flags=("-o", "--output")
    )
    compare: tuple[str, ...] = option(
        "Another tokenizer, as -t of encode takes it; repeatable.", default=()
    )
    text: tuple[str, ...] = option(
        "File, folder, glob or URI of text to measure tokenizers on; repeatable.",
        default=(),
        shown_default="what the first was learned from",
    )
    text_field: str = option("Field of a record that holds the text.", default="text")
    language_field: str | None = option(
        "Field of a record that holds its language, each of which is measured by itself.",
        default=None,
    )
    example: tuple[str, ...] = option(
        "Sentence with [MASK] that each checkpoint of a run fills in; repeatable.", default=()
    )

    def __post_init__(self) -> None:
        """Refuse options without effect, and what every config refuses."""
        super().__post_init__()
        for name in ("text_field", "language_field"):
            require(
                bool(self.text) or not self.is_given(name),
                f"{self.options[name].flag} requires --text",
            )
