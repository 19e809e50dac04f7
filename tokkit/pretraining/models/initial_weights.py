"""The initial weights of a run with ``--init-from``, read from a Hugging Face folder of a model.

Tensors are named as in the class that an export loads as, such as ``BertForPreTraining``. The names of
a bare ``BertModel``, without ``bert.``, and those of the first releases, ``LayerNorm.gamma`` and
``beta``, are accepted as well. A missing head is initialized at random, and tensors that our model
lacks are ignored.

The vocabulary may differ. Then the tensors with a row for each token, the embedding and the decoder's
bias, are copied row by row: tokens are matched by their text, special tokens by their role. The row of
a token that the folder lacks is initialized at random:

    theirs    0 <pad>  1 <mask>  2 the   3 ##ing  4 cat
    ours      0 [PAD]  1 [MASK]  2 cat   3 dog    4 ##ing  5 the
    rows      0        1         4       random   3        2

The model may have fewer positions than the instances have tokens. ``--extend-positions`` turns 4
positions into 7 in one of these ways, of which the first does not change short sequences:

    repeat         0  1    2  3    0  1    2      Longformer's (Beltagy et al. 2020, arXiv:2004.05150)
    interpolate    0  0.5  1  1.5  2  2.5  3      a new position is between two old ones

Rotary positions have no rows to repeat; interpolated, they get a larger base.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokkit.engine.json_files import read_json
from tokkit.errors import TokkitError, require
from tokkit.pretraining.models.architectures import (
    ARCHITECTURES,
    POSITIONS,
    SIBLINGS,
    VOCAB_TENSORS,
    build_meta_model,
    choose_architecture,
    from_transformers,
    parse_config,
    require_possible,
    to_transformers,
    transformers_names,
)
from tokkit.pretraining.models.model_files import (
    CONFIG,
    DOWNLOAD,
    find_weights,
    read_model_type,
    read_weights,
)
from tokkit.pretraining.models.transformer import Architecture, ModelConfig
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

HEADS = ("masked_token_head", "next_sentence_head")  # our modules that the weights may lack
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
NUM_LOGGED = 5
LONGEST_LOGGED = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a model starts with.

    Attributes:
        config: shape of the model.
        tensors: tensors by our names; ``VOCAB_TENSORS`` have only the rows that are copied.
        token_ids: int64, the token ids of these rows.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    token_ids: Tensor

    def load_into(self, model: nn.Module) -> None:
        """Overwrite those weights of a model that ``tensors`` has."""
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
    folder: Path,
    tokenizer: Tokenizer,
    *,
    objective: str,
    max_seq_length: int,
    dropout: float,
    extend_positions: str | None = None,
) -> InitialWeights:
    """Read a Hugging Face folder of a model.

    Args:
        folder: has ``config.json``, weights and tokenizer; our own exports are accepted as well.
        tokenizer: tokenizer of the instances.
        objective: objective of the instances, which decides the heads.
        max_seq_length: maximum length of the instances.
        dropout: dropout of the run, which replaces that of the folder.
        extend_positions: ``repeat`` or ``interpolate``, if the model has too few.

    Raises:
        TokkitError: if something is missing or damaged, or none of our models computes this one.
    """
    theirs = _read_config(folder, objective, dropout)
    extended = _extend_config(folder / CONFIG, theirs, max_seq_length, extend_positions)
    weights = _modernize_names(read_weights(folder), choose_architecture(theirs))
    num_bytes = sum(path.stat().st_size for path in find_weights(folder))
    require_possible(folder / CONFIG, theirs, num_bytes)
    tensors = _convert(weights, theirs, folder)
    if POSITIONS in tensors and extended is not theirs:
        tensors[POSITIONS] = lengthen(tensors[POSITIONS], max_seq_length, extend_positions)
    config = extended.fit(tokenizer)
    token_ids, rows = match_tokens(tokenizer, load_tokenizer(folder), theirs.vocab_size)
    copied, total = f"{len(rows):,}", f"{config.vocab_size:,}"
    log.info("%s: copies the weights of %s of %s tokens", folder, copied, total)
    tensors |= {name: tensors[name][rows] for name in VOCAB_TENSORS if name in tensors}
    return InitialWeights(config, tensors, token_ids)


def _read_config(folder: Path, objective: str, dropout: float) -> ModelConfig:
    """Return the shape of a folder's model, with the heads and dropout of the run."""
    path, kind = folder / CONFIG, read_model_type(folder)
    architecture = {**ARCHITECTURES, **SIBLINGS}[kind]
    if objective not in architecture.objectives:
        raise TokkitError(
            f"{path}: the model is a {kind}, which learns from {', '.join(architecture.objectives)}, "
            f"but the instances were built with --objective {objective}; choose another model, or "
            f"build again"
        )
    data = {**architecture.defaults, **read_json(path, dict[str, Any], DOWNLOAD)}
    for name, supported in architecture.supported.items():
        if data.get(name, supported[0]) not in supported:
            raise TokkitError(
                f"{path}: {name} is {str(data[name])[:LONGEST_LOGGED]}, but --init-from requires "
                f"{' or '.join(map(str, supported))}; choose another model"
            )
    config = parse_config(
        path,
        data,
        architecture,
        DOWNLOAD,
        objective=objective,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    if config.type_vocab_size < 2 and config.task.has_pairs:
        raise TokkitError(
            f"{path}: type_vocab_size is {config.type_vocab_size}, but instances have two "
            f"segments; choose another model"
        )
    return config


def _extend_config(
    path: Path, config: ModelConfig, max_seq_length: int, extend_positions: str | None
) -> ModelConfig:
    """Return the shape with as many positions as the instances have tokens."""
    num_positions = config.max_position_embeddings
    if not config.limits_length:
        require(
            extend_positions is None,
            "--extend-positions has no effect: the model has positions for any length; leave it out",
        )
        return replace(config, max_position_embeddings=max(num_positions, max_seq_length))
    too_few = (
        f"{path}: the model has {num_positions} positions, but instances have up to "
        f"{max_seq_length} tokens"
    )
    if num_positions >= max_seq_length:
        require(
            extend_positions is None,
            f"--extend-positions has no effect: the model has {num_positions} positions, and instances "
            f"have up to {max_seq_length} tokens; leave it out",
        )
        return config
    if extend_positions is None:
        raise TokkitError(
            f"{too_few}; pass --extend-positions, or build them with a smaller --max-seq-length"
        )
    is_learned = "embeddings.positions" in choose_architecture(config).outer
    if is_learned:
        return replace(config, max_position_embeddings=max_seq_length)
    if extend_positions == "repeat":
        raise TokkitError(
            f"{too_few}, and its positions are rotary, which cannot be repeated; pass "
            f"--extend-positions interpolate"
        )
    return config.stretch_positions(max_seq_length)


def lengthen(rows_PD: Tensor, length: int, how: str | None) -> Tensor:
    """Return embeddings for more positions, made from the existing ones; see the module."""
    if how == "repeat":
        return rows_PD[torch.arange(length) % len(rows_PD)]
    places = torch.arange(length, dtype=torch.float64) * ((len(rows_PD) - 1) / (length - 1))
    below = places.long().clamp(max=len(rows_PD) - 1)
    above = (below + 1).clamp(max=len(rows_PD) - 1)
    share = (places - below).float()[:, None]
    return rows_PD[below] * (1 - share) + rows_PD[above] * share


def match_tokens(ours: Tokenizer, theirs: Tokenizer, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return which tokens two vocabularies share.

    Args:
        ours: tokenizer of the run.
        theirs: tokenizer of the weights.
        num_rows: number of rows of the weights; tokens with larger ids have none.

    Returns:
        int64, our ids in ascending order, and their id for each.
    """
    ids = {token: number for number, token in enumerate(theirs.tokens)}
    same = {number: ids[token] for number, token in enumerate(ours.tokens) if token in ids}
    for role, number in ours.special_ids.items():
        if role in theirs.special_ids:
            same[number] = theirs.special_ids[role]
    pairs = sorted((number, row) for number, row in same.items() if row < num_rows)
    token_ids, rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return token_ids, rows


def _modernize_names(
    tensors: Mapping[str, Tensor], architecture: Architecture
) -> dict[str, Tensor]:
    """Return the tensors under the names of today's exports."""
    theirs = [*architecture.outer.values(), architecture.layer, architecture.decoder_layer]
    base = architecture.outer["embeddings.words"].split(".", 1)[0]
    bare = {name.split(".")[1] for name in theirs if name.startswith(f"{base}.")}
    head = architecture.outer.get("masked_token_head")
    renamed = {}
    for name, tensor in tensors.items():
        new = f"{base}.{name}" if name.split(".", 1)[0] in bare else name
        for old_part, new_part in OLD_NAMES.items():
            new = new.replace(old_part, new_part)
        if new == f"{head}.decoder.bias":  # another name of the same tensor
            new = f"{head}.bias"
        if not new.endswith(architecture.redundant):
            renamed[new] = tensor
    return renamed


def _convert(weights: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of our model that the weights contain.

    Args:
        weights: tensors by the names of an export.
        config: shape of our model with the vocabulary of the weights.
        folder: folder that errors name.
    """
    architecture, kind = choose_architecture(config), config.model_type
    # The first layer of a ModernBERT has one tensor less than the others.
    num_layers = 1 if kind == "albert" else config.num_hidden_layers
    if num_layers * len(architecture.inner) > len(weights) + 1:
        last = architecture.layer.format(config.num_hidden_layers - 1)
        raise TokkitError(f"{folder}: the weights lack {last}; they are not a complete {kind}")
    ours = build_meta_model(config).state_dict()
    expected = to_transformers(ours, config)
    heads = {
        their_name
        for name in ours
        if name.startswith(HEADS)
        for their_name in transformers_names(name, architecture)
    }
    found = {}
    for name, like in expected.items():
        if name in weights:
            if weights[name].shape != like.shape:
                raise TokkitError(
                    f"{folder}: {name} has shape {tuple(weights[name].shape)}, but {CONFIG} makes it "
                    f"{tuple(like.shape)}; download both again"
                )
            found[name] = _to_floats(weights[name], f"{folder}: {name}")
        elif name not in heads:
            raise TokkitError(f"{folder}: the weights lack {name}; they are not a complete {kind}")
    if missing := expected.keys() - found.keys():
        log.info("%s: lacks these heads, which are drawn at random: %s", folder, _modules(missing))
    others = weights.keys() - expected.keys()
    zeros = {name for name in others if name.endswith(architecture.zero)}
    for name in zeros:
        if weights[name].any():
            raise TokkitError(
                f"{folder}: {name} is not 0, which is not supported; choose another model"
            )
    if ignored := others - zeros:
        log.info("%s: ignores %s", folder, _modules(ignored))
    names = [name for name in ours if found.keys() >= set(transformers_names(name, architecture))]
    return from_transformers(found, config, names)


def _to_floats(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor of weights in fp32."""
    # Numbers of one byte are quantized, and their scale is another tensor.
    is_whole = tensor.is_floating_point() and tensor.element_size() > 1
    if not is_whole or tensor.layout != torch.strided:
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
    """Return the names of the modules that tensors belong to, abridged."""
    modules = sorted({name.rsplit(".", 1)[0][:LONGEST_LOGGED] for name in names})
    rest = len(modules) - NUM_LOGGED
    return ", ".join(modules[:NUM_LOGGED]) + (f" and {rest} others" if rest > 0 else "")
