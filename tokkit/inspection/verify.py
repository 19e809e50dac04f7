"""Re-reading a folder against its manifest: sizes, hashes, schemas, id ranges, accounts.

Verification goes on after a fault, so that one run names all of them.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import hash_file, read_json
from tokkit.engine.manifest import MANIFEST, TRAINING, Manifest
from tokkit.errors import TokkitError
from tokkit.shards.counts import count_instances
from tokkit.shards.reader import check_batch, map_batch, open_shard, read_header
from tokkit.tokenizer.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what was found.

    Attributes:
        path: the folder.
        kind: what it holds.
        files: how many were read.
        bytes: their size.
        faults: one line each; none means that all is well.
    """

    path: Path
    kind: str
    files: int
    bytes: int
    faults: tuple[str, ...]


def verify(path: Path, *, progress: bool = False) -> Verification:
    """Re-read every file of a folder of ours.

    Args:
        path: a tokenizer, token, instance, run or corpus folder.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        TokkitError: where the folder is missing, unfinished or not ours, so that there is nothing
            to compare with.
    """
    if (path / TRAINING).is_file() and not (path / MANIFEST).is_file():
        return _verify_tokenizer(path)
    manifest = Manifest.read(path)
    faults: list[str] = []
    counted = Accounts()
    total = sum(row["bytes"] for row in manifest.shards)
    with tqdm(
        desc="verify",
        total=total,
        unit="B",
        unit_scale=True,
        disable=not (progress and sys.stderr.isatty()),
    ) as bar:
        for row in manifest.shards:
            faults += _faults(_check_file(path, row, manifest, counted))
            bar.update(row["bytes"])
    if manifest.kind in ("tokens", "instances"):
        faults += _faults(_check_tokenizer(path, manifest))
        listed = {row["name"] for row in manifest.shards}
        strays = sorted(file for file in path.glob("*.arrow") if file.name not in listed)
        faults += [f"{stray}: is not in the manifest; remove it" for stray in strays]
    wrong = [*check_accounts(manifest)]
    if not faults:
        wrong += check_figures(manifest, counted)
    faults += [f"{path / MANIFEST}: {fault}" for fault in wrong]
    return Verification(path, manifest.kind, len(manifest.shards), total, tuple(faults))


def _faults(check: Iterator[str]) -> Iterator[str]:
    """The faults that a check yields, and the one that ends it."""
    try:
        yield from check
    except TokkitError as error:
        yield str(error)


def _check_file(
    folder: Path, row: Mapping[str, Any], manifest: Manifest, counted: Accounts
) -> Iterator[str]:
    """Size and hash of one file, and what is in it if it is a shard."""
    path = folder / row["name"]
    digest = hash_file(path)
    if (size := path.stat().st_size) != row["bytes"]:
        yield f"{path}: has {size} bytes, the manifest says {row['bytes']}"
    elif digest != row["sha256"]:
        yield f"{path}: its SHA-256 is not the manifest's; a byte has changed"
    if manifest.kind in ("tokens", "instances"):
        yield from _check_shard(path, row, manifest, counted)


def _check_shard(
    path: Path, row: Mapping[str, Any], manifest: Manifest, counted: Accounts
) -> Iterator[str]:
    """Schema, header, every record batch, and the counts of one shard."""
    header = read_header(path)
    if header.kind != manifest.kind:
        yield f"{path}: holds {header.kind}, the manifest says {manifest.kind}"
    if header.tokenizer_fingerprint != manifest.tokenizer_fingerprint:
        yield f"{path}: was made with another tokenizer than the manifest says"
    reader = open_shard(path)
    rows = tokens = 0
    for index in range(reader.num_record_batches):
        where = f"{path}, record batch {index}"
        batch = map_batch(reader, index, where)
        check_batch(batch, header, where, check_ids=True)
        offsets = batch.column("input_ids").offsets
        rows += len(batch)
        tokens += offsets[-1].as_py() - offsets[0].as_py()
        if header.kind == "instances":
            objective = manifest.options.get("objective", "")
            for figure, number in count_instances(batch, header, objective).items():
                counted.count(figure, number)
    for name, found in (("rows", rows), ("tokens", tokens)):
        if found != row[name]:
            yield f"{path}: has {found} {name}, the manifest says {row[name]}"


def _check_tokenizer(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The tokenizer that lies beside the shards must be the one that made them."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        yield f"{folder / 'tokenizer'}: is not the tokenizer that the manifest names"


def check_accounts(manifest: Manifest) -> Iterator[str]:
    """In minus dropped is kept; what was kept is what the shards hold."""
    accounts = Accounts.from_dict(manifest.accounts)
    yield from accounts.imbalances()
    if manifest.kind == "tokens":
        for what, found in (("documents", manifest.num_rows), ("tokens", manifest.num_tokens)):
            if accounts.kept(what) != found:
                yield f"{accounts.kept(what)} {what} kept, but the shards hold {found}"
    if manifest.kind == "instances" and manifest.options.get("dupe_factor") == 1:
        # The ledger has one pass, the figures have all: they meet where there is but one.
        figures = ("tokens_in_a", "tokens_in_b", "tokens_packed")
        used = sum(accounts.figures.get(figure, 0) for figure in figures)
        if accounts.kept("tokens") != used:
            yield f"{accounts.kept('tokens')} tokens kept, but instances use {used}"


def check_figures(manifest: Manifest, counted: Accounts) -> Iterator[str]:
    """What was counted of instances when they were made is what is counted now.

    Args:
        manifest: of the folder.
        counted: the figures of ``count_instances``, added up over all shards.
    """
    noted = Accounts.from_dict(manifest.accounts).figures
    for figure, number in counted.figures.items():
        if noted.get(figure) != number:
            name = figure.replace("_", " ")
            yield f"{noted.get(figure, 0)} {name}, but the shards hold {number}"


def _verify_tokenizer(path: Path) -> Verification:
    """A tokenizer folder must load, and be what its training record says."""
    record = read_json(path / TRAINING)
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    faults = []
    try:
        if load_tokenizer(path).fingerprint != record.get("tokenizer_fingerprint"):
            faults.append(f"{path}: tokenizer.json is not what {TRAINING} says was trained")
    except TokkitError as error:
        faults.append(str(error))
    size = sum(file.stat().st_size for file in files)
    return Verification(path, "tokenizer", len(files), size, tuple(faults))
