"""The stage ``build``: token shards in, shards of training instances out.

Whether there is anything to do is told from the manifests, before a kernel is imported.
"""

import logging
from typing import Any

from tokkit.engine.accounts import Accounts
from tokkit.engine.folder import refuse_inputs
from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import StageSpec, find_finished
from tokkit.engine.stage import Stage, run_stage
from tokkit.errors import TokkitError
from tokkit.instances.build_config import BuildConfig
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)


def build(config: BuildConfig) -> Manifest:
    """Make training instances of a token folder.

    Args:
        config: which folder, where to, and how.

    Returns:
        The manifest of the instance folder.

    Raises:
        TokkitError: where the token folder is unfinished or damaged, has too few documents for the
            objective, or its tokenizer lacks a control token that the objective needs.
    """
    refuse_inputs(config.output, [config.tokens])
    folder = ShardFolder.open(config.tokens, "tokens")
    tokenizer = load_tokenizer(folder.tokenizer_path)
    if tokenizer.fingerprint != folder.header.tokenizer_fingerprint:
        raise TokkitError(
            f"{folder.tokenizer_path}: is not the tokenizer that the shards were made with; "
            f"encode the corpus again"
        )
    _require_special_tokens(config, tokenizer)
    outline = StageSpec(
        kind="instances",
        output=config.output,
        options=_describe_options(config),
        tokenizer_fingerprint=tokenizer.fingerprint,
        seed=config.seed,
        inputs=[
            {name: row[name] for name in ("name", "bytes", "sha256")}
            for row in folder.manifest.shards
        ],
    )
    if not config.overwrite and (finished := find_finished(outline)) is not None:
        log.info("%s: up to date", config.output)
        return finished
    return run_stage(
        _plan(config, outline, folder, tokenizer),
        workers=config.workers,
        overwrite=config.overwrite,
        progress=config.progress,
    )


def _require_special_tokens(config: BuildConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that lacks a special token which the objective needs."""
    if OBJECTIVES[config.objective].has_masks:
        tokenizer.require_special("cls", "sep", "mask")
        return
    if config.objective == "plm":
        tokenizer.require_special("cls", "sep")
    tokenizer.end_of_text_id()


def _plan(
    config: BuildConfig, outline: StageSpec, folder: ShardFolder, tokenizer: Tokenizer
) -> Stage:
    """All that the engine must know. What is imported here compiles kernels on its first call."""
    from tokkit.instances.build_plan import hold_out_fraction, make_context, plan_units
    from tokkit.instances.build_unit import build_unit
    from tokkit.instances.document_reader import DocumentReader

    reader = DocumentReader(folder, [ref for ref in folder.batch_refs() if ref.rows])
    eval_fraction = hold_out_fraction(config, reader)
    context = make_context(config, reader, tokenizer, eval_fraction)
    return Stage(
        **vars(outline),
        units=plan_units(config, context),
        function=build_unit,
        context=context,
        progress_unit=" tokens",
        prepare=lambda output: save_tokenizer(tokenizer, output / "tokenizer"),
        finish=lambda accounts: _refuse_nothing(accounts, config),
    )


def _describe_options(config: BuildConfig) -> dict[str, Any]:
    """Every option that the bytes depend on, or that tells the loader how to mask."""
    names = [
        "objective",
        "max_seq_length",
        "short_seq_prob",
        "single_sentence",
        "packing",
        "noise_density",
        "mean_noise_span_length",
        "predict_one_in",
        "dupe_factor",
        "masking",
        "eval_fraction",
        "compression",
        "unit_tokens",
    ]
    options = {name: getattr(config, name) for name in names if config.has_effect(name)}
    if config.masking == "static":
        options |= config.mask_options(config.max_seq_length)
    return options


def _refuse_nothing(accounts: Accounts, config: BuildConfig) -> None:
    if accounts.figures["instances"]:
        return
    if OBJECTIVES[config.objective].has_pairs:
        remedy = "pass --single-sentence random, or " if config.objective == "nsp" else ""
        raise TokkitError(
            f"{config.tokens}: no instance came of it, since every document has one sentence only; "
            f"{remedy}encode with --sentences auto"
        )
    raise TokkitError(
        f"{config.tokens}: no instance came of it, since all its tokens do not fill one; "
        f"pass a smaller --max-seq-length"
    )
