"""Accounts add up, whatever the order of the units."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.engine.accounts import Accounts
from tokkit.errors import TokkitError

events = st.lists(
    st.tuples(
        st.sampled_from(["documents", "sentences"]),
        st.sampled_from(["kept", "empty", "invalid"]),
        st.integers(0, 1 << 40),
    )
)


def make_accounts(entries: list[tuple[str, str, int]]) -> Accounts:
    accounts = Accounts()
    for what, fate, number in entries:
        accounts.add(what, number)
        if fate == "kept":
            accounts.keep(what, number)
        else:
            accounts.drop(what, fate, number)
        accounts.count(f"figure_{fate}", number)
    return accounts


@given(st.lists(events), st.randoms(use_true_random=False))
def test_the_sum_does_not_depend_on_the_order_of_units(
    units: list[list[tuple[str, str, int]]], shuffler: random.Random
) -> None:
    forward, shuffled = Accounts(), Accounts()
    for unit in units:
        forward.merge(make_accounts(unit))
    shuffler.shuffle(units)
    for unit in units:
        shuffled.merge(Accounts.from_dict(make_accounts(unit).as_dict()))
    assert forward.as_dict() == shuffled.as_dict()
    assert list(forward.as_dict()) == list(shuffled.as_dict())
    forward.check(Path("out"), is_resumed=False)


def test_accounts_that_do_not_add_up_are_a_fault_of_receipts_or_a_bug() -> None:
    accounts = Accounts()
    accounts.add("documents", 3)
    accounts.keep("documents", 1)
    accounts.drop("documents", "empty")
    with pytest.raises(TokkitError, match="documents: 3 in, 1 dropped, but 1 kept"):
        accounts.check(Path("out"), is_resumed=True)
    with pytest.raises(AssertionError, match="documents: 3 in, 1 dropped, but 1 kept"):
        accounts.check(Path("out"), is_resumed=False)
