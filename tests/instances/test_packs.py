"""Packed instances equal their twins' to the last token, however documents and work are cut."""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from instancefolders import read_rows
from tokenfolders import CLS, SEP, begins_word, toy_tokenizer, write_token_folder

from reference.noise import corrupt, order_targets
from reference.packing import Document, Packed, pack_blocks, pack_sentences
from reference.pairing import Pairing
from tokkit.engine.accounts import Accounts
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError
from tokkit.inspection.verify import verify
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.instances.build_plan import make_context, plan_build
from tokkit.instances.build_unit import LEFT_OVER, build_unit
from tokkit.instances.document_reader import DocumentReader
from tokkit.instances.packs import size_block
from tokkit.shards.reader import ShardFolder

FIRST_UNUSED = 5
NUM_UNUSED = 40
FIRST_WORD = 50
Row = dict[str, Any]


def make(tokens: Path, output: Path, **options: Any) -> Manifest:
    given: Row = {"workers": 0, "eval_fraction": 0.0, **options}
    return build(BuildConfig(tokens=tokens, output=output, progress=False, **given))


def to_row(packed: Packed, ids: Sequence[int], **targets: list[int]) -> Row:
    control = {CLS, SEP, *range(FIRST_UNUSED, FIRST_UNUSED + NUM_UNUSED)}
    return {
        "input_ids": [*ids],
        "segment_length": len(ids),
        "document": packed.document,
        "next_sentence_label": None,
        "word_starts": [token not in control and begins_word(token) for token in ids],
        **targets,
    }


def index_of(packed: Packed) -> int:
    return packed.document << 24 | packed.ordinal


def sentences_of(
    documents: Sequence[Document], members: list[int], config: Row, seed: int, epoch: int
) -> Iterator[Row]:
    assert (seed, epoch) == (seed, 0)
    cross = config.get("packing", "full-sentences") == "full-sentences"
    room = config["max_seq_length"] - 2
    for packed in pack_sentences(
        documents, members, room=room, separator_id=SEP, cross_documents=cross
    ):
        yield to_row(packed, [CLS, *packed.tokens, SEP])


def blocks_of(
    documents: Sequence[Document], members: list[int], config: Row, seed: int, epoch: int
) -> Iterator[Row]:
    assert (seed, epoch) == (seed, 0)
    made, _ = pack_blocks(documents, members, block=config["max_seq_length"], separator_ids=[SEP])
    for packed in made:
        yield to_row(packed, packed.tokens)


def spans_of(
    documents: Sequence[Document], members: list[int], config: Row, seed: int, epoch: int
) -> Iterator[Row]:
    block, num_noise, num_spans = size_block(
        config["max_seq_length"], config["noise_density"], config["mean_noise_span_length"]
    )
    made, _ = pack_blocks(documents, members, block=block, separator_ids=[])
    for packed in made:
        inputs, targets = corrupt(
            packed.tokens,
            num_noise=num_noise,
            num_spans=num_spans,
            sentinels=range(FIRST_UNUSED, FIRST_UNUSED + NUM_UNUSED),
            end_id=SEP,
            seed=seed,
            epoch=epoch,
            index=index_of(packed),
        )
        yield to_row(packed, inputs, target_ids=targets)


def permutations_of(
    documents: Sequence[Document], members: list[int], config: Row, seed: int, epoch: int
) -> Iterator[Row]:
    room = config["max_seq_length"] - 2
    made, _ = pack_blocks(documents, members, block=room, separator_ids=[SEP])
    for packed in made:
        ids = [*packed.tokens, SEP, CLS]
        targets = order_targets(
            ids,
            {SEP, CLS},
            predict_every=config["predict_one_in"],
            seed=seed,
            epoch=epoch,
            index=index_of(packed),
        )
        yield {**to_row(packed, ids, target_positions=targets), "segment_length": len(ids) - 1}


TWINS: dict[str, Callable[..., Iterator[Row]]] = {
    "mlm": sentences_of,
    "clm": blocks_of,
    "span-corruption": spans_of,
    "plm": permutations_of,
}


def draw_documents(seed: int, num_documents: int, longest: int) -> list[Document]:
    """Documents of 1 to 5 sentences of 1 to ``longest`` tokens: the bounds are met often."""
    rng = np.random.default_rng(seed)
    return [
        [
            rng.integers(FIRST_WORD, 1000, rng.integers(1, longest + 1)).tolist()
            for _ in range(rng.integers(1, 6))
        ]
        for _ in range(num_documents)
    ]


corpora = st.builds(
    draw_documents, st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([3, 12, 90])
)
objectives = st.one_of(
    st.fixed_dictionaries(
        {
            "objective": st.just("mlm"),
            "packing": st.sampled_from(["full-sentences", "doc-sentences"]),
        }
    ),
    st.just({"objective": "clm"}),
    st.fixed_dictionaries(
        {
            "objective": st.just("span-corruption"),
            "noise_density": st.sampled_from([0.15, 0.5]),
            "mean_noise_span_length": st.sampled_from([1.0, 3.0]),
            "dupe_factor": st.integers(1, 2),
        }
    ),
    st.fixed_dictionaries(
        {
            "objective": st.just("plm"),
            "predict_one_in": st.sampled_from([1, 2, 6]),
            "dupe_factor": st.integers(1, 2),
        }
    ),
)


common_options = st.fixed_dictionaries(
    {
        "max_seq_length": st.sampled_from([8, 9, 16, 40]),
        "eval_fraction": st.sampled_from([0.0, 0.3]),
        "seed": st.integers(0, 2**64 - 1),
        "unit_tokens": st.sampled_from([1, 30, 1000]),
    }
)


def split_documents(documents: list[Document], options: Row) -> dict[str, list[int]]:
    """The documents of each split; a single one is not held out."""
    everything = [*range(len(documents))]
    fraction = options["eval_fraction"] if len(documents) > 1 else 0.0
    draws = Pairing(documents, 0, 0.0, False, fraction, options["seed"], begins_word)
    held_out = [number for number in everything if draws.is_held_out(number)]
    return {"train-": [n for n in everything if n not in held_out], "eval-": held_out}


@given(documents=corpora, objective=objectives, common=common_options, data=st.data())
def test_rows_are_those_of_the_twins(
    documents: list[Document], objective: Row, common: Row, data: st.DataObject
) -> None:
    options = {**objective, **common}
    cuts = sorted(data.draw(st.sets(st.integers(0, len(documents)))))
    batches = [b - a for a, b in pairwise([0, *cuts, len(documents)])]
    first = data.draw(st.integers(0, len(batches)))
    shards = [part for part in (batches[:first], batches[first:]) if part]
    twin = TWINS[options["objective"]]
    splits = split_documents(documents, options)
    with TemporaryDirectory() as folder:
        tokenizer = toy_tokenizer(num_unused=NUM_UNUSED)
        write_token_folder(
            Path(folder), documents, shards=shards, tokenizer=tokenizer, save_tokenizer=False
        )
        tokens = ShardFolder.open(Path(folder), "tokens")
        reader = DocumentReader(tokens, [ref for ref in tokens.batch_refs() if ref.rows])
        config = BuildConfig(tokens=Path(folder), output=Path("out"), **options)
        if not splits["train-"]:
            with pytest.raises(TokkitError, match=r"leaves 0 of \d+ documents to train on"):
                make_context(config, reader, tokenizer)
            return
        context = make_context(config, reader, tokenizer)
        num_rows = 0
        accounts = Accounts()
        for unit in plan_build(config, context):
            own = unit.payload
            bounds = range(*(int(reader.starts[place]) for place in (own.start, own.stop)))
            split = splits["eval-" if own.held_out else "train-"]
            members = [number for number in split if number in bounds]
            expected = [*twin(documents, members, options, options["seed"], own.number)]
            num_rows += len(expected)
            sink = BytesIO()
            result = build_unit(context, unit.payload, sink, lambda _: None)
            assert pa.ipc.open_file(sink).read_all().to_pylist() == expected
            accounts.merge(result.accounts)
    assert not accounts.imbalances()
    num_tokens = sum(len(sentence) for document in documents for sentence in document)
    assert accounts.entries["tokens"]["in"] == num_tokens
    assert accounts.figures["instances"] == num_rows


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 documents of words that are told apart by their ids."""
    rng = np.random.default_rng(3)
    documents = [
        [rng.integers(FIRST_WORD, 1000, rng.integers(3, 40)).tolist() for _ in range(num_sentences)]
        for num_sentences in rng.integers(1, 30, 200)
    ]
    folder = tmp_path_factory.mktemp("packs") / "tokens"
    tokenizer = toy_tokenizer(num_unused=NUM_UNUSED)
    return write_token_folder(
        folder, documents, shards=[[50, 20], [60, 30], [40]], tokenizer=tokenizer
    )


@pytest.mark.parametrize("objective", ["mlm", "span-corruption"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    tokens: Path, tmp_path: Path, objective: str
) -> None:
    options: Row = {"objective": objective, "unit_tokens": 15_000, "eval_fraction": 0.1}
    alone = make(tokens, tmp_path / "0", **options)
    assert len(alone.shards) >= 4
    assert make(tokens, tmp_path / "2", workers=2, **options) == alone
    assert verify(tmp_path / "2").faults == ()


@pytest.mark.parametrize("objective", TWINS)
def test_large_vocabularies_make_the_same_instances_of_wide_ids(
    tokens: Path, tmp_path: Path, objective: str
) -> None:
    source = ShardFolder.open(tokens, "tokens")
    documents: list[Document] = []
    for ref in source.batch_refs():
        for row in source.read_batch(ref).to_pylist():
            ends = np.cumsum(row["sentence_lengths"])[:-1]
            documents.append([part.tolist() for part in np.split(row["input_ids"], ends)])
    wide = write_token_folder(
        tmp_path / "wide", documents, tokenizer=toy_tokenizer(65_537, num_unused=NUM_UNUSED)
    )
    make(wide, tmp_path / "a", objective=objective)
    make(tokens, tmp_path / "b", objective=objective)
    assert read_rows(tmp_path / "a") == read_rows(tmp_path / "b")
    assert ShardFolder.open(tmp_path / "a", "instances").header.id_dtype == np.uint32


def test_every_token_is_packed_in_order(tokens: Path, tmp_path: Path) -> None:
    """The instances of mlm and clm, put together again, are the documents."""
    folder = ShardFolder.open(tokens, "tokens")
    text = [i for ref in folder.batch_refs() for i in folder.read_batch(ref)["input_ids"].values]
    whole = [i.as_py() for i in text]
    for options in ({"objective": "mlm"}, {"objective": "mlm", "packing": "doc-sentences"}):
        output = tmp_path / "-".join(options.values())
        manifest = make(tokens, output, **options)
        ids = [i for row in read_rows(output) for i in row["input_ids"] if i not in (CLS, SEP)]
        assert ids == whole
        assert manifest.accounts["tokens"]["dropped"] == {}
    manifest = make(tokens, tmp_path / "clm", objective="clm")
    ids = [i for row in read_rows(tmp_path / "clm") for i in row["input_ids"] if i != SEP]
    num_left = manifest.accounts["tokens"]["dropped"][LEFT_OVER]
    assert ids == whole[:-num_left]
    assert num_left < 128


def test_masks_never_fall_on_separators_between_documents(tokens: Path, tmp_path: Path) -> None:
    options = {"objective": "mlm", "masking": "static"}
    make(tokens, tmp_path / "out", dupe_factor=2, **options)
    make(tokens, tmp_path / "plain", objective="mlm")
    plain = read_rows(tmp_path / "plain")
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 2 * len(plain)
    assert any(row["input_ids"].count(SEP) > 1 for row in plain)
    for row, before in zip(rows, plain + plain, strict=True):
        restored = list(row["input_ids"])
        for position, label in zip(row["masked_positions"], row["masked_labels"], strict=True):
            assert label not in (CLS, SEP)
            restored[position] = label
        assert restored == before["input_ids"]


def test_blocks_of_t5_are_those_of_its_helper() -> None:
    """What random_spans_helper says of the lengths that T5 was trained with, and of others."""
    for inputs_length, block, targets_length in (
        (512, 568, 114),
        (128, 141, 29),
        (1024, 1137, 229),
    ):
        length, num_noise, num_spans = size_block(inputs_length, 0.15, 3.0)
        assert length == block
        assert num_noise == round(block * 0.15)
        assert num_noise + num_spans + 1 == targets_length
        assert length - num_noise + num_spans + 1 <= inputs_length
