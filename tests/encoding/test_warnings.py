"""``encode`` and ``build`` warn about input that wastes a training run, in the manifest and the log."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from exactness import load_published
from tinytokenizers import CONTROL, write_bpe, write_sentencepiece, write_vocab

from tokkit.cli import cli
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.text_survey import TextSurvey, find_unknown
from tokkit.engine.manifest import Manifest
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.tokenizer.encoder import Encoder, KernelChoice
from tokkit.tokenizer.tokenizer import load_tokenizer
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig

WORDS = [first + second for first in "bcdfghklmn" for second in ("a", "ee", "it", "on", "us", "ay")]
HEALTHY = "Bus bit hit. Fit kit lit? Can a bee say hus. Bay day! Mon bon.\nLus gus hit.\n\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz.!?"
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens = [*CONTROL, *letters, *WORDS, *(f"##{letter}" for letter in letters[:26])]
    return write_vocab(folder, tokens, do_lower_case=True)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE of Latin words, which has no unknown token."""
    merges = [f"{a} {b}" for a in "bcdfghjklmnpqrstvwxyz" for b in "aeiou"]
    merges += [f"{a}{b} {c}" for a in "bcdfghklmn" for b in "aeiou" for c in "tnsrlm"]
    return write_bpe(tmp_path_factory.mktemp("bpe"), merges, ("<|endoftext|>",))


def run(inputs: Path, tokenizer: Path, output: Path, **options: Any) -> Manifest:
    options = {"workers": 0, **options}
    return encode(
        EncodeConfig(inputs=(str(inputs),), tokenizer=tokenizer, output=output, **options)
    )


def build_again(
    folder: Path, tokenizer: Path | None = None, objective: str = "nsp", **options: Any
) -> list[str]:
    """Encode and build with these options; return the warnings of the latter."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        tokens = Path(work, "tokens")
        run(folder / "in.txt", tokenizer or folder / "tokenizer", tokens, **options)
        return build_of(tokens, objective=objective)


def build_of(tokens: Path, **options: Any) -> list[str]:
    output = tokens.with_name(f"{tokens.name}-instances")
    return list(build(BuildConfig(tokens=tokens, output=output, workers=0, **options)).warnings)


def learn(inputs: Path, output: Path, **options: Any) -> None:
    """Learn a vocabulary from the text itself, as a warning advises."""
    train(TrainConfig(inputs=(str(inputs),), output=output, workers=0, held_out=0, **options))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_healthy_text_gives_no_warning(tmp_path: Path, tokenizer: Path, bpe: Path) -> None:
    for number in range(12):
        write(tmp_path / "in" / f"{number}.txt", (HEALTHY[:-1] * 14 + "\n") * 30)
    for name, folder in (("wordpiece", tokenizer), ("bpe", bpe)):
        assert run(tmp_path / "in", folder, tmp_path / name).warnings == []
    config = BuildConfig(tokens=tmp_path / "wordpiece", output=tmp_path / "out", workers=0)
    assert build(config).warnings == []


@pytest.mark.parametrize("sentences", ["auto", "lines"])
def test_one_huge_document_of_many_lines(tmp_path: Path, tokenizer: Path, sentences: str) -> None:
    path = write(tmp_path / "reviews.txt", "Bus hit a bee. Can kit?\n" * 70_000)
    options: dict[str, Any] = {"sentences": sentences}
    (warning,) = run(path, tokenizer, tmp_path / "out", **options).warnings
    assert warning.startswith("1 file of 1,679,999 bytes without a blank line")
    assert "--documents line" in warning
    for documents in ("line", "file"):
        done = run(path, tokenizer, tmp_path / documents, documents=documents, **options)
        assert done.warnings == []
    path = write(tmp_path / "book.txt", "Bus hit a bee. Can kit? " * 70_000)
    assert run(path, tokenizer, tmp_path / "book", sentences="none").warnings == []


def test_few_files_of_many_lines(tmp_path: Path, tokenizer: Path) -> None:
    folder = tmp_path / "reviews"
    for number in range(1, 6):
        write(folder / f"{number}.txt", "Bus hit a bee. Can kit?\n" * 300)
        warnings = run(folder, tokenizer, tmp_path / f"out{number}").warnings
        files = "1 file" if number == 1 else f"{number} files"
        assert [warning.startswith(f"{files} of ") for warning in warnings] == [True] * (number < 5)


def test_files_cut_at_their_paragraphs(tmp_path: Path, tokenizer: Path) -> None:
    for number in range(5):
        write(tmp_path / "pages" / f"{number}.md", "Bus hit.\n\nBee can say. Hit it.\n\n" * 10)
    (warning,) = run(tmp_path / "pages", tokenizer, tmp_path / "out").warnings
    assert warning.startswith("blank lines cut 5 files into 100 documents of 14 bytes")
    assert "--documents file" in warning
    done = run(tmp_path / "pages", tokenizer, tmp_path / "file", documents="file")
    assert done.warnings == []


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_documents_of_one_sentence(tmp_path: Path, tokenizer: Path, suffix: str) -> None:
    document = "Bus hit a bee.\n\n" if suffix == "txt" else '{"text": "Bus hit a bee."}\n'
    path = write(tmp_path / f"in.{suffix}", document * 100)
    (warning,) = run(path, tokenizer, tmp_path / "out").warnings
    assert warning.startswith("each of the 100 documents has one sentence")
    assert run(path, tokenizer, tmp_path / "none", sentences="none").warnings == []
    pair = document.replace("bee.", "bee. Can kit?")
    path = write(tmp_path / f"pair.{suffix}", document * 99 + pair)
    assert run(path, tokenizer, tmp_path / "pair").warnings == []
    assert "--documents file" not in warning, "it would be a single document"
    if suffix == "txt":  # as the warning advises
        for number in range(2):
            write(tmp_path / "two" / f"{number}.txt", document * 100)
        (warning,) = run(tmp_path / "two", tokenizer, tmp_path / "cut").warnings
        assert "remove them or pass --documents file, else build with --objective mlm" in warning
        done = run(tmp_path / "two", tokenizer, tmp_path / "file", documents="file")
        assert done.warnings == build_of(tmp_path / "file") == []
        write(tmp_path / "two" / "0.txt", document.strip() * 100)
        assert run(tmp_path / "two" / "0.txt", tokenizer, tmp_path / "without").warnings == []


def test_texts_that_sentencepiece_gets_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.tokenizer.library_encoder.WHOLE_TEXT_BYTES", 1000)
    model = write_sentencepiece(tmp_path / "words.model", [HEALTHY] * 50)
    path = write(tmp_path / "in.txt", HEALTHY * 3 + HEALTHY.strip() * 20)
    assert run(path, model, tmp_path / "kernel").warnings == []
    monkeypatch.setattr(
        "tokkit.tokenizer.encoder.choose_kernel", lambda _: KernelChoice(None, "a test")
    )
    (warning,) = run(path, model, tmp_path / "out").warnings
    assert warning.startswith("1 text reached sentencepiece in overlapping windows")
    assert run(path, model, tmp_path / "none", sentences="none").warnings == [warning]
    assert run(path, model, tmp_path / "lines", sentences="lines").warnings == []
    path = write(tmp_path / "short.txt", HEALTHY * 30)
    assert run(path, model, tmp_path / "short").warnings == []


def test_unknown_tokens_with_the_commonest_characters(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path / "in.txt", HEALTHY * 30 + "字 é文文 a文b. é: ; é\n\n" * 20)
    (warning,) = run(path, tokenizer, tmp_path / "out").warnings
    assert "of the tokens are unknown" in warning
    assert "without a token: 文 : ; 字)" in warning
    learn(path, tmp_path / "learned", vocab_size=60)
    assert run(path, tmp_path / "learned", tmp_path / "known").warnings == []
    path = write(tmp_path / "few.txt", HEALTHY * 300 + "字 é文文\n")
    assert run(path, tokenizer, tmp_path / "few").warnings == []


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("Thai", "สวัสดีครับ ผมชื่อสมชาย"),
        ("Cyrillic", "Всё смешалось в доме. Жена узнала."),
        ("Han", "我喜欢北京的天气。"),
        ("Hiragana", "これはすばらしいですね。"),
    ],
    ids=["Thai", "Cyrillic", "Han", "Hiragana"],
)
def test_a_vocabulary_of_other_scripts(tmp_path: Path, bpe: Path, script: str, text: str) -> None:
    path = write(tmp_path / "in.txt", f"{text}\n\n" * 50)
    (warning,) = run(path, bpe, tmp_path / "out").warnings
    assert f"of the letters are {script}, but only 0 of" in warning
    learn(path, tmp_path / "learned", model="bpe", vocab_size=280)
    assert run(path, tmp_path / "learned", tmp_path / "known").warnings == []
    path = write(tmp_path / "few.txt", f"{HEALTHY * 20}{text}\n\n" * 5)
    assert run(path, bpe, tmp_path / "few").warnings == []


def test_a_vocabulary_of_characters_has_no_script(tmp_path: Path) -> None:
    folder = write_vocab(tmp_path / "letters", [*CONTROL, *"ACDEFGHIKLMNPQRSTVWY"])
    path = write(tmp_path / "proteins.txt", "M K T A Y\n\n" * 50)
    assert run(path, folder, tmp_path / "out").warnings == []


@pytest.mark.parametrize("character", ["\0", "\f", "\x7f", "\x92", "\ufffd"], ids=ascii)
def test_control_characters(tmp_path: Path, tokenizer: Path, character: str) -> None:
    path = write(tmp_path / "in.txt", (HEALTHY * 49 + f"Bus{character} hit. Bee.\n\n") * 9)
    (warning,) = run(path, tokenizer, tmp_path / "out").warnings
    assert warning.startswith("2.0% of the documents contain control characters")
    write(path, path.read_text(encoding="utf-8").replace(character, ""))
    assert run(path, tokenizer, tmp_path / "clean").warnings == []
    path = write(tmp_path / "few.txt", (HEALTHY * 150 + f"Bus{character} hit. Bee.\n\n") * 9)
    assert run(path, tokenizer, tmp_path / "few").warnings == []


def test_warnings_are_the_same_for_any_number_of_workers(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.encoding.encode.SMALL_BYTES", 0)
    text = "".join(
        f"{HEALTHY}Bus {chr(0x4E00 + number % 7)} hit. Bee.\n\nKit\x0c can.\n\n"
        for number in range(5000)
    )
    path = write(tmp_path / "in.txt", text)
    found = [
        run(path, tokenizer, tmp_path / str(workers), workers=workers, unit_bytes=100_000)
        for workers in (0, 2)
    ]
    assert found[0].warnings == found[1].warnings
    assert len(found[0].shards) > 3
    assert len(found[0].warnings) == 2
    again = run(path, tokenizer, tmp_path / "0", unit_bytes=100_000)
    assert again.warnings == found[0].warnings


def test_pairs_that_are_all_random_are_reported_by_every_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        write(tmp_path / "in.txt" / f"{number}.txt", "Bus hit a bee.\n\n" * 200)
    recipe = f"""
        output = "{tmp_path}"
        [corpus]
        inputs = ["{tmp_path / "in.txt"}"]
        [train]
        vocab-size = 25
        [encode]
        [build]
    """
    write(tmp_path / "recipe.toml", recipe)
    for _ in range(2):  # the second time, all is up to date
        caplog.clear()
        result = CliRunner().invoke(cli, ["run", str(tmp_path / "recipe.toml"), "--workers", "0"])
        assert result.exit_code == 0, result.output
        first, message = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
        assert first.startswith(f"{tmp_path / 'tokens'}: each of the 400 documents has one")
        assert message.startswith(f"{tmp_path / 'instances'}: 100.0% of the pairs are random")
        assert "--documents file" in message
    assert build_again(tmp_path, documents="file") == []
    assert build_again(tmp_path, objective="mlm") == []
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "instances")]).output
    assert "warning: 100.0% of the pairs are random" in shown
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "instances"), "--json"]).output
    assert json.loads(shown)["warnings"] == Manifest.read(tmp_path / "instances").warnings


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        ({"sentences": "none"}, {"sentences": "lines"}, "encode with --sentences auto or lines"),
        ({"documents": "line"}, {}, "encode without --documents line, or pass --objective mlm"),
        ({"documents": "line"}, {"objective": "mlm"}, "or pass --objective mlm"),
    ],
)
def test_pairs_that_are_not_random_after_the_remedy(
    tmp_path: Path, tokenizer: Path, before: dict[str, Any], after: dict[str, Any], remedy: str
) -> None:
    write(tmp_path / "in.txt", "Bus hit a bee.\nKit can.\n\n" * 200)
    (warning,) = build_again(tmp_path, tokenizer, **before)
    assert warning.endswith(remedy)
    assert build_again(tmp_path, tokenizer, **after) == []


def test_real_corpora_of_documents_between_blank_lines_give_no_warning(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes a second to load.
    monkeypatch.setattr("tokkit.encoding.encode.load_tokenizer", load_published)
    vocab = shared / "vocabs" / "bert-base-multilingual-cased"
    for name in ("multi-xquad/th.txt", "multi-xquad/en.txt", "zh-wiki-cmrc/cmrc2018-dev-trial.txt"):
        text = (shared / "corpora" / name).read_text(encoding="utf-8")[:100_000]
        path = write(tmp_path / name, text)
        done = run(path, vocab, tmp_path / path.stem, sentences="lines")
        assert done.warnings == [], name


def test_unknown_characters_are_of_the_documents_that_have_them(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_vocab(tmp_path))
    survey = TextSurvey(tokenizer, Encoder(tokenizer))
    texts = pa.array(["the ж", "", "the cat", "ф"], pa.large_string())
    survey.add_unknown(texts, np.array([0, 3]))
    assert survey.counts == {"unknown ж": 1, "unknown ф": 1}


def test_documents_with_unknown_tokens_are_found_part_by_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokkit.encoding.text_survey._PART", 3)
    ids = np.array([7, 5, 7, 7, 7, 5, 5, 5, 7], np.uint16)
    offsets = np.array([0, 0, 1, 2, 2, 6, 8, 8, 9, 9])
    number, documents = find_unknown(ids, 7, offsets)
    assert (number, documents.tolist()) == (5, [1, 4, 7])
    assert find_unknown(ids, -1, offsets)[0] == 0
