"""Translations are paired document by document, whatever shards the two sides are in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenfolders import SEP, Document, toy_tokenizer, write_token_folder

from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, UsageError
from tokkit.inspection.verify import verify
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.shards.reader import ShardFolder

LENGTH = 24


def make(folder: Path, output: str, **options: Any) -> Manifest:
    given: dict[str, Any] = {"workers": 0, "eval_fraction": 0.2, "unit_tokens": 500, **options}
    return build(
        BuildConfig(
            tokens=folder / "texts",
            targets=folder / "translations",
            output=folder / output,
            objective="translation",
            max_seq_length=LENGTH,
            progress=False,
            **given,
        )
    )


def draw_documents(number: int, seed: int) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(60, 1000, rng.integers(1, 10)).tolist() for _ in range(rng.integers(1, 5))]
        for _ in range(number)
    ]


def test_rows_are_the_documents_of_both_sides(tmp_path: Path) -> None:
    sides = [draw_documents(200, seed) for seed in (1, 2)]
    write_token_folder(tmp_path / "texts", sides[0], shards=[[50, 20], [60, 30], [40]])
    write_token_folder(tmp_path / "translations", sides[1], shards=[[5] * 10, [150]])
    manifest = make(tmp_path, "alone")
    assert len(manifest.shards) >= 4
    assert verify(tmp_path / "alone").faults == ()
    shards = ShardFolder.open(tmp_path / "alone", "instances")
    rows = {
        row["document"]: row
        for ref in shards.batch_refs()
        for row in shards.read_batch(ref).to_pylist()
    }
    texts, translations = (
        [[*(token for sentence in document for token in sentence), SEP] for document in side]
        for side in sides
    )
    kept = [n for n in range(200) if max(len(texts[n]), len(translations[n])) <= LENGTH]
    assert sorted(rows) == kept
    assert 0 < manifest.accounts["figures"]["eval_documents"] < 80
    for number in kept:
        assert rows[number]["input_ids"] == texts[number]
        assert rows[number]["target_ids"] == translations[number]
        starts = [token % 10 < 7 for token in texts[number][:-1]]
        assert rows[number]["word_starts"] == [*starts, False]
    dropped = manifest.accounts["documents"]["dropped"]
    assert dropped == {"of pairs longer than --max-seq-length": 200 - len(kept)}


def test_sides_that_do_not_fit_are_refused_in_a_line(tmp_path: Path) -> None:
    documents = draw_documents(20, 1)
    write_token_folder(tmp_path / "texts", documents)
    write_token_folder(tmp_path / "translations", documents[1:])
    with pytest.raises(TokkitError, match=r"translations: has 19 documents, but \S+ has 20"):
        make(tmp_path, "out")
    write_token_folder(tmp_path / "translations", documents, tokenizer=toy_tokenizer(999))
    with pytest.raises(TokkitError, match="made with another tokenizer than"):
        make(tmp_path, "out")
    assert not (tmp_path / "out").exists()
    long = [[[60] * LENGTH]] * 20
    write_token_folder(tmp_path / "translations", long)
    with pytest.raises(TokkitError, match="no instances, since every pair has a side of"):
        make(tmp_path, "out")
    with pytest.raises(UsageError, match="requires --targets"):
        BuildConfig(tokens=tmp_path, output=tmp_path, objective="translation")
    with pytest.raises(UsageError, match="--targets has no effect with --objective nsp"):
        BuildConfig(tokens=tmp_path, output=tmp_path, targets=tmp_path)
