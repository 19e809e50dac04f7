"""No fault of a folder reaches a kernel, also where hashes agree; verify finds what readers refuse."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faultyfolders import edit_manifest, rewrite_shard
from instancefolders import CLS, write_instance_folder

from tokkit.errors import TokkitError
from tokkit.inspection.inspect import inspect
from tokkit.inspection.verify import verify
from tokkit.pretraining.data.instance_loader import InstanceLoader

SHARD = "train-0000002.arrow"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_instance_folder(tmp_path_factory.mktemp("sound") / "static", static=True)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "static"))


def load_all(folder: Path) -> None:
    loader = InstanceLoader(folder, batch_size=64, seed=1)
    loader.batch(0)


def faults_of(folder: Path) -> str:
    """What verify says, whether it reports faults or stops at once."""
    try:
        # The figures of a folder of tests are not in its manifest.
        return "\n".join(
            fault for fault in verify(folder).faults if "but the shards hold" not in fault
        )
    except TokkitError as error:
        return str(error)


def require_refused(folder: Path, fault: str) -> None:
    """Both verify and the loader refuse a folder for the same reason."""
    assert fault in faults_of(folder)
    with pytest.raises(TokkitError) as caught:
        load_all(folder)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sound_folder_is_accepted(folder: Path) -> None:
    assert faults_of(folder) == ""
    load_all(folder)


HEADERS = {
    "vocabulary size": ({"tokkit.vocab_size": "40"}, "its vocab_size is 40, but that of"),
    "special ids": ({"tokkit.special_ids": '{"cls": 9}'}, "its special_ids is {'cls': 9}, but"),
    "length": ({"tokkit.max_seq_length": "64"}, "its max_seq_length is 64, the manifest says 32"),
    "kind": ({"tokkit.kind": "tokens"}, "its columns are not those of tokens"),
    "tokenizer": ({"tokkit.tokenizer": "0" * 64}, "another tokenizer than the manifest says"),
    "unknown kind": ({"tokkit.kind": "pictures"}, "pictures"),
    "terabytes": ({"tokkit.max_seq_length": "10000000000"}, "<= 65536"),
    "no number": ({"tokkit.vocab_size": "many"}, "Expected `int`"),
    "no object": ({"tokkit.special_ids": "[" * 100_000}, "damaged metadata"),
    "negative id": ({"tokkit.special_ids": '{"cls": -1}'}, ">= 0"),
}


@pytest.mark.parametrize(("metadata", "fault"), HEADERS.values(), ids=HEADERS)
def test_a_header_of_one_shard_that_differs_is_refused(
    folder: Path, metadata: dict[str, str], fault: str
) -> None:
    rewrite_shard(folder, SHARD, metadata=metadata)
    require_refused(folder, fault)


def test_a_shard_with_wider_ids_than_the_others_is_refused(folder: Path) -> None:
    rewrite_shard(folder, SHARD, metadata={"tokkit.vocab_size": "70000"}, id_type=pa.uint32())
    require_refused(folder, "its vocab_size is 70000, but that of train-0000000.arrow is 48")


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        (
            {"tokkit.vocab_size": "50"},
            "the vocab_size of its shards is 50, but that of the tokenizer",
        ),
        ({"tokkit.special_ids": '{"cls": 9}'}, "the special_ids of its shards is {'cls': 9}, but"),
    ],
    ids=["vocabulary size", "special ids"],
)
def test_headers_that_all_differ_from_the_tokenizer_are_refused(
    folder: Path, metadata: dict[str, str], fault: str
) -> None:
    for shard in sorted(folder.glob("*.arrow")):
        rewrite_shard(folder, shard.name, metadata=metadata)
    require_refused(folder, fault)


def with_value(place: int, value: int) -> Callable[[pa.Array], pa.Array]:
    """Replace one value of a column, or of the values of a list column."""

    def change(column: pa.Array) -> pa.Array:
        is_list = pa.types.is_large_list(column.type)
        values = (column.values if is_list else column).to_numpy().copy()
        values[place] = value
        changed = pa.array(values)
        return pa.LargeListArray.from_arrays(column.offsets, changed) if is_list else changed

    return change


def with_null(column: pa.Array) -> pa.Array:
    values = pa.array([None, *column.values.to_pylist()[1:]], column.type.value_type)
    return pa.LargeListArray.from_arrays(column.offsets, values)


def with_some_nulls(column: pa.Array) -> pa.Array:
    return pa.array([None, *column.to_pylist()[1:]], column.type)


COLUMNS: dict[str, tuple[str, Callable[[pa.Array], pa.Array], str]] = {
    "an id beyond the vocabulary": ("input_ids", with_value(1, 48), "holds id 48"),
    "a label beyond the vocabulary": ("masked_labels", with_value(1, 48), "holds id 48"),
    "null among ids": ("input_ids", with_null, "input_ids holds nulls"),
    "null among word starts": ("word_starts", with_null, "word_starts holds nulls"),
    "a label of -128": ("next_sentence_label", with_value(1, -128), "neither 0 nor 1"),
    "a label of 2": ("next_sentence_label", with_value(0, 2), "neither 0 nor 1"),
    "some labels null": ("next_sentence_label", with_some_nulls, "neither 0 nor 1"),
    "a negative segment": ("segment_length", with_value(3, -1), "segment_length is beyond"),
    "a long segment": ("segment_length", with_value(3, 99), "segment_length is beyond"),
    "a position twice": ("masked_positions", lambda c: with_value(1, c[0][0].as_py())(c), "ascend"),
    "positions out of order": ("masked_positions", with_value(0, 31), "ascend"),
    "a position beyond": ("masked_positions", with_value(2, 40), "masked_positions is beyond"),
    "a masked special token": ("masked_labels", with_value(2, CLS), "special token of cls"),
}


@pytest.mark.parametrize(("column", "change", "fault"), COLUMNS.values(), ids=COLUMNS)
def test_values_that_contradict_the_format_are_refused(
    folder: Path, column: str, change: Callable[[pa.Array], pa.Array], fault: str
) -> None:
    rewrite_shard(folder, SHARD, {column: change})
    require_refused(folder, fault)


@pytest.mark.parametrize("noun", ["rows", "tokens"])
def test_counts_that_differ_from_the_manifest_are_refused(folder: Path, noun: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["shards"][1].update({noun: 5}))
    require_refused(folder, f"{noun}, but the manifest says 5")


def set_option(name: str, value: object) -> Callable[[Any], object]:
    return lambda manifest: manifest["options"].update({name: value})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (set_option("masking", "dynamic"), "has the columns of static masks, but"),
        (
            set_option("max_predictions_per_seq", 2),
            "an instance has 3 masked positions",
        ),
        (set_option("max_seq_length", 16), "its max_seq_length is 32, the manifest says 16"),
        (lambda manifest: manifest["shards"].append(manifest["shards"][0]), "lists a file twice"),
    ],
    ids=["masking", "predictions", "length", "a shard twice"],
)
def test_a_manifest_that_contradicts_its_shards_is_refused(
    folder: Path, change: Callable[[Any], object], fault: str
) -> None:
    edit_manifest(folder, change)
    require_refused(folder, fault)


@pytest.mark.parametrize("claim", [1 << 31, 1 << 40, (1 << 63) - 1])
def test_a_compressed_buffer_that_claims_terabytes_is_refused(tmp_path: Path, claim: int) -> None:
    folder = write_instance_folder(tmp_path / "packed", static=True, compression="zstd")
    assert faults_of(folder) == ""
    shard = folder / SHARD
    data = bytearray(shard.read_bytes())
    start = data.index(b"\x28\xb5\x2f\xfd") - 8  # of Zstandard, after what it unpacks to
    data[start : start + 8] = claim.to_bytes(8, "little")
    shard.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_manifest(folder, lambda manifest: manifest["shards"][2].update(sha256=digest))
    require_refused(folder, "record batch 0: claims to unpack ")
    with pytest.raises(TokkitError, match="claims to unpack"):
        inspect(shard)


def read_all_ways(folder: Path) -> list[str]:
    """What each reader says of a folder that it must refuse."""
    said = [faults_of(folder)]
    for read in (load_all, inspect):
        with pytest.raises(TokkitError) as caught:
            read(folder)
        said.append(str(caught.value))
    return said


NAMES = [
    "/dev/zero",
    "../static/train-0000000.arrow",
    "a/b.arrow",
    "",
    ".",
    "..",
    "a\0b",
    "./x",
]


@pytest.mark.parametrize("name", NAMES, ids=[repr(name) for name in NAMES])
def test_a_name_that_is_not_a_plain_name_is_refused(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["shards"][0].update(name=name))
    assert all("is not the name of a file" in said for said in read_all_ways(folder))


def make_pipe(path: Path, _elsewhere: Path) -> None:
    os.mkfifo(path)


def link_to_device(path: Path, _elsewhere: Path) -> None:
    path.symlink_to("/dev/zero")


def link_outside(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def link_to_itself(path: Path, _elsewhere: Path) -> None:
    path.symlink_to(path.name)


def make_folder(path: Path, _elsewhere: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (make_pipe, "is not a regular file"),
        (link_to_device, "is not a regular file"),
        (link_outside, "is a link to a file outside the folder"),
        (link_to_itself, "a link that leads to itself"),
        (make_folder, "is not a regular file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_shard_that_is_no_file_of_the_folder_is_refused(
    folder: Path, tmp_path: Path, make: Callable[[Path, Path], None], fault: str
) -> None:
    shard = folder / "train-0000000.arrow"
    elsewhere = shard.rename(tmp_path / "elsewhere.arrow")
    make(shard, elsewhere)
    assert all(fault in said for said in read_all_ways(folder))


def test_a_link_to_a_file_of_the_folder_is_read(folder: Path) -> None:
    shard = folder / "train-0000000.arrow"
    shard.rename(folder / "blob")
    shard.symlink_to("blob")
    load_all(folder)


@pytest.mark.parametrize("kind", ["pictures", "run", "corpus"])
def test_a_manifest_of_unknown_or_wrong_kind_is_refused(folder: Path, kind: str) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(kind=kind))
    assert str(folder) in faults_of(folder)
    with pytest.raises(TokkitError):
        inspect(folder)
    with pytest.raises(TokkitError, match="instances are needed here"):
        load_all(folder)
