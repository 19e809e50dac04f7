"""The options of the stages, each declared once, as a field of its stage's config.

    class BuildConfig(Config):
        seed: int = option("Random seed.", default=0, minimum=0, maximum=(1 << 64) - 1)
        packing: str = option("…", default="full-sentences", choices=PACKINGS,
                              only_with={"objective": ("mlm",)})

The field gives the type, default, range and help of the option. The check of its value (here), the
option ``--seed`` of the command and the key ``seed`` of a recipe's table (``tokkit.cli.command_options``)
all come from it.

Values that are more than a number or a word are written as text:

    2GB                  2,000,000,000 bytes
    1.5GiB               1,610,612,736 bytes
    4096                 bytes
    24h                  86,400 seconds; so are 1d and 23h60m
    0.9,0.999            two numbers
    128:0.9,512:0.1      sequences up to 128 for nine tenths of a run, then up to 512
    128:0.1,512          batches of 128 for a tenth of the steps, then of 512
    books.txt=2.0        the words of the input books.txt count twice
"""

import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, dataclass_transform

from tokkit.errors import MIRRORS, require

LARGEST_SEED = (1 << 64) - 1

_UNITS = ("", "K", "M", "G", "T")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE | re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as a path has it, which joins slashes
_STORE = re.compile(r"(s3|gs):/+([^/]+)(?:/(.*))?", re.DOTALL)
_MIRROR = re.compile(rf".*/{re.escape(MIRRORS)}/(s3|gs)/([^/]+)(?:/(.*))?", re.DOTALL)
_DURATION = re.compile(
    "".join(rf"(?:(\d+(?:\.\d+)?){unit}\s*)?" for unit in "dhms"), re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a stage, as its config declares it.

    Attributes:
        help: a full phrase.
        flags: spellings on the command line, in place of the one made from the name.
        argument: the name in ``--help`` of a positional argument, which has no flags.
        choices: the allowed values.
        minimum, above, maximum, below: bounds of the value, or of each of several numbers.
        only_with: other options and those of their values with which this option has an effect.
        parse: turns text into the value, raising ``ValueError`` with what is wrong.
        shown_default: what ``--help`` shows in place of the default.
        default: the default value.
        required: whether there is no default.
        name: name of the field.
        type: type of the field.
        heading: heading of the config that adds the option.
    """

    help: str
    flags: tuple[str, ...] = ()
    argument: str | None = None
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    only_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parse: Callable[[str], Any] | None = None
    shown_default: str | None = None
    default: Any = None
    required: bool = False
    name: str = ""
    type: Any = None
    heading: str = ""

    @property
    def flag(self) -> str:
        """The spelling on the command line, such as ``--max-seq-length``."""
        return self.flags[-1] if self.flags else f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> None:
        """Refuse a value that is no choice or is out of range.

        Raises:
            UsageError: naming the option and what it takes.
        """
        if value is None:
            return
        if self.choices is not None:
            require(value in self.choices, f"{self.flag} must be one of {', '.join(self.choices)}")
        bounds = (
            ("at least", operator.ge, self.minimum),
            ("above", operator.gt, self.above),
            ("at most", operator.le, self.maximum),
            ("below", operator.lt, self.below),
        )
        wanted = [(word, holds, bound) for word, holds, bound in bounds if bound is not None]
        for part in value if isinstance(value, tuple) else (value,):
            require(
                all(holds(part, bound) for _, holds, bound in wanted),
                f"{self.flag} must be "
                + " and ".join(f"{word} {bound:,}" for word, _, bound in wanted),
            )


def option(text: str, *, default: Any = MISSING, **details: Any) -> Any:
    """Declare an option as the field of a config.

    Args:
        text: the help.
        default: the option is required if there is none; a function makes a new default each time.
        details: other attributes of ``Option``.
    """
    required, has_factory = default is MISSING, callable(default)
    value = None if required else default() if has_factory else default
    metadata = {"option": Option(help=text, default=value, required=required, **details)}
    if has_factory:
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
class Config:
    """The options of a stage. Subclasses become frozen dataclasses of keyword arguments.

    Attributes:
        heading: of the options that the class itself adds, in ``--help``.
        options: by name, those that the class adds first, and then those of its bases.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    heading: ClassVar[str] = "Options"
    options: ClassVar[Mapping[str, Option]] = {}

    def __init_subclass__(cls) -> None:
        """Make the subclass a dataclass, and collect its options."""
        dataclass(frozen=True, kw_only=True)(cls)
        heading = vars(cls).get("heading", Config.heading)
        inherited: dict[str, Option] = {}
        for base in cls.__bases__:
            inherited |= base.options if issubclass(base, Config) else {}
        options = {
            entry.name: replace(
                entry.metadata["option"],
                name=entry.name,
                type=entry.type,
                heading=inherited[entry.name].heading if entry.name in inherited else heading,
            )
            for entry in fields(cls)
        }
        own = (name for name in options if name not in inherited)
        cls.options = {name: options[name] for name in (*own, *inherited)}

    def __post_init__(self) -> None:
        """Refuse values out of range, and options that would have no effect.

        Raises:
            UsageError: naming the option.
        """
        cache = getattr(self, "cache", None)

        def localize(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(localize, value))
            return find_local(value, cache) if isinstance(value, Path) else value

        for name, declared in self.options.items():
            value = localize(getattr(self, name))
            object.__setattr__(self, name, value)
            declared.check(value)
        self.require_effect(name for name in self.options if self.is_given(name))

    def is_given(self, name: str) -> bool:
        """Return whether an option is not at its default."""
        return bool(getattr(self, name) != self.options[name].default)

    def has_effect(self, name: str) -> bool:
        """Return whether an option has an effect, given the values of the others."""
        conditions = self.options[name].only_with
        return all(getattr(self, other) in values for other, values in conditions.items())

    def require_effect(self, names: Iterable[str]) -> None:
        """Refuse those of the named options that have no effect.

        Raises:
            UsageError: naming the option, and what it requires.
        """
        for name in names:
            for other, values in self.options[name].only_with.items():
                required, value = self.options[other].flag, getattr(self, other)
                require(
                    value in values,
                    f"{self.options[name].flag} has no effect with {required} {value}; leave it "
                    f"out, or use {required} {join_choices(values)}",
                )


def join_choices(values: Sequence[str]) -> str:
    """Return values as a sentence has them, such as ``nsp, sop or mlm``."""
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else last


def find_local(path: Path, cache: Path | None = None) -> Path:
    """Return where a folder is on this machine: for ``s3://`` and ``gs://`` its mirror.

    Args:
        path: as the user wrote it; a path joins the slashes of a URI.
        cache: folder of the mirrors, in place of ``TOKKIT_CACHE`` and ``~/.cache/tokkit``.

    Raises:
        UsageError: it is another URI, of which a path would make a folder called ``hf:``.
    """
    text = str(path)
    stored = _STORE.fullmatch(text)
    if stored is not None:
        folder = cache or Path(os.environ.get("TOKKIT_CACHE") or Path.home() / ".cache/tokkit")
        return folder.absolute().joinpath(MIRRORS, *filter(None, stored.groups()))
    uri = text.replace(":/", "://", 1)
    require(
        _URI.match(text) is None,
        f"{uri}: is a URI, which only the INPUT of train and encode may be; name a local path, or one "
        f"on s3:// or gs://",
    )
    return path


def find_mirrored(path: str | Path) -> tuple[str, str, str] | None:
    """Return scheme, bucket and key of the object that a path is the copy of; None if of none."""
    text = str(path)
    found = _MIRROR.fullmatch(text) if MIRRORS in text else None
    return found and (found[1], found[2], found[3] or "")


def uri_of(path: Path) -> str:
    """Return the URI of what a path is the copy of, or the path."""
    found = find_mirrored(path)
    return str(path) if found is None else f"{found[0]}://{found[1]}/{found[2]}"


def parse_size(text: str) -> int:
    """Parse a number of bytes, with units of 1000 (``MB``) or 1024 (``MiB``)."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size, such as 2GB, 512MiB or 100000000")
    return int(Decimal(match[1]) * (1024 if match[3] else 1000) ** _UNITS.index(match[2].upper()))


def parse_duration(text: str) -> float:
    """Parse a time into seconds. Each number needs its unit: schedulers disagree on a bare one."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise ValueError(
            f"{text!r} is not a duration with units (d, h, m, s), such as 24h or 1h30m"
        )
    return sum(
        float(number or 0) * seconds
        for number, seconds in zip(match.groups(), (86_400, 3600, 60, 1), strict=True)
    )


def parse_numbers(text: str) -> tuple[float, ...]:
    """Parse numbers between commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not numbers between commas, such as 0.9,0.999") from None


def parse_batch_size(text: str) -> int | tuple[tuple[int, float], ...]:
    """Parse the size of all batches, or sizes with their shares of the steps; the last has the rest."""
    *parts, last = [part.split(":") for part in text.split(",")]
    try:
        stages = [(int(size), float(share)) for size, share in parts]
        if not stages:
            return int(text)
        rest = round(1 - sum(share for _, share in stages), 9)
        size, share = last if len(last) > 1 else (last[0], str(rest))
        return (*stages, (int(size), float(share)))
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a number nor sizes with their shares, such as 128:0.1,512"
        ) from None


def parse_weight(text: str) -> tuple[str, float]:
    """Parse an input and its weight; the input's name may itself contain ``=``."""
    source, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not source or math.isnan(weight):
        raise ValueError(f"{text!r} is not an INPUT with its weight, such as a.txt=2.0")
    return source, weight
