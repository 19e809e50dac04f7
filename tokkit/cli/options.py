"""Options of commands, made from the fields of the stages' configs.

A config says an option's name, type and default; a command adds the help text. So there is one
place for each default, and the recipe of ``tokkit run`` can be read by the same declarations.

Values of options that are more than a number or a word.

2GB                  2,000,000,000 bytes
1.5GiB               1,610,612,736
4096                 bytes
24h                  86,400 seconds; so are 1d and 23h60m
0.9,0.999            two numbers
128:0.9,512:0.1      sequences up to 128 for nine tenths of a run, then up to 512
books.txt=2.0        the INPUT books.txt counts twice
"""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tokkit.corpus.corpus_config import DOCUMENTS, ERRORS, FORMATS
from tokkit.errors import UsageError
from tokkit.masking.mask_config import MASK_DRAWS, MASK_UNITS, RANDOM_TOKENS

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


# A recipe connects its stages itself, and how to run it is said on its own command line.
NOT_IN_RECIPES = frozenset({"as_json", "output", "overwrite", "progress", "show_stats", "dry_run"})

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

JSON_OPTION: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, for machines."
)


def config_option(
    config: type,
    field: str,
    text: str,
    *,
    flags: tuple[str, ...] = (),
    choices: tuple[str, ...] | None = None,
    default_text: str | None = None,
    value_type: "click.ParamType[Any] | None" = None,
    gather: Callable[..., object] | None = None,
) -> Decorator:
    """Make the option of one field of a config.

    Args:
        config: the frozen dataclass.
        field: its field; ``max_seq_length`` becomes ``--max-seq-length``.
        text: the help.
        flags: other spellings, in place of the one made from the field.
        choices: the values there are.
        default_text: what the help shows in place of a default that the stage works out.
        value_type: how a value is read, where its annotation does not tell.
        gather: click's callback that makes the field of the values of an option that is repeated.
    """
    entry = next(f for f in dataclasses.fields(config) if f.name == field)
    kind, repeats = _value_type(typing.get_type_hints(config)[field])
    name = "--" + field.replace("_", "-")
    required = entry.default is entry.default_factory is dataclasses.MISSING
    extra: dict[str, Any] = {
        "type": click.Choice(choices) if choices else kind,
        "multiple": repeats,
        "required": required,
        "show_default": default_text or not (required or entry.default is False),
        "help": text,
    }
    if value_type is not None:
        extra |= {"type": value_type, "multiple": False}
    if gather is not None:
        extra |= {"callback": gather, "multiple": True, "show_default": False}
    if entry.default is not dataclasses.MISSING:
        extra["default"] = entry.default
    if kind is bool:
        del extra["type"]
        extra["is_flag"] = True
        flags = flags or (f"{name}/--no-{field.replace('_', '-')}",)
    return click.option(*(flags or (name,)), field, **extra)


def _value_type(hint: Any) -> tuple[Any, bool]:
    """The click type of an annotation, and whether the option may be repeated."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if hint in (tuple[float, ...], tuple[float, float]):
        return numbers, False
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return (click.Path(path_type=Path) if hint is Path else hint), False


def corpus_options(config: type) -> Decorator:
    """The arguments and options of every command that reads a corpus."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(
            (
                click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
                config_option(
                    config,
                    "format",
                    "What the inputs hold; auto goes by their names.",
                    choices=FORMATS,
                ),
                config_option(
                    config, "documents", "What ends a document of plain text.", choices=DOCUMENTS
                ),
                config_option(config, "text_field", "Field or column that holds a record's text."),
                config_option(config, "id_field", "Field or column that names a record."),
                config_option(
                    config,
                    "errors",
                    "Invalid UTF-8: stop, put U+FFFD, or drop the document and count it.",
                    choices=ERRORS,
                ),
            )
        ):
            function = decorator(function)
        return function

    return decorate


def mask_options(config: type) -> Decorator:
    """The options of every command that masks."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(
            (
                config_option(config, "mask_unit", "What is masked together.", choices=MASK_UNITS),
                config_option(
                    config,
                    "mask_draw",
                    "Draw what becomes of them for each token, or for a word, span or n-gram.",
                    choices=MASK_DRAWS,
                ),
                config_option(config, "masked_lm_prob", "Share of the tokens that are predicted."),
                config_option(
                    config,
                    "max_predictions_per_seq",
                    "Most predictions in one instance.",
                    default_text="max-seq-length x masked-lm-prob, rounded up",
                ),
                config_option(
                    config,
                    "mask_ratios",
                    "Of these, how many become [MASK], a random token, stay.",
                    default_text="0.8,0.1,0.1",
                ),
                config_option(
                    config,
                    "random_tokens",
                    "Random tokens: no control and unused entries, or all as google-research/bert.",
                    choices=RANDOM_TOKENS,
                ),
            )
        ):
            function = decorator(function)
        return function

    return decorate


def work_options(
    config: type, *, workers: str | None = "Processes; 0 works in this one."
) -> Decorator:
    """The options of every command that writes a folder."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        decorators = [
            config_option(
                config,
                "overwrite",
                "Replace what another run left in the output.",
                flags=("--overwrite",),
            ),
            config_option(config, "progress", "A bar on standard error, if that is a terminal."),
            JSON_OPTION,
        ]
        if workers is not None:
            decorators.insert(0, config_option(config, "workers", workers))
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def keep_one_thread() -> None:
    """Import NumPy and pyarrow without the threads that they would start, and no stage uses.

    A process of one thread starts its workers by copying itself; see ``tokkit.engine.local``. The
    environment stays as it was: torch may come with an OpenBLAS of its own, which needs its threads.
    """
    settings = {
        "OPENBLAS_NUM_THREADS": "1",  # NumPy's
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's
    }
    added = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in added})
    for library in ("numpy", "pyarrow"):
        import_module(library)
    for name in added:
        del os.environ[name]


def parse_table(command: click.Command, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read a recipe's table as if it stood on the command line.

    Args:
        command: whose options the table's keys name, without the leading dashes.
        table: of a recipe; lists repeat an option, booleans switch a flag.
        where: what errors call the table.

    Returns:
        The options that the table sets, by the names of the config's fields.

    Raises:
        UsageError: naming a key that the command does not have, or a value it refuses.
    """
    context = click.Context(command, info_name=where)
    options = {
        flag.removeprefix("--"): (option, negated)
        for option in command.params
        if isinstance(option, click.Option)
        for negated, flags in ((False, option.opts), (True, option.secondary_opts))
        for flag in flags
        if flag.startswith("--")
    }
    values: dict[str, Any] = {}
    for key, value in table.items():
        option, negated = options.get(key, (None, False))
        if option is None or option.name in NOT_IN_RECIPES:
            known = ", ".join(
                sorted(k for k, (o, _) in options.items() if o.name not in NOT_IN_RECIPES)
            )
            raise UsageError(f"{where}: unknown key {key!r}; it takes {known}")
        if isinstance(value, bool):
            if not option.is_flag:
                raise UsageError(f"{where}: {key} takes a value, not {str(value).lower()}")
            values[option.name] = value != negated
            continue
        if option.is_flag:
            raise UsageError(f"{where}: {key} takes true or false, not {value!r}")
        if isinstance(value, list) != option.multiple:
            raise UsageError(
                f"{where}: {key} takes {'a list' if option.multiple else 'one value'}, not {value!r}"
            )
        try:
            values[option.name] = option.process_value(context, value)
        except click.BadParameter as error:
            raise UsageError(f"{where}: {key}: {error.message}") from error
    return values
