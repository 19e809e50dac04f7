"""Standard input is encoded by all workers, and a run that was stopped skips what is done."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tinytokenizers import write_vocab

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.encode_unit import EncodeStats
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError

TEXT = b"The cat sat on the mat.\nThe cats sat.\n\n" * 4000
CUT = len(TEXT) // 2 // 39 * 39


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocab(tmp_path_factory.mktemp("tokenizer"), do_lower_case=True)


def run(
    monkeypatch: pytest.MonkeyPatch, text: bytes, tokenizer: Path, output: Path, **options: Any
) -> tuple[Manifest, int]:
    """Encode standard input here; return the manifest and how many bytes were encoded."""
    path = output.with_suffix(".stdin")
    path.write_bytes(text)
    stats = EncodeStats()
    config = EncodeConfig(
        inputs=options.pop("inputs", ("-",)),
        tokenizer=tokenizer,
        output=output,
        unit_bytes=20_000,
        workers=0,
        progress=False,
        **options,
    )
    with path.open() as stdin, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", stdin)
        return encode(config, stats), int(stats.measured["bytes"])


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_any_number_of_workers_writes_the_same(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Path, tmp_path: Path
) -> None:
    run(monkeypatch, TEXT, tokenizer, tmp_path / "here")
    command = f"-m tokkit encode - -t {tokenizer} -o {tmp_path / 'out'} --unit-bytes 20000"
    subprocess.run(
        [sys.executable, *command.split(), "--workers", "2"],
        input=TEXT,
        check=True,
        capture_output=True,
    )
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "here")
    assert len(read_folder(tmp_path / "out")) > 5


def test_other_inputs_come_before_it(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Path, tmp_path: Path
) -> None:
    path = tmp_path / "first.txt"
    path.write_bytes(TEXT[:CUT])
    inputs = (str(path), "-")
    manifest, _ = run(monkeypatch, TEXT, tokenizer, tmp_path / "out", inputs=inputs)
    names = [row["name"] for row in manifest.inputs]
    assert names[-1] == "stdin"
    assert names.count("stdin") == 1
    assert [row["name"] for row in manifest.shards] == [
        f"shard-{number:07}.arrow" for number in range(len(manifest.shards))
    ]
    assert manifest.accounts["documents"]["kept"] == (len(TEXT) + CUT) // 39


@pytest.mark.parametrize("text", [TEXT, TEXT[:CUT]], ids=["same", "shorter"])
def test_a_stopped_run_skips_what_is_done(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Path, tmp_path: Path, text: bytes
) -> None:
    expected, num_bytes = run(monkeypatch, text, tokenizer, tmp_path / "expected")
    broken = TEXT[:-1000] + b"\xff" * 1000
    with pytest.raises(TokkitError, match="invalid UTF-8"):
        run(monkeypatch, broken, tokenizer, tmp_path / "out")
    manifest, num_encoded = run(monkeypatch, text, tokenizer, tmp_path / "out")
    assert manifest == expected
    assert num_encoded < num_bytes // 2
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "expected")


def test_a_stopped_run_of_another_stream_is_not_continued(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(TokkitError, match="invalid UTF-8"):
        run(monkeypatch, TEXT + b"\xff", tokenizer, tmp_path / "out")
    other = TEXT.replace(b"cat", b"mat", 1)
    expected, _ = run(monkeypatch, other, tokenizer, tmp_path / "expected")
    manifest, num_encoded = run(monkeypatch, other, tokenizer, tmp_path / "out")
    assert manifest == expected
    assert num_encoded > len(TEXT) // 2
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "expected")
