"""From text in two languages to a trained model that transformers loads, for each objective."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from realcommands import timeless_lines
from tinytokenizers import CONTROL, write_vocab

from tokkit import InstanceLoader
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig

LANGUAGES = (
    "the cat sat on a mat and saw how rain fell into green fields all day".split(),
    "der Hund lief durch einen Wald und sah wie Schnee auf alte Dächer fiel".split(),
)
LOADED_BY = {
    "nsp": "BertForPreTraining",
    "clm": "GPT2LMHeadModel",
    "sop, shared": "AlbertForPreTraining",
}


def write_text(path: Path) -> Path:
    """Documents of a sentence a line, each in one language and about words that follow each other."""
    drawn = np.random.default_rng(3)
    documents = []
    for number in range(120):
        words = LANGUAGES[number % 2]
        begins = drawn.integers(len(words), size=drawn.integers(4, 10))
        lengths = drawn.integers(3, 8, size=len(begins))
        documents.append(
            "\n".join(
                " ".join(words[(begin + place) % len(words)] for place in range(length))
                for begin, length in zip(begins, lengths, strict=True)
            )
        )
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text as ids."""
    folder = tmp_path_factory.mktemp("objectives")
    entries = dict.fromkeys([*CONTROL, *LANGUAGES[0], *LANGUAGES[1]])
    encode(
        EncodeConfig(
            inputs=(str(write_text(folder / "corpus.txt")),),
            tokenizer=write_vocab(folder / "tokenizer", entries, do_lower_case=False),
            output=folder / "tokens",
            sentences="lines",
            workers=0,
        )
    )
    return folder / "tokens"


def build_instances(tokens: Path, objective: str) -> Path:
    output = tokens.parent / objective
    build(
        BuildConfig(
            tokens=tokens,
            output=output,
            objective=objective,
            max_seq_length=24,
            eval_fraction=0.2,
            workers=0,
        )
    )
    return output


def train(instances: Path, output: Path, **options: Any) -> list[dict[str, Any]]:
    """Train, and return the evaluations."""
    defaults: dict[str, Any] = {
        "batch_size": 16,
        "eval_every": 50,
        "device": "cpu",
        "threads": 1,
        "seed": 6,
    }
    pretrain(PretrainConfig(instances=(instances,), output=output, **(defaults | options)))
    return [line for line in timeless_lines(output) if line["kind"] == "eval"]


def losses_of_transformers(name: str, export: Path, instances: Path) -> tuple[float, float]:
    """What a peer makes of the same held-out instances, masked alike: of tokens and of pairs."""
    peer = getattr(transformers, name).from_pretrained(export).eval()
    sums = torch.zeros(4)
    for batch in InstanceLoader(str(instances), batch_size=8, seed=6, split="eval"):
        labels, pairs = batch.pop("labels"), batch.pop("next_sentence_label", None)
        with torch.inference_mode():
            output = peer(**batch)
        logits = output.get("logits", output.get("prediction_logits"))
        if name.startswith("GPT2"):
            labels, logits = labels[:, 1:], logits[:, :-1]
        sums[0] += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum"
        )
        sums[1] += (labels >= 0).sum()
        if pairs is not None:
            logits = output.get("sop_logits", output.get("seq_relationship_logits"))
            sums[2] += torch.nn.functional.cross_entropy(logits, pairs, reduction="sum")
            sums[3] += (pairs >= 0).sum()
    return float(sums[0] / sums[1]), float(sums[2]) / max(1.0, float(sums[3]))


@pytest.mark.parametrize("kind", LOADED_BY)
def test_transformers_computes_the_loss_of_the_last_evaluation(
    tokens: Path, tmp_path: Path, kind: str
) -> None:
    objective = kind.split(",", maxsplit=1)[0]
    instances = build_instances(tokens, objective)
    shared = kind != objective
    first, *_, last = train(
        instances,
        tmp_path / "run",
        preset="tiny",
        max_steps=60,
        learning_rate=3e-3,
        share_layers=shared,
    )
    what = "clm" if objective == "clm" else "mlm"
    assert last[f"{what}_loss"] < 0.9 * first[f"{what}_loss"]
    of_tokens, of_pairs = losses_of_transformers(
        LOADED_BY[kind], tmp_path / "run" / "export", instances
    )
    assert last[f"{what}_loss"] == pytest.approx(of_tokens, abs=1e-4)
    assert last.get(f"{objective}_loss" if objective in {"nsp", "sop"} else "", 0.0) == (
        pytest.approx(of_pairs, abs=1e-4)
    )


def test_a_run_begins_where_another_ended(tokens: Path, tmp_path: Path) -> None:
    instances = build_instances(tokens, "nsp")
    ended = train(instances, tmp_path / "first", preset="tiny", max_steps=30, learning_rate=3e-3)
    begun = train(instances, tmp_path / "second", init_from=tmp_path / "first/export", max_steps=1)
    assert begun[0]["step"] == 0
    for name in ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"):
        assert begun[0][name] == pytest.approx(ended[-1][name], abs=1e-4)
    run = json.loads((tmp_path / "second" / "run.json").read_text())
    assert len(run["init_from_fingerprint"]) == 64
    assert run["options"]["init_from"] == str(tmp_path / "first/export")
