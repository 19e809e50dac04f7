"""The recipe ``corpora/modernbert.toml`` works on any corpus; here at a tiny size."""

import re
from pathlib import Path

import pytest
import transformers
from click.testing import CliRunner

from tokkit.cli import cli
from tokkit.pretraining.pretrain_config import MODERNBERT_PRESETS

RECIPE = Path(__file__).resolve().parent.parent.parent / "corpora" / "modernbert.toml"
SMALLER = {
    "inputs": '["corpus.txt"]',
    "vocab-size": "300",
    "max-seq-length": "64",
    "eval-fraction": "0.2",
    "max-steps": "4",
    "batch-size": "4",
    "warmup-steps": "1",
    "decay-steps": "2",
}


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_a_model_is_trained_and_loads_in_transformers(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODERNBERT_PRESETS, "17m", (4, 32, 2, 48))
    sentences = [f"Sentence {n * 7919} follows sentence {n * 104729}." for n in range(99)] * 3
    Path("corpus.txt").write_text("\n\n".join(sentences) + "\n")
    text = RECIPE.read_text()
    for key, value in {**SMALLER, "model": f'"{model}"'}.items():
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert count == 1, key
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text + 'device = "cpu"\nthreads = 1\n')
    result = CliRunner().invoke(cli, ["run", str(recipe), "--workers", "0", "--no-report"])
    assert result.exception is None, result.output
    export = tmp_path / "modernbert" / "run" / "export"
    peer, info = transformers.AutoModelForMaskedLM.from_pretrained(export, output_loading_info=True)
    assert type(peer).__name__ == "ModernBertForMaskedLM"
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    encoded = tokenizer(f"Sentence 3 {tokenizer.mask_token} that", return_tensors="pt")
    assert peer(**encoded).logits.isfinite().all()
