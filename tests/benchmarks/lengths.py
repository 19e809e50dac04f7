"""How fast a ModernBERT trains on long sequences, and in how much memory.

    python tests/benchmarks/lengths.py [--preset 17m] [--layers 4] [--lengths 512,2048,8192]

The first layers of a preset are trained, two global and two local ones unless told otherwise. The same number of tokens goes forward and backward at each length, in fp32 on a CPU and in bf16 on a
GPU. The contestants are tokkit's model; the same with global attention in all layers, which shows
what the windows save; and transformers' ``ModernBertForMaskedLM`` with ``sdpa``, if it is installed.
No sequence has padding. Each measurement is a process of its own, whose memory is its peak less that
before the first step; a server of forks has imported torch and transformers for all of them.
"""

import argparse
import importlib.util
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.measuring import write
from randommodels import make_instances

from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.families import MODERNBERT_PRESETS
from tokkit.pretraining.models.architectures import build_model, config_names
from tokkit.pretraining.models.modernbert import MODERNBERT, ModernBertConfig
from tokkit.pretraining.training.device import (
    autocast,
    choose_device,
    choose_precision,
    find_peak_memory,
)
from tokkit.pretraining.training.metrics import total_loss

VOCAB_SIZE = 8192
OURS, ALL_GLOBAL, PEER = "tokkit", "tokkit, all layers global", "transformers"


def measure(contestant: str, options: argparse.Namespace, length: int) -> dict[str, Any]:
    """Return seconds of a step and bytes of memory, in this process."""
    measuring.limit_cores()
    torch.manual_seed(0)
    device = choose_device("auto")
    preset = ModernBertConfig.from_preset(
        options.preset,
        vocab_size=VOCAB_SIZE,
        max_seq_length=length,
        dropout=0.0,
        objective="mlm",
    )
    config = replace(preset, num_hidden_layers=min(options.layers, preset.num_hidden_layers))
    instances = make_instances([length] * max(1, options.tokens // length), VOCAB_SIZE)
    if contestant == PEER:
        step = make_peer_step(config, padded_batch(instances, 0), device)
    else:
        if contestant == ALL_GLOBAL:
            config = replace(config, global_attn_every_n_layers=1)
        model = build_model(config).to(device)
        batch = lay_out(instances, 0).to(device)

        def step() -> None:
            torch.autograd.backward(total_loss(model(batch.inputs), batch.num_predicted, 0))

    before = find_peak_memory(device) or 0
    seconds = []
    for _ in range(1 + options.rounds):
        started = time.perf_counter()
        with autocast(choose_precision("auto", device), device):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    memory = (find_peak_memory(device) or 0) - before
    return {"seconds": statistics.median(seconds[1:]), "bytes": memory}


def make_peer_step(config: ModernBertConfig, batch: dict[str, Any], device: torch.device) -> Any:
    """Return a function that takes a step with the model of transformers."""
    import transformers

    values = asdict(config)
    theirs = {name: values[ours] for ours, name in config_names(MODERNBERT).items()}
    ids = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    peer = transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(**theirs, **ids, attn_implementation="sdpa")
    ).to(device)
    padded = {n: t.to(device) for n, t in batch.items() if n in {"input_ids", "labels"}}
    return lambda: torch.autograd.backward(peer(**padded).loss)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all contestants at all lengths, one process after the other."""
    parser = measuring.make_parser(__doc__ or "", rounds=1)
    parser.add_argument("--preset", default="17m", choices=tuple(MODERNBERT_PRESETS))
    parser.add_argument("--lengths", type=measuring.list_of_numbers, default=[512, 2048, 8192])
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a step")
    parser.add_argument("--layers", type=int, default=4, help="at most, of the preset's")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.lengths, options.tokens, options.rounds = [256], 256, 1
    write(measuring.describe_machine())
    write(f"\n{options.preset}, {options.layers} layers, {options.tokens:,} tokens a step")
    contestants = [OURS, ALL_GLOBAL]
    preloaded = [__name__, "torch"]
    if importlib.util.find_spec("transformers") is not None:
        contestants.append(PEER)
        preloaded.append("transformers.models.modernbert.modeling_modernbert")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(preloaded)
    rows = []
    with ProcessPoolExecutor(1, processes, max_tasks_per_child=1) as pool:
        for length, contestant in itertools.product(options.lengths, contestants):
            if options.tiny:
                found = measure(contestant, options, length)
            else:
                found = pool.submit(measure, contestant, options, length).result()
            rows.append({"length": length, "contestant": contestant, **found})
            write(
                f"  {length:>6}  {contestant:<26} {options.tokens / found['seconds']:>9,.0f} tokens/s"
                f"  {found['bytes'] / 1e6:>7,.0f} MB"
            )
    measuring.write_json(options.json, rows)


if __name__ == "__main__":
    main()
