from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from instancefolders import write_counting_tokenizer

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.export import read_export, write_export
from tokkit.pretraining.model import Bert, ModelConfig, initialize
from tokkit.pretraining.predict import fill_mask
from tokkit.vocab.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """The tokenizer of the language of counting."""
    return write_counting_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def export(tmp_path: Path, tokenizer: Tokenizer) -> tuple[Path, Bert]:
    """An exported model with random weights, and the model."""
    torch.manual_seed(0)
    config = ModelConfig.from_preset(
        "mini", vocab_size=tokenizer.vocab_size, max_seq_length=32, dropout=0.1
    )
    model = Bert(config).eval()
    initialize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    write_export(tmp_path / "export", model, tokenizer)
    return tmp_path / "export", model


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """A padded batch of random ids."""
    torch.manual_seed(1)
    mask_BT = (torch.arange(24)[None] < torch.tensor([24, 9, 17])[:, None]).long()
    return {
        "input_ids": torch.randint(5, 48, (3, 24)) * mask_BT,
        "token_type_ids": (torch.arange(24)[None] >= 5).long() * mask_BT,
        "attention_mask": mask_BT,
    }


def run_ours(model: Bert, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every position and of the pairs."""
    mask_BT = inputs["attention_mask"].bool()
    with torch.inference_mode():
        logits_MV, logits_BC = model(
            inputs["input_ids"],
            inputs["token_type_ids"],
            mask_BT,
            torch.arange(mask_BT.numel()),
        )
    return logits_MV.view(*mask_BT.shape, -1), logits_BC


def load_peer(kind: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model of transformers, and what it said of loading."""
    peer, info = kind.from_pretrained(folder, output_loading_info=True)
    return peer.eval(), info


def test_transformers_loads_the_whole_model_with_the_same_logits(
    export: tuple[Path, Bert], inputs: dict[str, torch.Tensor]
) -> None:
    folder, model = export
    peer, info = load_peer(transformers.BertForPreTraining, folder)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    logits_BTV, logits_BC = run_ours(model, inputs)
    real_BT = inputs["attention_mask"].bool()
    with torch.inference_mode():
        theirs = peer(**inputs)
    torch.testing.assert_close(
        logits_BTV[real_BT], theirs.prediction_logits[real_BT], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(logits_BC, theirs.seq_relationship_logits, atol=1e-4, rtol=0)


def test_transformers_loads_the_masked_model_with_the_same_logits(
    export: tuple[Path, Bert], inputs: dict[str, torch.Tensor]
) -> None:
    folder, model = export
    peer, info = load_peer(transformers.BertForMaskedLM, folder)
    assert not info["missing_keys"]
    logits_BTV, _ = run_ours(model, inputs)
    real_BT = inputs["attention_mask"].bool()
    with torch.inference_mode():
        theirs = peer(**inputs)
    torch.testing.assert_close(logits_BTV[real_BT], theirs.logits[real_BT], atol=1e-4, rtol=0)


def test_transformers_loads_the_encoder(export: tuple[Path, Bert]) -> None:
    folder, _ = export
    peer, info = load_peer(transformers.AutoModel, folder)
    assert isinstance(peer, transformers.BertModel)
    assert not info["missing_keys"]


def test_the_export_has_exactly_the_vocabulary(
    export: tuple[Path, Bert], tokenizer: Tokenizer
) -> None:
    folder, _ = export
    peer, _ = load_peer(transformers.BertForPreTraining, folder)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert peer.get_input_embeddings().weight.shape[0] == tokenizer.vocab_size == len(loaded)
    assert peer.config.pad_token_id == loaded.pad_token_id


def test_an_export_is_read_back_as_it_was(export: tuple[Path, Bert]) -> None:
    folder, model = export
    back = read_export(folder)
    assert back.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def test_a_damaged_export_is_refused(export: tuple[Path, Bert]) -> None:
    folder, _ = export
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TokkitError, match=r"model\.safetensors: damaged"):
        read_export(folder)
    weights.unlink()
    with pytest.raises(TokkitError, match=r"model\.safetensors: no such file"):
        read_export(folder)


def test_an_export_of_another_shape_is_refused(export: tuple[Path, Bert]) -> None:
    folder, _ = export
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 48', '"vocab_size": 47'))
    with pytest.raises(TokkitError, match=r"word_embeddings\.weight \(47, 256\) is needed"):
        read_export(folder)
    config.write_text("{}")
    with pytest.raises(TokkitError, match=r"config\.json: has no vocab_size"):
        read_export(folder)


def test_masks_are_filled_as_transformers_fills_them(export: tuple[Path, Bert]) -> None:
    folder, _ = export
    sentence = "word1 word2 [MASK] word4[MASK]"
    answers = fill_mask(folder, sentence, top=3)
    peer, _ = load_peer(transformers.BertForMaskedLM, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(sentence, return_tensors="pt")
    with torch.inference_mode():
        logits = peer(**encoded).logits[encoded["input_ids"] == tokenizer.mask_token_id]
    best = logits.softmax(dim=1).topk(3)
    expected = [tokenizer.convert_ids_to_tokens(row) for row in best.indices.tolist()]
    assert [[token for token, _ in row] for row in answers] == expected
    for row, shares in zip(answers, best.values.tolist(), strict=True):
        assert [share for _, share in row] == pytest.approx(shares, abs=1e-4)


def test_a_sentence_must_hold_a_mask_and_fit(export: tuple[Path, Bert]) -> None:
    folder, _ = export
    with pytest.raises(UsageError, match=r"has no \[MASK\] to predict"):
        fill_mask(folder, "word1 word2")
    with pytest.raises(TokkitError, match="603 tokens, the model 512 positions"):
        fill_mask(folder, "word1 " * 600 + "[MASK]")
