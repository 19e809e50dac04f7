"""What a unit enters into the accounts: what became of every token that came in.

The ledger has each document and token of the corpus once, as the first pass over it went; the
figures beside it add up all passes, those over the documents that are held out among them.
"""

from collections.abc import Mapping

import numpy as np

from tokkit.engine.accounts import Accounts
from tokkit.instances.documents import Documents
from tokkit.instances.pairs import PairBlock, PairOptions
from tokkit.instances.plan import BuildUnit
from tokkit.kernels.bits import Integer


def count_documents(
    accounts: Accounts,
    documents: Documents,
    num_own_rows: int,
    unit: BuildUnit,
    pairs: PairOptions | None,
) -> None:
    """Enter the documents of a unit, and their tokens as having come in."""
    lengths = np.diff(documents.token_offsets)[:num_own_rows]
    dropped = np.zeros(num_own_rows, np.bool_)
    if pairs is not None and pairs.drop_single:
        dropped = np.diff(documents.sentence_offsets) == 1
    if pairs is not None:
        accounts.count("visits", int((~dropped).sum()))
    if unit.number:
        return
    accounts.add("documents", num_own_rows)
    accounts.drop("documents", "of one sentence", int(dropped.sum()))
    accounts.keep("documents", int((~dropped).sum()))
    accounts.add("tokens", int(lengths.sum()))
    accounts.drop("tokens", "in documents of one sentence", int(lengths[dropped].sum()))
    accounts.count("eval_documents", num_own_rows if unit.held_out else 0)


def count_pairs(accounts: Accounts, block: PairBlock, unit: BuildUnit) -> None:
    """Enter what became of the tokens of paired documents."""
    pairs = block.pairs
    is_random = pairs["is_random"]
    if unit.number == 0:
        accounts.drop("tokens", "truncated", block.num_truncated)
        accounts.drop("tokens", "in last sentences alone", block.num_alone)
        accounts.keep("tokens", int(pairs["a_length"].sum() + pairs["b_length"][~is_random].sum()))
    accounts.count("short_visits", block.num_short)
    accounts.count("tokens_truncated", block.num_truncated)
    if block.num_alone:
        accounts.count("tokens_alone", block.num_alone)
    if is_random.any():
        borrowed = pairs[is_random]
        num_truncated = int((borrowed["b_whole"] - borrowed["b_length"]).sum())
        accounts.count("tokens_truncated_of_random_b", num_truncated)


def count_tail(accounts: Accounts, num_left: Integer, unit: BuildUnit) -> None:
    """Enter the tokens at the end of the stream that fill no block."""
    if unit.number == 0:
        accounts.drop("tokens", "at the end, less than a block", int(num_left))


def count_packed(accounts: Accounts, num_tokens: Integer, unit: BuildUnit) -> None:
    """Enter the tokens that were packed."""
    if unit.number == 0:
        accounts.keep("tokens", int(num_tokens))
    accounts.count("tokens_packed", int(num_tokens))


def count_figures(accounts: Accounts, figures: Mapping[str, int]) -> None:
    """Enter what was counted of instances."""
    for figure, number in figures.items():
        accounts.count(figure, number)
