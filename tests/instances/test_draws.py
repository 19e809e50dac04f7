"""What pairs are made of is drawn uniformly, and never from A's own document.

Seeds are fixed, and 4 standard deviations are allowed; see ``chi_square_z`` for how often a right
program would be refused. The corpora tell a segment's origin by its ids.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenfolders import CLS, SEP, Document, toy_tokenizer, write_token_folder

from reference.statistics import chi_square_z, share_z
from tokkit.instances.document_reader import DocumentReader, Split
from tokkit.instances.pairs import PairOptions, pair_documents
from tokkit.shards.reader import ShardFolder

NUM_DOCUMENTS = 200
NUM_SENTENCES = 12
FIRST_ID = 10


def draw_pairs(
    folder: Path,
    documents: list[Document],
    *,
    max_tokens: int,
    num_passes: int,
    short_seq_prob: float = 0.0,
    eval_fraction: float = 0.0,
    held_out: bool = False,
    swap: bool = False,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The pairs of several passes, and for each the first id of its B where that is random."""
    write_token_folder(folder, documents, tokenizer=toy_tokenizer(30_000), save_tokenizer=False)
    tokens = ShardFolder.open(folder, "tokens")
    reader = DocumentReader(tokens, tokens.batch_refs())
    seed = np.uint64(2024)
    split = Split(held_out=held_out, eval_fraction=eval_fraction, seed=seed)
    options = PairOptions(
        max_seq_length=max_tokens + 3,
        short_seq_prob=short_seq_prob,
        drop_single=False,
        swap=swap,
        cls_id=CLS,
        sep_id=SEP,
    )
    own = reader.read(0, len(reader.refs), split)
    pairs, firsts = [], []
    for number in range(num_passes):
        for block in pair_documents(own, reader.whole_range(), split, options, number):
            pairs.append(block.pairs)
            is_random = block.pairs["is_random"]
            first = np.zeros(len(block.pairs), np.int64)
            first[is_random] = block.copied_ids[block.pairs["b_start"][is_random]]
            firsts.append(first)
    return np.concatenate(pairs), np.concatenate(firsts)


@pytest.fixture(scope="module")
def coded() -> list[Document]:
    """Documents of 12 sentences of 5 tokens, each token naming its document and sentence."""
    return [
        [[FIRST_ID + d * NUM_SENTENCES + s] * 5 for s in range(NUM_SENTENCES)]
        for d in range(NUM_DOCUMENTS)
    ]


@pytest.fixture(scope="module")
def first_pairs(
    coded: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The first pair of 40,000 visits: its chunk is always the first six sentences."""
    folder = tmp_path_factory.mktemp("coded")
    pairs, firsts = draw_pairs(folder, coded, max_tokens=30, num_passes=200)
    is_first = pairs["index"] & np.uint64(0xFF_FFFF) == 0
    assert is_first.sum() == 200 * NUM_DOCUMENTS
    return pairs[is_first], firsts[is_first]


Drawn = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


def test_the_end_of_a_is_uniform(first_pairs: Drawn) -> None:
    pairs, _ = first_pairs
    counts = np.bincount(pairs["a_length"] // 5, minlength=6)[1:]
    assert len(counts) == 5
    assert abs(chi_square_z(counts, len(pairs) / 5)) < 4


def test_half_of_the_pairs_are_random_whatever_the_cut(first_pairs: Drawn) -> None:
    pairs, _ = first_pairs
    for sentences in range(1, 6):
        alike = pairs["is_random"][pairs["a_length"] == 5 * sentences]
        assert abs(share_z(int(alike.sum()), len(alike), 0.5)) < 4


def test_a_random_segment_is_from_any_other_document_alike(first_pairs: Drawn) -> None:
    pairs, firsts = first_pairs
    own = (pairs["index"] >> np.uint64(24)).astype(np.int64)[pairs["is_random"]]
    source = (firsts[pairs["is_random"]] - FIRST_ID) // NUM_SENTENCES
    assert not (source == own).any()
    counts = np.bincount((source - own) % NUM_DOCUMENTS, minlength=NUM_DOCUMENTS)[1:]
    assert abs(chi_square_z(counts, len(own) / (NUM_DOCUMENTS - 1))) < 4
    counts = np.bincount(source, minlength=NUM_DOCUMENTS)
    assert abs(chi_square_z(counts, len(own) / NUM_DOCUMENTS)) < 4


def test_a_random_segment_begins_at_any_sentence_alike(first_pairs: Drawn) -> None:
    pairs, firsts = first_pairs
    start = (firsts[pairs["is_random"]] - FIRST_ID) % NUM_SENTENCES
    counts = np.bincount(start, minlength=NUM_SENTENCES)
    assert abs(chi_square_z(counts, len(start) / NUM_SENTENCES)) < 4
    # It is filled up to the target, unless its document ends before.
    wanted = np.minimum(30 - pairs["a_length"][pairs["is_random"]], 5 * (NUM_SENTENCES - start))
    assert np.array_equal(pairs["b_length"][pairs["is_random"]], wanted)


@pytest.mark.parametrize("held_out", [False, True])
def test_splits_lend_to_themselves_only(
    coded: list[Document], tmp_path: Path, *, held_out: bool
) -> None:
    seed = np.uint64(2024)
    members = Split(held_out=held_out, eval_fraction=0.3, seed=seed).select(0, NUM_DOCUMENTS)
    pairs, firsts = draw_pairs(
        tmp_path, coded, max_tokens=30, num_passes=20, eval_fraction=0.3, held_out=held_out
    )
    assert set((pairs["index"] >> np.uint64(24)).tolist()) == set(members.tolist())
    source = (firsts[pairs["is_random"]] - FIRST_ID) // NUM_SENTENCES
    counts = np.bincount(source, minlength=NUM_DOCUMENTS)
    assert counts.sum() == counts[members].sum()
    assert abs(chi_square_z(counts[members], counts.sum() / len(members))) < 4


def test_about_the_share_that_was_asked_for_is_held_out() -> None:
    split = Split(held_out=True, eval_fraction=0.01, seed=np.uint64(3))
    held_out = split.select(0, 1_000_000)
    assert abs(share_z(len(held_out), 1_000_000, 0.01)) < 4
    others = Split(held_out=True, eval_fraction=0.01, seed=np.uint64(4)).select(0, 1_000_000)
    both = len(set(held_out.tolist()) & set(others.tolist()))
    assert abs(share_z(both, 1_000_000, 0.0001)) < 4
    rest = Split(held_out=False, eval_fraction=0.01, seed=np.uint64(3)).select(0, 1_000_000)
    assert np.array_equal(np.sort(np.concatenate([held_out, rest])), np.arange(1_000_000))
    tail = split.select(700_000, 1_000_000) + 700_000
    assert np.array_equal(tail, held_out[held_out >= 700_000])


def test_short_targets_are_uniform_from_two(tmp_path: Path) -> None:
    documents: list[Document] = [[[FIRST_ID]] * 40] * 100
    pairs, _ = draw_pairs(tmp_path, documents, max_tokens=30, num_passes=100, short_seq_prob=1.0)
    is_first = (pairs["index"] & np.uint64(0xFF_FFFF) == 0) & ~pairs["is_random"]
    lengths = (pairs["a_length"] + pairs["b_length"])[is_first]
    counts = np.bincount(lengths, minlength=31)
    assert not counts[:2].any()
    assert len(counts) == 31
    assert abs(chi_square_z(counts[2:], len(lengths) / 29)) < 4


def test_truncation_takes_from_front_and_back_alike(tmp_path: Path) -> None:
    """A and B of 100 tokens each, words all, with room for 51: A loses 74 and B loses 75."""
    documents: list[Document] = [[[FIRST_ID * 10 + d] * 100] for d in range(0, 200, 10)]
    pairs, _ = draw_pairs(tmp_path, documents, max_tokens=51, num_passes=1000)
    assert (pairs["b_length"] == 25).all()
    assert (pairs["a_length"] == 26).all()
    front = pairs["a_start"] % 100  # binomial: 74 coins, mean 37, variance 18.5
    assert abs(front.mean() - 37) < 4 * np.sqrt(18.5 / len(front))
    assert abs(front.var() / 18.5 - 1) < 4 * np.sqrt(2 / len(front))


def test_half_of_albert_s_pairs_are_swapped_whatever_the_cut(
    coded: list[Document], tmp_path: Path
) -> None:
    """The first pair of 40,000 visits: six sentences, cut after the first to the fifth."""
    pairs, _ = draw_pairs(tmp_path, coded, max_tokens=30, num_passes=200, swap=True)
    assert not pairs["is_random"].any()
    first = pairs[pairs["index"] & np.uint64(0xFF_FFFF) == 0]
    assert len(first) == 40_000
    swapped = first["is_swapped"]
    assert np.array_equal(first["a_start"] > first["b_start"], swapped)
    lengths = np.where(swapped, first["b_length"], first["a_length"]) // 5
    counts = np.bincount(lengths, minlength=6)[1:]
    assert abs(chi_square_z(counts, len(first) / 5)) < 4
    for sentences in range(1, 6):
        alike = swapped[lengths == sentences]
        assert abs(share_z(int(alike.sum()), len(alike), 0.5)) < 4
