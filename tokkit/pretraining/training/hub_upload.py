"""``--push-to-hub``: the export of a run on the Hugging Face Hub, with a model card.

The repository is created when the run starts, so that a name that is taken, a missing token or a Hub
that does not answer wastes no training; it is private until its owner makes it public. Token and
endpoint are those of huggingface_hub. The card is Markdown, made from the run folder, without paths of
this machine.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from tokkit import __version__
from tokkit.engine.json_files import read_json
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, UsageError, plural
from tokkit.pretraining.models.model_files import CONFIG
from tokkit.pretraining.training.run_record import EXPORT, METRICS, read_metrics, read_run

_CARD = Path(__file__).with_name("model_card.md")
MAX_ROWS = 20  # of the curves


def check_repository_name(name: str) -> None:
    """Refuse a name that no repository can have.

    Raises:
        UsageError: if huggingface_hub finds it invalid.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(
            f"--push-to-hub {name}: is no name on the Hugging Face Hub, such as owner/name: {error}"
        ) from error


def create_repository(name: str) -> None:
    """Create a private repository for models, unless it exists.

    Raises:
        TokkitError: if the Hub refuses it, or does not answer.
    """
    from huggingface_hub import HfApi

    _call(name, lambda: HfApi().create_repo(name, private=True, exist_ok=True), "")


def upload_export(folder: Path, name: str, license_id: str | None) -> None:
    """Upload the export of a finished run, and its card, as one commit.

    Args:
        folder: run folder.
        name: name of the repository.
        license_id: license of the model, as the Hub writes it; None if unknown.

    Raises:
        TokkitError: if the Hub refuses it, or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    card = describe_model_card(folder, name, license_id)
    files = {path.name: path for path in sorted((folder / EXPORT).iterdir())}
    operations = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
        for file, content in {**files, "README.md": card.encode()}.items()
    ]
    _call(
        name,
        lambda: HfApi().create_commit(name, operations, commit_message=f"tokkit {__version__}"),
        "the run is finished; run the same command again to upload it",
    )


def _call(name: str, work: Callable[[], object], remedy: str) -> None:
    try:
        work()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        remedy = remedy or "log in with: hf auth login, or leave --push-to-hub out"
        raise TokkitError(
            f"--push-to-hub {name}: {type(error).__name__}: {lines[0]}; {remedy}"
        ) from error


def describe_model_card(folder: Path, name: str, license_id: str | None) -> str:
    """Return the model card of a finished run; see ``upload_export``."""
    record, config = read_run(folder)
    manifest = Manifest.read(folder)
    model: dict[str, Any] = read_json(folder / EXPORT / CONFIG, dict[str, Any])
    figures = manifest.accounts["figures"]
    folders = zip(config.folders, record["instances_keys"], strict=True)
    options = {**manifest.options, "seed": manifest.seed}.items()
    given = [row for row in options if row[1] not in (None, []) and row[1] is not False]
    metrics = "No instances were held out."
    if lines := [line for line in read_metrics(folder / METRICS) if line["kind"] == "eval"]:
        kept = {round(n * (len(lines) - 1) / (MAX_ROWS - 1)) for n in range(MAX_ROWS)}
        names = [name for name in lines[-1] if name != "kind"]
        metrics = _table(names, ([lines[n][name] for name in names] for n in sorted(kept)))
    return Template(_CARD.read_text("utf-8")).substitute(
        license=license_id or "unknown",
        name=name,
        architecture=model["architectures"][0],
        parameters=f"{record['num_parameters']:,}",
        version=__version__,
        steps=plural(figures["steps"], "step"),
        tokens=f"{figures['tokens']:,}",
        shape=_table(("field", "value"), sorted(record["model"].items())),
        data=_table(("instances", "content key"), ((path.name, key) for path, key in folders)),
        tokenizer=record["tokenizer_fingerprint"],
        options=_table(("option", "value"), given),
        metrics=metrics,
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [
        [f"{cell:.4g}" if isinstance(cell, float) else f"{cell}" for cell in row] for row in rows
    ]
    lines = [f"| {' | '.join(row)} |" for row in (names, *cells)]
    return "\n".join((lines[0], "|---" * len(names) + "|", *lines[1:]))
