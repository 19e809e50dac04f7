"""``build`` end to end: the same instances however the work is cut, and a ledger that adds up."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pytest
from instancefolders import read_rows
from tokenfolders import (
    CLS,
    MASK,
    SEP,
    SPECIAL,
    Document,
    begins_word,
    toy_tokenizer,
    write_token_folder,
)

from reference.masking import mask_instance
from reference.pairing import Pairing
from tokkit.engine.accounts import Accounts
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.shards.arrow import ragged
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import load_tokenizer

NUM_DOCUMENTS = 120


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    rng = np.random.default_rng(5)
    return [
        [rng.integers(10, 1000, rng.integers(1, 31)).tolist() for _ in range(num_sentences)]
        for num_sentences in rng.choice([1, 2, 5, 20], NUM_DOCUMENTS)
    ]


@pytest.fixture(scope="module")
def tokens(documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "tokens"
    return write_token_folder(folder, documents, shards=[[20, 30], [50], [10, 0, 10]])


def make(tokens: Path, output: Path, **options: Any) -> Manifest:
    given: dict[str, Any] = {"workers": 0, "unit_tokens": 3000, "eval_fraction": 0.1, **options}
    return build(BuildConfig(tokens=tokens, output=output, progress=False, **given))


def hashes(manifest: Manifest) -> dict[str, str]:
    return {row["name"]: row["sha256"] for row in manifest.shards}


def test_rows_are_those_of_the_twins(
    documents: list[Document], tokens: Path, tmp_path: Path
) -> None:
    seed = 2**63 + 9
    options: dict[str, Any] = {"max_seq_length": 64, "short_seq_prob": 0.3, "eval_fraction": 0.2}
    make(tokens, tmp_path / "out", masking="static", dupe_factor=2, seed=seed, **options)
    pairing = Pairing(documents, drop_single=False, seed=seed, begins_word=begins_word, **options)
    for prefix, num_passes in (("train-", 2), ("eval-", 1)):
        expected = []
        for number in range(num_passes):
            for pair in pairing.pairs(held_out=prefix == "eval-", epoch=number):
                ids = pair.input_ids(CLS, SEP)
                masked, positions, labels = mask_instance(
                    ids,
                    [0, len(pair.a) + 1, len(ids) - 1],
                    masked_lm_prob=0.15,
                    max_predictions=10,
                    mask_id=MASK,
                    replacements=range(7, 1000),  # without control and unused entries
                    shares=(0.8, 0.1),
                    seed=seed,
                    epoch=number,
                    index=pair.index,
                )
                expected.append(
                    {
                        "input_ids": masked,
                        "segment_length": len(pair.a) + 2,
                        "document": pair.document,
                        "next_sentence_label": int(pair.label),
                        "word_starts": [t not in (CLS, SEP) and begins_word(t) for t in ids],
                        "masked_positions": positions,
                        "masked_labels": labels,
                    }
                )
        assert read_rows(tmp_path / "out", prefix) == expected


def test_the_bytes_do_not_depend_on_the_number_of_workers(tokens: Path, tmp_path: Path) -> None:
    options = {"masking": "static", "dupe_factor": 2}
    alone = make(tokens, tmp_path / "0", workers=0, **options)
    assert len(alone.shards) >= 5
    for workers in (1, 4):
        manifest = make(tokens, tmp_path / str(workers), workers=workers, **options)
        assert hashes(manifest) == hashes(alone)
        assert manifest == alone


def test_instances_do_not_depend_on_how_documents_lie_in_shards(
    documents: list[Document], tokens: Path, tmp_path: Path
) -> None:
    make(tokens, tmp_path / "a", dupe_factor=2)
    other = write_token_folder(tmp_path / "other", documents, shards=[[3], [100], [17]])
    make(other, tmp_path / "b", dupe_factor=2, unit_tokens=1)
    make(other, tmp_path / "c", dupe_factor=2, unit_tokens=1 << 24)
    for prefix in ("train-", "eval-"):
        rows = read_rows(tmp_path / "a", prefix)
        assert rows == read_rows(tmp_path / "b", prefix) == read_rows(tmp_path / "c", prefix)


def test_masks_are_all_that_static_masking_changes(tokens: Path, tmp_path: Path) -> None:
    make(tokens, tmp_path / "dynamic")
    make(tokens, tmp_path / "static", masking="static")
    plain, masked = (read_rows(tmp_path / name, "train-") for name in ("dynamic", "static"))
    assert "masked_positions" not in plain[0]
    for before, after in zip(plain, masked, strict=True):
        positions, labels = after.pop("masked_positions"), after.pop("masked_labels")
        restored = list(after["input_ids"])
        for position, label in zip(positions, labels, strict=True):
            restored[position] = label
        assert {**after, "input_ids": restored} == before


def test_each_pass_draws_anew(tokens: Path, tmp_path: Path) -> None:
    manifest = make(tokens, tmp_path / "out", dupe_factor=2, unit_tokens=1 << 24, eval_fraction=0)
    assert [row["name"] for row in manifest.shards] == [
        "train-0000000.arrow",
        "train-0000001.arrow",
    ]
    first, second = (
        {tuple(row["input_ids"]) for row in read_rows(tmp_path / "out", f"train-0000{n}")}
        for n in (0, 1)
    )
    # A document of two sentences gives the same pair whenever both coins show heads.
    assert len(first & second) < len(first) / 10
    alone = make(tokens, tmp_path / "alone", unit_tokens=1 << 24, eval_fraction=0)
    assert alone.shards[0]["sha256"] == manifest.shards[0]["sha256"]


def test_every_token_is_accounted_for(
    documents: list[Document], tokens: Path, tmp_path: Path
) -> None:
    manifest = make(
        tokens, tmp_path / "out", masking="static", dupe_factor=3, single_sentence="drop"
    )
    accounts = Accounts.from_dict(manifest.accounts)
    assert not accounts.imbalances()
    single = [document for document in documents if len(document) == 1]
    assert single
    assert accounts.entries["documents"] == {
        "in": NUM_DOCUMENTS,
        "kept": NUM_DOCUMENTS - len(single),
        "dropped": {"of one sentence": len(single)},
    }
    num_tokens = sum(len(sentence) for document in documents for sentence in document)
    assert accounts.entries["tokens"]["in"] == num_tokens
    dropped = accounts.entries["tokens"]["dropped"]
    assert dropped["in documents of one sentence"] == sum(len(d[0]) for d in single)
    assert dropped["truncated"] > 0

    rows = read_rows(tmp_path / "out", "")
    figures = accounts.figures
    assert figures["instances"] == len(rows) == manifest.num_rows
    assert manifest.num_tokens == sum(len(row["input_ids"]) for row in rows)
    assert figures["random_pairs"] == sum(row["next_sentence_label"] for row in rows)
    num_segment_tokens = [figures[f"tokens_in_{name}"] for name in ("a", "b", "random_b")]
    assert sum(num_segment_tokens) == manifest.num_tokens - 3 * len(rows)
    assert figures["tokens_in_a"] == sum(row["segment_length"] - 2 for row in rows)
    # Of each pass over the training documents, and of the one over those held out, every token is
    # in an A, in a following B, or was truncated.
    kinds = {row["document"] for row in read_rows(tmp_path / "out", "eval-")}
    visited = [
        sum(len(s) for n, d in enumerate(documents) if (n in kinds) == held_out for s in d)
        for held_out in (False, True)
    ]
    visited[0] -= sum(len(d[0]) for n, d in enumerate(documents) if len(d) == 1)
    # Documents of one sentence that are held out give no row; they were taken off above.
    used = figures["tokens_in_a"] + figures["tokens_in_b"] + figures["tokens_truncated"]
    assert used == 3 * visited[0] + visited[1]
    found = [figures[f"masked_by_{what}"] for what in ("mask", "random_tokens", "themselves")]
    assert sum(found) == figures["masked_tokens"] == sum(len(r["masked_labels"]) for r in rows)


def test_held_out_documents_are_in_no_training_instance(tokens: Path, tmp_path: Path) -> None:
    manifest = make(tokens, tmp_path / "out", dupe_factor=2)
    training, held_out = (
        {row["document"] for row in read_rows(tmp_path / "out", prefix)}
        for prefix in ("train-", "eval-")
    )
    assert not training & held_out
    assert training | held_out == set(range(NUM_DOCUMENTS))
    assert manifest.accounts["figures"]["eval_documents"] == len(held_out)
    assert 4 <= len(held_out) <= 24  # 12 are expected, 4 standard deviations are 13


def test_fewer_than_two_documents_are_not_held_out(tokens: Path, tmp_path: Path) -> None:
    manifest = make(tokens, tmp_path / "out", eval_fraction=0.0001)
    assert manifest.accounts["figures"]["eval_documents"] == 0
    assert not any(row["name"].startswith("eval-") for row in manifest.shards)
    rows = read_rows(tmp_path / "out", "")
    assert {row["document"] for row in rows} == set(range(NUM_DOCUMENTS))


def test_the_folder_stands_alone_and_is_not_made_twice(tokens: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tokens, tmp_path / "tokens")
    first = make(source, tmp_path / "out")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}
    assert make(source, tmp_path / "out") == first
    assert written == {path: path.stat().st_mtime_ns for path in written}
    shutil.rmtree(source)
    folder = ShardFolder.open(tmp_path / "out", "instances")
    assert load_tokenizer(folder.tokenizer_path).fingerprint == first.tokenizer_fingerprint
    assert folder.header.max_seq_length == 128
    assert {row["name"] for row in first.inputs} == {f"shard-000000{n}.arrow" for n in range(3)}


def test_other_options_or_tokens_are_another_run(tokens: Path, tmp_path: Path) -> None:
    make(tokens, tmp_path / "out")
    with pytest.raises(TokkitError, match="--max-seq-length was 128, not 64"):
        make(tokens, tmp_path / "out", max_seq_length=64)
    with pytest.raises(TokkitError, match="--seed was 0, not 1"):
        make(tokens, tmp_path / "out", seed=1)
    other = write_token_folder(tmp_path / "other", [[[10], [11]], [[12], [13]]])
    with pytest.raises(TokkitError, match="its inputs were different"):
        make(other, tmp_path / "out")


def test_large_vocabularies_have_wide_ids(documents: list[Document], tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(65_537)
    source = write_token_folder(tmp_path / "tokens", documents, tokenizer=tokenizer)
    make(source, tmp_path / "out", masking="static", max_seq_length=512)
    folder = ShardFolder.open(tmp_path / "out", "instances")
    batch = folder.read_batch(folder.batch_refs()[0])
    assert batch.schema.field("input_ids").type == pa.large_list(pa.uint32())
    assert batch.schema.field("masked_labels").type == pa.large_list(pa.uint32())
    assert batch.schema.field("masked_positions").type == pa.large_list(pa.uint16())
    _, offsets = ragged(batch.column("input_ids"))
    assert 128 < np.diff(offsets).max() <= 512


def test_random_replacements_come_from_all_entries_if_asked(tmp_path: Path) -> None:
    documents = [[[10 + (n + s) % 20] * 20 for s in range(20)] for n in range(20)]
    source = write_token_folder(tmp_path / "tokens", documents, tokenizer=toy_tokenizer(30))
    found = {}
    for random_tokens in ("vocabulary", "all"):
        out = tmp_path / random_tokens
        make(source, out, masking="static", random_tokens=random_tokens, dupe_factor=5)
        found[random_tokens] = {
            row["input_ids"][position]
            for row in read_rows(out, "train-")
            for position in row["masked_positions"]
        }
    assert found["vocabulary"] == {MASK, *range(7, 30)}  # 5 and 6 are unused entries
    assert found["all"] == {*range(30)}


@pytest.mark.parametrize(
    ("documents", "options", "line"),
    [
        ([[[10, 11], [12]]], {}, "has 1 document, .* encode --documents line or blank-line"),
        (
            [[[10], [11]]] * 6,
            {"eval_fraction": 0.99},
            "--eval-fraction 0.99 leaves [01] of 6 documents to train on.*pass a smaller one, or 0",
        ),
        (
            [[[10, 11]]] * 6,
            {"single_sentence": "drop"},
            "every document has only one sentence; pass --single-sentence random",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused_in_a_line(
    tmp_path: Path, documents: list[Document], options: dict[str, Any], line: str
) -> None:
    source = write_token_folder(tmp_path / "tokens", documents)
    with pytest.raises(TokkitError, match=line):
        make(source, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "[MASK]"])
def test_a_tokenizer_without_a_control_token_is_refused(tmp_path: Path, missing: str) -> None:
    assert missing in SPECIAL
    source = write_token_folder(
        tmp_path / "tokens", [[[10], [11]]] * 6, tokenizer=toy_tokenizer(without=missing)
    )
    with pytest.raises(TokkitError, match=f"no token .*{missing[1:-1]}"):
        make(source, tmp_path / "out")


def test_damaged_and_unfinished_token_folders_are_refused(tokens: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tokens, tmp_path / "tokens")
    other = toy_tokenizer(999)
    save_tokenizer(other, source / "tokenizer")
    with pytest.raises(TokkitError, match="is not the tokenizer that made the shards"):
        make(source, tmp_path / "out")
    save_tokenizer(toy_tokenizer(), source / "tokenizer")

    shard = source / "shard-0000001.arrow"
    content = shard.read_bytes()
    batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    lengths = ragged(batch.column("sentence_lengths"))[0][:4].tobytes()
    assert content.count(lengths) == 1
    shard.write_bytes(content.replace(lengths, b"\xff" * len(lengths)))
    with pytest.raises(TokkitError, match=r"shard-0000001\.arrow, record batch 0: .*sentence"):
        make(source, tmp_path / "out")

    ids = ragged(batch.column("input_ids"))[0][:4].tobytes()
    assert content.count(ids) == 1
    shard.write_bytes(content.replace(ids, b"\xff" * len(ids)))
    with pytest.raises(TokkitError, match="holds id 65535, but the vocabulary has 1000 tokens"):
        make(source, tmp_path / "out")

    (source / "manifest.json").unlink()
    with pytest.raises(TokkitError, match="unfinished"):
        make(source, tmp_path / "out")


def test_progress_adds_up_to_the_plan(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokkit.engine import stage

    made: list[Any] = []

    class Bar:
        def __init__(self, *_names: str, total: int, **_: Any) -> None:
            self.total, self.done = total, 0
            made.append(self)

        def update(self, number: int) -> None:
            self.done += number

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(stage, "open_bar", Bar)
    make(tokens, tmp_path / "out", dupe_factor=2)
    assert made[0].done == made[0].total > 0


def test_offsets_and_lengths_stay_within_bounds(tokens: Path, tmp_path: Path) -> None:
    make(tokens, tmp_path / "out", max_seq_length=8)
    for row in read_rows(tmp_path / "out", ""):
        ids, length = row["input_ids"], row["segment_length"]
        assert 5 <= len(ids) <= 8
        assert [p for p, token in enumerate(ids) if token in (CLS, SEP)] == [
            0,
            length - 1,
            len(ids) - 1,
        ]
        assert all(a < b for a, b in pairwise([0, length - 1, len(ids) - 1]))
