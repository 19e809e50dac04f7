"""Folders for tests of reports: of hostile text, of a hostile name, and of runs that nobody trained."""

import json
import math
from pathlib import Path
from typing import Any

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.folder import FolderLock
from tokkit.engine.json_files import write_json
from tokkit.engine.manifest import Manifest
from tokkit.engine.receipts import write_statement
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.run_plan import RunPlan, describe_run
from tokkit.pretraining.training.run_record import METRICS, RUN
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

HOSTILE = (
    "<script>window.hit = 1</script>",
    "</script><img src=x onerror='window.hit = 2'>",
    '"><svg onload="window.hit = 3">',
    "abc\u202edcba\u2066 \x1b[31mred\x07",
    "<!-- ]]> &lt;b&gt; javascript:window.hit=4",
)
HOSTILE_NAME = "a \"b\" <script>window.hit=5</script> & 'c'".replace("/", "\u2215")


def write_hostile_folders(work: Path) -> Path:
    """Write a recipe's folders with markup in every text and name; return the folder of them."""
    folder = work / HOSTILE_NAME
    folder.mkdir()
    corpus = folder / "in <i>.jsonl"
    rows = [
        {
            "id": f"{number} {HOSTILE[number % 5]}",
            "text": f"{text} Again. {text} And more. {number}",
        }
        for number in range(64)
        for text in [HOSTILE[number % 5]]
    ]
    corpus.write_text("\n".join(map(json.dumps, rows)) + "\n")
    inputs, tokenizer = (str(corpus),), folder / "tokenizer"
    train(TrainConfig(inputs=inputs, output=tokenizer, model="bpe", vocab_size=330, workers=0))
    tokens = folder / "tokens"
    encode(EncodeConfig(inputs=inputs, tokenizer=tokenizer, output=tokens, workers=0))
    build(BuildConfig(tokens=tokens, output=folder / "instances", max_seq_length=48, workers=0))
    write_run_folder(folder / "run", [hostile_line(step) for step in range(10, 60, 10)])
    return folder


def hostile_line(step: int) -> dict[str, Any]:
    return {**train_line(step), f"{HOSTILE[1]}_accuracy": 1.0}


def train_line(step: int, **changes: Any) -> dict[str, Any]:
    """Return a line of metrics as training writes it."""
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 100,
        "loss": 9 - math.log(step),
        "mlm_loss": 8.3 - math.log(step),
        "mlm_accuracy": step / 500,
        "nsp_loss": 0.7,
        "nsp_accuracy": 0.5,
        "learning_rate": 1e-3 * min(1, step / 30),
        "gradient_norm": 1 + math.sin(step),
        "tokens": 2000 * step,
        "tokens_per_second": 20_000 + step,
        "data_wait": 0.01,
        "elapsed": step / 10,
        **changes,
    }


def write_run_folder(run: Path, lines: list[dict[str, Any]], **options: Any) -> Path:
    """Write what a run has that was stopped."""
    source = Manifest(
        kind="instances",
        key="key of the instances",
        options={"objective": "nsp"},
        seed=0,
        tokenizer_fingerprint="fingerprint",
        inputs=[],
        shards=[],
    )
    config = PretrainConfig(instances=(Path("instances"),), output=run, **options)
    plan = RunPlan(config, "fp32", (source,), initial=None)
    with FolderLock(run):
        write_statement(run, plan.spec.describe(), only_new=True)
    record = describe_run(plan, model={}, num_parameters=1_024_514, device="cpu, 1 thread")
    write_json(run / RUN, {**record, "started": "2026-03-01T09:12:44+00:00", "command": "tokkit"})
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run
