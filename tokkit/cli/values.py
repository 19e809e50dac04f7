"""Values of options that are more than a number or a word: sizes of memory, and weights.

2GB             2,000,000,000 bytes
1.5GiB          1,610,612,736
4096            bytes
books.txt=2.0   the INPUT books.txt counts twice
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import click

_UNITS = ("", "K", "M", "G", "T")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE | re.ASCII)


class Size(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """A number of bytes, with or without a unit: of 1000 (``MB``) or 1024 (``MiB``)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes; a default is a number already."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if not match or (match[3] and not match[2]):
            self.fail(f"{value!r} is not a size, such as 2GB, 512MiB or 100000000", param, ctx)
        return int(
            Decimal(match[1]) * (1024 if match[3] else 1000) ** _UNITS.index(match[2].upper())
        )


class Weight(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """A name and a number, ``SOURCE=2.0``; the name may itself have ``=`` in it."""

    name = "source=number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The name and the number."""
        source, _, number = str(value).rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = None
        if not source or weight is None:
            self.fail(f"{value!r} is not an INPUT with its weight, such as a.txt=2.0", param, ctx)
        return source, weight


def gather_weights(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, float], ...]
) -> Mapping[str, float]:
    """The weights of all sources, each named once."""
    weights = dict(value)
    if len(weights) < len(value):
        raise click.BadParameter("an INPUT is named twice", ctx, param)
    return weights
