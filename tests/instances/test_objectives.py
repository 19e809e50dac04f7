"""What objectives ask of options, tokenizers and documents, and what they refuse in a line."""

from pathlib import Path
from typing import Any

import pytest
from instancefolders import read_rows
from tokenfolders import toy_tokenizer, write_token_folder

from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, UsageError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.shards.objectives import OBJECTIVES

NUM_UNUSED = 40
FIRST_WORD = 50
Row = dict[str, Any]


def make(tokens: Path, output: Path, **options: Any) -> Manifest:
    given: Row = {"workers": 0, "eval_fraction": 0.0, **options}
    return build(BuildConfig(tokens=tokens, output=output, progress=False, **given))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"objective": "mlm", "short_seq_prob": 0.5},
            "short-seq-prob .* use --objective nsp or sop",
        ),
        ({"objective": "sop", "single_sentence": "drop"}, "single-sentence .* use --objective nsp"),
        (
            {"packing": "doc-sentences"},
            "--packing has no effect with --objective nsp; leave it out",
        ),
        ({"objective": "clm", "noise_density": 0.3}, "noise-density .* use --objective span-corr"),
        ({"objective": "clm", "mean_noise_span_length": 2.0}, "span-length has no effect with"),
        ({"predict_one_in": 3}, "--predict-one-in .* use --objective plm"),
        ({"objective": "clm", "masking": "static"}, "masking .* use --objective nsp, sop or mlm"),
        (
            {"objective": "plm", "random_tokens": "all"},
            "random-tokens .* with --objective plm; leave",
        ),
        ({"objective": "clm", "dupe_factor": 2}, "--dupe-factor .* the same clm instances"),
        ({"objective": "mlm", "dupe_factor": 2}, "--dupe-factor without --masking static"),
        ({"objective": "span-corruption", "noise_density": 0.6}, "--noise-density must be"),
        ({"objective": "span-corruption", "mean_noise_span_length": 0.5}, "must be at least 1"),
        ({"objective": "plm", "predict_one_in": 0}, "--predict-one-in must be"),
        ({"objective": "mlm", "packing": "tight"}, "--packing must be one of full-sentences"),
    ],
)
def test_options_without_effect_are_refused_by_name(options: Row, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        BuildConfig(tokens=Path("tokens"), output=Path("out"), **options)


def test_what_a_tokenizer_lacks_is_refused_in_a_line(tmp_path: Path) -> None:
    documents = [[[60, 61, 62], [70, 71]] * 20] * 10
    few = write_token_folder(tmp_path / "few", documents)
    with pytest.raises(
        TokkitError, match=r"2 tokens such as <extra_id_0> .*but 7 are needed; train"
    ):
        make(few, tmp_path / "out", objective="span-corruption")
    without = write_token_folder(
        tmp_path / "without", documents, tokenizer=toy_tokenizer(without="[SEP]")
    )
    for objective, entry in (("clm", r"<\|endoftext\|>"), ("plm", "SEP"), ("mlm", "SEP")):
        with pytest.raises(TokkitError, match=f"no token .*{entry}"):
            make(without, tmp_path / "out", objective=objective)
    with pytest.raises(
        TokkitError, match="fewer tokens than one instance; pass a smaller --max-seq-length"
    ):
        make(few, tmp_path / "out", objective="clm", max_seq_length=2000)


def test_one_document_is_enough_without_random_segments(tmp_path: Path) -> None:
    document = [[FIRST_WORD + s, 61, 62, 71] for s in range(60)]
    source = write_token_folder(
        tmp_path / "tokens", [document], tokenizer=toy_tokenizer(num_unused=NUM_UNUSED)
    )
    with pytest.raises(
        TokkitError, match=r"has 1 document, .*or build with --objective sop or mlm"
    ):
        make(source, tmp_path / "nsp", eval_fraction=0.5)
    for objective in [*OBJECTIVES][1:]:
        output = tmp_path / objective
        sides = {"targets": source, "max_seq_length": 300} if objective == "translation" else {}
        options: Row = {"max_seq_length": 32, **sides}
        make(source, output, objective=objective, eval_fraction=0.5, **options)
        assert read_rows(output, "train-")
        assert not read_rows(output, "eval-")


def test_albert_s_pairs_lose_single_sentences_alone_and_say_so(tmp_path: Path) -> None:
    documents = [[[60] * 5], [[61] * 4] * 3, [[62] * 90, [63] * 3], [[64] * 30, [65] * 2, [66] * 7]]
    source = write_token_folder(tmp_path / "tokens", documents)
    options: Row = {"objective": "sop", "max_seq_length": 32, "short_seq_prob": 0.0}
    manifest = make(source, tmp_path / "out", **options)
    rows = read_rows(tmp_path / "out")
    assert [row["document"] for row in rows] == [1, 2, 3]
    assert manifest.accounts["documents"] == {
        "in": 4,
        "kept": 3,
        "dropped": {"of one sentence": 1},
    }
    assert manifest.accounts["tokens"] == {
        "in": 5 + 12 + 93 + 39,
        "kept": 12 + 29 + 29,
        "dropped": {
            "in documents of one sentence": 5,
            "in last sentences alone": 7,  # of document 3, whose first two fill an instance
            "truncated": 64 + 3,
        },
    }
    for row in rows:
        first, second = row["input_ids"][1], row["input_ids"][row["segment_length"]]
        assert (first > second) == row["next_sentence_label"] or row["document"] == 1
