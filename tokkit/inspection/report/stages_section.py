"""The parts of a report about all stages of a recipe, and about folders that are unfinished."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokkit.engine.folder import is_being_written
from tokkit.engine.manifest import MANIFEST, TRAINING, Manifest
from tokkit.engine.receipts import read_receipts, read_statement
from tokkit.inspection.folder_kinds import RecipeRecord, find_kind, find_run_state
from tokkit.inspection.report.markup import (
    Column,
    Section,
    card,
    cards,
    facts_list,
    format_bytes,
    format_options,
    list_warnings,
    table,
    tiles,
)


def describe_unfinished(path: Path, kind: str) -> Section:
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


def describe_corpus(path: Path) -> Section:
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


def describe_stages(
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
