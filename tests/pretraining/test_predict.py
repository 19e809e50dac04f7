from pathlib import Path

import pytest
import torch
import transformers
from instancefolders import write_counting_tokenizer
from randommodels import make_model
from tinytokenizers import write_bpe

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.models.architectures import ARCHITECTURES
from tokkit.pretraining.models.export import fill_mask, write_export
from tokkit.tokenizer.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("small_presets")


def write_model(folder: Path, objective: str, *, share_layers: bool = False) -> Path:
    """Write the export of a model with random weights."""
    tokenizer = write_counting_tokenizer(folder / "tokenizer")
    config = ARCHITECTURES["albert" if share_layers else "bert"].config_class.from_preset(
        "tiny",
        vocab_size=tokenizer.vocab_size,
        max_seq_length=32,
        dropout=0.1,
        objective=objective,
    )
    write_export(folder / "export", make_model(config).state_dict(), config, tokenizer)
    return folder / "export"


@pytest.mark.parametrize("share_layers", [False, True])
@pytest.mark.parametrize("objective", ["nsp", "mlm"])
def test_masks_are_filled_as_transformers_fills_them(
    tmp_path: Path, objective: str, *, share_layers: bool
) -> None:
    folder = write_model(tmp_path, objective, share_layers=share_layers)
    sentence = "word1 word2 [MASK] word4[MASK]"
    answers = fill_mask(folder, sentence, top=3)
    peer = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(sentence, return_tensors="pt")
    with torch.inference_mode():
        logits = peer(**encoded).logits[encoded["input_ids"] == tokenizer.mask_token_id]
    best = logits.softmax(dim=1).topk(3)
    expected = [tokenizer.convert_ids_to_tokens(row) for row in best.indices.tolist()]
    assert [[token for token, _ in row] for row in answers] == expected
    for row, shares in zip(answers, best.values.tolist(), strict=True):
        assert [share for _, share in row] == pytest.approx(shares, abs=1e-4)


def test_masks_are_spelled_as_the_tokenizer_spells_them_or_as_bert_does(tmp_path: Path) -> None:
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = load_tokenizer(write_bpe(tmp_path / "tokenizer", ["a t"], special))
    config = ARCHITECTURES["bert"].config_class.from_preset(
        "tiny", vocab_size=tokenizer.vocab_size, max_seq_length=32, dropout=0.1, objective="mlm"
    )
    write_export(tmp_path / "export", make_model(config).state_dict(), config, tokenizer)
    own, mixed, berts = (
        fill_mask(tmp_path / "export", sentence)
        for sentence in ("at <mask> a<mask> t", "at <mask> a[MASK] t", "at [MASK] a[MASK] t")
    )
    assert own == mixed == berts
    assert len(own) == 2
    with pytest.raises(UsageError, match=r"has no \[MASK\] or <mask> to predict"):
        fill_mask(tmp_path / "export", "at <MASK>")


def test_a_sentence_must_hold_a_mask_and_fit(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "sop")
    with pytest.raises(UsageError, match=r"has no \[MASK\] to predict"):
        fill_mask(folder, "word1 word2")
    with pytest.raises(TokkitError, match="603 tokens, but the model 512 positions"):
        fill_mask(folder, "word1 " * 600 + "[MASK]")


def test_a_decoder_fills_no_masks(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "clm")
    with pytest.raises(TokkitError, match="trained without masks and fills no masks"):
        fill_mask(folder, "word1 [MASK]")
