"""How fast one thread masks instances and makes batches, in million real tokens per second.

    python tests/benchmarks/loading.py [--rounds 5]

Masking: 8192 instances of 512 tokens in memory. The peer is transformers'
DataCollatorForLanguageModeling, called on examples as a DataLoader does, and its masking alone on
tensors. The bound is a copy of the same tokens as int64, which the collator returns, and as uint16,
which tokkit masks. Without transformers the peer is left out.

Batches: 256 pairs of segments of random ids, masked dynamically, from mapped shards in memory, by
the loader for training loops and by the prefetcher of ``tokkit pretrain``. The prefetcher is asked
for step after step by a caller that does nothing else, so its thread works all the time; sizes are
exact, or rounded for a compiled model.

Then the caller is busy, in Python that never releases the interpreter lock, and in calls of torch,
which do: how fast batches are made, and how much slower the caller becomes.
"""

import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring
from benchmarks.madeinstances import (
    FIRST_WORD,
    NUM_TOKENS,
    TINY_NUM_TOKENS,
    VOCAB_SIZE,
    instance_folders,
)

from tokkit import InstanceLoader
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.kernels.instances.mask_tokens import replacement_ids
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.shards.instances import Instances, Predictions

NUM_STEPS = 40
MICRO_BATCH_TOKENS = 16_384
BATCH_SIZE = 256
CLS, SEP, MASK = 2, 3, 4
TOKENS_PER_WORD = 1.3
ROW_LENGTH = 512
NUM_ROWS, NUM_COLLATOR_ROWS = 8192, 512


def mask_options(unit: str) -> MaskOptions:
    return MaskOptions(
        masked_lm_prob=0.15,
        max_predictions=math.ceil(ROW_LENGTH * 0.15),
        mask_id=MASK,
        unmaskable_ids=(CLS, SEP),
        replacements=replacement_ids(VOCAB_SIZE, tuple(range(FIRST_WORD)), np.uint16),
        unit=unit,
    )


def masking_contestants(num_rows: int) -> dict[str, measuring.Work]:
    """Return tokkit, the collator and copies, on the same instances."""
    rng = np.random.default_rng(0)
    rows = rng.integers(FIRST_WORD, VOCAB_SIZE, (num_rows, ROW_LENGTH))
    rows[:, 0], rows[:, [255, 511]] = CLS, SEP
    narrow, narrow_copy, wide_copy = rows.astype(np.uint16), rows.astype(np.uint16), rows.copy()
    word_starts = np.packbits(rng.random(rows.size) < 1 / TOKENS_PER_WORD, bitorder="little")

    numbers = np.arange(num_rows, dtype=np.uint64)

    def mask(unit: str) -> None:
        instances = Instances(
            input_ids=narrow.ravel(),
            offsets=np.arange(num_rows + 1, dtype=np.int64) * ROW_LENGTH,
            word_starts=word_starts,
            segment_lengths=np.full(num_rows, 256, np.int64),
            documents=numbers,
            next_sentence_labels=np.full(num_rows, NO_LABEL),
            indices=numbers,
            predictions=Predictions.none(num_rows, narrow.dtype),
        )
        mask_instances(instances, mask_options(unit), seed=np.uint64(1), epoch=0)

    mask("token")  # compile
    mask("word")
    return {
        "tokkit": (rows.size, lambda: mask("token")),
        "tokkit, whole words": (rows.size, lambda: mask("word")),
        "tokkit, spans": (rows.size, lambda: mask("span")),
        "tokkit, n-grams": (rows.size, lambda: mask("ngram")),
        **collator_contestants(rows),
        "copy of int64": (rows.size, lambda: np.copyto(wide_copy, rows)),
        "copy of uint16": (rows.size, lambda: np.copyto(narrow_copy, narrow)),
    }


def collator_contestants(rows: Any) -> dict[str, measuring.Work]:
    """Return transformers' collator, on fewer instances where it is called on examples."""
    if importlib.util.find_spec("transformers") is None:
        measuring.write("transformers: left out, not installed")
        return {}
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    words = {f"word{number}": number for number in range(len(special), VOCAB_SIZE)}
    collator = DataCollatorForLanguageModeling(
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({**special, **words})),
            **{f"{token.strip('[]').lower()}_token": token for token in special},
        )
    )
    examples = [{"input_ids": row} for row in rows[:NUM_COLLATOR_ROWS].tolist()]
    tensor = torch.from_numpy(rows)
    is_special = torch.from_numpy(np.isin(rows, [CLS, SEP]))
    return {
        "collator, called on examples": (
            len(examples) * ROW_LENGTH,
            lambda: collator(examples),
        ),
        "collator, masking alone": (
            rows.size,
            lambda: collator.torch_mask_tokens(tensor, special_tokens_mask=is_special),
        ),
    }


def loading_contestants(folders: dict[int, Path], steps: range) -> dict[str, measuring.Work]:
    """Return the prefetcher of pretraining and the loader for training loops, at all lengths."""
    contestants: dict[str, measuring.Work] = {}
    for length, folder in folders.items():
        for unit in ("token", "word"):
            for static in (False, True):
                sizes = "rounded sizes" if static else "exact sizes"
                label = f"prefetcher, up to {length} tokens, {sizes}, masked by {unit}"
                prefetcher = open_prefetcher(folder, unit, static=static)
                read = partial(read_prefetcher, prefetcher, steps)
                contestants[label] = (read(), read)
        for layout, unit in (("padded", "token"), ("ragged", "token"), ("padded", "word")):
            loader = InstanceLoader(folder, batch_size=BATCH_SIZE, layout=layout, mask_unit=unit)
            label = f"loader, up to {length} tokens, {layout}, masked by {unit}"
            load = partial(read_loader, loader, steps)
            contestants[label] = (load(), load)
    return contestants


def open_prefetcher(folder: Path, unit: str = "token", *, static: bool = True) -> Prefetcher:
    config = LoaderConfig(instances=(folder,), batch_size=BATCH_SIZE, mask_unit=unit)
    loader = Loader(open_sources(config), config)
    return Prefetcher([loader], micro_batch_tokens=MICRO_BATCH_TOKENS, static=static)


def read_prefetcher(prefetcher: Prefetcher, steps: range) -> int:
    """Read the batches of all steps and return how many tokens they have."""
    return sum(batch.num_tokens for step in steps for batch in prefetcher.next_batches(0, step))


def read_loader(loader: InstanceLoader, steps: range) -> int:
    """Read the batches of all steps and return how many tokens they have."""
    num_tokens = 0
    for step in steps:
        batch = loader.batch(step)
        mask = batch.get("attention_mask")
        num_tokens += len(batch["input_ids"]) if mask is None else int(mask.sum())
    return num_tokens


def measure_busy_caller(folder: Path, steps: range, rounds: int) -> None:
    """Print how the prefetcher's thread and a busy caller slow each other down."""
    tensor = torch.zeros(8)

    def call_torch() -> None:
        for _ in range(1000):
            torch.add(tensor, 1)

    def run_python() -> None:
        for _ in range(100_000):
            pass

    works: dict[str, Callable[[], None]] = {"calls of torch": call_torch, "Python": run_python}
    measuring.write("the prefetcher's thread next to a busy caller")
    with ThreadPoolExecutor(1) as executor:
        prefetcher = open_prefetcher(folder)
        read_prefetcher(prefetcher, steps)
        for name, work in works.items():
            alone = statistics.median(measuring.time_call(work) for _ in range(20))
            rates, slower = [], []
            for _ in range(rounds):
                start = time.perf_counter()
                future = executor.submit(read_prefetcher, prefetcher, steps)
                times = [measuring.time_call(work)]
                while not future.done():
                    times.append(measuring.time_call(work))
                rates.append(future.result() / (time.perf_counter() - start) / 1e6)
                slower.append(statistics.mean(times) / alone)
            measuring.write(
                f"  {name:<54} {statistics.median(rates):>9.2f} Mtokens/s    caller takes "
                f"{statistics.median(slower):>5.2f}x"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    options = measuring.make_parser(__doc__).parse_args(arguments)
    num_tokens, num_steps, num_rows, rounds = NUM_TOKENS, NUM_STEPS, NUM_ROWS, options.rounds
    if options.tiny:
        num_tokens, num_steps, num_rows, rounds = TINY_NUM_TOKENS, 1, 64, 1
    torch.set_num_threads(1)
    title = f"masking {num_rows} x {ROW_LENGTH}"
    figures = measuring.compare(title, masking_contestants(num_rows), rounds)
    with instance_folders(num_tokens) as folders:
        contestants = loading_contestants(folders, range(num_steps))
        figures |= measuring.compare("batches: gather, mask, lay out", contestants, rounds)
        measure_busy_caller(folders[128], range(num_steps), rounds)
    measuring.write_json(options.json, figures)


if __name__ == "__main__":
    main()
