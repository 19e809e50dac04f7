"""How fast instances are made and masked, against what people use today, on one core each.

    python tests/benchmarks/instances.py [--rounds 5] [--text-mb 400] [--tokens FOLDER ...]

Contestants take turns, round by round, and medians are compared, so that a machine that slows down
slows down all of them. Rates are in million tokens of instances per second.

Text: see ``tests/benchmarks/building.py``; ``--tokens`` names token folders, small and large ones,
whose builds' memory is measured.
Pairing: documents of ids in memory become masked instances of 128 tokens. The peer is the port of
google-research/bert's script in ``tests/reference/bert.py``, pure Python like the script.
Masking: 8192 instances of 512 tokens. The peer is transformers' DataCollatorForLanguageModeling,
called on examples as a DataLoader does, and by its masking alone on tensors that are there
already. The bound is a copy of the same tokens, as int64 (what the collator returns) and as uint16
(what ours works on).
"""

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.building import compare_texts, measure_memory
from benchmarks.loading import Contestant, compare
from benchmarks.madeinstances import FIRST_WORD, VOCAB_SIZE, make_documents
from tokenfolders import toy_tokenizer, write_token_folder

from reference.bert import Script
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.instances.documents import DocumentReader, Split
from tokkit.instances.pairs import PairOptions, lay_out, pair_documents
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.kernels.instances.mask_tokens import replacement_ids
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.shards.instances import Instances, Masks
from tokkit.shards.reader import ShardFolder

CLS, SEP, MASK = 2, 3, 4
TOKENS_PER_WORD = 1.3
SEED = np.uint64(1)


def mask_options(max_seq_length: int, unit: str = "token") -> MaskOptions:
    return MaskOptions(
        masked_lm_prob=0.15,
        max_predictions=math.ceil(max_seq_length * 0.15),
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
                mask_instances(instances, mask_options(128), seed=SEED, epoch=0)
                num_tokens += len(instances.input_ids)
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

    numbers = np.arange(num_rows, dtype=np.uint64)

    def ours(unit: str) -> None:
        instances = Instances(
            input_ids=narrow,
            offsets=np.arange(num_rows + 1, dtype=np.int64) * length,
            word_starts=word_starts,
            segment_lengths=np.full(num_rows, 256, np.int64),
            documents=numbers,
            next_sentence_labels=np.full(num_rows, NO_LABEL),
            indices=numbers,
            masks=Masks.none(num_rows, narrow.dtype),
        )
        mask_instances(instances, mask_options(length, unit), seed=SEED, epoch=0)

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


def copy_rows(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    np.copyto(target, source)


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
    compare("masking 8192 x 512", masking_contestants(), rounds)


if __name__ == "__main__":
    main()
