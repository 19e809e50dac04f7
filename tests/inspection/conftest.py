"""A small run of all stages but the last, for the tests that inspect its folders."""

from pathlib import Path

import pytest

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

SENTENCES = (
    "The cat sat on the warm mat. It looked at the door. Nobody came in.",
    "A ship left the old harbour. The wind was strong and the sea was grey. It did not return.",
    "She wrote a long letter. The answer came in spring. It had three words.",
)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tokenizer``, ``tokens``, ``instances`` and ``static``."""
    work = tmp_path_factory.mktemp("work")
    corpus = work / "corpus.txt"
    corpus.write_text("\n\n".join(f"Number {i}. {SENTENCES[i % 3]}" for i in range(120)))
    train(TrainConfig(inputs=(str(corpus),), output=work / "tokenizer", vocab_size=120, workers=0))
    encode(
        EncodeConfig(
            inputs=(str(corpus),), tokenizer=work / "tokenizer", output=work / "tokens", workers=0
        )
    )
    for name, masking in (("instances", "dynamic"), ("static", "static")):
        build(
            BuildConfig(
                tokens=work / "tokens",
                output=work / name,
                max_seq_length=48,
                masking=masking,
                eval_fraction=0.2,
                workers=0,
            )
        )
    return work
