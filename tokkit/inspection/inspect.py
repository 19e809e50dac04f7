"""What is in a folder or shard: its facts, and a few rows as text.

The rows of a tokenizer are samples of its tokens. A run has no rows; see
``tokkit.inspection.run_summary``.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokkit.corpus.formats import describe_head
from tokkit.engine.manifest import MANIFEST, TRAINING, Manifest
from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, require, wrap_os_errors
from tokkit.inspection.folder_kinds import find_kind, require_kind
from tokkit.inspection.row_text import RowQuery, show_rows
from tokkit.inspection.run_summary import inspect_run
from tokkit.options import find_local
from tokkit.shards.shard import header_of
from tokkit.shards.shard_file import open_copy
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab.training_record import TrainingRecord

ARROW_MAGIC = b"ARROW1"
HEAD_BYTES = 4096
DEFAULT_ROWS = 3
TOKENS_PER_ROW = 8


@dataclass(frozen=True)
class Inspection:
    """The content of a folder or shard.

    Attributes:
        kind: ``tokenizer``, ``tokens``, ``instances``, ``run`` or ``corpus``.
        facts: counts and settings, as JSON values.
        rows: a few rows as text.
    """

    kind: str
    facts: dict[str, Any]
    rows: tuple[str, ...] = ()


def inspect(
    path: Path,
    *,
    rows: int | None = None,
    shard: str | None = None,
    text: str | None = None,
    source: str | None = None,
    longest: bool = False,
    color: bool = False,
) -> Inspection:
    """Inspect a folder or a single shard.

    Args:
        path: a tokenizer, token, instance, run or corpus folder, or an Arrow shard.
        rows: number of rows to show; None is 3 for whatever has rows.
        shard: name of the folder's shard that the rows are from; None is the first that has any, or all of
            them for a search.
        text: show rows that contain it.
        source: show rows of documents whose name contains it.
        longest: show the longest rows.
        color: whether rows are for a terminal that shows colours.

    Raises:
        UsageError: if an option has no effect on what ``path`` is.
        TokkitError: if it is missing, damaged, not made by tokkit, or unfinished and not a run.
    """
    num_rows = DEFAULT_ROWS if rows is None else rows
    query = RowQuery(num_rows, text, source, longest)
    path = find_local(path)
    pull(path)
    if path.is_file():
        require(shard is None, f"{path}: is a shard itself; leave out --shard")
        return _inspect_shard(path, query, color=color)
    kind = find_kind(path)
    if kind not in ("tokenizer", "run") or (path / MANIFEST).is_file():
        manifest = Manifest.read(path)
        require_kind(path, manifest)
        kind = manifest.kind
    if kind not in ("tokens", "instances"):
        require(shard is None, f"{path}: a {kind} has no shards; leave out --shard")
        require(not rows or kind == "tokenizer", f"{path}: a {kind} has no rows; leave out --rows")
        require(
            not query.is_search,
            f"{path}: a {kind} has no rows to search; leave out --grep, --source and --longest",
        )
    if kind == "tokenizer":
        return _inspect_tokenizer(path, num_rows)
    if kind == "run":
        return Inspection(kind, inspect_run(path))
    facts: dict[str, Any] = {
        "options": manifest.options,
        "seed": manifest.seed,
        "tokenizer": manifest.tokenizer_fingerprint,
        "files": len(manifest.shards),
        "bytes": sum(row["bytes"] for row in manifest.shards),
    }
    if kind == "corpus":
        return Inspection(kind, facts)
    facts |= {
        "rows": manifest.num_rows,
        "tokens": manifest.num_tokens,
        "warnings": manifest.warnings,
        "accounts": manifest.accounts,
    }
    chosen = [_choose_shard(path, manifest, shard)]
    if query.is_search and shard is None:
        chosen = [row["name"] for row in manifest.shards]
    return Inspection(kind, facts, tuple(show_rows(path, chosen, query, color=color)))


def _choose_shard(path: Path, manifest: Manifest, wanted: str | None) -> str:
    """Return the name of the shard whose rows are shown."""
    names = [row["name"] for row in manifest.shards]
    if not names:
        raise TokkitError(f"{path}: holds no shard; recreate the folder")
    if wanted is None:
        filled = [row["name"] for row in manifest.shards if row.get("rows")]
        return (filled or names)[0]
    if wanted not in names:
        raise TokkitError(f"{path}: has no shard {wanted}; it has {names[0]} to {names[-1]}")
    return wanted


def _inspect_shard(path: Path, query: RowQuery, *, color: bool) -> Inspection:
    with wrap_os_errors(path), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.startswith(ARROW_MAGIC) and path.suffix != ".arrow":
        raise TokkitError(
            f"{path}: is {describe_head(head)}; inspect takes a folder that a stage wrote, or one "
            f"of its Arrow shards"
        )
    reader, size = open_copy(path)
    header = header_of(reader.schema, path)
    facts = {
        "tokenizer": header.tokenizer_fingerprint,
        "vocab_size": header.vocab_size,
        "special_ids": dict(header.special_ids),
        "bytes": path.stat().st_size,
        "record_batches": reader.num_record_batches,
        "rows": size,
    }
    return Inspection(
        header.kind, facts, tuple(show_rows(path.parent, [path.name], query, color=color))
    )


def _inspect_tokenizer(path: Path, num_rows: int) -> Inspection:
    tokenizer = load_tokenizer(path)
    facts: dict[str, Any] = {
        "model": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "special_ids": dict(tokenizer.special_ids),
    }
    if (path / TRAINING).is_file():
        facts["training"] = asdict(TrainingRecord.read(path))
    step = max(1, tokenizer.vocab_size // max(1, num_rows * TOKENS_PER_ROW))
    sample = tokenizer.tokens[::step]
    rows = tuple(
        "  ".join(sample[row * TOKENS_PER_ROW :][:TOKENS_PER_ROW]) for row in range(num_rows)
    )
    return Inspection("tokenizer", facts, tuple(filter(None, rows)))
