"""``tokkit init``: a recipe to begin with."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokkit.cli.command_options import LocalPath
from tokkit.cli.streams import echo, name_next
from tokkit.errors import TokkitError, escape_controls, plural, wrap_os_errors

if TYPE_CHECKING:
    from tokkit.inspection.proposal import Proposal

TEMPLATE = """\
# `tokkit run {recipe}` runs all stages. Run it again to resume, or to do what has changed since.
# A key is an option of the stage's command; `tokkit train --help` and so on list all of them.

output = {output}  # the folder that the stages write into
# examples = ["The [MASK] is empty."]  # the trained model fills in the masks at the end

# {found}
[corpus]
inputs = [{inputs}]  # files, folders, globs or URIs; or: command = "…", whose output is kept
{documents}documents = {where}  # or line, or file: where a document of plain text ends
{field}text-field = [{name}]  # the field of records, or column of tables, that holds the text
# errors = "replace"  # for text that is not valid UTF-8

[train]
vocab-size = {vocab_size}
# model = "bpe"  # or "unigram"; by default BERT's wordpiece
# cased = true

[encode]
# language = "de"  # whose rules end sentences; by default en
# sentences = "lines"  # if each line of a document is a sentence

[build]
max-seq-length = 128
eval-fraction = 0.01  # of the documents, on which the model is evaluated
# objective = "mlm"  # RoBERTa's; "clm" trains a GPT-2; `tokkit help objectives` has all
# masking = "static"  # by default, each epoch draws new masks; see `tokkit help masking`

[pretrain]
preset = {preset}  # tiny, mini, small, medium, base or large
max-steps = {max_steps}
batch-size = 64
learning-rate = 1e-3
"""


@click.command()
@click.argument("recipe", type=LocalPath(), default=Path("recipe.toml"))
@click.option(
    "--from-folder",
    "folder",
    type=LocalPath(),
    metavar="DIR",
    help="Folder of text: propose how to read it, and sizes that fit it.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def init(recipe: Path, folder: Path | None, *, overwrite: bool) -> None:
    """Write RECIPE, a commented recipe; by default recipe.toml."""
    from tokkit.engine.files import write_atomically

    proposal = None
    if folder is not None:
        from tokkit.inspection.proposal import propose

        proposal = propose(folder)
    if (recipe.exists() or recipe.is_symlink()) and not overwrite:
        raise TokkitError(f"{recipe}: is there already; pass --overwrite to replace it")
    with wrap_os_errors(recipe), write_atomically(recipe) as file:
        file.write(fill_template(recipe, folder, proposal).encode())
    echo(f"{recipe}: {_describe(proposal) if proposal else 'name your text under [corpus]'}")
    name_next("run", recipe)


def fill_template(recipe: Path, folder: Path | None, proposal: "Proposal | None") -> str:
    """Return the recipe as text."""
    documents = proposal.documents if proposal else "blank-line"
    field = proposal.text_field if proposal else None
    return TEMPLATE.format(
        recipe=escape_controls(shlex.quote(str(recipe))),
        output=_quote(recipe.stem),
        found=_describe(proposal) if proposal else "Name your text here.",
        inputs=_quote(str(folder or "corpus")),
        documents="" if documents else "# ",
        where=_quote(documents or "blank-line"),
        field="" if field else "# ",
        name=_quote(field or "text"),
        vocab_size=proposal.vocab_size if proposal else 8192,
        preset=_quote(proposal.preset if proposal else "tiny"),
        max_steps=proposal.max_steps if proposal else 10_000,
    )


def _quote(text: str) -> str:
    """Return a string of TOML, which JSON's are but for U+007F.

    Raises:
        TokkitError: it is a name that is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokkitError(f"{text}: is not UTF-8, as a recipe must be; rename it") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _describe(proposal: "Proposal") -> str:
    size = f"{proposal.num_bytes / 1e6:,.1f} MB"
    most = "most of them " * (proposal.num_files > 1)
    return f"{plural(proposal.num_files, 'file')}, {most}{proposal.format}, about {size} of text"
