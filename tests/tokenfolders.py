"""Writes small token folders for tests, of given documents in any layout of shards."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import write_atomically
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.shards.arrow import large_list
from tokkit.shards.schema import Header, tokens_schema
from tokkit.shards.shard_file import open_writer
from tokkit.tokenizer import saving
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)

# A document is a list of sentences, a sentence a list of ids; ids whose last digit is 7, 8 or 9
# continue a word (see ``begins_word``).
Sentence = Sequence[int]
Document = Sequence[Sentence]


def begins_word(token: int) -> bool:
    return token % 10 < 7


@lru_cache
def toy_tokenizer(vocab_size: int = 1000, *, without: str = "", num_unused: int = 2) -> Tokenizer:
    """Return a WordPiece tokenizer with BERT's special tokens, some unused tokens, and words."""
    unused = [f"[unused{number}]" for number in range(num_unused)]
    entries = [token for token in (*SPECIAL, *unused) if token != without]
    entries += [f"word{number}" for number in range(vocab_size - len(entries))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(entries) + "\n")
        return load_tokenizer(path)


def write_token_folder(
    folder: Path,
    documents: Sequence[Document],
    *,
    shards: Sequence[Sequence[int]] = (),
    tokenizer: Tokenizer | None = None,
    save_tokenizer: bool = True,
    begins: Callable[[int], bool] = begins_word,
) -> Path:
    """Write a token folder.

    Args:
        folder: output folder.
        documents: its documents.
        shards: for each shard the number of documents in each of its record batches; by default
            one shard of one batch.
        tokenizer: tokenizer of the header.
        begins: whether an id begins a word.
        save_tokenizer: whether the folder gets a copy of it; readers of shards do not need it.
    """
    tokenizer = tokenizer or toy_tokenizer()
    if save_tokenizer:
        saving.save_tokenizer(tokenizer, folder / "tokenizer")
    header = Header(
        kind="tokens",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
    )
    schema = tokens_schema(header)
    rows = []
    start = 0
    for number, batches in enumerate(shards or [[len(documents)]]):
        name = f"shard-{number:07d}.arrow"
        first, tokens = start, 0
        with write_atomically(folder / name) as sink, open_writer(sink, schema) as writer:
            for size in batches:
                batch = make_batch(documents[start : start + size], start, schema, begins)
                writer.write(batch)
                tokens += len(batch.column("input_ids").flatten())
                start += size
        rows.append(
            FileRow(
                name=name,
                bytes=sink.size,
                sha256=sink.sha256,
                rows=start - first,
                tokens=tokens,
            )
        )
    assert start == len(documents)
    Manifest(
        kind="tokens",
        key="toy",
        options={},
        seed=None,
        tokenizer_fingerprint=tokenizer.fingerprint,
        inputs=[],
        shards=rows,
        accounts=Accounts().as_dict(),
    ).write(folder)
    return folder


def make_batch(
    documents: Sequence[Document], first: int, schema: pa.Schema, begins: Callable[[int], bool]
) -> pa.RecordBatch:
    """Return a record batch of a token shard."""
    sentences = [sentence for document in documents for sentence in document]
    ids = np.array([token for sentence in sentences for token in sentence], np.int64)
    sentence_offsets = np.cumsum([0, *(len(document) for document in documents)], dtype=np.int64)
    lengths = np.array([len(sentence) for sentence in sentences], np.int32)
    token_offsets = np.cumsum([0, *lengths], dtype=np.int64)[sentence_offsets]
    id_dtype = schema.field("input_ids").type.value_type.to_pandas_dtype()
    columns = [
        pa.array([f"toy:{first + number}" for number in range(len(documents))], pa.string()),
        large_list(ids.astype(id_dtype), token_offsets),
        large_list(lengths, sentence_offsets),
        large_list(np.array([*map(begins, ids.tolist())], np.bool_), token_offsets),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
