"""Random segments of a large folder come from a few of its record batches, and from all alike."""

from contextlib import AbstractContextManager
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenfolders import toy_tokenizer, write_token_folder

from reference.statistics import chi_square_z
from tokkit.instances import document_reader
from tokkit.instances import pairs as pairs_module
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.instances.build_plan import BuildContext, BuildUnit, make_context, plan_build
from tokkit.instances.build_unit import build_unit
from tokkit.instances.document_reader import DocumentReader, Documents
from tokkit.instances.pairs import PairOptions, pair_documents
from tokkit.shards.reader import ShardFolder

FIRST_ID = 10
SIZES = [1 + 7 * n % 9 for n in range(90)]  # documents of each record batch, from 1 to 9
NUM_DOCUMENTS = sum(SIZES)
TOKENIZER = toy_tokenizer(FIRST_ID + NUM_DOCUMENTS)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of six sentences of 5 tokens, each token naming its document."""
    folder = tmp_path_factory.mktemp("sources")
    documents = [[[FIRST_ID + d] * 5] * 6 for d in range(NUM_DOCUMENTS)]
    return write_token_folder(
        folder, documents, shards=[SIZES[:40], SIZES[40:]], tokenizer=TOKENIZER
    )


def configure(tokens: Path, output: Path, **options: Any) -> BuildConfig:
    given = {"max_seq_length": 13, "eval_fraction": 0.0, "unit_tokens": 1500, **options}
    return BuildConfig(tokens=tokens, output=output, progress=False, **given)


def plan(tokens: Path, **options: Any) -> tuple[BuildContext, list[BuildUnit]]:
    config = configure(tokens, tokens, **options)
    folder = ShardFolder.open(tokens, "tokens")
    context = make_context(config, DocumentReader(folder, folder.batch_refs()), TOKENIZER)
    return context, [unit.payload for unit in plan_build(config, context)]


def count_sources(
    context: BuildContext, units: list[BuildUnit], monkeypatch: pytest.MonkeyPatch
) -> npt.NDArray[np.int64]:
    """How many random segments of each unit are from each document; none is from that of its A."""
    monkeypatch.setattr(
        pairs_module, "_copy_random_segments", lambda *_: (None, None)
    )  # drawn is enough
    assert isinstance(context.options, PairOptions)
    own: dict[tuple[int, bool], Documents] = {}
    counts = np.zeros((len(units), NUM_DOCUMENTS), np.int64)
    for number, unit in enumerate(units):
        split = context.split(held_out=unit.held_out)
        place = unit.start, unit.held_out
        if place not in own:
            own[place] = context.reader.read(unit.start, unit.stop, split)
        sources = context.draw_source_ranges(unit)
        assert len(sources.starts) == 32
        for block in pair_documents(own[place], sources, split, context.options, unit.number):
            random = block.pairs[block.pairs["is_random"]]
            assert not (random["index"] >> np.uint64(24) == random["source"]).any()
            counts[number] += np.bincount(
                random["source"].astype(np.int64), minlength=NUM_DOCUMENTS
            )
    return counts


def test_every_document_is_drawn_as_often_over_all_units(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,400 units of about five documents, in which each document gives some 150 segments.

    A unit's three segments or so share its record batches, so that counts vary more than those of
    independent draws, by less than a hundredth: of the 4 standard deviations that takes up 0.2.
    """
    context, units = plan(tokens, dupe_factor=60, unit_tokens=1)
    counts = count_sources(context, units, monkeypatch).sum(axis=0)
    assert counts.sum() > 140 * NUM_DOCUMENTS
    assert abs(chi_square_z(counts, counts.sum() / NUM_DOCUMENTS)) < 4


@pytest.mark.parametrize("seed", [0, 1])
def test_segments_of_large_units_vary_as_their_shared_record_batches_do(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Some 130 segments of a unit come from the same 32 record batches, so that counts cluster.

    A unit takes a share of c / 32 of its m segments from a record batch, where c is how many of the
    32 parts draw it: a sum of draws with probabilities q, the part's share in that batch. So a record
    batch of a share p of all documents gets a number of segments whose variance is, summed over units,

        m p (1 - p) + m (m - 1) sum of q (1 - q) / 32^2

    where independent draws have the first term alone. Within a record batch documents do not cluster.
    """
    context, units = plan(tokens, dupe_factor=50, seed=seed)
    counts = count_sources(context, units, monkeypatch)
    sizes = np.array(SIZES)
    starts = np.cumsum([0, *SIZES])
    edges = np.arange(33) * NUM_DOCUMENTS / 32
    overlap = np.minimum(edges[1:, None], starts[1:]) - np.maximum(edges[:-1, None], starts[:-1])
    shares = np.maximum(overlap, 0) / (NUM_DOCUMENTS / 32)
    drawn = counts.sum(axis=1)
    expected = drawn.sum() * sizes / NUM_DOCUMENTS
    independent = expected * (1 - sizes / NUM_DOCUMENTS)
    shared = (drawn * (drawn - 1)).sum() * (shares * (1 - shares)).sum(axis=0) / 32**2
    of_documents = counts.sum(axis=0)
    of_batches = np.add.reduceat(of_documents, starts[:-1])
    deviations = (of_batches - expected) ** 2
    scale = np.sqrt(2 * len(SIZES))
    assert abs((deviations / (independent + shared)).sum() - len(SIZES)) < 4 * scale
    assert (deviations / independent).sum() - len(SIZES) > 8 * scale  # they do cluster
    means = np.repeat(of_batches / sizes, sizes)
    within = ((of_documents - means) ** 2 / means).sum()
    degrees = NUM_DOCUMENTS - len(SIZES)
    assert abs(within - degrees) < 4 * np.sqrt(2 * degrees)


def test_every_document_of_a_split_is_drawn_as_often(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the documents are held out, more of some record batches than of others."""
    context, units = plan(tokens, dupe_factor=60, unit_tokens=1, eval_fraction=0.5, seed=3)
    training = [unit for unit in units if not unit.held_out]
    counts = count_sources(context, training, monkeypatch).sum(axis=0)
    members = context.split(held_out=False).select(0, NUM_DOCUMENTS)
    assert counts[members].sum() == counts.sum() > 60 * NUM_DOCUMENTS
    assert abs(chi_square_z(counts[members], counts.sum() / len(members))) < 4


def test_a_unit_reads_its_own_record_batches_and_at_most_32_others(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    map_documents = DocumentReader.map_documents

    def count(reader: DocumentReader, number: int) -> AbstractContextManager[Documents]:
        opened.append(number)
        return map_documents(reader, number)

    monkeypatch.setattr(DocumentReader, "map_documents", count)
    context, units = plan(tokens)
    folder = context.reader.folder
    sizes = [folder.read_batch(ref).nbytes for ref in context.reader.refs]
    everything: set[int] = set()
    for unit in units:
        opened.clear()
        build_unit(context, unit, BytesIO(), lambda _: None)
        own = set(range(unit.start, unit.stop))
        others = set(opened) - own
        assert own < set(opened)
        assert 20 < len(others) <= 32  # the unit has some hundred random segments
        assert sum(sizes[n] for n in others) < sum(sizes) / 2
        everything |= others
    assert len(units) > 5
    assert len(everything) > 2 * 32


def test_the_bytes_depend_on_the_seed_and_not_on_the_number_of_workers(
    tokens: Path, tmp_path: Path
) -> None:
    hashes = [
        [row["sha256"] for row in build(configure(tokens, tmp_path / name, **options)).shards]
        for name, options in {
            "here": {"workers": 0},
            "worker": {"workers": 1},
            "seed": {"workers": 0, "seed": 1},
        }.items()
    ]
    assert hashes[0] == hashes[1]
    assert not set(hashes[0]) & set(hashes[2])


def test_held_out_documents_are_counted_before_each_record_batch(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = plan(tokens, eval_fraction=0.4)
    reader, split = context.reader, context.split(held_out=True)
    batches = pairwise(reader.starts.tolist())
    expected = [0, *accumulate(len(split.select(*batch)) for batch in batches)]
    for number in (NUM_DOCUMENTS, 50, 9, 1):
        monkeypatch.setattr(document_reader, "_DRAWN", number)
        assert reader.count_before(split).tolist() == expected
