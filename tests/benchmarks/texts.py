"""The texts and vocabularies that benchmarks measure with.

A text is a file with a document on every line. Corpora are read from a folder that is not part of
the repository (``--shared``); where it is missing, English is Python's language reference, which
comes with every Python. Source code is Python's own library, and random words are drawn from a
seed. Texts and learned vocabularies are kept in a cache folder.
"""

import hashlib
import string
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from benchmarks.measuring import NUM_THREADS, write
from benchmarks.peers import spread

from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab.train import train
from tokkit.vocab.train_config import MODELS, TrainConfig

TRAINING_BYTES = 16_000_000
SOURCE_CODE_BYTES = 30_000_000
RANDOM_BYTES = 20_000_000
TINY_BYTES = 100_000
VOCAB_SIZE = 30_522
SMALLER_VOCAB_SIZE = 12_000  # small corpora give no more
TINY_VOCAB_SIZE = 1500
DEFAULT_ALPHABET = TrainConfig.limit_alphabet
BERT = "bert-base-uncased"
MISTRAL = "modern/mistral-v3.model"

# Title of each corpus, and its files in the folder of corpora; the last two are made here.
CORPORA = {
    "en": ("English prose", ("en-gutenberg/books.txt.zst",)),
    "zh": ("Chinese", ("zh-wiki-cmrc/*.txt", "zh-poetry/*.txt")),
    "ja": ("Japanese", ("ja-aozora/*.txt",)),
    "ko": ("Korean", ("ko-nsmc/*.txt", "ko-react-docs/*.md")),
    "ru": ("Russian", ("ru-novels/*.txt",)),
    "ar": ("Arabic", ("multi-*/ar[._]*", "multi-udhr/arb.txt")),
    "de": ("German", ("de-laws/*.md",)),
    "code": ("source code", ()),
    "random": ("random words", ()),
}


class Texts:
    """Makes texts and vocabularies, and keeps them.

    Args:
        shared: the folder with ``corpora`` and ``vocabs``; it may be missing.
        cache: where to keep what was made.
        tiny: whether every text has at most about 100 KB.
    """

    def __init__(self, shared: Path, cache: Path, *, tiny: bool = False) -> None:
        self.cache = cache / "tiny" if tiny else cache
        self.cache.mkdir(parents=True, exist_ok=True)
        self._shared = shared
        self._tiny = tiny

    def corpus(self, code: str) -> Path | None:
        """Return the text of a corpus, or None if its files are missing."""
        if code == "random":
            return self.random_words(1)[0]
        if code == "code":
            data = read_source_code(TINY_BYTES if self._tiny else SOURCE_CODE_BYTES)
        elif self._tiny and code == "en":
            data = read_language_reference()
        else:
            folder = self._shared / "corpora"
            paths = [path for glob in CORPORA[code][1] for path in sorted(folder.glob(glob))]
            if not paths and code != "en":
                return None
            # Arrow decompresses files by their names.
            data = b"\n".join(pa.input_stream(str(path)).read() for path in paths)
            data = data or read_language_reference()
        return self._write(code, data)

    def books(self) -> Path:
        """Return the English text."""
        path = self.corpus("en")
        assert path is not None
        return path

    def random_words(self, num_texts: int) -> list[Path]:
        """Return texts of random words, no word of which is in two of them."""
        size = TINY_BYTES if self._tiny else RANDOM_BYTES
        return [
            self._write(f"random-{number}", data)
            for number, data in enumerate(make_random_words(num_texts, size))
        ]

    def new_words(self, num_bytes: int) -> Path:
        """Return copies of the English text, each under another substitution of letters.

        The words of each copy are new. It has about ``num_bytes`` bytes.
        """
        data = self.books().read_bytes()
        rng = np.random.default_rng(0)
        path = self.cache / f"books-{num_bytes}.txt"
        with path.open("wb") as sink:
            while num_bytes > 0:
                order = rng.permutation(26).astype(np.uint8)
                letters = (order + ord("a")).tobytes() + (order + ord("A")).tobytes()
                copy = data if num_bytes > len(data) else data[: data.rfind(b"\n", 0, num_bytes)]
                sink.write(b"\n" if sink.tell() else b"")
                sink.write(copy.translate(bytes.maketrans(string.ascii_letters.encode(), letters)))
                num_bytes -= len(data)
        return path

    def tokenizer(self, model: str, code: str) -> Path | None:
        """Return a tokenizer for a corpus, published or learned from it; None if it is missing.

        WordPiece of English is BERT's. ``mistral`` is for every language, and a file.
        """
        if model == "mistral":
            path = self._shared / "vocabs" / MISTRAL
            return path if path.is_file() else None
        language = "en" if code == "random" else code
        published = self._shared / "vocabs" / BERT
        if (model, language) == ("wordpiece", "en") and published.is_dir() and not self._tiny:
            folder = self.cache / BERT
            save_tokenizer(load_tokenizer(published), folder)
            return folder
        text = self.corpus(language)
        assert text is not None
        sample = b"\n".join(spread(text.read_bytes().split(b"\n"), TRAINING_BYTES))
        name = f"{language}-{model}-{hashlib.sha256(sample).hexdigest()[:8]}"
        folder = self.cache / name
        is_small = (
            model == "unigram" or language == "ar" or (model, language) == ("wordpiece", "zh")
        )
        vocab_size = SMALLER_VOCAB_SIZE if is_small else VOCAB_SIZE
        if not (folder / "training.json").is_file():
            write(f"learning {model} from {len(sample):,} bytes of {CORPORA[language][0]}")
            path = self.cache / f"{name}.txt"
            path.write_bytes(sample)
            train(
                TrainConfig(
                    inputs=(str(path),),
                    documents="line",
                    output=folder,
                    model=model if model in MODELS else "bpe",
                    split="gpt2" if model in MODELS else model,
                    vocab_size=TINY_VOCAB_SIZE if self._tiny else vocab_size,
                    workers=0 if self._tiny else NUM_THREADS,
                    progress=False,
                    # Chinese has more characters than WordPiece keeps by default; of BPE it is no option.
                    limit_alphabet=10_000 if model == "wordpiece" else DEFAULT_ALPHABET,
                )
            )
        return folder

    def _write(self, name: str, data: bytes) -> Path:
        """Write the lines of ``data`` that have text."""
        path = self.cache / f"{name}.txt"
        if self._tiny:
            data = data[: data.rfind(b"\n", 0, TINY_BYTES)]
        lines = data.replace(b"\r\n", b"\n").split(b"\n")
        path.write_bytes(b"\n".join(line for line in lines if line.strip()))
        return path


def read_language_reference() -> bytes:
    """Return the language reference of the running Python, a paragraph a line."""
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics.values()).split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).encode()


def read_source_code(limit_bytes: int) -> bytes:
    """Return modules of the running Python's library."""
    parts: list[bytes] = []
    num_bytes = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if num_bytes > limit_bytes:
            break
        data = path.read_bytes()
        # Some tests of decoders are not UTF-8.
        if "site-packages" not in path.parts and data.decode(errors="ignore").encode() == data:
            parts.append(data)
            num_bytes += len(data)
    return b"\n".join(parts)


def make_random_words(num_texts: int, num_bytes: int) -> Iterator[bytes]:
    """Yield texts of words of 3 to 12 letters, 16 a line; no word comes twice in any of them."""
    rng = np.random.default_rng(0)
    num_words = num_texts * num_bytes // 8
    letters = rng.integers(ord("a"), ord("z") + 1, (num_words, 13), np.uint8)
    letters[np.arange(13) >= rng.integers(3, 13, (num_words, 1))] = 0
    codes = np.zeros(num_words, np.int64)
    for column in range(12):
        codes = codes * 27 + (letters[:, column] & 31)
    letters = letters[rng.permutation(np.unique(codes, return_index=True)[1])]
    letters[:, 12] = ord(" ")
    letters[15::16, 12] = ord("\n")
    for part in np.array_split(letters, num_texts):
        yield part[part != 0].tobytes()
