"""Compressed files that are damaged, truncated, or something else."""

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import lz4.frame  # type: ignore[import-untyped]  # it ships no annotations
import pytest
import zstandard
from corpusfiles import read_corpus

from tokkit.errors import TokkitError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
}
# Hard to compress, so that every part of the data matters.
TEXT = bytes(random.Random(0).choices(b"abcdefghijklmnopqrstuvwxyz \n", k=400_000))  # noqa: S311  a sample, no secret


@cache
def compressed_text(kind: str) -> bytes:
    """Return the text, compressed in one of these ways."""
    return COMPRESS[kind](TEXT)


@pytest.fixture(params=COMPRESS)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a.txt.{request.param}"
    path.write_bytes(compressed_text(request.param))
    return path


def refused(path: Path) -> str:
    with pytest.raises(TokkitError) as caught:
        read_corpus(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("share", [0.00001, 0.3, 0.9999])
def test_a_truncated_file_is_refused_with_its_position(packed: Path, share: float) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data[: max(1, int(len(data) * share))])
    message = refused(packed)
    assert "truncated" in message
    assert "bytes of text" in message


def test_a_truncated_last_member_is_refused(packed: Path) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data + data[: len(data) // 2])
    assert "data after " in refused(packed)


def test_a_flipped_byte_is_refused(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    packed.write_bytes(data)
    assert "damaged" in refused(packed)


@pytest.mark.parametrize("junk", [b"junk junk junk", bytes(100) + b"x"], ids=["junk", "zeros"])
def test_junk_after_the_data_is_refused(packed: Path, junk: bytes) -> None:
    packed.write_bytes(packed.read_bytes() + junk)
    refused(packed)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_zero_bytes_after_a_member_are_padding(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(
        COMPRESS[suffix](b"one\n\n") + bytes(512) + COMPRESS[suffix](b"two\n") + bytes(1 << 17)
    )
    assert read_corpus(path).texts == ["one", "two"]
    path.write_bytes(bytes(512))
    with pytest.raises(TokkitError):
        read_corpus(path)


def test_plain_text_under_a_compressed_name_is_refused(packed: Path) -> None:
    packed.write_bytes(b"plain text\n" * 100)
    assert "data, as its name says" in refused(packed)


def test_an_empty_file_counts_as_empty(packed: Path) -> None:
    packed.write_bytes(b"")
    assert read_corpus(packed).dropped == {"empty": 1}


def test_the_big_corpus_reads_as_its_unpacked_text(shared: Path, tmp_path: Path) -> None:
    source = shared / "corpora" / "en-gutenberg" / "books.txt.zst"
    with source.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        data = stream.read(12_000_000)
    (tmp_path / "books.txt").write_bytes(data)
    (tmp_path / "books.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(data))
    plain = read_corpus(tmp_path / "books.txt", unit_bytes=3_000_000)
    packed = read_corpus(tmp_path / "books.txt.zst")
    assert len(plain.texts) > 20
    assert plain.texts == packed.texts
    assert plain.texts == [text.strip("\n") for text in data.decode(errors="ignore").split("\n\n")]


def test_a_frame_with_a_long_window_is_read(tmp_path: Path) -> None:
    """As of ``zstd --long=31``, which pyarrow's own zstd refuses."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(b"one\n\n") + compressor.compress(b"two\n") + compressor.flush()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(data)
    assert read_corpus(path).texts == ["one", "two"]
    path.write_bytes(data[:-3])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("suffix", [*COMPRESS, "lzma"])
def test_members_read_as_one_text_in_any_batches(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESS.get(suffix, partial(lzma.compress, format=lzma.FORMAT_ALONE))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(compress(TEXT[:300_000]) + compress(b"") + compress(TEXT[300_000:]))
    (tmp_path / "a.txt").write_bytes(TEXT)
    expected = read_corpus(tmp_path / "a.txt", documents="line").texts
    for batch_bytes in (1 << 10, 1 << 20):
        corpus = read_corpus(path, documents="line", batch_bytes=batch_bytes)
        assert corpus.texts == expected
        assert corpus.bytes_read == path.stat().st_size


def test_skippable_frames_are_skipped(tmp_path: Path) -> None:
    frame = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"seek!"
    (tmp_path / "a").write_bytes(frame + COMPRESS["zst"](b"text") + frame)
    assert read_corpus(tmp_path).texts == ["text"]
