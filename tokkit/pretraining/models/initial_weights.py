"""``--init-from``: the first weights of a run are those of a BERT of somebody else's.

Names are those of ``BertForPreTraining``; those of a bare ``BertModel``, without ``bert.``, and those
of the first releases, ``LayerNorm.gamma`` and ``beta``, are understood. A head that is missing is
drawn anew, and what there is no place for is left out.

The vocabulary may be another. Then what belongs to an entry, its embedding and its bias in the
decoder, is carried over by the entry's spelling, and that of control tokens by their role:

    theirs    0 <pad>  1 <mask>  2 the   3 ##ing  4 cat
    ours      0 [PAD]  1 [MASK]  2 cat   3 dog    4 ##ing  5 the
    rows      0        1         4       drawn    3        2

Rows that no entry of their tokenizer has, which fill vocabularies up, are left behind.

A Hugging Face folder of a BERT: what its config says, and where its weights lie.

Looked at without torch, so that whether a run is up to date is told quickly. Weights are in one of
these, the first that is there:

    model.safetensors    model.safetensors.index.json, which names the files of parts
    pytorch_model.bin    pytorch_model.bin.index.json
"""

import hashlib
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tokkit.engine.files import canonical_json, hash_file, read_json
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.pretraining.models.bert import ModelConfig
from tokkit.pretraining.models.build_model import outline_model
from tokkit.pretraining.models.huggingface import BERT, BY_ENTRY, transformers_names
from tokkit.shards.objectives import MASKED
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# What transformers takes where a config says nothing.
DEFAULTS = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "tie_word_embeddings": True,
}
# Beside it, what is computed here; of GELU there are several, and only these two are the exact one.
COMPUTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu", "gelu_python"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
}


def fingerprint_initial(folder: Path) -> str:
    """What a run that begins with this folder depends on: 64 hexadecimal digits.

    The SHA-256 of its config, its weights and its tokenizer.

    Raises:
        TokkitError: where one of them is not there.
    """
    form = {
        "config": hash_file(folder / CONFIG),
        "weights": [hash_file(path) for path in find_weights(folder)],
        "tokenizer": load_tokenizer(folder).fingerprint,
    }
    return hashlib.sha256(canonical_json(form)).hexdigest()


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights.

    Raises:
        TokkitError: where there are none, or the index is not one.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            form = read_json(index)
            parts = form.get("weight_map") if isinstance(form, dict) else None
            if not isinstance(parts, dict) or not parts:
                raise TokkitError(f"{index}: names no files; copy it anew")
            return tuple(folder / part for part in sorted(set(map(str, parts.values()))))
    raise TokkitError(
        f"{folder}: holds neither {' nor '.join(WEIGHTS)}; name a Hugging Face folder of a BERT"
    )


def read_bert_config(folder: Path, *, objective: str, max_seq_length: int) -> dict[str, Any]:
    """Read ``config.json``, with what it leaves out filled in.

    Args:
        folder: of the model.
        objective: that is to be learned.
        max_seq_length: of the instances.

    Raises:
        TokkitError: where it is not the config of a BERT that is computed here, or not of one for
            such instances.
    """
    path = folder / CONFIG
    if objective not in MASKED:
        raise TokkitError(
            f"{folder}: instances of {objective} train a GPT-2, but --init-from takes a BERT; "
            f"leave it out, or build with --objective nsp, sop or mlm"
        )
    form = read_json(path)
    if not isinstance(form, dict):
        raise TokkitError(f"{path}: is no JSON object; copy it anew")
    form = {**DEFAULTS, **form}
    for name, computed in COMPUTED.items():
        if form[name] not in computed:
            known = " or ".join(map(str, computed))
            raise TokkitError(
                f"{path}: {name} is {form[name]}, but --init-from takes a BERT where it is {known}; "
                f"choose another model"
            )
    for name in SIZES:
        if not isinstance(form.get(name), int):
            raise TokkitError(f"{path}: {name} is {form.get(name)}, not a number; copy it anew")
    if form["max_position_embeddings"] < max_seq_length:
        raise TokkitError(
            f"{path}: the model has {form['max_position_embeddings']} positions, but instances "
            f"have up to {max_seq_length} tokens; build them with a smaller --max-seq-length"
        )
    if form["type_vocab_size"] < 2:
        raise TokkitError(
            f"{path}: type_vocab_size is {form['type_vocab_size']}, but two segments are told "
            f"apart here; choose another model"
        )
    return form


KEPT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "initializer_range",
)
HEADS = ("masked_token_head", "next_sentence_head")
BARE = ("embeddings.", "encoder.", "pooler.")
OLDER = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
# Other names of what is there once, and a range of numbers that used to be saved.
TIED = {"cls.predictions.decoder.bias": "cls.predictions.bias"}
WITHOUT_CONTENT = ("cls.predictions.decoder.weight", "bert.embeddings.position_ids")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Initial:
    """The weights that a model begins with.

    Attributes:
        config: of the model.
        tensors: by our names; of what belongs to an entry, the rows that are carried over.
        entries: int64, the ids to which these rows belong.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    entries: Tensor

    def load_into(self, model: nn.Module) -> None:
        """Overwrite what ``model`` has drawn; what is not in ``tensors`` stays."""
        own = model.state_dict()
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                place = own[name]
                if name in BY_ENTRY:
                    rows = tensor.to(place.device, place.dtype)
                    place.index_copy_(0, self.entries.to(place.device), rows)
                else:
                    place.copy_(tensor)


def read_initial(
    folder: Path, tokenizer: Tokenizer, *, objective: str, max_seq_length: int, dropout: float
) -> Initial:
    """Read a Hugging Face folder of a BERT.

    Args:
        folder: with ``config.json``, weights and tokenizer; an export of ours is one.
        tokenizer: that made the instances.
        objective: that is to be learned; it says which heads there are.
        max_seq_length: of the instances.
        dropout: of the run; what the folder says of it has no effect.

    Raises:
        TokkitError: where something is missing or damaged, or the model is not one that is
            computed here.
    """
    form = read_bert_config(folder, objective=objective, max_seq_length=max_seq_length)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        objective=objective,
        **{name: form[name] for name in KEPT},
    )
    found = _rename(_read_weights(folder))
    tensors = _take(found, config, form["vocab_size"], folder)
    entries, rows = match_entries(tokenizer, load_tokenizer(folder), form["vocab_size"])
    log.info(
        "%s: carries over %s of %s entries", folder, f"{len(rows):,}", f"{config.vocab_size:,}"
    )
    for name in BY_ENTRY:
        if name in tensors:
            tensors[name] = tensors[name][rows]
    return Initial(config, tensors, entries)


def match_entries(ours: Tokenizer, theirs: Tokenizer, num_rows: int) -> tuple[Tensor, Tensor]:
    """Which entries of two vocabularies are the same.

    Args:
        ours: the vocabulary of the run.
        theirs: that of the weights.
        num_rows: of the weights; an entry may lack its row.

    Returns:
        int64, ids of ours, ascending, and for each of them that of theirs.
    """
    ids = {token: number for number, token in enumerate(theirs.tokens)}
    same = {number: ids[token] for number, token in enumerate(ours.tokens) if token in ids}
    for role, number in ours.special_ids.items():
        if role in theirs.special_ids:
            same[number] = theirs.special_ids[role]
    pairs = sorted((number, row) for number, row in same.items() if row < num_rows)
    entries, rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return entries, rows


def _read_weights(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in find_weights(folder):
        try:
            with wrap_os_errors(path):
                if path.suffix == ".safetensors":
                    tensors |= load_file(path)
                else:
                    tensors |= torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else "it ends too early"
            raise TokkitError(
                f"{path}: damaged, or not a file of tensors alone ({reason}); copy it anew"
            ) from error
    return tensors


def _rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Call tensors what ``BertForPreTraining`` calls them today."""
    renamed = {}
    for name, tensor in tensors.items():
        new = f"bert.{name}" if name.startswith(BARE) else name
        for older, newer in OLDER.items():
            new = new.replace(older, newer)
        if new not in WITHOUT_CONTENT:
            renamed[TIED.get(new, new)] = tensor
    return renamed


def _take(
    found: dict[str, Tensor], config: ModelConfig, num_rows: int, folder: Path
) -> dict[str, Tensor]:
    """The tensors of our model, with as many rows for entries as theirs has."""
    tensors, used, missing = {}, set[str](), set[str]()
    for name, like in outline_model(config).state_dict().items():
        their_names = transformers_names(name, "bert")
        used.update(their_names)
        if absent := [their_name for their_name in their_names if their_name not in found]:
            if not name.startswith(HEADS):
                raise TokkitError(f"{folder}: the weights lack {absent[0]}; it is not a whole BERT")
            missing.add(BERT.outer[name.rsplit(".", 1)[0]])
            continue
        length = num_rows if name in BY_ENTRY else len(like) // len(their_names)
        for their_name in their_names:
            _check_shape(found[their_name], (length, *like.shape[1:]), f"{folder}: {their_name}")
        tensors[name] = torch.cat([found[their_name].float() for their_name in their_names])
    if missing:
        log.info("%s: draws anew what it lacks: %s", folder, ", ".join(sorted(missing)))
    if spare := sorted({name.rsplit(".", 1)[0] for name in found.keys() - used}):
        log.info("%s: leaves out %s", folder, _shorten(spare))
    return tensors


def _check_shape(tensor: Tensor, expected: tuple[int, ...], what: str) -> None:
    if tensor.shape != expected:
        raise TokkitError(
            f"{what} has shape {tuple(tensor.shape)}, but {CONFIG} makes it {expected}; "
            f"copy both anew"
        )


def _shorten(names: list[str], number: int = 5) -> str:
    rest = f" and {len(names) - number} others" if len(names) > number else ""
    return ", ".join(names[:number]) + rest
