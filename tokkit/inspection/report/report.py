"""A report: folders of any kind, finished or not, on one HTML page.

Each kind has a module, which reads a folder into figures, JSON values, and draws those; nothing is
on the page that is not in its figures. The same folders give the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokkit.engine.files import write_atomically
from tokkit.engine.manifest import KINDS, MANIFEST, Manifest
from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, refuse_loop, require, wrap_os_errors
from tokkit.inspection.recipe_folder import FOLDERS, RecipeRecord
from tokkit.inspection.report.instances_section import describe_instances
from tokkit.inspection.report.markup import shorten_names
from tokkit.inspection.report.page import Section, make_page
from tokkit.inspection.report.report_config import ReportConfig
from tokkit.inspection.report.run_section import describe_runs
from tokkit.inspection.report.stages_section import (
    describe_corpus,
    describe_stages,
    describe_unfinished,
    find_kind,
)
from tokkit.inspection.report.text_samples import SampleConfig
from tokkit.inspection.report.tokenizer_section import describe_tokenizers
from tokkit.inspection.report.tokens_section import describe_tokens
from tokkit.inspection.verify import require_kind

ORDER = ("corpus", "tokenizer", "tokens", "instances", "run")


def report(config: ReportConfig) -> None:
    """Make a report and write it as one file, whole or not at all.

    Raises:
        UsageError: if an option has no effect on what the paths hold.
        TokkitError: if a path holds nothing of ours, or is damaged.
    """
    page = make_report(config)
    with wrap_os_errors(config.output), write_atomically(config.output) as file:
        file.write(page.encode())


def make_report(config: ReportConfig) -> str:
    """Return the page of a report; see ``report``."""
    sections: list[Section] = []
    paths: list[Path] = []
    examples = list(config.example)
    for path in config.paths:
        pull(path)
        folders = find_stages(path)
        if not folders:
            paths.append(path)
            continue
        record = RecipeRecord.read(path)
        examples += record.examples if record else []
        sections.append(describe_stages(str(path), folders, record))
        paths += (folder for folder in folders.values() if folder.is_dir())
    kinds = [_require_kind(path) for path in paths]
    has_tokenizer = "tokenizer" in kinds
    require(
        has_tokenizer or not (config.compare or config.text),
        "--compare and --text have no effect without a tokenizer folder; leave them out",
    )
    require("run" in kinds or not config.example, "--example has no effect without a run folder")
    for kind in ORDER:
        found = [path for path, own in zip(paths, kinds, strict=True) if own == kind]
        last = "tokenizer.json" if kind == "tokenizer" else MANIFEST  # what its stage writes last
        unfinished = [path for path in found if kind != "run" and not (path / last).is_file()]
        finished = [path for path in found if path not in unfinished]
        if finished:
            sections += _describe(kind, finished, config, tuple(dict.fromkeys(examples)))
        sections += (describe_unfinished(path, kind) for path in unfinished)
    names = shorten_names([*map(str, config.paths), *config.compare])
    return make_page(", ".join(names.values()), sections)


def find_stages(path: Path) -> Mapping[str, Path]:
    """Return the folders of a recipe's stages, by stage; nothing if the path is one folder itself.

    Raises:
        TokkitError: if the path is missing or no folder.
    """
    if not path.is_dir():
        refuse_loop(path)
        what = (
            "is a file; name the folder that a stage wrote" if path.exists() else "no such folder"
        )
        raise TokkitError(f"{path}: {what}")
    if find_kind(path) is not None:
        return {}
    stages = {stage: path / name for stage, name in FOLDERS.items()}
    known = {stage: folder for stage, folder in stages.items() if folder.is_dir()}
    return {stage: folder for stage, folder in known.items() if find_kind(folder) is not None}


def _require_kind(path: Path) -> str:
    kind = find_kind(path)
    if kind is None:
        raise TokkitError(
            f"{path}: holds nothing that tokkit wrote; name a tokenizer, token, instance or run "
            f"folder, or the folder of a recipe"
        )
    if (path / MANIFEST).is_file():
        require_kind(path, Manifest.read(path))
    if kind not in (*KINDS, "tokenizer"):
        raise TokkitError(f"{path}: {kind} cannot be reported on")
    return kind


def _describe(
    kind: str, paths: Sequence[Path], config: ReportConfig, examples: Sequence[str]
) -> list[Section]:
    if kind == "tokenizer":
        texts = None
        if config.text:
            texts = SampleConfig(
                inputs=config.text,
                text_field=(config.text_field,),
                language_field=config.language_field,
            )
        return [describe_tokenizers(paths, config.compare, texts)]
    if kind == "run":
        return [describe_runs(paths, examples)]
    describe = {
        "tokens": describe_tokens,
        "instances": describe_instances,
        "corpus": describe_corpus,
    }[kind]
    return [describe(path) for path in paths]
