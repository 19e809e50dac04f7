"""Changes recipes the way a slip of the hand or a stranger would."""

import random
import re
from pathlib import Path
from typing import Any

from tokkit.cli.run import COMMANDS

# TOML, of which some is none.
VALUES = (
    *("0", "-1", "1", "7", "100", "9223372036854775808", "1e400", "nan", "-inf", "1.5", "0.2"),
    *("true", "false", '""', '"x"', '"7"', '"1e9"', '"a\\u0000b"', '"\\u001b[2J"', '"../../x"'),
    *(
        "[]",
        "{}",
        "[[]]",
        '["in"]',
        '["in", "in"]',
        '["missing"]',
        '[1, "x"]',
        "{a = 1}",
        '{"" = 7}',
    ),
    *("1979-05-27", "[" * 3000, '"""', "\"'", f'"{"x" * 5000}"', "1_0", '"s3:/"', '"s3://a/b"'),
)
_TABLE = re.compile(r"\[(\w+)\]")
# Their values are paths and sizes of machines, or let a run take days.
_LEFT_OUT = {"output", "cache", "ray-address", "engine", "push-to-hub"}


def change_recipe(path: Path, rng: random.Random) -> str:
    """Change, repeat, move or remove a line of a recipe, or add an option; return what was done."""
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    kind = rng.choice(("value", "value", "add", "add", "add", "remove", "repeat", "move", "table"))
    line = lines[number]
    key, is_option, _ = line.partition(" = ")
    if kind == "value" and is_option:
        lines[number] = f"{key} = {rng.choice(VALUES)}"
    elif kind == "remove" and key != "max-steps":  # without it a run takes days
        del lines[number]
    elif kind == "repeat":
        lines.insert(number, line)
    elif kind == "move":
        lines.insert(rng.randrange(len(lines)), lines.pop(number))
    elif kind == "table":
        lines.insert(
            number, rng.choice(("[corpus]", "[[train]]", "[a.b]", "[build.x]", "[encode]"))
        )
    else:
        tables = [at for at, text in enumerate(lines) if _TABLE.fullmatch(text)]
        at = rng.choice(tables)
        stage = lines[at][1:-1]
        options = COMMANDS[stage if stage in COMMANDS else "encode"].config.options
        name = rng.choice([*options])
        values = (*VALUES, *_plausible(options[name].choices, options[name].default) * 20)
        if (key := name.replace("_", "-")) not in _LEFT_OUT:
            lines.insert(at + 1, f"{key} = {rng.choice(values)}")
        number = at + 1
    path.write_text("\n".join([*lines, ""]))
    return (
        f"line {number + 1} was {line[:80]!r}: {kind} {''.join(lines[number : number + 1])[:200]!r}"
    )


def _plausible(choices: tuple[str, ...] | None, default: Any) -> tuple[str, ...]:
    """Return values that an option may have."""
    if choices is not None:
        return tuple(f'"{choice}"' for choice in choices)
    if isinstance(default, bool):
        return "true", "false"
    if isinstance(default, int | float):
        return str(default), str(default * 2), str(default / 2), str(int(default) // 2), "1", "2"
    return "1", "2", '"x"'
