"""Checking a folder against its manifest: sizes, hashes, schemas, id ranges, accounts.

Verification continues after a fault, so that one run reports all of them.
"""

import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import hash_file, read_file
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import MANIFEST, TRAINING, Manifest
from tokkit.engine.mirrors import fetch_again, pull
from tokkit.errors import TokkitError, plural
from tokkit.inspection.folder_kinds import require_kind
from tokkit.options import find_local
from tokkit.shards.instances import count_instances
from tokkit.shards.reader import ShardFolder
from tokkit.shards.shard import Shard
from tokkit.shards.shard_file import count_tokens, require_file_inside
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.saving import classic_files
from tokkit.tokenizer.sentencepiece_model import load_model
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from tokkit.vocab.training_record import TrainingRecord
from tokkit.vocab.unigram_trainer import define_unigram

_CONTRADICTS = "contradicts tokenizer.json, which tokkit reads; remove it, or recreate the folder"


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        path: the folder.
        kind: what it contains.
        files: number of files that were read.
        bytes: their total size.
        faults: one line for each fault.
    """

    path: Path
    kind: str
    files: int
    bytes: int
    faults: tuple[str, ...]


def verify(path: Path, *, progress: bool = False) -> Verification:
    """Read every file of a folder again and check it.

    Args:
        path: a tokenizer, token, instance, run or corpus folder.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        TokkitError: if the folder is missing, unfinished or not made by tokkit, so that there is
            nothing to compare with.
    """
    path = find_local(path)
    pull(path, shards=True)
    if (path / TRAINING).is_file() and not (path / MANIFEST).is_file():
        return _verify_tokenizer(path)
    manifest = Manifest.read(path)
    require_kind(path, manifest)
    faults: list[str] = []
    counted = Accounts()
    shards: dict[str, Shard] = {}
    total = sum(row["bytes"] for row in manifest.shards)
    with tqdm(
        desc="verify",
        total=total,
        unit="B",
        unit_scale=True,
        disable=not (progress and sys.stderr.isatty()),
    ) as bar:
        for row in manifest.shards:
            faults += _collect(_check_file(path, row, manifest, counted, shards))
            bar.update(row["bytes"])
    if manifest.kind in ("tokens", "instances"):
        faults += _collect(_check_tokenizer(path, manifest, shards))
        listed = {row["name"] for row in manifest.shards}
        strays = sorted(file for file in path.glob("*.arrow") if file.name not in listed)
        faults += [f"{stray}: is not in the manifest; remove it" for stray in strays]
    wrong = [*_check_accounts(manifest)]
    if not faults:
        wrong += _check_figures(manifest, counted)
    faults += [f"{path / MANIFEST}: {fault}" for fault in wrong]
    return Verification(path, manifest.kind, len(manifest.shards), total, tuple(faults))


def _collect(check: Iterator[str]) -> Iterator[str]:
    """Yield the faults of a check, including the error that ends it."""
    try:
        yield from check
    except TokkitError as error:
        yield str(error)


def _check_file(
    folder: Path, row: FileRow, manifest: Manifest, counted: Accounts, shards: dict[str, Shard]
) -> Iterator[str]:
    """Check size, hash and content of one file; shards that can be opened go into ``shards``."""
    path = folder / row["name"]
    require_file_inside(path, folder)
    digest = hash_file(path)
    if digest != row["sha256"]:
        fetch_again(path)
        digest = hash_file(path)
    if (size := path.stat().st_size) != row["bytes"]:
        yield f"{path}: has {plural(size, 'byte')}, but the manifest says {row['bytes']:,}"
    elif digest != row["sha256"]:
        yield f"{path}: its SHA-256 is not that of the manifest; a byte has changed"
    if manifest.kind in ("tokens", "instances"):
        shard = shards[row["name"]] = Shard.open(folder, {**row, "bytes": size}, manifest)
        shard.require_same_header(next(iter(shards.values())))
        _check_batches(shard, manifest, counted)


def _check_batches(shard: Shard, manifest: Manifest, counted: Accounts) -> None:
    """Check record batches and counts of one shard."""
    reader = shard.open_reader()
    sizes = []
    max_masked = 0
    for index in range(reader.num_record_batches):
        batch = shard.read_batch(reader, index)
        sizes.append((len(batch), count_tokens(batch)))
        if "masked_positions" in shard.columns:
            lengths = np.diff(batch.column("masked_positions").offsets.to_numpy())
            max_masked = max(max_masked, int(lengths.max(initial=0)))
        if shard.header.kind == "instances":
            objective = manifest.options.get("objective", "")
            for figure, number in count_instances(batch, shard.header, objective).items():
                counted.count(figure, number)
    shard.require_unchanged()
    shard.check_totals(sum(rows for rows, _ in sizes), sum(tokens for _, tokens in sizes))
    if shard.batches is not None and sizes != [*shard.batches]:
        raise TokkitError(
            f"{shard.path}: its record batches have other sizes than the manifest says; recreate the "
            f"folder"
        )
    if max_masked > (allowed := manifest.max_predictions):
        raise TokkitError(
            f"{shard.path}: an instance has {max_masked} masked positions, the manifest says at "
            f"most {allowed}; recreate the folder"
        )


def _check_tokenizer(folder: Path, manifest: Manifest, shards: dict[str, Shard]) -> Iterator[str]:
    """Check that the tokenizer in the folder is the one that made the shards."""
    path = folder / "tokenizer"
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        yield f"{path}: is not the tokenizer that the manifest names"
        return
    if shards:
        first = next(iter(shards.values()))
        ShardFolder(folder, manifest, first.header, shards).require_tokenizer(tokenizer)
    yield from _check_classic_files(path, tokenizer)


def _check_classic_files(folder: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """Check that the files of older loaders still say what ``tokenizer.json`` says."""
    for name, content in classic_files(tokenizer).items():
        if read_file(folder / name) not in (None, content):
            yield f"{folder / name}: {_CONTRADICTS}"
    path = folder / "tokenizer.model"
    model = read_file(path) if tokenizer.definition else None
    if model is not None and not _is_equivalent(model, path, tokenizer):
        yield f"{path}: {_CONTRADICTS}"


def _is_equivalent(model: bytes, path: Path, tokenizer: Tokenizer) -> bool:
    """Return whether a sentencepiece model gives the ids of a tokenizer, as far as it can be read."""
    special_tokens = [tokenizer.tokens[number] for number in tokenizer.all_special_ids]
    with suppress(TokkitError, LookupError, ValueError, struct.error):
        load_model(model, str(path))
        definition = define_unigram(model, special_tokens)
        files = TokenizerFiles(path, definition, config=tokenizer.config)
        return make_tokenizer(files).fingerprint == tokenizer.fingerprint
    return False


def _check_accounts(manifest: Manifest) -> Iterator[str]:
    """Check that in minus dropped is kept, and that the shards hold what was kept."""
    accounts = Accounts.from_dict(manifest.accounts)
    yield from accounts.imbalances()
    if manifest.kind == "tokens":
        for noun, found in (("document", manifest.num_rows), ("token", manifest.num_tokens)):
            if (kept := accounts.kept(f"{noun}s")) != found:
                yield f"{plural(kept, noun)} kept, but the shards hold {found:,}"
    if manifest.kind == "instances" and manifest.options.get("dupe_factor") == 1:
        # Accounts are of one pass, figures of all of them.
        figures = ("tokens_in_a", "tokens_in_b", "tokens_packed")
        used = sum(accounts.figures.get(figure, 0) for figure in figures)
        if (kept := accounts.kept("tokens")) != used:
            yield f"{plural(kept, 'token')} kept, but instances use {used:,}"


def _check_figures(manifest: Manifest, counted: Accounts) -> Iterator[str]:
    """Check that the shards hold what was counted when they were built.

    Args:
        manifest: the folder's manifest.
        counted: figures of ``count_instances``, summed over all shards.
    """
    noted = Accounts.from_dict(manifest.accounts).figures
    for figure, number in counted.figures.items():
        if noted.get(figure) != number:
            name = figure.replace("_", " ")
            yield f"{noted.get(figure, 0):,} {name}, but the shards hold {number:,}"


def _verify_tokenizer(path: Path) -> Verification:
    """Check that a tokenizer folder loads, and is the one that its training record describes."""
    record = TrainingRecord.read(path)
    sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
    faults = tuple(_collect(_check_trained(path, record)))
    return Verification(path, "tokenizer", len(sizes), sum(sizes), faults)


def _check_trained(path: Path, record: TrainingRecord) -> Iterator[str]:
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint == record.tokenizer_fingerprint:
        yield from _check_classic_files(path, tokenizer)
    else:
        yield f"{path}: tokenizer.json is not the one that {TRAINING} describes"
