"""tokkit's encoders and what they are compared with, each behind the same few calls.

    echo '{"text": "en.txt", "repeat": 1}' | python tests/benchmarks/peers.py tokenizer.json
    python tests/benchmarks/peers.py tokenizer --cold en.txt

A text is a file of UTF-8 with a document on every line. Run as a program, this file measures the
``tokenizers`` library of the Python that runs it, whatever release that is: a line on standard
output tells the release, then each line on standard input is answered by ``num_bytes`` (what was
encoded), ``seconds``, and the ``rows`` of ids where the request has ``"rows": true``. Nothing else
from outside the standard library is imported for that, so such a Python needs nothing of tokkit's.
With ``--cold`` it prints the seconds that encoders of ours take for their first call.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
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

if TYPE_CHECKING:
    import pyarrow as pa

    from tokkit.tokenizer.encoded import Encoded

NUM_THREADS = 2
BATCH_BYTES = 4 << 20
# What the tokenizers library gets of a corpus, so that a call takes seconds.
PART_BYTES = 4_000_000
LARGER_PART_BYTES = 32_000_000  # release 1.0

Rows = list[list[int]]  # the ids of each document


class PeerError(Exception):
    """A peer that is not installed, or does not know a tokenizer."""


def count_bytes(documents: Iterable[bytes]) -> int:
    return sum(map(len, documents))


def spread(documents: list[bytes], limit_bytes: int) -> list[bytes]:
    """Every n-th document, so that a part of at most about ``limit_bytes`` is like the whole."""
    return documents[:: max(1, -(-count_bytes(documents) // limit_bytes))]


class Contestant:
    """Turns the documents of a text into ids in memory.

    Attributes:
        name: with its release.
        repeatable: whether it is called to warm up, and may encode a text several times in a call.
    """

    name: str
    repeatable = True

    def open(self, text: Path) -> int:
        """Get ready for a text; how many bytes of documents ``encode`` will encode."""
        raise NotImplementedError

    def encode(self, repeat: int) -> Any:
        """Encode it so many times, and hold all of it."""
        raise NotImplementedError

    def rows(self) -> Rows:
        """Encode it once."""
        raise NotImplementedError

    def seconds(self, repeat: int) -> float:
        """How long ``encode`` takes."""
        start = time.perf_counter()
        result = self.encode(repeat)
        elapsed = time.perf_counter() - start
        del result  # what it holds is freed outside of the time
        return elapsed

    def close(self) -> None:
        """Let go of what is not memory."""


class Encoders(Contestant):
    """Ours: one encoder a thread, over batches of documents.

    Attributes:
        num_entries: of the vocabulary.
    """

    name = "tokkit"

    def __init__(self, tokenizer: Path) -> None:
        from tokkit.tokenizer.encoder import Encoder
        from tokkit.tokenizer.tokenizer import load_tokenizer

        loaded = load_tokenizer(tokenizer)
        self.num_entries = loaded.vocab_size
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
        # A small corpus falls into enough batches for all threads.
        batch_bytes = min(BATCH_BYTES, len(data) // (4 * NUM_THREADS) + 1)
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
    """The ``tokenizers`` library, given a part of the text, since it is slow."""

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
        limit_cores()  # encoders of ours that ask the library tell it to use one thread
        return self._encode(self._documents * repeat, add_special_tokens=False, **self._options)

    def rows(self) -> Rows:
        return [encoding.ids for encoding in self.encode(1)]


class _FromFiles(Contestant):
    """A library's ``encode_files``, from the page cache.

    Attributes:
        package: its name, of the package and of the module.
        options: of ``encode_files``.
    """

    package: str
    options: Mapping[str, bool] = MappingProxyType({})

    def __init__(self, tokenizer: Path) -> None:
        try:
            library = import_module(self.package)
        except ImportError as error:
            raise PeerError(f"{self.package}: not installed; install tokkit[bench]") from error
        self.name = f"{self.package} {version(self.package)}"
        self._source = library.TextFileSource
        self._text = Path()
        try:
            self._tokenizer = library.Tokenizer.from_json(tokenizer.read_text("utf-8"))
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
    package = "gigatoken"  # which adds no special tokens here


class OtherPython(Contestant):
    """The ``tokenizers`` library of another Python, in a process that waits for its turn."""

    def __init__(self, tokenizer: Path, python: Path | None) -> None:
        if python is None:
            raise PeerError("tokenizers 1.0: no --peer-python with it was given")
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
    """A contestant of ours that is a new process in every round."""

    repeatable = False

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._text = Path()

    def open(self, text: Path) -> int:
        self._text = text
        return count_bytes(text.read_bytes().split(b"\n"))


class Cold(_Process):
    """New encoders and their first call."""

    name = "tokkit, cold"

    def seconds(self, repeat: int) -> float:
        assert repeat == 1
        command: list[str | Path] = [
            sys.executable,
            __file__,
            self._tokenizer,
            "--cold",
            self._text,
        ]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


class Command(_Process):
    """``tokkit encode``, from a warm page cache."""

    name = "tokkit encode"

    def seconds(self, repeat: int) -> float:
        assert repeat == 1
        self._text.read_bytes()
        program = Path(sysconfig.get_path("scripts")) / "tokkit"
        options = ["--sentences", "lines", "--documents", "line", "--workers", str(NUM_THREADS)]
        with TemporaryDirectory(dir=self._text.parent) as folder:
            options += ["-t", str(self._tokenizer), "-o", f"{folder}/tokens"]
            start = time.perf_counter()
            subprocess.run(
                [program, "encode", self._text, *options], check=True, stdout=subprocess.DEVNULL
            )
            return time.perf_counter() - start


def compare_ids(ours: Contestant, peer: Contestant, sample: Path) -> str:
    """A line on whether a peer gives the ids that ours gives."""
    documents = sample.read_bytes().split(b"\n")
    peer.open(sample)
    rows = peer.rows()
    ours.open(sample)
    our_rows = ours.rows()
    if len(rows) != len(our_rows):
        return f"{peer.name}: {len(rows):,} documents where there are {len(our_rows):,}"
    different = [number for number, row in enumerate(rows) if row != our_rows[number]]
    if not different:
        return ""
    first = documents[different[0]].decode()
    return (
        f"{peer.name}: other ids than tokkit for {len(different):,} of {len(rows):,} documents, "
        f"the first {first[:60]!r}"
    )


def limit_cores() -> None:
    """Let this process and those that it starts use two cores, whatever pool of threads they make."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_THREADS])
    os.environ["RAYON_NUM_THREADS"] = str(NUM_THREADS)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"


def say(answer: Any) -> None:
    """Tell who started this process."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def answer_requests(library: Library) -> None:
    """What a process of ``OtherPython`` does until its input ends."""
    say({"name": library.name})
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
        say(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--cold", type=Path, metavar="TEXT")
    options = parser.parse_args()
    if options.cold:
        ours = Encoders(options.tokenizer)
        ours.open(options.cold)
        say(ours.seconds(1))
    else:
        answer_requests(Library(options.tokenizer, LARGER_PART_BYTES))


if __name__ == "__main__":
    main()
