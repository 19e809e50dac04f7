"""The stage ``encode``: text in, shards of token ids out.

A work unit of the corpus becomes a shard, a document becomes a row, in record batches of about four
million tokens. Sentences without tokens, such as those of control characters alone, are dropped and
counted, and so are documents without any other sentence.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokkit.corpus.units import Group, find_known_types, hash_group, list_left_out, plan_groups
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.encode_unit import EncodeContext, EncodeStats, encode_unit, load_encoder
from tokkit.encoding.text_survey import find_warnings
from tokkit.engine.accounts import Accounts
from tokkit.engine.folder import refuse_overlap
from tokkit.engine.manifest import Manifest
from tokkit.engine.receipts import convert_notes
from tokkit.engine.stage import Stage, run_stage
from tokkit.engine.stage_config import StageConfig
from tokkit.engine.stage_plan import read_plan
from tokkit.errors import TokkitError
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

TOKENIZER_FOLDER = "tokenizer"
SMALL_BYTES = 1 << 20

OPTIONS_OUTSIDE_KEY = ("inputs", "tokenizer", "output", *StageConfig.options)


def encode(config: EncodeConfig, stats: EncodeStats | None = None) -> Manifest:
    """Encode a corpus into a token folder, except what was encoded before.

    Args:
        config: the options; the output does not depend on ``workers``.
        stats: collects measurements of this run.

    Returns:
        The folder's manifest.

    Raises:
        TokkitError: for a fault in data or environment; finished shards stay.
    """
    config.require_finish()
    stage = make_encode_stage(config, stats)
    return run_stage(
        stage,
        workers=choose_workers(config, stage),
        overwrite=config.overwrite,
        progress=config.progress,
        commit=config.commit,
    )


def choose_workers(config: EncodeConfig, stage: Stage) -> int:
    """Return the number of workers: none for a little text, as starting one takes longer."""
    is_stream = any(unit.open_stream for unit in stage.units)
    is_small = not is_stream and sum(unit.size for unit in stage.units) < SMALL_BYTES
    return 0 if is_small else config.workers


def make_encode_stage(config: EncodeConfig, stats: EncodeStats | None = None) -> Stage:
    """Plan the stage, or read its plan where ``config`` is of a step after it."""
    refuse_overlap(config.output, config.inputs, [config.tokenizer], cache=config.cache)
    config.pull_folders()
    tokenizer = load_tokenizer(find_folder(config.tokenizer))
    tokenizer.allow_in_text(config.allow_special_tokens)  # fail before reading

    def prepare(folder: Path) -> None:
        from tokkit.tokenizer.encoder import choose_kernel

        save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
        choice = choose_kernel(tokenizer)
        if choice.name is None:
            log.info(
                "%s: encoding with the tokenizer's own library, which is slower: no kernel knows %s",
                *(config.tokenizer, choice.obstacle),
            )

    def require_documents(accounts: Accounts) -> None:
        if not accounts.kept("documents"):
            dropped = accounts.as_dict()["documents"]["dropped"]
            reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
            raise TokkitError(
                f"{', '.join(config.inputs)}: no document is left to encode "
                f"(dropped: {reasons}); see --documents, --text-field and --errors"
            )

    def find_warnings_of(accounts: Accounts, notes: Sequence[Mapping[str, Any]]) -> list[str]:
        counts = Counter[str]()
        for each in notes:
            counts.update(convert_notes(each, dict[str, int]))
        return find_warnings(counts, accounts, tokenizer, config)

    options = config.describe(OPTIONS_OUTSIDE_KEY)
    if config.is_planned:
        units = read_plan(config.output, Group)
    else:
        known = find_known_types(config.output, options)
        units = plan_groups(config, config.unit_bytes, "shard-{:07}.arrow", known=known)
    return Stage(
        kind="tokens",
        output=config.output,
        options=options,
        tokenizer_fingerprint=tokenizer.fingerprint,
        seed=None,
        units=units,
        left_out=list_left_out(units),
        function=encode_unit,
        context=EncodeContext(
            config, config.output / TOKENIZER_FOLDER, tokenizer.fingerprint, tokenizer
        ),
        load=load_encoder,
        prepare=prepare,
        hash_inputs=partial(hash_group, config),
        check_accounts=require_documents,
        find_warnings=find_warnings_of,
        on_result=None if stats is None else stats.add,
        cluster=config.cluster,
    )
