"""Values of options that are more than a number or a word.

2GB                  2,000,000,000 bytes
1.5GiB               1,610,612,736
4096                 bytes
24h                  86,400 seconds; so are 1d and 23h60m
0.9,0.999            two numbers
128:0.9,512:0.1      sequences up to 128 for nine tenths of a run, then up to 512
books.txt=2.0        the INPUT books.txt counts twice
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import click

_UNITS = ("", "K", "M", "G", "T")
_DURATION = re.compile(
    "".join(rf"(?:(\d+(?:\.\d+)?){unit}\s*)?" for unit in "dhms"), re.IGNORECASE | re.ASCII
)
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


class Duration(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """Days, hours, minutes and seconds, each with its unit: schedulers disagree on a bare number."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds."""
        match = _DURATION.fullmatch(str(value).strip())
        if not match or not any(match.groups()):
            self.fail(
                f"{value!r} is not a duration with units (d, h, m, s), such as 24h or 1h30m",
                param,
                ctx,
            )
        return sum(
            float(number or 0) * seconds
            for number, seconds in zip(match.groups(), (86_400, 3600, 60, 1), strict=True)
        )


class Phases(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """Longest sequence and share of the run of each phase, ``128:0.9,512:0.1``."""

    name = "length:share,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, float], ...]:
        """Each phase's length and share; a default is a tuple already."""
        if isinstance(value, tuple):
            return value
        try:
            parts = [part.split(":") for part in str(value).split(",")]
            return tuple((int(length), float(share)) for length, share in parts)
        except ValueError:
            self.fail(
                f"{value!r} is not lengths with their shares, such as 128:0.9,512:0.1", param, ctx
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


def numbers(value: str | tuple[float, ...]) -> tuple[float, ...]:
    """Numbers between commas, such as 0.8,0.1,0.1; a default is a tuple already.

    Click names the values of an option after the function that reads them.
    """
    if isinstance(value, tuple):
        return value
    try:
        return tuple(float(part) for part in value.split(","))
    except (ValueError, AttributeError) as error:
        raise click.BadParameter(f"{value!r} is not numbers between commas") from error
