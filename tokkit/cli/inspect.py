"""``tokkit inspect``, ``verify``, ``tokenize`` and ``report``: look at what stages wrote."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokkit.cli.command_options import (
    COLOR_OPTION,
    JSON_OPTION,
    GroupedOption,
    LocalPath,
    StageCommand,
    config_options,
    given_options,
    number_type,
    stage_command,
)
from tokkit.cli.output import describe_facts, print_json
from tokkit.cli.pretraining_output import describe_run, plot_losses
from tokkit.cli.recipe import read_recipe
from tokkit.cli.streams import dim_label, echo, echo_pages, shows_color
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.local import import_single_threaded
from tokkit.engine.stage_config import OutputConfig
from tokkit.errors import TokkitError, escape_controls, plural, require
from tokkit.inspection.report.report_config import ReportConfig
from tokkit.masking.mask_config import MaskConfig
from tokkit.options import find_local, uri_of
from tokkit.pretraining.data.loader_config import LoaderConfig

if TYPE_CHECKING:
    from tokkit.inspection.token_text import CutText
    from tokkit.inspection.verify import Verification

MAX_TOKENIZED = 4 << 20  # bytes; each token is an object
REPLAY = {"cls": GroupedOption, "heading": "Replay", "type": number_type(int, 0)}
REPLAYED = [LoaderConfig.options[name] for name in ("batch_size", "seed")]
MASKING = MaskConfig.options.values()


@click.command(cls=StageCommand)
@click.argument("path", type=LocalPath())
@click.option(
    "--rows",
    type=number_type(int, 0),
    help="Number of rows to show.",
    show_default="3; all with --replay",
)
@click.option("--shard", help="Shard of the folder to show, such as eval-0000000.arrow.")
@click.option("--grep", "text", help="Show rows that contain this text, in whatever case.")
@click.option("--source", help="Show rows of documents whose name contains this.")
@click.option("--longest", is_flag=True, help="Show the longest rows.")
@COLOR_OPTION
@JSON_OPTION
@click.option("--replay", is_flag=True, help="Show a batch as pretraining sees it.")
@click.option("--phase", help="Phase of a run with phases, from 0.", **REPLAY)
@click.option("--epoch", default=0, help="Epoch of the batch, from 0.", **REPLAY)
@click.option("--step", default=0, help="Step in the epoch, from 0.", **REPLAY)
@config_options(*REPLAYED, heading="Replay")
@config_options(*MASKING)
@click.pass_context
def inspect(
    context: click.Context,
    /,
    path: Path,
    *,
    rows: int | None,
    shard: str | None,
    text: str | None,
    source: str | None,
    longest: bool,
    color: str,
    replay: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what is in PATH, a folder or a shard.

    PATH is a folder that a stage wrote, or one of its shards. Rows are decoded; a masked position
    shows the input token and its label, as in [MASK→word]. A run is shown with its state, facts and loss
    curves, even if it is not finished. With --replay, PATH is an instance or a run folder; a run
    has its own batch size, seed and masking.
    """
    given = {name: options[name] for name in given_options(context, options)}
    search: dict[str, Any] = {"text": text, "source": source, "longest": longest}
    is_search = any(value not in (None, False) for value in search.values())
    require(
        not as_json or (rows is None and shard is None and not is_search),
        "--rows, --shard, --grep, --source and --longest have no effect with --json, which has no "
        "rows; leave them out",
    )
    in_color = shows_color(color)
    import_single_threaded()
    if replay:
        require(shard is None, "--shard has no effect with --replay; leave it out")
        require(
            not is_search,
            "--grep, --source and --longest have no effect with --replay; leave them out",
        )
        from tokkit.inspection.replay import replay as run_again

        kind = "batch"
        facts, shown = run_again(path, rows=0 if as_json else rows, color=in_color, **given)
    else:
        flags = [name.replace("_", "-") for name in given]
        require(not given, f"--{' and --'.join(flags)} requires --replay")
        from tokkit.inspection.inspect import inspect as run

        inspection = run(path, rows=0 if as_json else rows, shard=shard, color=in_color, **search)
        kind, facts, shown = inspection.kind, inspection.facts, inspection.rows
    name = uri_of(find_local(path))
    if as_json:
        print_json({"path": name, "kind": kind, **facts})
        return
    if is_search and not shown:
        echo(f"tokkit: {name}: no row matches", err=True)
    described = describe_facts(facts)
    if kind == "run":
        described, shown = describe_run(facts), tuple(plot_losses(facts["losses"], color=in_color))
    lines = [escape_controls(f"  {line}") for line in described]
    if in_color:
        lines = [*map(dim_label, lines)]
    title = escape_controls(f"{name}: {kind}")
    echo_pages("\n".join([title, *lines, *(f"\n{row}" for row in shown)]))


@click.command()
@click.argument("path", type=LocalPath())
@config_options(OutputConfig.options["progress"])
@JSON_OPTION
@click.pass_context
def verify(context: click.Context, path: Path, *, progress: bool, as_json: bool) -> None:
    """Check every file of PATH against its manifest.

    PATH is a folder that a stage wrote. Sizes, hashes, columns, id ranges and accounts are checked.
    Each fault is a line on standard error, and the exit status is 1 if there is any.
    """
    import_single_threaded()
    from tokkit.inspection.verify import verify as run

    result = run(path, progress=progress)
    with suppress(BrokenPipeError):  # a caller that closed the pipe may still read the status
        _print_verification(result, as_json=as_json)
    context.exit(1 if result.faults else 0)


def _print_verification(result: "Verification", *, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(result), "path": str(result.path)})
        return
    for fault in result.faults:
        echo(f"tokkit: {fault}", err=True)
    verdict = plural(len(result.faults), "fault") if result.faults else "no faults"
    size = f"{plural(result.files, 'file')}, {plural(result.bytes, 'byte')}"
    echo(f"{result.path}: {result.kind}, {size}: {verdict}")


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
    from tokkit.inspection.token_text import tokenize as run

    if text is None or text == "-":
        text = _read_stdin()
    cut = run(text, (str(tokenizer), *compare), color=shows_color(color) and not as_json)
    if as_json:
        print_json({"text": text, "tokenizers": [_without_text(one) for one in cut]})
    else:
        width = shutil.get_terminal_size().columns
        echo_pages("\n\n".join("\n".join(_describe_cut(one, width)) for one in cut))


def _read_stdin() -> str:
    """Return standard input, without the line end that it ends in.

    Raises:
        TokkitError: it is too long, or no valid UTF-8.
    """
    data = sys.stdin.buffer.read(MAX_TOKENIZED + 1)
    if len(data) > MAX_TOKENIZED:
        raise TokkitError(
            f"standard input: more than {MAX_TOKENIZED:,} bytes; pass a part, or encode a corpus of it "
            f"with tokkit encode"
        )
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise TokkitError(
            f"standard input, byte {error.start}: invalid UTF-8; convert it to UTF-8"
        ) from error


def _without_text(cut: "CutText") -> dict[str, object]:
    return {name: value for name, value in asdict(cut).items() if name != "shown"}


def _describe_cut(cut: "CutText", width: int) -> Iterator[str]:
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


@stage_command(ReportConfig)
def report(config: ReportConfig, *, as_json: bool) -> None:
    """Show what is in PATHs on one HTML page.

    PATH is a tokenizer, token, instance or run folder, finished or not; a recipe, or the folder that
    its stages write into. Tokenizers and runs are compared. The page needs neither a network nor a
    server, and holds all its figures as JSON.
    """
    import_single_threaded()
    from tokkit.inspection.report.report import report as run

    paths = tuple(read_recipe(p).output if p.suffix == ".toml" else p for p in config.paths)
    run(replace(config, paths=paths))
    size = config.output.stat().st_size
    if as_json:
        print_json({"path": str(config.output), "bytes": size})
    else:
        echo(f"{config.output}: {plural(size, 'byte')}")
