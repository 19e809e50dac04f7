"""``tokkit help``: what the README says about a topic."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import click

from tokkit.cli.streams import echo_pages
from tokkit.errors import TokkitError, UsageError, escape_controls

# The headings of the README that a topic has.
TOPICS = {
    "formats": ("Inputs", "Files"),
    "objectives": ("Build training instances", "Pretrain a model"),
    "masking": ("Masking",),
    "resuming": ("Checkpoints and resuming", "Resuming, errors and exit statuses"),
    "clusters": ("From a laptop to a cluster", "Several processes"),
}


@click.command()
@click.argument("topic", required=False)
@click.pass_context
def help(context: click.Context, topic: str | None) -> None:  # noqa: A001  the command's name
    """Explain TOPIC: formats, objectives, masking, resuming, clusters, or a command."""
    root = context.find_root()
    assert isinstance(root.command, click.Group)  # noqa: S101  that of tokkit
    command = root.command.get_command(context, topic or "")
    if topic is None:
        topics = ", ".join(TOPICS)
        text = f"{root.get_help()}\n\ntokkit help TOPIC explains {topics}, or a command."
    elif command is not None:
        text = command.get_help(click.Context(command, parent=root, info_name=topic))
    elif topic in TOPICS:
        text = "\n\n".join(map(find_part, TOPICS[topic]))
    else:
        raise UsageError(f"no topic {topic}; choose one of {', '.join(TOPICS)}, or a command")
    echo_pages("\n".join(map(escape_controls, text.split("\n"))))


def find_part(heading: str) -> str:
    """Return the part of the README below a heading, up to the next of the same level."""
    match = re.search(
        rf"^(##+) {re.escape(heading)}\n.*?(?=^#{{2,3}} (?!#)|\Z)",
        _read_readme(),
        re.MULTILINE | re.DOTALL,
    )
    if match is None:
        raise TokkitError(f"README.md: has no part called {heading}; reinstall the package")
    return match[0].strip()


def _read_readme() -> str:
    """Return the README of the source tree, or the copy in the metadata of the package."""
    path = Path(__file__).parents[2] / "README.md"
    if path.is_file() and (text := path.read_text("utf-8")).startswith("# tokkit\n"):
        return text
    try:
        return str(metadata("tokkit").get_payload())  # type: ignore[attr-defined]
    except PackageNotFoundError as error:
        raise TokkitError("README.md: is not installed; run pip install tokkit") from error
