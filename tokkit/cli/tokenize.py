"""``tokkit tokenize``: the tokens of any text."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokkit.cli.command_options import COLOR_OPTION, JSON_OPTION, config_options
from tokkit.cli.output import print_json
from tokkit.cli.streams import echo_pages, shows_color
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.local import import_single_threaded
from tokkit.errors import TokkitError, escape_controls, plural
from tokkit.inspection.report.report_config import ReportConfig

_MAX_BYTES = 4 << 20  # each token is an object

if TYPE_CHECKING:
    from tokkit.inspection.tokenize import CutText


@click.command()
@click.argument("text", required=False)
@config_options(
    EncodeConfig.options["tokenizer"], ReportConfig.options["compare"], heading="Options"
)
@COLOR_OPTION
@JSON_OPTION
def tokenize(
    text: str | None, tokenizer: Path, compare: tuple[str, ...], *, color: str, as_json: bool
) -> None:
    """Show how TEXT becomes tokens.

    TEXT is one document; if it is omitted or -, standard input is read. The first line of each
    tokenizer shows where tokens begin and end in the text, the lines below it the tokens of its
    vocabulary and their ids.
    """
    import_single_threaded()
    from tokkit.inspection.tokenize import tokenize as run

    if text is None or text == "-":
        text = _read_stdin()
    cut = run(text, (str(tokenizer), *compare), color=shows_color(color) and not as_json)
    if as_json:
        print_json({"text": text, "tokenizers": [_as_dict(one) for one in cut]})
    else:
        width = shutil.get_terminal_size().columns
        echo_pages("\n\n".join("\n".join(_describe(one, width)) for one in cut))


def _read_stdin() -> str:
    """Return standard input, without the line end that it ends in.

    Raises:
        TokkitError: it is too long, or no valid UTF-8.
    """
    data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise TokkitError(
            f"standard input: more than {_MAX_BYTES:,} bytes; pass a part, or encode a corpus of it "
            f"with tokkit encode"
        )
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise TokkitError(
            f"standard input, byte {error.start}: invalid UTF-8; convert it to UTF-8"
        ) from error


def _as_dict(cut: "CutText") -> dict[str, object]:
    return {name: value for name, value in asdict(cut).items() if name != "shown"}


def _describe(cut: "CutText", width: int) -> Iterator[str]:
    words = sum(cut.word_starts)
    yield escape_controls(
        f"{cut.tokenizer}: {plural(len(cut.ids), 'token')}, {plural(words, 'word')}"
    )
    if cut.ids:
        yield f"  {cut.shown}"
        yield from _align([escape_controls(token) for token in cut.tokens], cut.ids, width)


def _align(tokens: Sequence[str], ids: Sequence[int], width: int) -> Iterator[str]:
    """Yield lines of tokens with their ids below them, as many as fit into the width."""
    columns = [(token, str(number)) for token, number in zip(tokens, ids, strict=True)]
    line: list[tuple[str, str]] = []
    used = 0
    for column in (*columns, None):
        size = max(map(len, column)) + 2 if column else width
        if line and used + size > width:
            widths = [max(map(len, cells)) for cells in line]
            for row in zip(*line, strict=True):
                cells = (f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True))
                yield ("  " + "  ".join(cells)).rstrip()
            line, used = [], 0
        if column:
            line.append(column)
            used += size
