"""Recipes: the options of all stages in one TOML file.

    output = "quickstart"                 # folder that the stages write into
    examples = ["The [MASK] is empty."]   # the trained model fills in the masks at the end

    [corpus]                              # inputs, or a command whose output is kept
    inputs = ["books/*.txt"]
    documents = "line"

    [train]                               # a table for each stage, with keys as on its command line
    vocab-size = 8192

    [pretrain]
    betas = [0.9, 0.98]                   # or "0.9,0.98"

A recipe without ``[train]`` names a tokenizer under ``[encode]``. ``encode`` and ``build`` run with
their defaults if they have no table; ``train`` and ``pretrain`` do not run without one. Paths are
relative to where ``tokkit run`` is called, as on every command line.

``tokkit init`` writes a recipe to begin with.
"""

import json
import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from tokkit.cli.command_options import LocalPath
from tokkit.cli.streams import echo, name_next
from tokkit.engine.files import follow_link, read_whole, write_atomically
from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, UsageError, escape_controls, require, wrap_os_errors
from tokkit.inspection.folder_kinds import FOLDERS
from tokkit.options import find_local, uri_of
from tokkit.shards.objectives import MASKED

_MAX_BYTES = 1 << 20

CORPUS_OPTIONS = (
    *("format", "documents", "text-field", "text-column", "quotes", "no-quotes"),
    *("id-field", "errors", "max-document-bytes"),
)

# Values of a recipe for text that was not looked at.
UNKNOWN_TEXT: Mapping[str, Any] = {
    "documents": "blank-line",
    "text_field": None,
    "vocab_size": 8192,
    "preset": "tiny",
    "max_steps": 10_000,
}
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

Table = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe, and the paths that connect its stages.

    Attributes:
        path: the file.
        output: folder that the stages write into.
        command: shell command that makes the corpus; None if the recipe names inputs.
        inputs: inputs of ``train`` and ``encode``.
        tables: options of each stage that the recipe runs, by the stage's name, in order.
        examples: sentences with masks for the trained model, see ``tokkit.tokenizer.special_tokens``.
    """

    path: Path
    output: Path
    command: str | None
    inputs: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Any]]
    examples: tuple[str, ...]

    def folder(self, stage: str) -> Path:
        """Return the folder that a stage writes."""
        return self.output / FOLDERS[stage]

    def paths(self, stage: str) -> dict[str, Any]:
        """Return the fields of a stage's config that connect it with the other stages."""
        inputs: dict[str, dict[str, Any]] = {
            "train": {"inputs": self.inputs},
            "encode": {"inputs": self.inputs, "tokenizer": self.folder("train")},
            "build": {"tokens": self.folder("encode")},
            "pretrain": {"instances": (self.folder("build"),)},
        }
        return {**inputs[stage], "output": self.folder(stage)}


def read_recipe(path: Path, cache: Path | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the file.
        cache: folder for copies of what is on stores.

    Raises:
        TokkitError: if the file cannot be read or is not TOML.
        UsageError: naming an unknown key, or a value of the wrong type.
    """
    path = find_local(path, cache)
    pull(path)
    try:
        data = tomllib.loads(read_whole(path, _MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise TokkitError(f"{path}: not valid TOML: {error}") from error
    tables: dict[str, Table] = {stage: data.pop(stage) for stage in FOLDERS if stage in data}
    for stage, table in tables.items():
        require(isinstance(table, dict), f"{path}: {stage} must be a table, written [{stage}]")
    output, examples = data.pop("output", path.stem), data.pop("examples", [])
    require(isinstance(output, str), f"{path}: output must be a string")
    if data:
        raise UsageError(
            f"{path}: unknown key {min(data)!r}; a recipe has output, examples, "
            f"{', '.join(f'[{stage}]' for stage in FOLDERS)}"
        )
    corpus, encode = tables.get("corpus", {}), tables.get("encode", {})
    reading = {key: corpus.pop(key) for key in CORPUS_OPTIONS if key in corpus}
    folder = find_local(Path(output), cache)
    command, inputs = _read_corpus(corpus, path, folder)
    require(
        ("train" in tables) != ("tokenizer" in encode),
        f"{path}: needs either a [train] table or a tokenizer under [encode]",
    )
    require(
        "train" not in tables or "-" not in inputs,
        f"{path}: two stages cannot read standard input (-)",
    )
    stages: dict[str, Table] = {} if command is None else {"corpus": {}}
    if "train" in tables:
        stages["train"] = {**reading, **tables["train"]}
    stages |= {"encode": {**reading, **encode}, "build": tables.get("build", {})}
    if "pretrain" in tables:
        stages["pretrain"] = tables["pretrain"]
    _check_examples(examples, path, stages)
    return Recipe(path, folder, command, inputs, stages, tuple(examples))


def _read_corpus(corpus: Table, path: Path, output: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the command, if there is one, and the inputs."""
    command, inputs = corpus.pop("command", None), corpus.pop("inputs", None)
    name = corpus.pop("file", None)
    if corpus:
        raise UsageError(
            f"{path}, [corpus]: unknown key {min(corpus)!r}; known keys are inputs, or command and "
            f"file, and {', '.join(CORPUS_OPTIONS)}"
        )
    require(
        (command is None) != (inputs is None), f"{path}, [corpus]: needs either inputs or a command"
    )
    if command is None:
        is_list = isinstance(inputs, list) and all(isinstance(name, str) for name in inputs)
        require(is_list, f"{path}, [corpus]: inputs must be a list of strings")
        require(name is None, f"{path}, [corpus]: file has no effect without a command")
        return None, tuple(inputs)
    name = "corpus.txt" if name is None else name
    require(isinstance(command, str), f"{path}, [corpus]: command must be a string")
    require(
        isinstance(name, str) and Path(name).name == name,
        f"{path}, [corpus]: file must be a name without folders",
    )
    return command, (uri_of(output / FOLDERS["corpus"] / name),)


def _check_examples(examples: Any, path: Path, stages: Mapping[str, Table]) -> None:
    is_list = isinstance(examples, list) and all(isinstance(text, str) for text in examples)
    require(is_list, f"{path}: examples must be a list of sentences with [MASK]")
    objective = stages["build"].get("objective", "nsp")
    require(
        not examples or objective in MASKED,
        f"{path}: a model of objective {objective} fills no masks; leave out examples, or choose "
        f"one of {', '.join(MASKED)}",
    )
    require(
        not examples or "pretrain" in stages,
        f"{path}: examples have no effect without a [pretrain] table; leave them out",
    )


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
    found, text = "", UNKNOWN_TEXT
    if folder is not None:
        from tokkit.inspection.proposal import propose

        proposal = propose(folder)
        found, text = proposal.found, asdict(proposal)
    if os.path.lexists(recipe) and not overwrite:
        raise TokkitError(f"{recipe}: already exists; pass --overwrite to replace it")
    filled = TEMPLATE.format(
        recipe=escape_controls(shlex.quote(str(recipe))),
        output=_quote(recipe.stem),
        found=found or "Name your text here.",
        inputs=_quote(str(folder or "corpus")),
        documents="" if text["documents"] else "# ",
        where=_quote(text["documents"] or "blank-line"),
        field="" if text["text_field"] else "# ",
        name=_quote(text["text_field"] or "text"),
        vocab_size=text["vocab_size"],
        preset=_quote(text["preset"]),
        max_steps=text["max_steps"],
    )
    with wrap_os_errors(recipe), write_atomically(follow_link(recipe)) as file:
        file.write(filled.encode())
    echo(f"{recipe}: {found or 'name your text under [corpus]'}")
    name_next("run", recipe)


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
