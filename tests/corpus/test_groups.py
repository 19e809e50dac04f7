"""Small files share a unit; large ones and parts of files do not."""

from itertools import chain, groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.formats import FileType
from tokkit.corpus.sources import Source
from tokkit.corpus.units import CorpusUnit, count_units, group_units, hash_group, plan_groups
from tokkit.engine.files import hash_file


def unit(number: int, size: int, *, part: bool) -> CorpusUnit:
    name = f"{number}.txt"
    whole = size * 2 + 1 if part else size
    source = Source(
        name=name,
        input=name,
        path=name,
        uri=None,
        bytes=whole,
        mtime_ns=number,
        type=FileType("text", None),
    )
    return CorpusUnit(source, 0, size, size)


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans())), st.integers(1, 20))
def test_groups_keep_order_and_bounds(files: list[tuple[int, bool]], unit_bytes: int) -> None:
    units = [unit(number, size, part=part) for number, (size, part) in enumerate(files)]
    groups = group_units(units, unit_bytes)
    assert list(chain.from_iterable(groups)) == units
    for group in groups:
        if len(group) > 1:
            assert all(part.is_whole for part in group)
            assert sum(part.size for part in group) <= unit_bytes
    for is_whole, run in groupby(groups, lambda group: group[0].is_whole):
        sizes = [sum(part.size for part in group) for group in run]
        assert not is_whole or len(sizes) <= 2 * count_units(sum(sizes), unit_bytes)


@pytest.mark.parametrize(
    ("megabytes", "number"), [(0, 1), (32, 1), (33, 2), (64, 2), (65, 4), (160, 8), (257, 16)]
)
def test_units_are_even_and_as_many_as_workers_share(megabytes: int, number: int) -> None:
    assert count_units(megabytes << 20, 32 << 20) == number
    small = [unit(index, 1 << 18, part=False) for index in range(megabytes << 2)]
    sizes = [sum(part.size for part in group) for group in group_units(small, 32 << 20)]
    assert len(sizes) == number * (megabytes > 0)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1 << 18


def test_a_folder_of_small_files_is_one_unit(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}.txt").write_text(f"Text {number}.\n")
    config = CorpusConfig(inputs=(str(tmp_path),))
    (work,) = plan_groups(config, 64 << 20, "shard-{:07}.arrow")
    assert work.name == f"{tmp_path}/000.txt to {tmp_path}/099.txt (100 files)"
    assert work.shard == "shard-0000000.arrow"
    assert isinstance(work.stamp, list)
    assert len(work.stamp) == len(work.inputs) == 100
    files = sorted(tmp_path.glob("*.txt"))
    assert hash_group(config, work.payload) == [hash_file(path) for path in files]
