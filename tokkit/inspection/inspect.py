"""What is in a folder or shard: its facts, and a few rows as text.

A token row is shown sentence by sentence; an instance as a model sees it, each masked position as
what stands there and what is to be predicted:

    [CLS] the cat [MASK→sat] on the [dog→mat] [SEP] it was [warm→warm] [SEP]

Runs have no rows; see ``tokkit.inspection.run_summary``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokkit.engine.files import read_json
from tokkit.engine.manifest import MANIFEST, TRAINING, Manifest
from tokkit.errors import TokkitError, require
from tokkit.inspection.row_text import show_rows
from tokkit.inspection.run_summary import inspect_run, is_run
from tokkit.shards.reader import open_shard, read_header
from tokkit.tokenizer.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Inspection:
    """What is there.

    Attributes:
        path: the folder or shard.
        kind: what it holds.
        facts: counts and settings, as JSON.
        rows: a few rows as text.
    """

    path: Path
    kind: str
    facts: dict[str, Any]
    rows: tuple[str, ...]


def inspect(path: Path, *, rows: int = 3, shard: str | None = None) -> Inspection:
    """Look at a folder of ours, or at one shard.

    Args:
        path: a tokenizer, token, instance, run or corpus folder, or an Arrow shard.
        rows: how many rows to show.
        shard: of a folder, from which the rows come; None is the first that has any.

    Raises:
        TokkitError: where it is missing, damaged or not ours, or unfinished and no run.
    """
    if path.is_file():
        return _inspect_shard(path, rows)
    if (path / "tokenizer.json").is_file() and not (path / MANIFEST).is_file():
        return _inspect_tokenizer(path, rows)
    if is_run(path):
        require(shard is None, f"{path}: is a run, which has no shards; leave --shard out")
        return Inspection(path, "run", inspect_run(path), ())
    manifest = Manifest.read(path)
    facts: dict[str, Any] = {
        "options": manifest.options,
        "seed": manifest.seed,
        "tokenizer": manifest.tokenizer_fingerprint,
        "files": len(manifest.shards),
        "bytes": sum(row["bytes"] for row in manifest.shards),
    }
    if manifest.kind in ("tokens", "instances"):
        facts |= {"rows": manifest.num_rows, "tokens": manifest.num_tokens}
        facts |= {"accounts": manifest.accounts}
        chosen = path / _choose_shard(path, manifest, shard)
        return Inspection(path, manifest.kind, facts, tuple(show_rows(chosen, rows)))
    return Inspection(path, manifest.kind, facts, ())


def _choose_shard(path: Path, manifest: Manifest, wanted: str | None) -> str:
    """The shard whose rows are shown."""
    names = [row["name"] for row in manifest.shards]
    if wanted is None:
        filled = [row["name"] for row in manifest.shards if row["rows"]]
        return str((filled or names)[0])
    if wanted not in names:
        raise TokkitError(f"{path}: has no shard {wanted}; it has {names[0]} to {names[-1]}")
    return wanted


def _inspect_shard(path: Path, rows: int) -> Inspection:
    header, reader = read_header(path), open_shard(path)
    facts = {
        "tokenizer": header.tokenizer_fingerprint,
        "vocab_size": header.vocab_size,
        "special_ids": dict(header.special_ids),
        "bytes": path.stat().st_size,
        "record_batches": reader.num_record_batches,
        "rows": reader.count_rows(),
    }
    return Inspection(path, header.kind, facts, tuple(show_rows(path, rows)))


def _inspect_tokenizer(path: Path, rows: int) -> Inspection:
    """A tokenizer's facts, and as its rows some entries from the whole range of ids."""
    tokenizer = load_tokenizer(path)
    facts: dict[str, Any] = {
        "model": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "special_ids": dict(tokenizer.special_ids),
    }
    if (path / TRAINING).is_file():
        facts["training"] = read_json(path / TRAINING)
    step = max(1, tokenizer.vocab_size // (rows * 8)) if rows else tokenizer.vocab_size
    entries = [tokenizer.tokens[number] for number in range(0, tokenizer.vocab_size, step)]
    lines = [entries[start : start + 8] for start in range(0, len(entries), 8)][:rows]
    return Inspection(path, "tokenizer", facts, tuple("  ".join(line) for line in lines))
