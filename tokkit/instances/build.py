"""The stage ``build``: token shards in, shards of training instances out.

Whether the folder is up to date follows from manifests alone, before a kernel is imported.
"""

import logging
from typing import Any

from tokkit.engine.accounts import Accounts
from tokkit.engine.folder import refuse_overlap
from tokkit.engine.json_files import input_row
from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import StageSpec, find_finished
from tokkit.engine.stage import Stage, run_stage
from tokkit.engine.stage_config import StageConfig
from tokkit.engine.stage_plan import read_plan
from tokkit.errors import TokkitError
from tokkit.instances.build_config import BuildConfig
from tokkit.masking.mask_config import MaskConfig
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

# Options that do not change the instances, or that the manifest has in other places.
OPTIONS_OUTSIDE_KEY = {
    "tokens",
    "targets",
    "output",
    "seed",
    *StageConfig.options,
    *MaskConfig.options,
}

# Share of random pairs, half by design, above which a model learns little from them.
MAX_RANDOM = 0.9

log = logging.getLogger(__name__)


def build(config: BuildConfig) -> Manifest:
    """Make training instances from a token folder.

    Args:
        config: options of the stage.

    Returns:
        The manifest of the instance folder.

    Raises:
        TokkitError: the token folder is unfinished or damaged or has too few documents for the
            objective, its tokenizer lacks a special token that the objective needs, or the two
            sides of a translation have other numbers of documents.
    """
    config.require_finish()
    spec, folders, tokenizer = _open(config)
    if not config.overwrite and (finished := find_finished(spec)) is not None:
        log.info("%s: up to date", config.output)
        finished.log_warnings(config.output)
        return finished
    return run_stage(
        _plan(config, spec, folders, tokenizer),
        workers=config.workers,
        overwrite=config.overwrite,
        progress=config.progress,
        commit=config.commit,
    )


def make_build_stage(config: BuildConfig) -> Stage:
    """Plan the stage, or read its plan where ``config`` is of a step after it."""
    return _plan(config, *_open(config))


def _open(config: BuildConfig) -> tuple[StageSpec, list[ShardFolder], Tokenizer]:
    """Open the token folder, and that of translations; say what the instance folder will contain."""
    refuse_overlap(config.output, [path for path in (config.tokens, config.targets) if path])
    config.pull_folders()
    folder = ShardFolder.open(config.tokens, "tokens")
    folders = [folder]
    tokenizer = load_tokenizer(folder.tokenizer_path)
    folder.require_tokenizer(tokenizer)
    _require_special_tokens(config, tokenizer)
    if config.targets is not None:
        from tokkit.instances.translations import open_translations

        folders.append(open_translations(config.targets, folder))
    spec = StageSpec(
        kind="instances",
        output=config.output,
        options=_describe_options(config),
        tokenizer_fingerprint=tokenizer.fingerprint,
        seed=config.seed,
        inputs=[input_row(row) for side in folders for row in side.manifest.shards],
    )
    return spec, folders, tokenizer


def _require_special_tokens(config: BuildConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that lacks a special token which the objective needs."""
    if OBJECTIVES[config.objective].has_masks:
        tokenizer.require_special("cls", "sep", "mask")
        return
    roles = {"plm": ("cls", "sep"), "translation": ("pad",)}
    tokenizer.require_special(*roles.get(config.objective, ()))
    tokenizer.end_of_text_id()  # called only to raise if there is none


def _plan(
    config: BuildConfig, spec: StageSpec, folders: list[ShardFolder], tokenizer: Tokenizer
) -> Stage:
    """Plan the stage. Imports are local because they load kernels."""
    from tokkit.instances.build_plan import BuildUnit, make_context, plan_build
    from tokkit.instances.build_unit import build_unit
    from tokkit.instances.document_reader import DocumentReader
    from tokkit.instances.translations import compare_documents

    warnings = [w for side in folders[1:] for w in compare_documents(folders[0], side)]
    reader, *others = (
        DocumentReader(folder, [ref for ref in folder.batch_refs() if ref.rows])
        for folder in folders
    )
    context = make_context(config, reader, tokenizer, *others)
    return Stage(
        **spec.fields(),
        units=read_plan(config.output, BuildUnit)
        if config.is_planned
        else plan_build(config, context),
        function=build_unit,
        context=context,
        progress_unit=" tokens",
        prepare=lambda output: save_tokenizer(tokenizer, output / "tokenizer"),
        check_accounts=lambda accounts: _require_instances(accounts, config),
        find_warnings=lambda accounts, _: [*_find_warnings(accounts, folders[0]), *warnings],
        cluster=config.cluster,
    )


def _describe_options(config: BuildConfig) -> dict[str, Any]:
    """Return the options that the instances depend on, and those that tell the loader how to mask."""
    options = {
        name: getattr(config, name)
        for name in config.options
        if name not in OPTIONS_OUTSIDE_KEY and config.has_effect(name)
    }
    if config.masking == "static":
        options |= config.mask_options(config.max_seq_length)
    return options


def _find_warnings(accounts: Accounts, folder: ShardFolder) -> list[str]:
    """Warn if next sentence prediction has hardly any pair that is not random."""
    figures = accounts.figures
    share = figures.get("random_pairs", 0) / figures["instances"]
    if share <= MAX_RANDOM:
        return []
    options = folder.manifest.options
    if options.get("sentences") == "none":
        remedy = "encode with --sentences auto or lines"
    elif options.get("documents") == "line":
        remedy = "encode without --documents line, or pass --objective mlm"
    else:
        has_several = len(folder.manifest.inputs) > 1
        remedy = (
            f"if blank lines stand between all sentences, remove them"
            f"{' or encode with --documents file' * has_several}; else pass --objective mlm"
        )
    return [
        f"{share:.1%} of the pairs are random, since documents of one sentence have no next one; {remedy}"
    ]


def _require_instances(accounts: Accounts, config: BuildConfig) -> None:
    if accounts.figures["instances"]:
        return
    if OBJECTIVES[config.objective].has_pairs:
        remedy = "pass --single-sentence random, or " if config.objective == "nsp" else ""
        raise TokkitError(
            f"{config.tokens}: no instances, since every document has only one sentence; "
            f"{remedy}encode with --sentences auto"
        )
    if config.targets is not None:
        raise TokkitError(
            f"{config.tokens}: no instances, since every pair has a side of --max-seq-length tokens or "
            f"more; pass a larger one"
        )
    raise TokkitError(
        f"{config.tokens}: the corpus has fewer tokens than one instance; "
        f"pass a smaller --max-seq-length"
    )
