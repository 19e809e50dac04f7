"""Rows hold the sentences of a document, in order, and the accounts say what was dropped."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tokkit.encoding.encode_unit import make_rows
from tokkit.engine.accounts import Accounts
from tokkit.shards.schema import Header, tokens_schema
from tokkit.tokenizer.encoded import Encoded

SCHEMA = tokens_schema(
    Header(kind="tokens", tokenizer_fingerprint="0" * 64, vocab_size=9, special_ids={})
)


@given(st.lists(st.lists(st.lists(st.integers(0, 8), max_size=3), max_size=4), max_size=5))
def test_rows_equal_documents_put_together_one_by_one(documents: list[list[list[int]]]) -> None:
    sentences = [sentence for document in documents for sentence in document]
    ids = np.array([number for sentence in sentences for number in sentence], np.uint16)
    encoded = Encoded(
        ids=ids,
        offsets=np.cumsum([0, *map(len, sentences)], dtype=np.int64),
        word_starts=pa.array(ids % 2 == 0, pa.bool_()),
    )
    sentence_offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    names = pa.array([f"d{number}" for number in range(len(documents))], pa.string())
    accounts = Accounts()
    accounts.add("documents", len(documents))
    rows = make_rows(SCHEMA, names, sentence_offsets, encoded, accounts)
    rows.validate(full=True)
    expected = []
    for number, document in enumerate(documents):
        flat = [number for sentence in document for number in sentence]
        if flat:
            expected.append(
                {
                    "document": f"d{number}",
                    "input_ids": flat,
                    "sentence_lengths": [len(sentence) for sentence in document if sentence],
                    "word_starts": [number % 2 == 0 for number in flat],
                }
            )
    assert rows.to_pylist() == expected
    assert not accounts.imbalances()
    assert accounts.kept("documents") == len(expected)
    assert accounts.kept("sentences") == sum(map(bool, sentences))
    assert accounts.kept("tokens") == len(ids)
