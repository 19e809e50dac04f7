"""The encoders that are compared: tokkit's and those of other libraries, with the same methods.

    echo '{"text": "en.txt", "repeat": 1}' | python tests/benchmarks/peers.py tokenizer.json
    python tests/benchmarks/peers.py tokenizer --cold en.txt

A text is a UTF-8 file with a document on every line. Run as a program, this file measures the
``tokenizers`` library of the Python that runs it, whatever its release. It prints the release, then
answers each request on standard input with ``num_bytes`` (encoded), ``seconds``, and the ``rows``
of ids if the request has ``"rows": true``. That needs nothing but ``tokenizers``. With ``--cold`` it
prints the seconds of the first call of tokkit's encoders in a new process.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import (
    NUM_THREADS,
    Command,
    limit_cores,
    run_measured,
    time_call,
    tokkit,
    write,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from tokkit.tokenizer.encoded import Encoded

BATCH_BYTES = 4 << 20
# The tokenizers library encodes only this much of a corpus, so that a call takes seconds.
PART_BYTES = 4_000_000
LARGER_PART_BYTES = 32_000_000  # release 1.0

Rows = list[list[int]]  # the ids of each document


class PeerError(Exception):
    """A peer is not installed, or cannot load a tokenizer."""


def count_bytes(documents: Iterable[bytes]) -> int:
    return sum(map(len, documents))


def spread(documents: list[bytes], limit_bytes: int) -> list[bytes]:
    """Return every n-th document, about ``limit_bytes`` in all."""
    return documents[:: max(1, -(-count_bytes(documents) // limit_bytes))]


class Contestant:
    """Encodes the documents of a text to ids in memory.

    Attributes:
        name: library and release.
        repeatable: whether it is warmed up, and may encode a text several times in a call.
    """

    name: str
    repeatable = True

    def open(self, text: Path) -> int:
        """Prepare a text; return the number of bytes of documents that ``encode`` will encode."""
        raise NotImplementedError

    def encode(self, repeat: int) -> Any:
        """Encode the text ``repeat`` times, keeping all ids in memory."""
        raise NotImplementedError

    def rows(self) -> Rows:
        """Encode the text once and return the ids of each document."""
        raise NotImplementedError

    def seconds(self, repeat: int) -> float:
        """Return the time that ``encode`` takes."""
        results: list[Any] = []  # freed after the time is taken
        return time_call(lambda: results.append(self.encode(repeat)))

    def close(self) -> None:
        """Release threads and processes."""


class Encoders(Contestant):
    """tokkit: one encoder per thread, over batches of documents.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
    """

    name = "tokkit"

    def __init__(self, tokenizer: Path) -> None:
        from tokkit.tokenizer.encoder import Encoder
        from tokkit.tokenizer.tokenizer import load_tokenizer

        loaded = load_tokenizer(tokenizer)
        self.vocab_size = loaded.vocab_size
        self._make_encoder = partial(Encoder, loaded)
        self._idle: SimpleQueue[Encoder] = SimpleQueue()
        self._threads = ThreadPoolExecutor(NUM_THREADS)
        self._batches: list[pa.LargeStringArray] = []

    def open(self, text: Path) -> int:
        import numpy as np
        import pyarrow as pa

        data = np.fromfile(text, np.uint8)
        is_end = data == ord("\n")
        ends = np.append(np.flatnonzero(is_end), len(data))
        offsets = np.append(0, ends - np.arange(len(ends)))
        data = data[~is_end]
        documents = pa.LargeStringArray.from_buffers(
            len(ends), pa.py_buffer(offsets), pa.py_buffer(data)
        )
        # Even a small corpus has two batches for each thread; a call takes 0.2 ms more than its text.
        batch_bytes = min(BATCH_BYTES, len(data) // (2 * NUM_THREADS) + 1)
        bounds = np.searchsorted(offsets, np.arange(0, len(data), batch_bytes))
        bounds = np.unique(np.append(bounds, len(ends)))
        self._batches = [documents[start:stop] for start, stop in pairwise(bounds)]
        return len(data)

    def encode(self, repeat: int) -> list["Encoded"]:
        while self._idle.qsize() < NUM_THREADS:
            self._idle.put(self._make_encoder())
        return list(self._threads.map(self._encode_batch, self._batches * repeat))

    def rows(self) -> Rows:
        return [
            encoded.ids[start:stop].tolist()
            for encoded in self.encode(1)
            for start, stop in pairwise(encoded.offsets)
        ]

    def close(self) -> None:
        self._threads.shutdown()

    def _encode_batch(self, batch: "pa.LargeStringArray") -> "Encoded":
        encoder = self._idle.get()
        encoded = encoder.encode(batch)
        self._idle.put(encoder)
        return encoded


class Library(Contestant):
    """The ``tokenizers`` library, on a part of the text, since it is slow."""

    def __init__(self, tokenizer: Path, limit_bytes: int = PART_BYTES) -> None:
        tokenizers = import_module("tokenizers")
        self.name = f"tokenizers {tokenizers.__version__}"
        self._limit_bytes = limit_bytes
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._documents: list[str] = []
        if hasattr(self._tokenizer, "encode_batch_fast"):
            self._tokenizer.encode_special_tokens = True
            self._options: dict[str, bool] = {}
            self._encode: Callable[..., list[Any]] = self._tokenizer.encode_batch_fast
        else:  # 1.0
            self._options = {"encode_special_tokens": True}
            self._encode = self._tokenizer.encode_batch

    def open(self, text: Path) -> int:
        documents = spread(text.read_bytes().split(b"\n"), self._limit_bytes)
        self._documents = [document.decode() for document in documents]
        return count_bytes(documents)

    def encode(self, repeat: int) -> list[Any]:
        limit_cores()  # tokkit's encoders that call the library set it to one thread
        return self._encode(self._documents * repeat, add_special_tokens=False, **self._options)

    def rows(self) -> Rows:
        return [encoding.ids for encoding in self.encode(1)]


class SentencePiece(Contestant):
    """The ``sentencepiece`` library, on a part of the text, since it is slow."""

    def __init__(self, model: Path) -> None:
        library = import_module("sentencepiece")
        self.name = f"sentencepiece {library.__version__}"
        self._processor = library.SentencePieceProcessor(model_file=str(model))
        self._documents: list[str] = []

    def open(self, text: Path) -> int:
        documents = spread(text.read_bytes().split(b"\n"), PART_BYTES)
        self._documents = [document.decode() for document in documents]
        return count_bytes(documents)

    def encode(self, repeat: int) -> Any:
        return self._processor.encode(
            self._documents * repeat, out_type=int, num_threads=NUM_THREADS
        )

    def rows(self) -> Rows:
        rows: Rows = self.encode(1)
        return rows


class _FromFiles(Contestant):
    """A library's ``encode_files``, from a file in the page cache.

    Attributes:
        package: name of the package and of the module.
        options: keyword arguments of ``encode_files``.
    """

    package: str
    options: Mapping[str, bool] = MappingProxyType({})

    def __init__(self, tokenizer: Path) -> None:
        try:
            library = import_module(self.package)
        except ImportError as error:
            raise PeerError(f"{self.package}: not installed; pip install tokkit[bench]") from error
        self.name = f"{self.package} {version(self.package)}"
        self._source = library.TextFileSource
        self._text = Path()
        try:
            load = "from_sentencepiece" if tokenizer.suffix == ".model" else "from_json"
            self._tokenizer = getattr(library.Tokenizer, load)(tokenizer.read_bytes())
        except (ValueError, RuntimeError) as error:
            raise PeerError(f"{self.package}: {str(error).splitlines()[0]}") from error

    def open(self, text: Path) -> int:
        self._text = text
        return count_bytes(text.read_bytes().split(b"\n"))

    def encode(self, repeat: int) -> Any:
        source = self._source([str(self._text)] * repeat, separator="\n")
        return self._tokenizer.encode_files(source, **self.options)

    def rows(self) -> Rows:
        rows: Rows = self.encode(1).to_list()
        return rows


class Nanotoken(_FromFiles):
    package = "nanotoken"
    options = MappingProxyType({"add_special_tokens": False})


class Gigatoken(_FromFiles):
    package = "gigatoken"  # adds no special tokens by default


class OtherPython(Contestant):
    """The ``tokenizers`` library of another Python, in a process that waits for requests."""

    def __init__(self, tokenizer: Path, python: Path | None) -> None:
        if python is None:
            raise PeerError(
                "tokenizers 1.0: left out; name a Python that has it with --peer-python"
            )
        self._text = Path()
        self._process = subprocess.Popen(
            [python, __file__, tokenizer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.name = str(self._answer()["name"])

    def open(self, text: Path) -> int:
        self._text = text
        return int(self._ask(repeat=0)["num_bytes"])

    def encode(self, repeat: int) -> Any:
        return self._ask(repeat=repeat)

    def seconds(self, repeat: int) -> float:
        return float(self._ask(repeat=repeat)["seconds"])

    def rows(self) -> Rows:
        rows: Rows = self._ask(repeat=0, rows=True)["rows"]
        return rows

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"text": str(self._text), **request}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, message = self._process.communicate()
            raise PeerError(f"tokenizers of --peer-python: {(message.splitlines() or ['?'])[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class _Process(Contestant):
    """tokkit in a new process in every round."""

    repeatable = False

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._text = Path()

    def open(self, text: Path) -> int:
        self._text = text
        return count_bytes(text.read_bytes().split(b"\n"))


class Cold(_Process):
    """The first call of new encoders."""

    name = "tokkit, cold"

    def seconds(self, repeat: int) -> float:
        assert repeat == 1
        command: Command = [sys.executable, __file__, self._tokenizer, "--cold", self._text]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


class WholeCommand(_Process):
    """``tokkit encode``, from a warm page cache."""

    name = "tokkit encode"

    def seconds(self, repeat: int) -> float:
        assert repeat == 1
        self._text.read_bytes()
        options = ["--sentences", "lines", "--documents", "line", "--workers", str(NUM_THREADS)]
        with TemporaryDirectory(dir=self._text.parent) as folder:
            options += ["-t", str(self._tokenizer), "-o", f"{folder}/tokens"]
            return run_measured(tokkit("encode", self._text, *options)).seconds


def compare_ids(ours: Contestant, peer: Contestant, sample: Path) -> str:
    """Return a line that says where a peer's ids differ from tokkit's, or nothing."""
    documents = sample.read_bytes().split(b"\n")
    peer.open(sample)
    rows = peer.rows()
    ours.open(sample)
    our_rows = ours.rows()
    if len(rows) != len(our_rows):
        return f"{peer.name}: {len(rows):,} documents instead of {len(our_rows):,}"
    different = [number for number, row in enumerate(rows) if row != our_rows[number]]
    if not different:
        return ""
    first = documents[different[0]].decode()
    return (
        f"{peer.name}: ids differ from tokkit's in {len(different):,} of {len(rows):,} documents, "
        f"first in {first[:60]!r}"
    )


def answer_requests(library: Library) -> None:
    """Answer the requests of ``OtherPython`` until standard input ends."""
    write(json.dumps({"name": library.name}))
    text, num_bytes = "", 0
    for line in sys.stdin:
        request = json.loads(line)
        if request["text"] != text:
            text, num_bytes = request["text"], library.open(Path(request["text"]))
        answer: dict[str, Any] = {"num_bytes": num_bytes}
        if request["repeat"]:
            answer["seconds"] = library.seconds(request["repeat"])
        if request.get("rows"):
            answer["rows"] = library.rows()
        write(json.dumps(answer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--cold", type=Path, metavar="TEXT")
    options = parser.parse_args()
    if options.cold:
        ours = Encoders(options.tokenizer)
        ours.open(options.cold)
        write(str(ours.seconds(1)))
    else:
        answer_requests(Library(options.tokenizer, LARGER_PART_BYTES))


if __name__ == "__main__":
    main()
