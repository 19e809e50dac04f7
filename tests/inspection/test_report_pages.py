"""A report shows what folders hold, whatever is in them, and is the same for the same folders."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reportfolders import HOSTILE, train_line, write_hostile_folders, write_run_folder
from tinytokenizers import CONTROL, wordpiece_json, write_json, write_vocab

from tokkit.cli import cli
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.files import draft_path
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, UsageError
from tokkit.inspection.report.markup import shorten_names
from tokkit.inspection.report.report import make_report, report
from tokkit.inspection.report.report_config import ReportConfig
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig


def show(*paths: Path, **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """Return a page, and the figures of its sections."""
    page = make_report(ReportConfig(paths=paths, **options))
    (data,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page)
    return page, json.loads(data)["sections"]


def test_the_same_folders_give_the_same_bytes(work: Path, tmp_path: Path) -> None:
    names = ("tokenizer", "tokens", "instances", "static")
    for name in ("a.html", "b.html"):
        arguments = [*(str(work / name) for name in names), "-o", str(tmp_path / name)]
        result = CliRunner().invoke(cli, ["report", *arguments])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert result.stdout.startswith(f"{tmp_path / 'b.html'}: ")


def test_figures_are_those_of_the_manifests(work: Path) -> None:
    _, sections = show(work / "tokens", work / "static")
    tokens, instances = sections
    manifest = Manifest.read(work / "tokens")
    assert (tokens["documents"], tokens["tokens"]) == (120, manifest.num_tokens)
    assert tokens["accounts"] == manifest.accounts
    assert sum(map(sum, tokens["documents_by_length"]["counts"].values())) == 120
    assert (
        sum(map(sum, tokens["sentences_by_length"]["counts"].values()))
        == (manifest.accounts["sentences"]["kept"])
    )
    assert sum(instances["by_length"]["counts"]) + instances["held_out"] == instances["instances"]
    noted = Manifest.read(work / "static").accounts["figures"]
    (mask, *_) = instances["masks"]["replaced"]
    assert 0 < mask["tokens"] <= noted["masked_by_mask"]  # the held-out ones are not counted
    assert mask["expected"] == 0.8


def test_dynamic_masks_deviate_from_their_ratios_by_chance_only(work: Path) -> None:
    _, (instances,) = show(work / "instances")
    assert all(abs(row["deviation"]) < 4 for row in instances["masks"]["replaced"])
    shares = instances["masks"]["by_position"]["shares"]
    assert shares[0] == 0  # [CLS] is never masked
    assert max(shares) > 0.1


def test_a_sample_shows_masks_segments_and_sentences(work: Path) -> None:
    _, (tokens, instances) = show(work / "tokens", work / "instances")
    shown = tokens["samples"][0]["tokens"]
    assert sum(token.get("sentence", False) for token in shown) == 3
    assert all(
        sum("label" in t for t in row["tokens"]) == row["masked"] for row in instances["samples"]
    )
    assert {t["segment"] for row in instances["samples"] for t in row["tokens"]} == {"a", "b"}


def test_paths_are_shortened_to_what_tells_them_apart() -> None:
    assert shorten_names(["/a/x/run"]) == {"/a/x/run": "/a/x/run"}
    assert shorten_names(["/a/x/run/", "b/y/run", "c"]) == {
        "/a/x/run/": "x/run",
        "b/y/run": "y/run",
        "c": "c",
    }


def test_duplicate_documents_are_counted(work: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("One cat. It sat.\n\nA dog.\n\nOne cat. It sat.\n\nOne cat. It sat.\n")
    tokenizer, output = work / "tokenizer", tmp_path / "tokens"
    encode(EncodeConfig(inputs=(str(corpus),), tokenizer=tokenizer, output=output, workers=0))
    page, (tokens,) = show(output)
    assert tokens["duplicates"]["documents"] == 2
    assert tokens["duplicates"]["commonest"] == [{"document": f"{corpus}:0", "copies": 2}]
    assert "Duplicates" in page


def test_lengths_are_told_apart_by_source(work: Path, tmp_path: Path) -> None:
    names = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for number, path in enumerate(names, 1):
        path.write_text("The cat sat on the mat.\n\n" * number * 5)
    output = tmp_path / "tokens"
    inputs = tuple(map(str, names))
    encode(EncodeConfig(inputs=inputs, tokenizer=work / "tokenizer", output=output, workers=0))
    _, (tokens,) = show(output)
    counts = tokens["documents_by_length"]["counts"]
    assert {source: sum(number) for source, number in counts.items()} == {
        str(names[0]): 5,
        str(names[1]): 10,
    }


def test_tokenizers_are_measured_on_the_same_text(work: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    rows = [("en", "The cat sat on the mat."), ("en", "Zzz ☃ the"), (None, "A cat.")]
    text.write_text("".join(json.dumps({"text": t, "lang": name}) + "\n" for name, t in rows))
    tiny = write_vocab(tmp_path / "tiny")
    _, (section,) = show(
        work / "tokenizer", compare=(str(tiny),), text=(str(text),), language_field="lang"
    )
    assert section["texts"] == ["en", "no language"]
    own, other = section["tokenizers"]
    assert other["name"] == str(tiny)
    english = other["measured"][0]
    # the cat sat on the mat . z ##z ##z [UNK] the: 9 words, 12 tokens, whole: all but "mat." and Zzz
    assert (english["words"], english["tokens"]) == (9, 12)
    assert english["tokens_per_word"] == pytest.approx(12 / 9)
    assert english["whole_words"] == pytest.approx(
        6 / 7
    )  # "mat." and the snowman are no such words
    assert english["unknown"] == pytest.approx(1 / 12)
    assert english["bytes_per_token"] == pytest.approx(34 / 12)
    assert [row["character"] for row in other["unknown_characters"]] == ["☃"]
    assert own["measured"][0]["words"] == 9
    assert {*section["lines"][0]["cut"]} == {str(work / "tokenizer"), str(tiny)}


def test_a_vocabulary_of_260_000_tokens_makes_a_page_of_under_5_mb(tmp_path: Path) -> None:
    tokens = (*CONTROL, *(f"w{number}ö" for number in range(260_000)))
    vocab = {token: number for number, token in enumerate(tokens)}
    write_json(tmp_path / "tokenizer.json", wordpiece_json(model={"vocab": vocab}))
    page, (section,) = show(tmp_path)
    assert section["tokenizers"][0]["vocab_size"] == 260_005
    assert "There is no text to measure on; name some with" in page
    assert len(page) < 100_000


def test_hostile_text_and_names_are_escaped_everywhere(tmp_path: Path) -> None:
    folder = write_hostile_folders(tmp_path)
    page, sections = show(folder)
    assert [section["kind"] for section in sections] == [
        "recipe",
        "tokenizer",
        "tokens",
        "instances",
        "run",
    ]
    assert page.count("<script") == 2
    assert not re.search(r"<(img|b>ird|svg onload)", page)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "\\u202e" in page
    names = [row["document"] for row in sections[2]["samples"]]
    assert any(HOSTILE[3] in name for name in names)  # the figures keep what the text is


def test_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    evaluation = {"kind": "eval", "step": 15, "loss": 8.0}
    lines = [train_line(10), evaluation, train_line(20)]
    one = write_run_folder(tmp_path / "one", lines, batch_size=32)
    two = write_run_folder(tmp_path / "two", lines, batch_size=64)
    page, (section,) = show(one, two)
    assert section["title"] == "2 runs"
    (held_out,) = section["runs"][0]["metrics"]["evaluation"]
    assert (held_out["tokens"], held_out["elapsed"]) == (30_000, 1.5)  # between its neighbours
    assert ">two, held out<" in page
    assert 'x="46" y="200" text-anchor="middle">10</text>' in page  # where the lines begin
    assert "batch size" in page


def test_a_long_run_makes_a_page_of_under_5_mb(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [train_line(step) for step in range(10, 80_010, 10)])
    page, (section,) = show(run)
    assert len(page) < 2_000_000
    lines = section["runs"][0]["metrics"]["training"]
    assert lines[-1]["step"] == 80_000
    assert len(lines) == 4000  # means of two lines each
    assert lines[0]["loss"] == pytest.approx(
        sum(train_line(step)["loss"] for step in range(10, 30, 10)) / 2
    )
    assert lines[0]["tokens"] == train_line(20)["tokens"]


def test_an_output_that_cannot_be_written_is_one_line(work: Path, tmp_path: Path) -> None:
    arguments = ["report", str(work / "tokenizer"), "-o", str(tmp_path)]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, TokkitError)
    assert str(error).startswith(f"{tmp_path}: ")


def test_a_link_to_a_page_stays_and_its_page_is_written(work: Path, tmp_path: Path) -> None:
    page, link = tmp_path / "pages" / "page.html", tmp_path / "link.html"
    page.parent.mkdir()
    page.write_text("old")
    link.symlink_to("pages/page.html")
    report(ReportConfig(paths=(work / "tokens",), output=link))
    assert link.is_symlink()
    assert page.read_text() == make_report(ReportConfig(paths=(work / "tokens",)))
    assert [*page.parent.iterdir()] == [page]


def test_a_run_without_a_line_of_metrics_says_so(tmp_path: Path) -> None:
    page, (section,) = show(write_run_folder(tmp_path / "run", []))
    assert section["runs"][0]["state"] == "stopped"
    assert "without a line of metrics yet" in page
    assert "svg" not in page.split("</style>")[1]


def test_a_loss_that_is_not_finite_is_named_and_not_drawn(tmp_path: Path) -> None:
    lines = [train_line(10), train_line(20), train_line(30, loss=math.nan), train_line(40)]
    page, (section,) = show(write_run_folder(tmp_path / "run", lines))
    assert section["runs"][0]["unread_lines"] == 2
    assert [line["step"] for line in section["runs"][0]["metrics"]["training"]] == [10, 20]
    assert "line 3 of metrics.jsonl is damaged, or a number in it is not finite" in page
    assert "nan" not in "".join(re.findall(r' (?:d|x|y|cx|cy|width|height)="[^"]*"', page))


def test_checkpoints_answer_examples_with_probabilities(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(
        PretrainConfig(
            instances=(work / "static",),
            output=run,
            preset="tiny",
            max_steps=4,
            batch_size=4,
            checkpoint_every=2,
            device="cpu",
            progress=False,
        )
    )
    _, (section,) = show(run, example=("The [MASK] sat on the [MASK].",))
    first, second = section["runs"][0]["answers"]
    assert (first["mask"], second["mask"]) == (0, 1)
    assert [entry["step"] for entry in first["checkpoints"]] == [2, 4]
    answers = first["checkpoints"][1]["answers"]
    shares = [answer["probability"] for answer in answers]
    assert shares == sorted(shares, reverse=True)
    from tokkit.pretraining.models.export import fill_mask  # the last checkpoint is the export

    expected = fill_mask(run / "export", "The [MASK] sat on the [MASK].")[0]
    assert [answer["token"] for answer in answers] == [token for token, _ in expected]
    assert shares == pytest.approx([share for _, share in expected])


def test_a_folder_that_is_unfinished_is_shown_as_such(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "tokens", tmp_path / "tokens")
    (tmp_path / "tokens" / "manifest.json").unlink()
    page, (section,) = show(tmp_path / "tokens")
    assert (section["state"], section["rows"]) == ("unfinished", 120)
    assert "run its command again" in page


def test_a_corpus_of_one_document_has_a_page(work: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("cat")
    output = tmp_path / "tokens"
    inputs = (str(tmp_path / "one.txt"),)
    encode(EncodeConfig(inputs=inputs, tokenizer=work / "tokenizer", output=output, workers=0))
    page, (section,) = show(output)
    assert section["documents_by_length"]["counts"] == {inputs[0]: [1]}
    assert "<strong>1</strong><span>document</span>" in page
    assert ">1 document</text>" in page
    assert ">0.5</text>" not in page  # half a document, on an axis


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_what_is_not_ours_is_refused_in_one_line(make: str, tmp_path: Path) -> None:
    path = tmp_path / make
    if make == "file":
        path.write_text("text")
    if make == "empty":
        path.mkdir()
        (path / "notes.txt").write_text("text")
    with pytest.raises(TokkitError, match=re.escape(str(path))) as error:
        show(path)
    assert "\n" not in str(error.value)


def test_options_without_effect_are_refused(work: Path) -> None:
    with pytest.raises(UsageError, match="without a tokenizer folder"):
        show(work / "tokens", compare=("bert",))
    with pytest.raises(UsageError, match="without a run folder"):
        show(work / "tokens", example=("[MASK]",))
    with pytest.raises(UsageError, match="--language-field requires --text"):
        ReportConfig(paths=(work,), language_field="lang")


def test_a_recipe_ends_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("The cat sat. It purred.\n\nA dog ran. It barked.\n\n" * 9)
    Path("all.toml").write_text('[corpus]\ninputs = ["in.txt"]\n[train]\nvocab-size = 40\n')
    without = CliRunner().invoke(cli, ["run", "all.toml", "--no-report", "--workers", "0"])
    assert without.exit_code == 0, without.output
    assert not Path("all/report.html").exists()
    draft = draft_path(Path("all/report.html"))  # as a run leaves that is killed now
    draft.touch()
    for _ in range(2):
        result = CliRunner().invoke(cli, ["run", "all.toml", "--workers", "0"])
        assert result.stdout.endswith("\nreport: all/report.html\n")
        assert not draft.exists()
    made = Path("all/report.html").read_bytes()
    page, (recipe, *others) = show(Path("all"))
    assert page.encode() == made
    assert [row["state"] for row in recipe["stages"]] == ["finished"] * 3
    assert [section["kind"] for section in others] == ["tokenizer", "tokens", "instances"]
    again = CliRunner().invoke(cli, ["run", "all.toml", "--overwrite", "--workers", "0"])
    assert again.exit_code == 0, again.output
    seconds = show(Path("all"))[1][0]["stages"][0]["seconds"]
    assert isinstance(seconds, float)
