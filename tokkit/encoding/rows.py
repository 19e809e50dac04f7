"""From encoded sentences to the rows of a token shard.

documents         "a"                "b"         "c"
sentences         3 and 2 tokens     0 tokens    0 and 4 tokens
rows              a: [3, 2]          dropped     c: [4]
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.encoding.encoded import Encoded
from tokkit.engine.accounts import Accounts
from tokkit.shards.writer import large_list, numbers

NO_TOKENS = "no tokens"


def make_rows(
    schema: pa.Schema,
    names: pa.StringArray,
    sentence_offsets: npt.NDArray[np.int64],
    encoded: Encoded,
    accounts: Accounts,
) -> pa.RecordBatch:
    """Put the sentences of some documents into rows, without those that have no tokens.

    Args:
        schema: of a token shard.
        names: of the documents.
        sentence_offsets: int64 ``[num_documents + 1]``: document ``i`` has the sentences from
            ``sentence_offsets[i]`` to ``sentence_offsets[i + 1]``.
        encoded: the sentences of all documents.
        accounts: gets what was kept and dropped of documents, sentences and tokens, but not the
            documents that came in.
    """
    lengths = np.diff(encoded.offsets)
    full = lengths > 0
    # What is dropped is empty, so the values stay as they are, and offsets lose the doubled ones.
    token_offsets = encoded.offsets[sentence_offsets]
    length_offsets = np.concatenate([[0], full.cumsum()])[sentence_offsets]
    kept = np.diff(token_offsets) > 0
    num_kept = int(kept.sum())
    accounts.keep("documents", num_kept)
    accounts.drop("documents", NO_TOKENS, len(kept) - num_kept)
    accounts.add("sentences", len(full))
    accounts.keep("sentences", int(full.sum()))
    accounts.drop("sentences", NO_TOKENS, len(full) - int(full.sum()))
    accounts.add("tokens", len(encoded.ids))
    accounts.keep("tokens", len(encoded.ids))
    starts = np.append(kept, True)
    return pa.RecordBatch.from_arrays(
        [
            names if num_kept == len(kept) else names.filter(numbers(kept)),
            large_list(encoded.ids, token_offsets[starts]),
            large_list(lengths[full].astype(np.int32), length_offsets[starts]),
            large_list(encoded.word_starts, token_offsets[starts]),
        ],
        schema=schema,
    )


def count_words(accounts: Accounts, source: str, encoded: Encoded, unknown_id: int | None) -> None:
    """Enter tokens, words and unknown tokens of a source, and of all.

    Args:
        accounts: gets them.
        source: an INPUT as it was named.
        encoded: sentences of it.
        unknown_id: of words that the vocabulary cannot make; None where there are none.
    """
    num_words = encoded.word_starts.true_count
    num_unknown = 0 if unknown_id is None else int(np.count_nonzero(encoded.ids == unknown_id))
    accounts.count("words", num_words)
    accounts.count("unknown_tokens", num_unknown)
    accounts.count_source(source, "tokens", len(encoded.ids))
    accounts.count_source(source, "words", num_words)
    accounts.count_source(source, "unknown_tokens", num_unknown)
