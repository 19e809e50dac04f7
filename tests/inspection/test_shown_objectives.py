"""Instances of every objective are shown as what they are, and verified as what was noted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenfolders import begins_word, toy_tokenizer, write_token_folder

from tokkit.inspection.inspect import inspect
from tokkit.inspection.report.report import make_report
from tokkit.inspection.report.report_config import ReportConfig
from tokkit.inspection.verify import verify
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.shards.objectives import MASKED, OBJECTIVES, PAIRED


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of instances for each objective, masked where there are masks."""
    work = tmp_path_factory.mktemp("objectives")
    rng = np.random.default_rng(1)
    words = np.array([number for number in range(60, 1000) if begins_word(number)])
    documents = [
        [rng.choice(words, rng.integers(2, 9)).tolist() for _ in range(num_sentences)]
        for num_sentences in rng.integers(1, 12, 60)
    ]
    write_token_folder(work / "tokens", documents, tokenizer=toy_tokenizer(num_unused=20))
    for objective in OBJECTIVES:
        build(
            BuildConfig(
                tokens=work / "tokens",
                output=work / objective,
                objective=objective,
                targets=work / "tokens" if objective == "translation" else None,
                max_seq_length=32,
                masking="static" if objective in ("nsp", "sop", "mlm") else "dynamic",
                dupe_factor=1 if objective in ("clm", "translation") else 2,
                workers=0,
            )
        )
    return work


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_report_shows_what_an_objective_has(built: Path, objective: str) -> None:
    page = make_report(ReportConfig(paths=(built / objective,)))
    assert ("Pairs" in page) == (objective in PAIRED)
    assert ("Masks by position" in page) == (objective in MASKED)
    assert ("Targets of an instance" in page) == (OBJECTIVES[objective].targets is not None)
    assert page.count('class="sample"') == 5
    assert page.count(">targets</h4>") == 5 * (OBJECTIVES[objective].targets == "target_ids")
    assert ('masked" title=' in page) == (objective in (*MASKED, "plm"))


def rows_of(built: Path, objective: str) -> list[str]:
    return list(inspect(built / objective, rows=30).rows)


def test_pairs_are_shown_with_their_label(built: Path) -> None:
    assert {row.split("\n")[0].split(", ")[-1] for row in rows_of(built, "sop")} == {
        "A and B in order",
        "A and B swapped",
    }
    assert {row.split("\n")[0].split(", ")[-1] for row in rows_of(built, "nsp")} == {
        "B follows A",
        "B is random",
    }


def test_spans_are_shown_with_their_sentinels(built: Path) -> None:
    for row in rows_of(built, "span-corruption"):
        _, inputs, targets = row.split("\n")
        assert inputs.count("[unused0]") == inputs.count("[unused1]") == 1
        assert targets.startswith("  targets: [unused0] ")
        assert inputs.endswith(" [SEP]")
        assert targets.endswith(" [SEP]")


def test_targets_are_shown_in_their_order(built: Path) -> None:
    shown = 0
    for row in rows_of(built, "plm"):
        _, tokens, order = row.split("\n")
        words = tokens.split()
        for target in order.split(": ")[1].split(", "):
            if target:
                position, word = target.split()
                assert words[int(position)] == word
                shown += 1
    assert shown > 100


def test_a_single_segment_has_no_label(built: Path) -> None:
    for objective in ("mlm", "clm"):
        for row in rows_of(built, objective):
            assert " B " not in row.split("\n")[0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_figure_is_counted_again(built: Path, objective: str) -> None:
    folder = built / objective
    assert verify(folder).faults == ()
    path = folder / "manifest.json"
    original = path.read_text()
    form: dict[str, Any] = json.loads(original)
    figures = form["accounts"]["figures"]
    # What a shard cannot tell: of the documents, and of tokens that are in no instance.
    untold = {"eval_documents", "visits", "short_visits", "tokens_packed", "tokens_alone"}
    counted = {f for f in figures if f not in untold and not f.startswith("tokens_truncated")}
    assert len(counted) >= 6
    for figure in counted:
        changed = {**figures, figure: figures[figure] + 1}
        path.write_text(json.dumps({**form, "accounts": {**form["accounts"], "figures": changed}}))
        (fault,) = verify(folder).faults
        assert f"{changed[figure]:,} {figure.replace('_', ' ')}, but the shards hold" in fault
    path.write_text(original)


def test_accounts_are_compared_with_the_tokens_in_instances(built: Path) -> None:
    path = built / "clm" / "manifest.json"
    original = path.read_text()
    form = json.loads(original)
    ledger = form["accounts"]["tokens"]
    ledger["in"] += 1
    ledger["kept"] += 1
    path.write_text(json.dumps(form))
    (fault,) = verify(built / "clm").faults
    assert f"{ledger['kept']:,} tokens kept, but instances use {ledger['kept'] - 1:,}" in fault
    path.write_text(original)
