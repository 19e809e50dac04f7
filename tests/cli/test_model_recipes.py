"""The recipes of ``corpora`` that train on any corpus; here at a tiny size."""

import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from click.testing import CliRunner
from peermodels import write_bert
from tinytokenizers import TINY_VOCAB, write_vocab

from tokkit.cli import cli
from tokkit.pretraining.families import MODERNBERT_PRESETS
from tokkit.pretraining.training.run_record import read_metrics
from tokkit.tokenizer.tokenizer import load_tokenizer

CORPORA = Path(__file__).resolve().parent.parent.parent / "corpora"
ITS_VOCABULARY = '[encode]\ntokenizer = "bert" # a name on the Hugging Face Hub, or a folder'
SMALLER = {
    "output": '"small"',
    "inputs": '["corpus.txt"]',
    "eval-fraction": "0.2",
    "max-steps": "4",
    "batch-size": "4",
}


def run_smaller(text: str, changes: dict[str, str]) -> Any:
    """Run a recipe with other values; return the model that it exports, as transformers loads it."""
    sentences = [f"Sentence {n * 7919} follows sentence {n * 104729}." for n in range(99)] * 3
    Path("corpus.txt").write_text("\n\n".join(sentences) + "\n")
    for key, value in {**SMALLER, **changes}.items():
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert count == 1, key
    Path("recipe.toml").write_text(text + 'device = "cpu"\nthreads = 1\n')
    result = CliRunner().invoke(cli, ["run", "recipe.toml", "--workers", "0", "--no-report"])
    assert result.exception is None, result.output
    export = "small/run/export"
    peer, info = transformers.AutoModelForMaskedLM.from_pretrained(export, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    encoded = tokenizer(f"Sentence 3 {tokenizer.mask_token} that", return_tensors="pt")
    assert peer(**encoded).logits.isfinite().all()
    return peer


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_a_modernbert_is_trained_and_loads_in_transformers(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODERNBERT_PRESETS, "17m", (4, 32, 2, 48))
    sizes = {"vocab-size": "300", "max-seq-length": "128", "warmup-steps": "1", "decay-steps": "2"}
    text = (CORPORA / "modernbert.toml").read_text()
    peer = run_smaller(text, {**sizes, "model": f'"{model}"'})
    assert type(peer).__name__ == "ModernBertForMaskedLM"


@pytest.mark.parametrize("vocabulary", [None, "[train]\nvocab-size = 100"], ids=["its", "own"])
def test_a_model_is_adapted_to_a_domain(
    vocabulary: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(write_vocab(tmp_path / "vocab") / "vocab.txt")
    write_bert(tmp_path / "bert", tokenizer, "BertForMaskedLM", hidden_size=32)
    text = (CORPORA / "domain.toml").read_text().replace("google-bert/bert-base-uncased", "bert")
    text = text.replace(ITS_VOCABULARY, vocabulary or ITS_VOCABULARY)
    peer = run_smaller(text, {"max-seq-length": "32", "eval-every": "2"})
    assert peer.config.vocab_size == (100 if vocabulary else len(TINY_VOCAB))
    assert peer.config.hidden_size == 32
    metrics = read_metrics(Path("small/run/metrics.jsonl"))
    assert [line["step"] for line in metrics if line["kind"] == "eval"] == [0, 2, 4]
