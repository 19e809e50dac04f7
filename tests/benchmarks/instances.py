"""How fast instances are made and masked, against what people use today, on one core each.

    python tests/benchmarks/instances.py [--rounds 5] [--text-mb 400] [--tokens FOLDER ...]

Contestants take turns, round by round, and medians are compared, so that a machine that slows down
slows down all of them. Rates are in million tokens of instances per second.

Text: see ``tests/benchmarks/building.py``; ``--tokens`` names token folders, small and large ones,
whose builds' memory is measured.
Pairing: documents of ids in memory become masked instances of 128 tokens. The peer is the port of
google-research/bert's script in ``tests/reference/bert.py``, pure Python like the script.
Loading: batches of 256 instances, from mapped shards to tensors, by one thread.
Masking: 8192 instances of 512 tokens. The peer is transformers' DataCollatorForLanguageModeling,
called on examples as a DataLoader does, and by its masking alone on tensors that are there
already. The bound is a copy of the same tokens, as int64 (what the collator returns) and as uint16
(what ours works on).
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.building import compare_texts, measure_memory
from tokenfolders import Document, toy_tokenizer, write_token_folder

from reference.bert import Script
from tokkit.instances.build import build
from tokkit.instances.config import BuildConfig
from tokkit.instances.documents import DocumentReader, Split
from tokkit.instances.instances import Instances
from tokkit.instances.masks import MaskOptions, mask_instances
from tokkit.instances.pairs import PairOptions, lay_out, pair_documents
from tokkit.kernels.masking import replacement_ids
from tokkit.shards.reader import ShardFolder

VOCAB_SIZE = 30_522
CLS, SEP, MASK = 2, 3, 4
FIRST_WORD = 7
TOKENS_PER_WORD = 1.3
SEED = np.uint64(1)
Contestant = tuple[int, Callable[[], Any]]  # tokens that it handles, and what it does


def make_documents(num_tokens: int) -> list[Document]:
    """Sentences of 3 to 37 tokens, 25 of them in a document on average."""
    rng = np.random.default_rng(0)
    documents: list[Document] = []
    while num_tokens > 0:
        lengths = rng.integers(3, 38, rng.geometric(1 / 25))
        documents.append([rng.integers(FIRST_WORD, VOCAB_SIZE, n).tolist() for n in lengths])
        num_tokens -= int(lengths.sum())
    return documents


def mask_options(max_seq_length: int, unit: str = "token") -> MaskOptions:
    return MaskOptions(
        masked_lm_prob=0.15,
        max_predictions=math.ceil(max_seq_length * 0.15),
        seed=SEED,
        mask_id=MASK,
        special_ids=(CLS, SEP),
        replacements=replacement_ids(VOCAB_SIZE, tuple(range(FIRST_WORD)), np.uint16),
        unit=unit,
    )


@contextmanager
def pairing_contestants() -> Iterator[dict[str, Contestant]]:
    """Ours in memory, ours to disk, and the peer, on the same documents."""
    small, large = make_documents(300_000), make_documents(8_000_000)
    script = Script(128, 20, 0.1, 0.15, VOCAB_SIZE, CLS, SEP, MASK)
    options = PairOptions(
        max_seq_length=128,
        short_seq_prob=0.1,
        drop_single=False,
        swap=False,
        seed=SEED,
        cls_id=CLS,
        sep_id=SEP,
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        write_token_folder(path, large, tokenizer=toy_tokenizer(VOCAB_SIZE))
        tokens = ShardFolder.open(path, "tokens")
        reader = DocumentReader(tokens, tokens.batch_refs())
        split = Split(held_out=False, eval_fraction=0.0, seed=SEED)
        documents = reader.read(0, len(reader.refs), split)

        def in_memory() -> int:
            num_tokens = 0
            for block in pair_documents(documents, reader, split, options, 0):
                instances = lay_out(block, block.pairs, options)
                mask_instances(instances, mask_options(128), 0)
                num_tokens += len(instances.ids)
            return num_tokens

        def to_disk() -> int:
            config = BuildConfig(
                tokens=path,
                output=Path(folder) / "instances",
                masking="static",
                workers=0,
                overwrite=True,
                progress=False,
            )
            return build(config).num_tokens

        def peer() -> int:
            return sum(len(i.input_ids) for i in script.run(small, dupe_factor=1, seed=1))

        yield {
            "tokkit, in memory": (in_memory(), in_memory),
            "tokkit build, uint16 ids on disk to instances on disk": (to_disk(), to_disk),
            "google-research/bert's script, ported": (peer(), peer),
        }


def masking_contestants() -> dict[str, Contestant]:
    """Ours, the collator, and copies, on the same instances (fewer of them for the collator)."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    num_rows, length = 8192, 512
    rng = np.random.default_rng(0)
    rows = rng.integers(FIRST_WORD, VOCAB_SIZE, (num_rows, length))
    rows[:, 0], rows[:, [255, 511]] = CLS, SEP
    narrow, copy, wide_copy = rows.astype(np.uint16).ravel(), rows.astype(np.uint16), rows.copy()

    word_starts = np.packbits(rng.random(rows.size) < 1 / TOKENS_PER_WORD, bitorder="little")

    def ours(unit: str) -> None:
        instances = Instances(
            ids=narrow,
            offsets=np.arange(num_rows + 1, dtype=np.int64) * length,
            word_starts=word_starts,
            segment_lengths=np.full(num_rows, 256, np.int64),
            indices=np.arange(num_rows, dtype=np.uint64),
        )
        mask_instances(instances, mask_options(length, unit), 0)

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    names = {f"word{number}": number for number in range(len(special), VOCAB_SIZE)}
    collator = DataCollatorForLanguageModeling(
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({**special, **names})),
            **{f"{token.strip('[]').lower()}_token": token for token in special},
        )
    )
    num_peer_rows = 512
    examples = [{"input_ids": row} for row in rows[:num_peer_rows].tolist()]
    tensor = torch.from_numpy(rows)
    is_special = torch.from_numpy(np.isin(rows, [CLS, SEP]))
    return {
        "tokkit": (rows.size, lambda: ours("token")),
        "tokkit, whole words": (rows.size, lambda: ours("word")),
        "tokkit, spans": (rows.size, lambda: ours("span")),
        "tokkit, n-grams": (rows.size, lambda: ours("ngram")),
        "collator, called on examples": (num_peer_rows * length, lambda: collator(examples)),
        "collator, masking alone": (
            rows.size,
            lambda: collator.torch_mask_tokens(tensor, special_tokens_mask=is_special),
        ),
        "copy of int64": (rows.size, lambda: copy_rows(rows, wide_copy)),
        "copy of uint16": (rows.size, lambda: copy_rows(narrow, copy.ravel())),
    }


@contextmanager
def loading_contestants() -> Iterator[dict[str, Contestant]]:
    """The loader from mapped shards to tensors, at two lengths, with a thread and a layout."""
    from tokkit import InstanceLoader

    with TemporaryDirectory() as work:
        folder = Path(work)
        documents = make_documents(8_000_000)
        write_token_folder(folder / "tokens", documents, tokenizer=toy_tokenizer(VOCAB_SIZE))
        contestants: dict[str, Contestant] = {}
        for length in (512, 128):
            name = folder / str(length)
            build(
                BuildConfig(
                    tokens=folder / "tokens",
                    output=name,
                    max_seq_length=length,
                    workers=0,
                    progress=False,
                )
            )
            for layout, unit in (("padded", "token"), ("ragged", "token"), ("padded", "word")):
                loader = InstanceLoader(name, batch_size=256, layout=layout, mask_unit=unit)
                steps = range(40)
                num_tokens = sum(int(loader.batch(s)["attention_mask"].sum()) if layout == "padded"
                                 else len(loader.batch(s)["input_ids"]) for s in steps)  # fmt: skip
                label = f"up to {length} tokens, {layout}, masked by {unit}"
                contestants[label] = (num_tokens, partial(read_steps, loader, steps))
        yield contestants


def read_steps(loader: Any, steps: range) -> None:
    for step in steps:
        loader.batch(step)


def copy_rows(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    np.copyto(target, source)


def compare(title: str, contestants: dict[str, Contestant], rounds: int) -> None:
    """Let the contestants take turns, and print median rates and how the first compares."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (_, work) in contestants.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    rates = {
        name: num_tokens / statistics.median(seconds[name]) / 1e6
        for name, (num_tokens, _) in contestants.items()
    }
    first = next(iter(rates.values()))
    lines = [title]
    for name, rate in rates.items():
        lines.append(f"  {name:<54} {rate:>9.2f} Mtokens/s    {first / rate:>8.2f}x")
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text-mb", type=int, default=400)
    parser.add_argument("--tokens", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    rounds = options.rounds
    compare_texts(options.text_mb * 1_000_000, min(3, rounds))
    measure_memory(options.tokens)
    import torch

    torch.set_num_threads(1)
    with pairing_contestants() as contestants:
        compare("pairs of 128 tokens, masked", contestants, rounds)
    with loading_contestants() as contestants:
        compare("the loader: gather, mask, pack", contestants, rounds)
    compare("masking 8192 x 512", masking_contestants(), rounds)


if __name__ == "__main__":
    main()
