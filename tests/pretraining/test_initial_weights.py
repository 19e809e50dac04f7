import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flatbatches import pair_batch
from instancefolders import SPECIAL, write_counting_tokenizer, write_instance_folder
from peermodels import assert_export_is_a_start, begin, write_bert
from randommodels import make_instances
from safetensors.torch import load_file, save_file

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.models.architectures import build_model
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.model_files import fingerprint_folder
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.metrics import total_loss
from tokkit.shards.instances import Instances
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

OTHER_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")


def write_tokenizer(folder: Path, entries: list[str]) -> Tokenizer:
    """A WordPiece tokenizer of these entries."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    if "<unk>" in entries:
        (folder / "tokenizer_config.json").write_text('{"unk_token": "<unk>"}')
    tokenizer = load_tokenizer(folder / "vocab.txt")
    save_tokenizer(tokenizer, folder)
    return tokenizer


def losses(model: Bert, peer: Any, instances: Instances) -> tuple[float, float]:
    """Ours and theirs."""
    batch = lay_out(instances, 0)
    labels = pair_batch(instances) if model.config.task.has_pairs else padded_batch(instances, 0)
    with torch.inference_mode():
        ours = total_loss(model(batch.inputs), batch.num_predicted, batch.num_pairs)
        return ours.item(), peer(**labels).loss.item()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """The tokenizer of the language of counting."""
    return write_counting_tokenizer(tmp_path / "tokenizer")


def test_a_run_starts_at_the_loss_that_transformers_computes(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", max_seq_length=32, static=True)
    config = LoaderConfig(instances=(folder,), batch_size=16)
    sources = open_sources(config)
    peer = write_bert(tmp_path / "bert", sources.tokenizer)
    model = begin(tmp_path / "bert", sources.tokenizer)
    loader = Loader(sources, config)
    for step in range(3):
        ours, theirs = losses(model, peer, loader.training_instances(step))
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_larger_vocabulary_is_copied_exactly(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(4000)]
    tokenizer = write_tokenizer(tmp_path / "tokenizer", [*SPECIAL, *words])
    peer = write_bert(tmp_path / "bert", tokenizer)
    model = begin(tmp_path / "bert", tokenizer)
    assert model.config.layer_norm_eps == 1e-6
    assert model.config.max_position_embeddings == 40
    weight = model.embeddings.words.weight[: tokenizer.vocab_size]
    assert torch.equal(weight, peer.get_input_embeddings().weight)
    ours, theirs = losses(model, peer, make_instances([32, 8, 19], tokenizer.vocab_size))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_tokens_of_another_vocabulary_are_copied_by_spelling_and_role(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = write_tokenizer(
        tmp_path / "theirs", [*OTHER_SPECIAL, "the", "##ing", "cat", "Ġthe", "[SEP]x"]
    )
    ours = write_tokenizer(
        tmp_path / "ours", ["dog", *reversed(SPECIAL), "cat", "The", "##ing", "ing", "Ġthe"]
    )
    peer = write_bert(tmp_path / "bert", theirs)
    with caplog.at_level(logging.INFO):
        model = begin(tmp_path / "bert", ours)
    assert f"{tmp_path / 'bert'}: copies the weights of 8 of 11 tokens" in caplog.messages
    fresh = build_at_the_same_seed(model.config)
    roles = dict(zip(SPECIAL, OTHER_SPECIAL, strict=True))
    old_weight, old_bias = peer.get_input_embeddings().weight, peer.cls.predictions.bias
    weight, bias = model.embeddings.words.weight, model.masked_token_head.bias
    drawn = []
    for number, token in enumerate(ours.tokens):
        spelled = roles.get(token, token)
        if spelled in theirs.tokens:
            row = theirs.tokens.index(spelled)
            assert torch.equal(weight[number], old_weight[row]), token
            assert bias[number] == old_bias[row], token
        else:
            drawn.append(token)
            assert torch.equal(weight[number], fresh.embeddings.words.weight[number]), token
            assert bias[number] == 0, token
    assert drawn == ["dog", "The", "ing"]


def build_at_the_same_seed(config: ModelConfig) -> Bert:
    """What ``begin`` has before it overwrites anything."""
    torch.manual_seed(1)
    model = build_model(config)
    assert isinstance(model, Bert)
    return model


def test_rows_beyond_the_vocabulary_are_not_copied(tmp_path: Path, tokenizer: Tokenizer) -> None:
    peer = write_bert(tmp_path / "bert", tokenizer, vocab_size=64)
    model = begin(tmp_path / "bert", tokenizer)
    assert model.config.vocab_size == 48
    weight = model.embeddings.words.weight
    assert torch.equal(weight[:48], peer.get_input_embeddings().weight[:48])
    assert not torch.equal(weight[48:], peer.get_input_embeddings().weight[48:])


def spell_as_once(folder: Path) -> None:
    """As the first releases named norms."""
    tensors = load_file(folder / "model.safetensors")
    once = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for name in list(tensors):
        for new, old in once.items():
            if name.endswith(new):
                tensors[name.replace(new, old)] = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors")


def keep_as_pickle(folder: Path) -> None:
    """As the first releases: a pickled file that has the tied tensors, too."""
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("form", ["older", "pickled", "parts", "half"])
def test_weights_are_read_from_every_file_format(
    tmp_path: Path, tokenizer: Tokenizer, form: str
) -> None:
    folder = tmp_path / "bert"
    peer = write_bert(folder, tokenizer)
    if form == "older":
        spell_as_once(folder)
    elif form == "pickled":
        keep_as_pickle(folder)
    elif form == "parts":
        (folder / "model.safetensors").unlink()
        peer.save_pretrained(folder, max_shard_size="100KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
    else:
        peer.to(torch.bfloat16).save_pretrained(folder)
        peer.float()
    ours, theirs = losses(begin(folder, tokenizer), peer, make_instances([32, 8], 48))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_heads_that_are_missing_are_drawn(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bert"
    peer = write_bert(folder, tokenizer, "BertModel")
    with caplog.at_level(logging.INFO):
        model = begin(folder, tokenizer)
    assert (
        f"{folder}: lacks these heads, which are drawn at random: "
        f"cls.predictions, cls.predictions.transform.LayerNorm, cls.predictions.transform.dense, "
        f"cls.seq_relationship"
    ) in caplog.messages
    head, fresh = model.next_sentence_head, build_at_the_same_seed(model.config).next_sentence_head
    assert head is not None
    assert fresh is not None
    assert torch.equal(head.pooler.weight, peer.pooler.dense.weight)
    assert torch.equal(head.classifier.weight, fresh.classifier.weight)
    inputs = lay_out(make_instances([32, 8], 48), 0).inputs
    batch = padded_batch(make_instances([32, 8], 48), 0)
    del batch["labels"]
    with torch.inference_mode():
        x_ND = model.encode(inputs)
        theirs = peer(**batch).last_hidden_state[batch["attention_mask"] > 0]
    torch.testing.assert_close(x_ND, theirs, atol=1e-4, rtol=0)


def test_tensors_without_a_counterpart_are_ignored_and_logged(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bert"
    write_bert(folder, tokenizer, "BertForSequenceClassification")
    peer = write_bert(tmp_path / "masked", tokenizer, "BertForMaskedLM")
    with caplog.at_level(logging.INFO):
        begin(folder, tokenizer, "mlm")
        model = begin(tmp_path / "masked", tokenizer, "mlm")
    assert f"{folder}: ignores bert.pooler.dense, classifier" in caplog.messages
    assert not [
        line for line in caplog.messages if line.startswith(f"{tmp_path / 'masked'}: lacks")
    ]
    ours, theirs = losses(model, peer, make_instances([32, 8], 48))
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
def test_a_run_starts_from_our_own_export(
    tmp_path: Path, tokenizer: Tokenizer, objective: str
) -> None:
    config = ModelConfig.from_preset(
        "tiny", vocab_size=48, max_seq_length=32, dropout=0.0, objective=objective
    )
    assert_export_is_a_start(tmp_path / "export", config, tokenizer)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model_type": "electra"}, "model_type is electra, but --init-from requires bert, albert"),
        ({"hidden_act": "gelu_new"}, "hidden_act is gelu_new, .* gelu or gelu_python"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"max_position_embeddings": 31}, "31 positions, but instances have up to 32 tokens"),
        ({"type_vocab_size": 1}, "type_vocab_size is 1"),
        ({"hidden_size": None}, "Expected `int`, got `null` - at .*hidden_size"),
        ({"vocab_size": 47}, r"word_embeddings.weight has shape \(48, 64\), .* \(47, 64\)"),
        ({"num_hidden_layers": 3}, "the weights lack bert.encoder.layer.2"),
    ],
)
def test_other_models_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any], fault: str
) -> None:
    write_bert(tmp_path / "bert", tokenizer)
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TokkitError, match=fault):
        begin(tmp_path / "bert", tokenizer)


def test_another_name_of_exact_gelu_is_accepted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    peer = write_bert(tmp_path / "bert", tokenizer, hidden_act="gelu_python")
    model = begin(tmp_path / "bert", tokenizer)
    ours, theirs = losses(model, peer, make_instances([32, 8], 48))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_incompatible_options_and_objectives_are_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    write_bert(tmp_path / "bert", tokenizer)
    with pytest.raises(TokkitError, match="is a bert, which learns from nsp, sop, mlm, but"):
        begin(tmp_path / "bert", tokenizer, "clm")
    with pytest.raises(UsageError, match="--share-layers has no effect with --init-from"):
        PretrainConfig(
            instances=(tmp_path,),
            output=tmp_path / "run",
            init_from=tmp_path / "bert",
            share_layers=True,
        )


def test_damaged_folders_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "bert"
    write_bert(folder, tokenizer)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(TokkitError, match=r"model\.safetensors: damaged, .*; download it again"):
        begin(folder, tokenizer)
    weights.unlink()
    for damaged in (b"", b"nonsense", whole[:1000]):
        (folder / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(
            TokkitError, match=r"pytorch_model\.bin: damaged, .*; download it again"
        ):
            begin(folder, tokenizer)
    torch.save({"anything": Path("/")}, folder / "pytorch_model.bin")
    with pytest.raises(TokkitError, match="not a file of tensors alone"):
        begin(folder, tokenizer)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(
        TokkitError, match=r"contains neither model\.safetensors nor pytorch_model\.bin"
    ):
        begin(folder, tokenizer)


def test_a_fingerprint_changes_with_weights_config_and_tokenizer(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folder = tmp_path / "bert"
    peer = write_bert(folder, tokenizer)
    first = fingerprint_folder(folder)
    (folder / "README.md").write_text("nothing that counts")
    assert fingerprint_folder(folder) == first
    seen = {first}
    with torch.no_grad():
        peer.cls.predictions.bias[0] += 1
    peer.save_pretrained(folder)
    seen.add(fingerprint_folder(folder))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 1e-5}))
    seen.add(fingerprint_folder(folder))
    other = write_tokenizer(tmp_path / "other", [*OTHER_SPECIAL, *tokenizer.tokens[5:]])
    save_tokenizer(other, folder)
    seen.add(fingerprint_folder(folder))
    assert len(seen) == 4


def test_a_fingerprint_is_taken_without_torch(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_bert(tmp_path / "bert", tokenizer)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tokkit.pretraining.models.model_files import fingerprint_folder\n"
        f"print(fingerprint_folder(Path({str(tmp_path / 'bert')!r})))\n"
        "assert not {'torch', 'safetensors', 'transformers'} & set(sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == fingerprint_folder(tmp_path / "bert")
