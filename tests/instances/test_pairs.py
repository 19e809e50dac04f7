"""Pairs equal their twin's to the last token, however the documents are laid out."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenfolders import CLS, SEP, begins_word, toy_tokenizer, write_token_folder

from reference.pairing import Document, Pairing
from tokkit.instances import pairs as module
from tokkit.instances.document_reader import DocumentReader, Split
from tokkit.instances.pairs import PairOptions, cut_pairs, lay_out_pairs, pair_documents
from tokkit.shards.reader import ShardFolder

Row = tuple[int, list[int], int, bool, list[bool]]  # document, ids, segment length, label, words


def built_pairs(
    folder: Path, pairing: Pairing, *, held_out: bool, number: int, batches: Sequence[int] = ()
) -> list[Row]:
    """The instances that the kernels make of a token folder, random segments from some of its record batches."""
    tokens = ShardFolder.open(folder, "tokens")
    reader = DocumentReader(tokens, tokens.batch_refs())
    seed = np.uint64(pairing.seed)
    split = Split(held_out=held_out, eval_fraction=pairing.eval_fraction, seed=seed)
    options = PairOptions(
        max_seq_length=pairing.max_seq_length,
        short_seq_prob=pairing.short_seq_prob,
        drop_single=pairing.drop_single,
        swap=pairing.swap,
        cls_id=CLS,
        sep_id=SEP,
    )
    documents = reader.read(0, len(reader.refs), split)
    rows = []
    sources = reader.ranges_of(np.array(batches)) if batches else reader.whole_range()
    for block in pair_documents(documents, sources, split, options, number):
        for pairs in cut_pairs(block, 300):
            made = lay_out_pairs(block, pairs, options)
            words = np.unpackbits(made.word_starts, bitorder="little").astype(bool)
            rows += [
                (
                    int(made.documents[row]),
                    made.input_ids[start:stop].tolist(),
                    int(made.segment_lengths[row]),
                    bool(made.next_sentence_labels[row]),
                    words[start:stop].tolist(),
                )
                for row, (start, stop) in enumerate(pairwise(made.offsets))
            ]
    return rows


def expected_pairs(pairing: Pairing, *, held_out: bool, number: int) -> list[Row]:
    """The instances that the twin makes of the documents."""
    rows = []
    for pair in pairing.pairs(held_out=held_out, epoch=number):
        ids = pair.input_ids(CLS, SEP)
        words = [token not in (CLS, SEP) and begins_word(token) for token in ids]
        rows.append((pair.document, ids, len(pair.a) + 2, pair.label, words))
    return rows


tokens = st.integers(10, 999)
long_sentences = st.builds(
    lambda start, length, step: [10 + (start + step * i) % 990 for i in range(length)],
    st.integers(0, 989),
    st.integers(1, 400),
    st.sampled_from([0, 1, 3, 7]),  # 0 gives a sentence of one word, or of a word a token
)
sentences = st.lists(tokens, min_size=1, max_size=12) | long_sentences
documents_of_sentences = st.lists(
    st.lists(sentences, min_size=1, max_size=8), min_size=2, max_size=8
)


@pytest.mark.parametrize("vocab_size", [1000, 65_537])
@settings(max_examples=30)
@given(
    documents=documents_of_sentences,
    options=st.fixed_dictionaries(
        {
            "short_seq_prob": st.sampled_from([0.0, 0.1, 1.0]),
            "drop_single": st.booleans(),
            "swap": st.booleans(),
            "eval_fraction": st.sampled_from([0.0, 0.5]),
            "seed": st.integers(0, 2**64 - 1),
            "max_seq_length": st.sampled_from([8, 9, 20, 128]),
        }
    ),
    number=st.integers(0, 2**24 - 1),
    data=st.data(),
)
def test_pairs_equal_the_twins(
    vocab_size: int,
    documents: list[Document],
    options: dict[str, Any],
    number: int,
    data: st.DataObject,
) -> None:
    pairing = Pairing(documents, begins_word=begins_word, **options)
    held_out = [number for number in range(len(documents)) if pairing.is_held_out(number)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(documents) - 1))))
    batches = [b - a for a, b in pairwise([0, *cuts, len(documents)])]
    first = data.draw(st.integers(0, len(batches)))
    shards = [part for part in (batches[:first], batches[first:]) if part]
    drawn = data.draw(st.lists(st.integers(0, len(cuts)), max_size=5))
    with TemporaryDirectory() as folder:
        path = write_token_folder(
            Path(folder),
            documents,
            shards=shards,
            tokenizer=toy_tokenizer(vocab_size),
            save_tokenizer=False,
        )
        for split, size in ((True, len(held_out)), (False, len(documents) - len(held_out))):
            if size >= 2:  # a random segment comes from another document
                bounds = [*pairwise([0, *cuts, len(documents)])]
                batches = [
                    n for n in drawn if any((d in held_out) == split for d in range(*bounds[n]))
                ]
                ranges = [range(*bounds[n]) for n in batches]
                if sum((d in held_out) == split for d in {d for r in ranges for d in r}) < 2:
                    batches, ranges = [], []
                pairing = replace(pairing, ranges=ranges)
                built = built_pairs(path, pairing, held_out=split, number=number, batches=batches)
                assert built == expected_pairs(pairing, held_out=split, number=number)


def test_a_unit_of_several_blocks_equals_one_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [[[10 + d, 11, 12], [20 + d, 21]] * 9 for d in range(40)]
    folder = write_token_folder(tmp_path, documents, shards=[[7, 13], [20]])
    pairing = Pairing(
        documents,
        max_seq_length=16,
        short_seq_prob=0.1,
        drop_single=False,
        eval_fraction=0.0,
        seed=5,
        begins_word=begins_word,
    )
    whole = built_pairs(folder, pairing, held_out=False, number=0)
    monkeypatch.setattr(module, "BLOCK_TOKENS", 320)  # 20 pairs of 16 tokens
    assert built_pairs(folder, pairing, held_out=False, number=0) == whole
