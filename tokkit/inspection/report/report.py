"""A report: folders of any kind, finished or not, on one HTML page that loads nothing.

Each kind has a module, which reads a folder into figures, JSON values, and draws those; nothing is
on the page that is not in its figures. The same folders give the same bytes.

The page's content security policy names the hashes of its one style sheet and its one script, and
forbids everything else, so that even text that escaping missed could neither run nor load anything.

To add a section, write a function that returns a ``Section`` and call it in ``_describe``.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from tokkit import __version__
from tokkit.engine.files import follow_link, write_atomically
from tokkit.engine.folder import is_being_written
from tokkit.engine.manifest import KINDS, MANIFEST, TRAINING, Manifest
from tokkit.engine.mirrors import pull
from tokkit.engine.receipts import read_receipts, read_statement
from tokkit.errors import TokkitError, require, wrap_os_errors
from tokkit.inspection.folder_kinds import (
    RecipeRecord,
    find_kind,
    find_run_state,
    find_stages,
    require_kind,
)
from tokkit.inspection.report.instances_section import describe_instances
from tokkit.inspection.report.markup import (
    Column,
    Section,
    card,
    cards,
    element,
    escape,
    facts_list,
    format_bytes,
    format_options,
    list_warnings,
    shorten_names,
    table,
    tiles,
)
from tokkit.inspection.report.report_config import ReportConfig
from tokkit.inspection.report.run_section import describe_runs
from tokkit.inspection.report.text_samples import SampleConfig
from tokkit.inspection.report.tokenizer_section import describe_tokenizers
from tokkit.inspection.report.tokens_section import describe_tokens

_PAGE, _STYLE, _SCRIPT = (
    Path(__file__).with_name(name) for name in ("page.html", "page.css", "page.js")
)
ORDER = ("corpus", "tokenizer", "tokens", "instances", "run")


def report(config: ReportConfig) -> None:
    """Make a report and write it as one file, whole or not at all.

    Raises:
        UsageError: if an option has no effect on what the paths hold.
        TokkitError: if a path holds nothing of ours, or is damaged.
    """
    page = make_report(config)
    with wrap_os_errors(config.output), write_atomically(follow_link(config.output)) as file:
        file.write(page.encode())


def make_report(config: ReportConfig) -> str:
    """Return the page of a report; see ``report``."""
    sections: list[Section] = []
    paths: list[Path] = []
    examples = list(config.example)
    for path in config.paths:
        pull(path)
        folders = find_stages(path)
        if not folders:
            paths.append(path)
            continue
        record = RecipeRecord.read(path)
        examples += record.examples if record else []
        sections.append(_describe_stages(str(path), folders, record))
        paths += (folder for folder in folders.values() if folder.is_dir())
    kinds = [_require_kind(path) for path in paths]
    has_tokenizer = "tokenizer" in kinds
    require(
        has_tokenizer or not (config.compare or config.text),
        "--compare and --text have no effect without a tokenizer folder; leave them out",
    )
    require("run" in kinds or not config.example, "--example has no effect without a run folder")
    for kind in ORDER:
        found = [path for path, own in zip(paths, kinds, strict=True) if own == kind]
        last = "tokenizer.json" if kind == "tokenizer" else MANIFEST  # what its stage writes last
        unfinished = [path for path in found if kind != "run" and not (path / last).is_file()]
        finished = [path for path in found if path not in unfinished]
        if finished:
            sections += _describe(kind, finished, config, tuple(dict.fromkeys(examples)))
        sections += (_describe_unfinished(path, kind) for path in unfinished)
    names = shorten_names([*map(str, config.paths), *config.compare])
    return make_page(", ".join(names.values()), sections)


def _require_kind(path: Path) -> str:
    kind = find_kind(path)
    if kind is None:
        raise TokkitError(
            f"{path}: holds nothing that tokkit wrote; name a tokenizer, token, instance or run "
            f"folder, or the folder of a recipe"
        )
    if (path / MANIFEST).is_file():
        require_kind(path, Manifest.read(path))
    if kind not in (*KINDS, "tokenizer"):
        raise TokkitError(f"{path}: {kind} cannot be reported on")
    return kind


def _describe(
    kind: str, paths: Sequence[Path], config: ReportConfig, examples: Sequence[str]
) -> list[Section]:
    if kind == "tokenizer":
        texts = None
        if config.text:
            texts = SampleConfig(
                inputs=config.text,
                text_field=(config.text_field,),
                language_field=config.language_field,
            )
        return [describe_tokenizers(paths, config.compare, texts)]
    if kind == "run":
        return [describe_runs(paths, examples)]
    describe = {
        "tokens": describe_tokens,
        "instances": describe_instances,
        "corpus": _describe_corpus,
    }[kind]
    return [describe(path) for path in paths]


def _describe_unfinished(path: Path, kind: str) -> Section:
    """Return the part of a page about a folder without its manifest."""
    statement = read_statement(path)
    units = list(read_receipts(path).values())
    figures: dict[str, Any] = {
        "path": str(path),
        "state": "being written" if is_being_written(path) else "unfinished",
        "units": len(units),
        "rows": sum(unit["rows"] for unit in units),
        "tokens": sum(unit["tokens"] for unit in units),
        "bytes": sum(unit["bytes"] for unit in units),
        "options": statement["options"] if statement else {},
    }
    remedy = "it is still being written" if is_being_written(path) else "run its command again"
    line = f"{path}: unfinished; {remedy}. What is done so far is counted here."
    body = [
        list_warnings([line]),
        tiles(
            {
                "finished work units": figures["units"],
                "rows": figures["rows"],
                "tokens": figures["tokens"] or None,
                "on disk": format_bytes(figures["bytes"]),
            }
        ),
        cards(card("Options", facts_list(format_options(figures["options"])), wide=True)),
    ]
    return Section(str(path), kind, figures, body)


def _describe_corpus(path: Path) -> Section:
    """Return the part of a page about the output of a recipe's command."""
    manifest = Manifest.read(path, "corpus")
    figures: dict[str, Any] = {
        "path": str(path),
        "state": "finished",
        "bytes": sum(row["bytes"] for row in manifest.shards),
        "options": manifest.options,
        "files": [{"name": row["name"], "bytes": row["bytes"]} for row in manifest.shards],
    }
    facts = {
        "command": manifest.options.get("command"),
        "size": format_bytes(figures["bytes"]),
        "file": ", ".join(row["name"] for row in manifest.shards),
    }
    body = cards(card("Corpus", facts_list(facts), wide=True))
    return Section(str(path), "corpus", figures, body)


def _describe_stages(
    title: str, folders: Mapping[str, Path], record: RecipeRecord | None
) -> Section:
    """Return the part of a page that shows what each stage of a recipe made, in what time.

    Args:
        title: of the recipe, or of the folder that its stages write into.
        folders: of the stages.
        record: for the times; None if ``tokkit run`` did not run them.
    """
    seconds = record.seconds if record else {}
    rows = [_describe_stage(stage, path, seconds.get(stage)) for stage, path in folders.items()]
    figures = {"stages": rows, "recipe": record.recipe if record else None}
    timed: Sequence[float] = [row["seconds"] for row in rows if row["seconds"]]
    columns = (
        Column("stage", "stage"),
        Column("folder", "folder"),
        Column("state", "state"),
        *([Column("seconds", "seconds", ",.1f", is_bar=True)] if timed else []),
        Column("rows", "rows", ","),
        Column("tokens", "tokens", ","),
        Column("bytes", "size", "bytes"),
    )
    body = [
        tiles(
            {
                "stages finished": f"{sum(r['state'] == 'finished' for r in rows)} of {len(rows)}",
                "time": f"{sum(timed):,.1f} s" if timed else None,
                "on disk": format_bytes(sum(row["bytes"] for row in rows)),
            }
        ),
        cards(card("Stages", table(columns, rows), wide=True)),
    ]
    return Section(title, "recipe", figures, body)


def _describe_stage(stage: str, path: Path, seconds: float | None) -> dict[str, Any]:
    state, rows, tokens = "missing", None, None
    if path.is_dir():
        is_tokenizer = (path / TRAINING).is_file()
        state = "finished" if is_tokenizer or (path / MANIFEST).is_file() else "unfinished"
        if find_kind(path) == "run":
            state = find_run_state(path)
        if state == "finished" and not is_tokenizer:
            manifest = Manifest.read(path)
            rows, tokens = manifest.num_rows or None, manifest.num_tokens or None
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "stage": stage,
        "folder": str(path),
        "state": state,
        "seconds": seconds,
        "rows": rows,
        "tokens": tokens,
        "bytes": size,
    }


def make_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as text, the same for the same sections."""
    style, script = _STYLE.read_text("utf-8"), _SCRIPT.read_text("utf-8")
    is_one = len(sections) == 1
    links = [
        element("a", f"{section.kind}: {section.title}", href=f"#part-{number}", dir="auto")
        for number, section in enumerate(sections)
    ]
    parts = [
        element(
            "section",
            None
            if is_one
            else element("h2", section.title, element("small", section.kind), dir="auto"),
            section.body,
            id=f"part-{number}",
        )
        for number, section in enumerate(sections)
    ]
    data = {
        "title": title,
        "tokkit_version": __version__,
        "sections": [
            {"title": section.title, "kind": section.kind, **section.figures}
            for section in sections
        ],
    }
    # The page is one line after the first, and so has no white space but what elements hold.
    first, *lines = _PAGE.read_text("utf-8").splitlines()
    template = f"{first}\n{''.join(map(str.strip, lines))}\n"
    return Template(template).substitute(
        style_hash=_hash(style),
        script_hash=_hash(script),
        title=escape(title),
        style=style,
        heading=element("h1", title, element("small", sections[0].kind) if is_one else None),
        links="" if is_one else element("nav", links),
        parts=escape(parts),
        version=__version__,
        figures=dump_figures(data),
        script=script,
    )


def dump_figures(data: Mapping[str, Any]) -> str:
    """Return JSON in which nothing ends a script: non-finite numbers become strings."""
    text = json.dumps(_replace_infinite(data), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _replace_infinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_infinite(item) for item in value]
    return value


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
