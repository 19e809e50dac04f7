"""Static masks, and dynamic ones of the same draws: what they do to instances on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinytokenizers import TINY_VOCAB, write_vocab
from tokenfolders import CLS, MASK, SEP, write_token_folder

from reference.masking import mask_instance_by_words
from tokkit.cli.output import describe_share
from tokkit.errors import UsageError
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.kernels.instances.mask_words import length_shares
from tokkit.masking.mask_config import MaskConfig
from tokkit.masking.masks import MaskOptions
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.shards.reader import ShardFolder
from tokkit.shards.schema import Header
from tokkit.tokenizer.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    documents = [
        [rng.integers(10, 1000, rng.integers(1, 31)).tolist() for _ in range(num_sentences)]
        for num_sentences in rng.choice([1, 2, 5, 20], 60)
    ]
    return write_token_folder(tmp_path_factory.mktemp("masks") / "tokens", documents)


def make(tokens: Path, output: Path, **options: Any) -> list[dict[str, Any]]:
    """Build, and read the training instances back."""
    config = BuildConfig(tokens=tokens, output=output, workers=0, progress=False, **options)
    build(config)
    folder = ShardFolder.open(output, "instances")
    return [
        row for ref in folder.batch_refs("train-") for row in folder.read_batch(ref).to_pylist()
    ]


@pytest.mark.parametrize("draw", ["token", "word"])
@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_static_units_are_those_of_the_twin(
    tokens: Path, tmp_path: Path, unit: str, draw: str
) -> None:
    plain = make(tokens, tmp_path / "plain", seed=9)
    options: dict[str, Any] = {"mask_unit": unit, "mask_draw": draw, "mask_ratios": (0.5, 0.3, 0.2)}
    rows = make(tokens, tmp_path / "static", seed=9, masking="static", **options)
    number_in_document: dict[int, int] = {}
    for row, masked in zip(plain, rows, strict=True):
        document, ids = row["document"], row["input_ids"]
        number = number_in_document[document] = number_in_document.get(document, -1) + 1
        expected = mask_instance_by_words(
            ids,
            row["word_starts"],
            [position for position, token in enumerate(ids) if token in {CLS, SEP}],
            masked_lm_prob=0.15,
            max_predictions=20,
            length_shares=length_shares(unit).tolist(),
            draw_per_unit=draw == "word",
            mask_id=MASK,
            replacements=range(7, 1000),
            shares=(0.5, 0.3),
            seed=9,
            epoch=0,
            index=document << 24 | number,
        )
        found = (masked["input_ids"], masked["masked_positions"], masked["masked_labels"])
        assert found == expected


@pytest.mark.parametrize("random_tokens", ["vocabulary", "all"])
def test_no_random_token_is_an_id_without_a_token(tmp_path: Path, random_tokens: str) -> None:
    folder = write_vocab(tmp_path, (*TINY_VOCAB, "", "cat", ""), do_lower_case=True)
    tokenizer = load_tokenizer(folder)
    holes = {TINY_VOCAB.index("cat"), len(TINY_VOCAB)}
    assert {*tokenizer.hole_ids} == holes
    header = Header(
        kind="instances",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        max_seq_length=8,
    )
    options = MaskOptions.make(MaskConfig(random_tokens=random_tokens), tokenizer, header)
    excluded = holes if random_tokens == "all" else {*holes, *range(6)}
    assert {*options.replacements.tolist()} == {*range(tokenizer.vocab_size)} - excluded


def test_the_loader_masks_by_the_words_on_disk(tokens: Path, tmp_path: Path) -> None:
    """Dynamic masks of words are whole, where words have several tokens."""
    make(tokens, tmp_path / "out")
    config = LoaderConfig(instances=(tmp_path / "out",), batch_size=64, mask_unit="word")
    loader = Loader(open_sources(config), config)
    num_cut = 0
    for step in range(3):
        batch = loader.training_instances(step)
        bits = np.unpackbits(batch.word_starts, bitorder="little")
        rows = np.repeat(batch.offsets[:-1], np.diff(batch.predictions.offsets))
        is_masked = np.zeros(len(batch.input_ids) + 1, np.bool_)
        is_masked[rows + batch.predictions.positions] = True
        restored = batch.input_ids.copy()
        restored[rows + batch.predictions.positions] = batch.predictions.labels
        for position in np.flatnonzero(is_masked):
            # What goes on with a masked word is masked, as is what it goes on with.
            goes_on = bits[position] == 0 and restored[position - 1] not in (CLS, SEP)
            num_cut += bool(goes_on and not is_masked[position - 1])
            after = position + 1
            if bits[after] == 0 and restored[after] not in (CLS, SEP):
                num_cut += not is_masked[after]
    assert num_cut == 0
    assert not bits.all()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"mask_unit": "sentence"}, "--mask-unit must be one of"),
        ({"mask_draw": "span"}, "--mask-draw must be one of"),
        ({"mask_draw": "word"}, "--mask-draw .* use --mask-unit word, span or ngram"),
        ({"mask_ratios": (0.8, 0.1)}, "--mask-ratios must be three shares"),
        ({"mask_ratios": (0.8, 0.3, -0.1)}, "--mask-ratios must be at least 0"),
        ({"mask_ratios": (0.8, 0.1, 0.2)}, "that add up to 1"),
        ({"masked_lm_prob": 0.0}, "--masked-lm-prob must be above 0"),
        ({"max_predictions_per_seq": 0}, "--max-predictions-per-seq must be at least 1"),
        ({"random_tokens": "none"}, "--random-tokens must be one of"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        MaskConfig(**options)


def test_the_cap_in_force_is_what_the_longest_instance_has() -> None:
    assert MaskConfig().mask_options(128)["max_predictions_per_seq"] == 20
    assert MaskConfig().mask_options(512)["max_predictions_per_seq"] == 77
    assert MaskConfig(max_predictions_per_seq=9).mask_options(512)["max_predictions_per_seq"] == 9


def test_options_without_effect_are_refused_by_name(tokens: Path) -> None:
    for options in ({"mask_unit": "span"}, {"mask_ratios": (1.0, 0.0, 0.0)}):
        name = next(iter(options)).replace("_", "-")
        with pytest.raises(UsageError, match=f"--{name} requires --masking static"):
            BuildConfig(tokens=tokens, output=tokens, **options)


def test_shares_of_dependent_draws_are_shown_without_standard_errors() -> None:
    figures = {"masked_by_mask": 790, "masked_tokens": 1000}
    by_token = describe_share("masked_by_mask", figures, MaskConfig().mask_options(128))
    assert by_token.endswith("expected 80.00%, -0.8 standard errors)")
    config = MaskConfig(mask_unit="span", mask_draw="word")
    by_span = describe_share("masked_by_mask", figures, config.mask_options(128))
    assert by_span == " (79.00% of masked tokens)"
