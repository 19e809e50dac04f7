"""Whatever is damaged, verify names it; whatever is sound, it passes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokkit.errors import TokkitError
from tokkit.inspection.verify import verify
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig


@pytest.mark.parametrize("name", ["tokenizer", "tokens", "instances", "static"])
def test_what_the_stages_wrote_has_no_faults(work: Path, name: str) -> None:
    found = verify(work / name)
    assert found.faults == ()
    assert found.files >= 1
    assert found.bytes > 0


def edit_manifest(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / "manifest.json"
    form = json.loads(path.read_text())
    change(form)
    path.write_text(json.dumps(form))


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (
        "a flipped byte",
        lambda f: flip_byte(f / "shard-0000000.arrow"),
        "SHA-256 is not that of the manifest",
    ),
    ("a truncated shard", lambda f: truncate(f / "shard-0000000.arrow"), "the manifest says"),
    ("a missing shard", lambda f: (f / "shard-0000000.arrow").unlink(), "no such file"),
    (
        "a wrong count",
        lambda f: edit_manifest(f, lambda m: m["shards"][0].update(rows=1)),
        "rows, but the manifest says 1",
    ),
    (
        "accounts that do not add up",
        lambda f: edit_manifest(f, lambda m: m["accounts"]["documents"].update({"in": 5})),
        "documents: 5 in",
    ),
    (
        "accounts of other shards",
        lambda f: edit_manifest(
            f, lambda m: m["accounts"]["tokens"].update({"in": 7, "kept": 7, "dropped": {}})
        ),
        "7 tokens kept, but the shards hold",
    ),
    (
        "another tokenizer in the manifest",
        lambda f: edit_manifest(f, lambda m: m.update(tokenizer_fingerprint="0" * 64)),
        "another tokenizer than the manifest says",
    ),
    (
        "another tokenizer beside the shards",
        lambda f: (f / "tokenizer" / "tokenizer.json").write_text(
            (f / "tokenizer" / "tokenizer.json")
            .read_text()
            .replace('"lowercase": true', '"lowercase": false')
        ),
        "is not the tokenizer that the manifest names",
    ),
]


@pytest.mark.parametrize(
    ("damage", "fault"), [row[1:] for row in DAMAGE], ids=[r[0] for r in DAMAGE]
)
def test_damage_is_named(
    work: Path, tmp_path: Path, damage: Callable[[Path], object], fault: str
) -> None:
    folder = Path(shutil.copytree(work / "tokens", tmp_path / "tokens"))
    damage(folder)
    faults = verify(folder).faults
    assert any(fault in line for line in faults), faults
    assert all(str(folder) in line for line in faults)


def test_any_flipped_byte_is_found(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "static", tmp_path / "static"))
    shard = folder / "eval-0000000.arrow"
    good = shard.read_bytes()
    for place in range(0, len(good), 31):
        data = bytearray(good)
        data[place] ^= 0xFF
        shard.write_bytes(data)
        assert any("its SHA-256 is not" in fault for fault in verify(folder).faults)


def test_a_stray_shard_is_named(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "tokens", tmp_path / "tokens"))
    shutil.copy(folder / "shard-0000000.arrow", folder / "shard-0000009.arrow")
    assert "shard-0000009.arrow: is not in the manifest" in verify(folder).faults[0]


def test_all_faults_are_named_at_once(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "static", tmp_path / "static"))
    for path in folder.glob("*.arrow"):
        flip_byte(path)
    assert len(verify(folder).faults) >= 2


def test_a_changed_vocabulary_is_named(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "tokenizer", tmp_path / "tokenizer"))
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    assert "is not the one that training.json describes" in verify(folder).faults[0]


CLASSIC = {
    "wordpiece": ("vocab.txt",),
    "bpe": ("vocab.json", "merges.txt"),
    "unigram": ("tokenizer.model",),
}


@pytest.mark.parametrize("model", CLASSIC)
def test_a_classic_file_that_says_something_else_is_named(
    work: Path, tmp_path: Path, model: str
) -> None:
    folder, corpus = tmp_path / "tokenizer", str(work / "corpus.txt")
    size = {"wordpiece": 120, "bpe": 300, "unigram": 70}[model]
    special = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "<extra>")
    config = TrainConfig(
        inputs=(corpus,),
        output=folder,
        model=model,
        vocab_size=size,
        special_tokens=special,
        workers=0,
    )
    train(config)
    assert verify(folder).faults == ()
    for name in CLASSIC[model]:
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good.replace(b"t", b"q", 30).replace(b"\xcd", b"\xcc"))
        (fault,) = verify(folder).faults
        assert fault.startswith(f"{folder / name}: contradicts tokenizer.json")
        (folder / name).write_bytes(good[: len(good) // 2])
        assert f"{folder / name}: contradicts" in verify(folder).faults[0]
        (folder / name).unlink()
        assert verify(folder).faults == ()


def test_a_classic_file_of_the_tokenizer_of_shards_is_checked(work: Path, tmp_path: Path) -> None:
    for name in ("tokens", "static"):
        folder = Path(shutil.copytree(work / name, tmp_path / name))
        flip_byte(folder / "tokenizer" / "vocab.txt")
        (fault,) = verify(folder).faults
        assert fault.startswith(f"{folder / 'tokenizer' / 'vocab.txt'}: contradicts")


def test_a_foreign_or_unfinished_folder_is_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match="no such folder"):
        verify(tmp_path / "missing")
    with pytest.raises(TokkitError, match="unfinished"):
        verify(tmp_path)
    folder = Path(shutil.copytree(work / "tokens", tmp_path / "tokens"))
    (folder / "manifest.json").unlink()
    with pytest.raises(TokkitError, match="unfinished"):
        verify(folder)
