"""The first weights of a run with ``--init-from``, read from a Hugging Face folder.

It holds a BERT, or a ModernBERT for ``mlm`` or its decoder for ``clm``. Tensors are named as in
``BertForPreTraining`` and ``ModernBertForMaskedLM``. The names of a bare ``BertModel``, without
``bert.``, and those of the first releases, ``LayerNorm.gamma`` and ``beta``, are accepted too. A head that is
missing is drawn at random, and a tensor that our model lacks is ignored.

The vocabulary may differ. Then the tensors with a row for each token, its embedding and its bias in
the decoder, are copied token by token: tokens are matched by their spelling, and special tokens by
their role. The row of a token that the folder lacks is drawn at random:

    theirs    0 <pad>  1 <mask>  2 the   3 ##ing  4 cat
    ours      0 [PAD]  1 [MASK]  2 cat   3 dog    4 ##ing  5 the
    rows      0        1         4       random   3        2
"""

import logging
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.pretraining.models.architectures import (
    VOCAB_TENSORS,
    choose_architecture,
    describe_sizes,
    from_transformers,
    outline_model,
    to_transformers,
    transformers_names,
)
from tokkit.pretraining.models.bert_folder import (
    CONFIG,
    SIZES,
    find_weights,
    read_bert_config,
    read_family,
    require_possible,
)
from tokkit.pretraining.models.modernbert_folder import read_modernbert_config
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

HEADS = ("cls.", "bert.pooler.", "head.", "lm_head.", "decoder.")
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
# Another name of the same tensor; copies and constants that older releases saved as well.
TIED = {"cls.predictions.decoder.bias": "cls.predictions.bias"}
REDUNDANT = (
    *("cls.predictions.decoder.weight", "decoder.weight"),
    *("bert.embeddings.position_ids", "embeddings.position_ids"),
)
NUM_LOGGED = 5
LONGEST_LOGGED = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a model starts with.

    Attributes:
        config: of the model.
        tensors: by our names; those of ``VOCAB_TENSORS`` have only the rows that are copied.
        token_ids: int64, the ids to which these rows belong.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    token_ids: Tensor

    def load_into(self, model: nn.Module) -> None:
        """Overwrite the model's weights; what is not in ``tensors`` stays."""
        own = model.state_dict()
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                target = own[name]
                if name in VOCAB_TENSORS:
                    rows = tensor.to(target.device, target.dtype)
                    target.index_copy_(0, self.token_ids.to(target.device), rows)
                else:
                    target.copy_(tensor)


def read_initial_weights(
    folder: Path, tokenizer: Tokenizer, *, objective: str, max_seq_length: int, dropout: float
) -> InitialWeights:
    """Read a Hugging Face folder of a BERT or a ModernBERT.

    Args:
        folder: with ``config.json``, weights and tokenizer; one that we exported is accepted too.
        tokenizer: of the instances.
        objective: of the instances, on which the heads depend.
        max_seq_length: of the instances.
        dropout: of the run, which replaces that of the folder.

    Raises:
        TokkitError: where something is missing or damaged, or our model does not compute theirs.
    """
    theirs = _read_config(folder, objective, max_seq_length)
    config = replace(
        theirs,
        vocab_size=tokenizer.vocab_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    weights = _read_weights(folder)
    num_bytes = sum(path.stat().st_size for path in find_weights(folder))
    require_possible(folder / CONFIG, describe_sizes(theirs), num_bytes)
    tensors = _convert(weights, theirs, folder)
    token_ids, rows = match_tokens(tokenizer, load_tokenizer(folder), theirs.vocab_size)
    copied, total = f"{len(rows):,}", f"{config.vocab_size:,}"
    log.info("%s: copies the weights of %s of %s tokens", folder, copied, total)
    tensors |= {name: tensors[name][rows] for name in VOCAB_TENSORS if name in tensors}
    return InitialWeights(config, tensors, token_ids)


def _read_config(folder: Path, objective: str, max_seq_length: int) -> ModelConfig:
    """Return the shape of a folder's model, with its own vocabulary."""
    if read_family(folder) == "modernbert":
        return read_modernbert_config(folder, objective=objective, max_seq_length=max_seq_length)
    data = read_bert_config(folder, objective=objective, max_seq_length=max_seq_length)
    return ModelConfig(
        vocab_size=data["vocab_size"],
        objective=objective,
        layer_norm_eps=data["layer_norm_eps"],
        initializer_range=data["initializer_range"],
        **{name: data[name] for name in SIZES},
    )


def match_tokens(ours: Tokenizer, theirs: Tokenizer, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return which tokens two vocabularies share.

    Args:
        ours: the vocabulary of the run.
        theirs: that of the weights.
        num_rows: rows of the weights; a token may lack its row.

    Returns:
        int64, our ids, ascending, and their id of each.
    """
    ids = {token: number for number, token in enumerate(theirs.tokens)}
    same = {number: ids[token] for number, token in enumerate(ours.tokens) if token in ids}
    for role, number in ours.special_ids.items():
        if role in theirs.special_ids:
            same[number] = theirs.special_ids[role]
    pairs = sorted((number, row) for number, row in same.items() if row < num_rows)
    token_ids, rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return token_ids, rows


def _read_weights(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in find_weights(folder):
        try:
            with wrap_os_errors(path):
                loaded = _read_file(path)
        except (TokkitError, MemoryError):
            raise
        except Exception as error:  # what is unpickled may raise any
            reason = str(error).splitlines()[0][:300] if str(error) else "unexpected end of file"
            raise TokkitError(
                f"{path}: damaged, or not a file of tensors alone ({reason}); download it again"
            ) from error
        if not isinstance(loaded, dict) or any(
            not isinstance(name, str) or not isinstance(tensor, Tensor)
            for name, tensor in loaded.items()
        ):
            raise TokkitError(f"{path}: not a file of named tensors alone; download it again")
        tensors |= loaded
    return tensors


def _read_file(path: Path) -> Any:
    """Return what a file of weights holds, of at most about its size."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = sum(entry.file_size for entry in archive.infolist())
        if packed > 2 * path.stat().st_size:  # torch never compresses
            raise ValueError(f"it unpacks to {packed:,} bytes")
    return torch.load(path, map_location="cpu", weights_only=True)


def _modernize_names(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """Return the tensors under the names that models with heads have today.

    Args:
        tensors: by their names in the folder.
        expected: by the names of today.
        prefix: what the names of a model without heads lack.
    """
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        for old_part, new_part in OLD_NAMES.items():
            new = new.replace(old_part, new_part)
        if new not in REDUNDANT:
            new = f"{prefix}{new}" if f"{prefix}{new}" in expected else new
            renamed[TIED.get(new, new)] = tensor
    return renamed


def _convert(loaded: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of our model that the weights contain.

    Args:
        loaded: the weights.
        config: of our model with the vocabulary of the weights.
        folder: named in errors.
    """
    architecture = choose_architecture(config)
    # The first layer of a ModernBERT has a tensor less than the others.
    if config.num_hidden_layers * len(architecture.inner) > len(loaded) + 1:
        last = architecture.layer.format(config.num_hidden_layers - 1)
        raise TokkitError(f"{folder}: the weights lack {last}; they are not a complete model")
    outline = outline_model(config).state_dict()
    expected = to_transformers(outline, config)
    prefix = architecture.outer["embeddings.words"].partition(".")[0] + "."
    weights = _modernize_names(loaded, expected, prefix)
    missing = [name for name in expected if name not in weights]
    for name in missing:
        if not name.startswith(HEADS):
            raise TokkitError(f"{folder}: the weights lack {name}; they are not a complete model")
    for name, like in expected.items():
        if name in weights and weights[name].shape != like.shape:
            raise TokkitError(
                f"{folder}: {name} has shape {tuple(weights[name].shape)}, but {CONFIG} makes it "
                f"{tuple(like.shape)}; download both again"
            )
    found = {
        name: _to_floats(tensor, f"{folder}: {name}")
        for name, tensor in weights.items()
        if name in expected
    }
    if missing:
        log.info("%s: lacks these heads, which are drawn at random: %s", folder, _modules(missing))
    if ignored := weights.keys() - expected.keys():
        log.info("%s: ignores %s", folder, _modules(ignored))
    names = [
        name for name in outline if found.keys() >= set(transformers_names(name, architecture))
    ]
    return from_transformers(found, config, names)


def _to_floats(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor of weights in fp32."""
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise TokkitError(
            f"{name} holds {tensor.dtype}, not floating-point numbers; use weights that are not "
            f"quantized"
        )
    floats = tensor.float()
    if not floats.isfinite().all():
        raise TokkitError(
            f"{name} holds numbers that are not finite; download the weights again, or use others"
        )
    return floats


def _modules(names: Collection[str]) -> str:
    """Return the modules of some tensors in words."""
    modules = sorted({name.rsplit(".", 1)[0][:LONGEST_LOGGED] for name in names})
    rest = len(modules) - NUM_LOGGED
    return ", ".join(modules[:NUM_LOGGED]) + (f" and {rest} others" if rest > 0 else "")
