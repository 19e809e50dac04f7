"""Documents of random ids, and the instances that ``tokkit build`` makes of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tokenfolders import Document, toy_tokenizer, write_token_folder

from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig

VOCAB_SIZE = 30_522
FIRST_WORD = 7
LENGTHS = (128, 512)
NUM_TOKENS = 8_000_000
TINY_NUM_TOKENS = 20_000


def make_documents(num_tokens: int, num_sentences: int) -> list[Document]:
    """Return documents of about ``num_sentences`` sentences of 3 to 37 tokens each."""
    rng = np.random.default_rng(0)
    documents: list[Document] = []
    while num_tokens > 0:
        lengths = rng.integers(3, 38, rng.geometric(1 / num_sentences))
        documents.append([rng.integers(FIRST_WORD, VOCAB_SIZE, n).tolist() for n in lengths])
        num_tokens -= int(lengths.sum())
    return documents


@contextmanager
def instance_folders(
    num_tokens: int = NUM_TOKENS,
    num_sentences: int = 25,
    lengths: Sequence[int] = LENGTHS,
    objective: str = "nsp",
) -> Iterator[dict[int, Path]]:
    """Yield instance folders by the maximum length of their sequences."""
    with TemporaryDirectory() as work:
        folder = Path(work)
        documents = make_documents(num_tokens, num_sentences)
        write_token_folder(folder / "tokens", documents, tokenizer=toy_tokenizer(VOCAB_SIZE))
        for length in lengths:
            build(
                BuildConfig(
                    tokens=folder / "tokens",
                    output=folder / str(length),
                    objective=objective,
                    max_seq_length=length,
                    workers=0,
                    progress=False,
                )
            )
        yield {length: folder / str(length) for length in lengths}
