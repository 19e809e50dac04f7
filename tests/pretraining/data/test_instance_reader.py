from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from instancefolders import make_batch, write_instance_folder, write_shard

from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.shards.instances import Instances
from tokkit.shards.reader import ShardFolder
from tokkit.shards.shard_file import open_shard


def split_rows(instances: Instances) -> list[dict[str, object]]:
    """Ragged instances as rows."""
    bounds, masked = instances.offsets, instances.predictions.offsets
    return [
        {
            "input_ids": instances.input_ids[bounds[i] : bounds[i + 1]].tolist(),
            "segment_length": int(instances.segment_lengths[i]),
            "next_sentence_label": int(instances.next_sentence_labels[i]),
            "masked_positions": instances.predictions.positions[masked[i] : masked[i + 1]].tolist(),
            "masked_labels": instances.predictions.labels[masked[i] : masked[i + 1]].tolist(),
        }
        for i in range(len(bounds) - 1)
    ]


def read_rows(folder: Path, prefix: str) -> list[dict[str, object]]:
    """The same rows by pyarrow alone."""
    tables = [
        pa.Table.from_batches(list(map(reader.get_batch, range(reader.num_record_batches))))
        for reader in map(open_shard, sorted(folder.glob(f"{prefix}*.arrow")))
    ]
    rows: list[dict[str, object]] = (
        pa.concat_tables(tables).drop_columns(["document", "word_starts"]).to_pylist()
    )
    for row in rows:
        row.setdefault("masked_positions", [])
        row.setdefault("masked_labels", [])
        if row["next_sentence_label"] is None:
            row["next_sentence_label"] = NO_LABEL
    return rows


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_any_instances_are_found_by_their_numbers(
    tmp_path: Path, *, static: bool, labels: bool, compression: str
) -> None:
    folder = write_instance_folder(
        tmp_path / "instances",
        num_training=30,
        num_held_out=9,
        static=static,
        labels=labels,
        compression=compression,
    )
    opened = ShardFolder.open(folder, "instances")
    for prefix, number in (("train-", 30), ("eval-", 9)):
        reader, expected = InstanceReader(opened, prefix), read_rows(folder, prefix)
        assert len(reader) == number == len(expected)
        for numbers in ([0], [number - 1], [6, 7, 6], list(range(number))[::-1]):
            gathered = reader.gather(np.array(numbers, np.uint64))
            assert split_rows(gathered) == [expected[i] for i in numbers]


def test_what_is_gathered_may_be_written_to(tmp_path: Path) -> None:
    opened = ShardFolder.open(write_instance_folder(tmp_path / "instances"), "instances")
    reader = InstanceReader(opened, "train-")
    first = reader.gather(np.array([3], np.uint64))
    before = first.input_ids.copy()
    first.input_ids[:] = 0
    assert np.array_equal(reader.gather(np.array([3], np.uint64)).input_ids, before)


def test_nothing_held_out_is_no_instance(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_held_out=0)
    assert len(InstanceReader(ShardFolder.open(folder, "instances"), "eval-")) == 0


def test_an_id_beyond_the_vocabulary_is_refused_before_a_model_sees_it(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_training=7)
    opened = ShardFolder.open(folder, "instances")
    batch = make_batch(np.random.default_rng(0), opened.header, 7, static=False, labels=True)
    column = batch.column("input_ids")
    ids = column.values.to_numpy().copy()
    ids[-2] = opened.header.vocab_size
    wrong = pa.LargeListArray.from_arrays(column.offsets, pa.array(ids))
    batch = batch.set_column(0, batch.schema.field("input_ids"), wrong)
    row = write_shard(folder / "train-0000000.arrow", [batch], "none")
    manifest = Manifest.read(folder)
    manifest.shards[0].update(row)
    manifest.write(folder)
    reader = InstanceReader(ShardFolder.open(folder, "instances"), "train-")
    reader.gather(np.arange(6, dtype=np.uint64))
    with pytest.raises(TokkitError, match="holds id 48, but the vocabulary has 48 tokens"):
        reader.gather(np.array([6], np.uint64))
