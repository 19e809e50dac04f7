"""What the process that learns a vocabulary does: read, count, train.

The corpus is read once or twice, hashed each time, so that a file that changes in between is
noticed and no vocabulary is made of two versions of it.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tokkit.corpus.units import CorpusUnit
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.vocab.config import TrainConfig
from tokkit.vocab.counts import WordCounts
from tokkit.vocab.tokenizer import library_threads


@dataclass(frozen=True)
class Job:
    """What is learned from: the config, and the files to read, in order."""

    config: TrainConfig
    units: tuple[CorpusUnit, ...]


def learn(
    job: Job, _payload: object, sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Learn a vocabulary, and write as JSON what there is to know of it.

    Args:
        job: what is learned from.
        _payload: nothing; the job is all.
        sink: gets an object with ``definition`` (a ``tokenizer.json``), ``inputs`` (rows with
            ``name``, ``bytes`` and ``sha256``), ``accounts`` and ``trainer``.
        report: called with bytes read.
    """
    import tokenizers

    from tokkit.vocab.trainer import train_bpe, train_wordpiece
    from tokkit.vocab.unigram import define_unigram, train_unigram

    corpus = _Corpus(job, report)
    with library_threads(job.config.workers):
        if job.config.model == "wordpiece":
            definition, alphabet = train_wordpiece(job.config, corpus.read)
            if not alphabet.characters:
                raise TokkitError(f"{corpus.names}: no character is left to learn from")
            corpus.accounts.add("characters", alphabet.num_characters)
            corpus.accounts.keep("characters", alphabet.num_characters - alphabet.num_removed)
            corpus.accounts.drop("characters", "beyond --limit-alphabet", alphabet.num_removed)
            corpus.accounts.count("distinct_characters", alphabet.num_distinct)
            corpus.accounts.count("alphabet", len(alphabet.characters))
        elif job.config.model == "unigram":
            from collections import Counter

            words: Counter[bytes] = Counter()
            for texts in corpus.read():
                for text in texts:
                    words.update(text.encode().split())
            model = train_unigram(job.config, WordCounts.from_mapping(words))
            definition = define_unigram(model, job.config.special_tokens)
        else:
            definition = train_bpe(job.config, corpus.read)
    learned = {
        "definition": definition,
        "inputs": corpus.inputs,
        "accounts": corpus.accounts.as_dict(),
        "trainer": f"tokenizers {tokenizers.__version__}",
    }
    if job.config.model == "unigram":
        learned["model"] = b64encode(model).decode()
    sink.write(json.dumps(learned).encode())
    return UnitResult(rows=len(definition["model"]["vocab"]), tokens=0, accounts=corpus.accounts)


class _Corpus:
    """Passes over the files of a job.

    Attributes:
        inputs: rows with ``name``, ``bytes`` and ``sha256``, after the first pass.
        accounts: the ledger of the documents, likewise.
    """

    def __init__(self, job: Job, report: Callable[[int], None]) -> None:
        self._job = job
        self._report = report
        self.inputs: list[dict[str, Any]] = []
        self.accounts = Accounts()

    @property
    def names(self) -> str:
        """What was named on the command line."""
        return ", ".join(self._job.config.inputs)

    def read(self) -> Iterator[list[str]]:
        """One pass: the documents, in batches.

        Raises:
            TokkitError: of the readers; where no document is left; or where a file is another
                than in the pass before.
        """
        from tokkit.corpus.readers import read_documents  # compiles kernels: only when it is needed

        accounts = Accounts()
        inputs: list[dict[str, Any]] = []
        for unit in self._job.units:
            digest = hashlib.sha256()
            for batch in read_documents(unit, self._job.config, digest=digest):
                accounts.add("documents", len(batch.texts) + sum(batch.dropped.values()))
                accounts.keep("documents", len(batch.texts))
                for reason, number in batch.dropped.items():
                    accounts.drop("documents", reason, number)
                if batch.replaced:
                    accounts.count("replaced_documents", batch.replaced)
                self._report(batch.bytes_read)
                yield batch.texts.to_pylist()
            row = {"name": unit.name, "bytes": unit.size, "sha256": digest.hexdigest()}
            if self.inputs and row != self.inputs[len(inputs)]:
                raise TokkitError(
                    f"{unit.name}: changed while it was read; run the same command again"
                )
            inputs.append(row)
        if not accounts.kept("documents"):
            raise TokkitError(f"{self.names}: no document is left to learn from; see --documents")
        self.inputs, self.accounts = inputs, accounts
