"""Commands and recipes, made from the options that the configs of the stages declare.

A command is made from its config, and so is the table of a recipe: both are read by the same
``click`` options, so what is a value in one is a value in the other.
"""

import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from tokkit.engine.stage_config import ArrayConfig
from tokkit.errors import UsageError
from tokkit.options import Config, Option, find_local, join_choices

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

# A recipe connects its stages itself, and how it runs is set on its own command line.
NOT_IN_RECIPES = frozenset({"as_json", "output", "show_stats", "dry_run", *ArrayConfig.options})

JSON_OPTION: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)

COLOR_OPTION: Decorator = click.option(
    "--color",
    type=click.Choice(("auto", "always", "never")),
    default="auto",
    show_default=True,
    help="Tell tokens apart by colours; auto where the terminal has them, unless NO_COLOR is set.",
)


class ParsedValue(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """A value that a config's own function parses, such as ``parse_size``.

    Attributes:
        is_list: whether a recipe may write it as an array.
    """

    def __init__(self, parse: Callable[[str], Any], *, is_list: bool) -> None:
        self.parse = parse
        self.name = parse.__name__.removeprefix("parse_")
        self.is_list = is_list

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text; a default is a value already."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class LocalPath(click.Path):
    """A path of this machine, or of a store, which a config or ``pull`` finds the copy of."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; refuse a URI of another kind."""
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)  # noqa: S101  as path_type says
        find_local(path)
        return path


class GroupedOption(click.Option):
    """An option that the help shows under a heading."""

    def __init__(self, *args: Any, heading: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.heading = heading


class StageCommand(click.Command):
    """A command whose help shows the options of each config under its heading.

    Attributes:
        config: the config that a stage is called with.
    """

    config: type[Config]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of the command itself first."""
        sections: dict[str, list[tuple[str, str]]] = {Config.heading: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                heading = getattr(parameter, "heading", Config.heading)
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def stage_command(config: type[Config]) -> Callable[[Function], StageCommand]:
    """Make a command of a function that takes a config and the command's own options."""

    def decorate(function: Function) -> StageCommand:
        @click.pass_context
        @functools.wraps(function)
        def call(context: click.Context, /, **values: Any) -> Any:
            made = config(**{name: values.pop(name) for name in config.options})
            made.require_effect(given_options(context, config.options))
            return function(made, **values)

        add_options = config_options(*config.options.values())
        command = click.command(cls=StageCommand)(add_options(JSON_OPTION(call)))
        command.config = config
        return command

    return decorate


def config_options(*options: Option, heading: str | None = None) -> Decorator:
    """Add options of a config to a command.

    Args:
        options: the options, in the order of the help.
        heading: heading in the help, in place of that of the config.
    """

    def decorate(function: Function) -> Function:
        choices = {option.name: option.choices for option in options}
        for option in reversed(options):
            conditions = (
                _condition(other, values, choices.get(other))
                for other, values in option.only_with.items()
            )
            help_text = "".join([option.help, *conditions])
            function = _parameter(option, heading or option.heading, help_text)(function)
        return function

    return decorate


def _condition(other: str, values: Sequence[str], choices: Sequence[str] | None) -> str:
    """Say with which values of another option an option has an effect, or without which if shorter."""
    excluded = [choice for choice in choices or () if choice not in values]
    verb, named = "Requires", values
    if excluded and len(excluded) < len(values):
        verb, named = "No effect with", excluded
    return f" {verb} --{other.replace('_', '-')} {join_choices(named)}."


def _parameter(option: Option, heading: str, help_text: str) -> Decorator:
    """Return the click argument or option of one field."""
    value_type, repeats = _value_type(option)
    if option.argument is not None:
        num_values = -1 if repeats else 1
        return click.argument(
            option.name,
            type=value_type,
            nargs=num_values,
            required=True,
            metavar=option.argument,
            shell_complete=_complete_path,
        )
    flags = option.flags or (option.flag,)
    hides_default = option.required or option.default is False or option.default == {}
    attributes: dict[str, Any] = {
        "cls": GroupedOption,
        "heading": heading,
        "help": help_text,
        "required": option.required,
        "show_default": option.shown_default or not hides_default,
    }
    if not option.required:
        attributes["default"] = option.default
    if value_type is bool:
        if not option.flags:
            flags = (f"{option.flag}/--no-{option.flag.removeprefix('--')}",)
        return click.option(*flags, option.name, is_flag=True, **attributes)
    if typing.get_origin(option.type) is Mapping:
        attributes |= {"callback": _gather, "default": ()}
    return click.option(*flags, option.name, type=value_type, multiple=repeats, **attributes)


def _complete_path(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a file, as most arguments may be one."""
    return [CompletionItem(incomplete, type="file")]


def _gather(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, Any], ...]
) -> Mapping[str, Any]:
    """Return the values of a repeated option by their names, each of which may occur once."""
    gathered = dict(value)
    if len(gathered) < len(value):
        raise click.BadParameter("an INPUT is named twice", ctx, param)
    return gathered


def _value_type(option: Option) -> tuple[Any, bool]:
    """Return the click type of an option, and whether it may be repeated."""
    kinds = typing.get_args(option.type) if isinstance(option.type, types.UnionType) else ()
    kind, *_ = [part for part in kinds if part is not types.NoneType] or [option.type]
    origin = typing.get_origin(kind)
    if option.parse is not None:
        is_list = any(typing.get_origin(part) is tuple for part in kinds or (kind,))
        return ParsedValue(option.parse, is_list=is_list), origin is Mapping
    if option.choices is not None:
        return click.Choice(option.choices), False
    if origin is tuple:
        kind = typing.get_args(kind)[0]
    if kind is Path:
        kind = LocalPath()
    elif kind in (int, float):
        kind = number_type(
            kind,
            option.minimum if option.above is None else option.above,
            option.maximum if option.below is None else option.below,
            min_open=option.above is not None,
            max_open=option.below is not None,
        )
    return kind, origin is tuple


def number_type(
    kind: type, low: Any = None, high: Any = None, *, min_open: bool = False, max_open: bool = False
) -> Any:
    """Return the click type of ``int`` or ``float`` within bounds, which the help shows as such."""
    if low is None and high is None:
        return kind
    make = click.IntRange if kind is int else click.FloatRange
    value_type = make(low, high, min_open=min_open, max_open=max_open)
    value_type.name = "integer" if kind is int else "float"  # in place of INTEGER RANGE
    return value_type


def given_options(context: click.Context, names: Iterable[str]) -> list[str]:
    """Return those of the named options that are on the command line."""
    return [
        name
        for name in names
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    ]


def read_table(command: click.Command, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read a recipe's table as if it stood on the command line.

    Args:
        command: the keys of the table are its options, without the leading dashes.
        table: an array repeats an option or lists its numbers; a boolean switches a flag.
        where: what errors call the table.

    Returns:
        The options that the table sets, by the names of the config's fields.

    Raises:
        UsageError: naming a key that the command does not have, or a value that it refuses.
    """
    context = click.Context(command, info_name=where)
    options = {
        flag.removeprefix("--"): (option, negated)
        for option in command.params
        if isinstance(option, click.Option) and option.name not in NOT_IN_RECIPES
        for negated, flags in ((False, option.opts), (True, option.secondary_opts))
        for flag in flags
        if flag.startswith("--")
    }
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in options:
            known = ", ".join(sorted(options))
            raise UsageError(f"{where}: unknown key {key!r}; known keys are {known}")
        option, negated = options[key]
        if (wanted := _wanted_form(option, value)) is not None:
            shown = json.dumps(value, ensure_ascii=False, default=str)
            raise UsageError(f"{where}: {key} takes {wanted}, not {shown}")
        if isinstance(value, bool):
            values[str(option.name)] = value != negated
            continue
        text = [*map(str, value)] if option.multiple else _join(value)
        try:
            values[str(option.name)] = option.process_value(context, text)
        except click.BadParameter as error:
            raise UsageError(f"{where}: {key}: {error.message}") from error
    return values


def _wanted_form(option: click.Option, value: Any) -> str | None:
    """Return what a key takes, if the recipe gives something else."""
    if isinstance(value, bool) != option.is_flag:
        return "true or false" if option.is_flag else "a value"
    if option.multiple:
        return None if isinstance(value, list) else "a list"
    is_single = not isinstance(value, list | dict)
    return None if is_single or getattr(option.type, "is_list", False) else "one value"


def _join(value: Any) -> str:
    """Return a value as on a command line: ``[[128, 0.9], [512, 0.1]]`` is ``128:0.9,512:0.1``."""
    if not isinstance(value, list):
        return str(value)
    if any(isinstance(part, dict) for part in value):
        return json.dumps(value)
    return ",".join(
        ":".join(map(str, part)) if isinstance(part, list) else str(part) for part in value
    )
