"""Small instance folders for tests, whose text counts up, so that a model learns it in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.engine.files import write_atomically
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.shards.arrow import large_list
from tokkit.shards.reader import ShardFolder
from tokkit.shards.schema import Header, instances_schema
from tokkit.shards.shard_file import open_writer
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
NUM_WORDS = 43
NUM_MASKED = 3  # in each instance, where masks are static

BATCH_ROWS = 7
SHARD_BATCHES = 2


def write_counting_tokenizer(folder: Path, special: tuple[str, ...] = SPECIAL) -> Tokenizer:
    """Write a WordPiece tokenizer of special tokens and word0, word1, …"""
    folder.mkdir(parents=True)
    entries = [*special, *(f"word{number}" for number in range(NUM_WORDS))]
    path = folder / "vocab.txt"
    path.write_text("\n".join(entries) + "\n")
    tokenizer = load_tokenizer(path)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def count_up(rng: np.random.Generator, max_seq_length: int, *, follows: bool) -> list[list[int]]:
    """Return two segments that count up; the second follows the first, or starts anywhere."""
    size = int(rng.integers(4, (max_seq_length - 3) // 2 + 1))
    begins = [int(rng.integers(NUM_WORDS)), int(rng.integers(NUM_WORDS))]
    if follows:
        begins[1] = begins[0] + size
    words = [[len(SPECIAL) + (begin + i) % NUM_WORDS for i in range(size)] for begin in begins]
    return [[CLS, *words[0], SEP], [*words[1], SEP]]


def write_instance_folder(
    folder: Path,
    *,
    num_training: int = 64,
    num_held_out: int = 16,
    max_seq_length: int = 32,
    static: bool = False,
    labels: bool = True,
    objective: str = "nsp",
    special: tuple[str, ...] = SPECIAL,
    compression: str = "none",
    seed: int = 1,
) -> Path:
    """Write an instance folder of several shards, each of several record batches.

    Args:
        folder: output folder.
        num_training: instances to train on.
        num_held_out: instances to evaluate on.
        max_seq_length: length of the longest.
        static: whether three tokens of each are masked.
        labels: whether there are labels of pairs; else all are null.
        objective: objective in the manifest.
        special: special tokens of the vocabulary.
        compression: compression of the shards.
        seed: random seed.
    """
    tokenizer = write_counting_tokenizer(folder / "tokenizer", special)
    header = Header(
        kind="instances",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        max_seq_length=max_seq_length,
    )
    rng = np.random.default_rng(seed)
    rows: list[FileRow] = []
    for prefix, num_rows in (("train", num_training), ("eval", num_held_out)):
        batches = [
            make_batch(rng, header, min(BATCH_ROWS, num_rows - start), static=static, labels=labels)
            for start in range(0, num_rows, BATCH_ROWS)
        ]
        for start in range(0, len(batches), SHARD_BATCHES):
            path = folder / f"{prefix}-{start // SHARD_BATCHES:07d}.arrow"
            rows.append(write_shard(path, batches[start : start + SHARD_BATCHES], compression))
    Manifest(
        kind="instances",
        key=f"instances {seed}",
        options={
            "objective": objective,
            "max_seq_length": max_seq_length,
            "masking": "static" if static else "dynamic",
            **({"max_predictions_per_seq": NUM_MASKED} if static else {}),
        },
        seed=seed,
        tokenizer_fingerprint=tokenizer.fingerprint,
        inputs=[],
        shards=rows,
    ).write(folder)
    return folder


def read_rows(folder: Path, prefix: str = "") -> list[dict[str, Any]]:
    """Return the rows of the shards whose name begins with ``prefix``, by the names of columns."""
    shards = ShardFolder.open(folder, "instances")
    return [row for ref in shards.batch_refs(prefix) for row in shards.read_batch(ref).to_pylist()]


def write_shard(path: Path, batches: list[pa.RecordBatch], compression: str) -> FileRow:
    """Write a shard and return its row of the manifest."""
    with (
        write_atomically(path) as file,
        open_writer(file, batches[0].schema, compression) as writer,
    ):
        for batch in batches:
            writer.write(batch)
    return {
        "name": path.name,
        "bytes": file.size,
        "sha256": file.sha256,
        "rows": sum(map(len, batches)),
        "tokens": sum(len(batch.column("input_ids").values) for batch in batches),
    }


def make_batch(
    rng: np.random.Generator, header: Header, num_rows: int, *, static: bool, labels: bool
) -> pa.RecordBatch:
    """Return a record batch of instances."""
    is_random = rng.integers(2, size=num_rows)
    pairs = [count_up(rng, header.max_seq_length, follows=not random) for random in is_random]
    rows = [np.array(a + b, header.id_dtype) for a, b in pairs]
    positions = [
        np.sort(rng.choice(np.flatnonzero(row > MASK), NUM_MASKED, replace=False)) for row in rows
    ]
    columns = [
        pa.array([len(a) for a, _ in pairs], pa.int32()),
        pa.array(np.arange(num_rows, dtype=np.uint64)),
        pa.array(is_random if labels else [None] * num_rows, pa.int8()),
        to_column([row > MASK for row in rows], np.bool_),
    ]
    if static:
        masked_labels = [row[places] for row, places in zip(rows, positions, strict=True)]
        columns += [to_column(positions, np.uint16), to_column(masked_labels, header.id_dtype)]
        for row, places in zip(rows, positions, strict=True):
            row[places] = MASK
    columns.insert(0, to_column(rows, header.id_dtype))
    return pa.record_batch(columns, schema=instances_schema(header, static=static))


def to_column(rows: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> pa.LargeListArray:
    """Return arrays as a list column."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return large_list(np.concatenate(rows).astype(dtype), offsets)
