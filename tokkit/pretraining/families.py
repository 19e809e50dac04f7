"""The architectures that ``pretrain`` trains: their objectives and their sizes.

It does not import torch, so that options are checked quickly.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tokkit.shards.objectives import MASKED

# Number of layers, hidden size, number of heads, feed-forward size.
ModelSizes = tuple[int, int, int, int]

# https://github.com/google-research/bert
PRESETS: dict[str, ModelSizes] = {
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "small": (4, 512, 8, 2048),
    "medium": (8, 512, 8, 2048),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}
# https://github.com/JHU-CLSP/ettin-encoder-vs-decoder, in pretraining/configs/standard; its encoders
# and decoders have the same sizes.
MODERNBERT_PRESETS: dict[str, ModelSizes] = {
    "17m": (7, 256, 4, 384),
    "32m": (10, 384, 6, 576),
    "68m": (19, 512, 8, 768),
    "base": (22, 768, 12, 1152),  # 150 million parameters
    "large": (28, 1024, 16, 2624),  # 400 million
}
MODERNBERT_WINDOW = 128  # tokens that its local layers attend to; half as many in a decoder
# https://github.com/google-research/text-to-text-transfer-transformer, t5.1.1
T5_PRESETS: dict[str, ModelSizes] = {
    "t5-small": (8, 512, 6, 1024),  # 77 million parameters
    "t5-base": (12, 768, 12, 2048),  # 248 million
    "t5-large": (24, 1024, 16, 2816),  # 783 million
}
# Vaswani et al. 2017, table 3, and transformer_tiny of github.com/tensorflow/tensor2tensor.
MARIAN_PRESETS: dict[str, ModelSizes] = {
    "tiny": (2, 128, 4, 512),
    "base": (6, 512, 8, 2048),
    "big": (6, 1024, 16, 4096),
}


class Family(NamedTuple):
    """What ``--architecture`` stands for.

    Attributes:
        objectives: objectives of the instances that it learns from.
        presets: sizes by name.
        dropout: default dropout.
        model_types: model types of ``transformers`` that it trains.
        preset: default preset.
    """

    objectives: tuple[str, ...]
    presets: Mapping[str, ModelSizes]
    dropout: float
    model_types: tuple[str, ...]
    preset: str = "base"


FAMILIES = {
    "bert": Family(MASKED, PRESETS, 0.1, ("bert", "albert")),
    "roberta": Family(("mlm",), PRESETS, 0.1, ("roberta", "xlm-roberta")),
    "gpt2": Family(("clm",), PRESETS, 0.1, ("gpt2",)),
    "modernbert": Family(
        ("mlm", "clm"), MODERNBERT_PRESETS, 0.0, ("modernbert", "modernbert-decoder")
    ),
    "t5": Family(("span-corruption", "translation"), T5_PRESETS, 0.0, ("t5",), "t5-base"),
    "xlnet": Family(("plm",), PRESETS, 0.1, ("xlnet",)),
    "marian": Family(("translation",), MARIAN_PRESETS, 0.1, ("marian",)),
}
# The ``--architecture`` of each ``model_type`` of transformers.
FAMILY_OF = {kind: name for name, family in FAMILIES.items() for kind in family.model_types}
# The default architecture of each objective, where it is not bert.
DEFAULT_FAMILIES = {"clm": "gpt2", "span-corruption": "t5", "plm": "xlnet", "translation": "marian"}
