"""The export of a run: a folder that ``transformers`` loads.

It has ``config.json`` and ``model.safetensors`` under its names, and the tokenizer's files:

    objective, layers          loads as it was trained in            and in
    nsp, sop                   BertForPreTraining                    BertForMaskedLM, AutoModel
    mlm                        BertForMaskedLM                       AutoModel
    nsp, sop; shared layers    AlbertForPreTraining                  AlbertForMaskedLM, AutoModel
    mlm; shared layers         AlbertForMaskedLM                     AutoModel
    clm                        GPT2LMHeadModel                       AutoModelForCausalLM, AutoModel

``mlm`` trains no pooler, so AutoModel draws one at random and says so; ``add_pooling_layer=False``
leaves it out. The pair's label of ``sop`` is 0 in order and 1 swapped, that of ``nsp`` 0 next and 1
random, in both models. ALBERT puts a linear layer between embeddings and encoder; both have one size
here, so the identity is exported.

A tokenizer adds BERT's ``[CLS]`` and ``[SEP]`` and numbers the segments. A GPT-2 was trained on
neither, and would take segment numbers for token ids: in its export both are left out, and the
end-of-text token is named.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokkit.engine.files import hash_file, read_json, write_folder_atomically, write_json
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.pretraining.models.bert import ModelConfig
from tokkit.pretraining.models.bert_folder import CONFIG
from tokkit.pretraining.models.build_model import Model, outline_model
from tokkit.pretraining.models.huggingface import (
    BY_MODEL_TYPE,
    config_names,
    from_transformers,
    model_type,
    to_transformers,
)
from tokkit.pretraining.models.tensor_files import read_tensors, write_tensors
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer

MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CLASSES = {"bert": "Bert", "albert": "Albert"}
MAPPING = "albert.encoder.embedding_hidden_mapping_in"


def write_export(
    folder: Path, weights: Mapping[str, Tensor], config: ModelConfig, tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Write the folder, whole or not at all.

    Args:
        folder: replaced if it exists.
        weights: whole tensors by the names of our ``state_dict``, on any device.
        config: of the model.
        tokenizer: of the instances.

    Returns:
        A row for each of its files: ``name``, ``bytes``, ``sha256``.

    Raises:
        TokkitError: where the disk is full, or a GPT-2's vocabulary has no end-of-text token.
    """
    tensors = to_transformers(weights, config)
    if config.share_layers:
        tensors[f"{MAPPING}.weight"] = torch.eye(config.hidden_size)
        tensors[f"{MAPPING}.bias"] = torch.zeros(config.hidden_size)
    with wrap_os_errors(folder), write_folder_atomically(folder) as written:
        write_json(written / CONFIG, describe_model(config, tokenizer))
        write_tensors(written / MODEL, tensors)
        save_tokenizer(tokenizer, written)
        _fit_tokenizer(written, config, tokenizer)
    return [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.iterdir())
    ]


def describe_model(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of ``config.json``."""
    kind = model_type(config)
    ours = asdict(config)
    data = {
        "model_type": kind,
        "pad_token_id": tokenizer.special_ids.get("pad"),
        **{their_name: ours[name] for name, their_name in config_names(kind).items()},
    }
    if kind == "gpt2":
        end = tokenizer.end_of_text_id()
        return {
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "embd_pdrop": config.hidden_dropout_prob,
            "bos_token_id": end,
            "eos_token_id": end,
            **data,
        }
    head = "ForPreTraining" if config.has_pairs else "ForMaskedLM"
    data |= {"architectures": [f"{CLASSES[kind]}{head}"], "hidden_act": "gelu"}
    if kind == "albert":
        data |= {
            "embedding_size": config.hidden_size,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
            "classifier_dropout_prob": config.hidden_dropout_prob,  # BERT's default
            "bos_token_id": tokenizer.special_ids.get("cls"),
            "eos_token_id": tokenizer.special_ids.get("sep"),
        }
    return data


def _fit_tokenizer(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Adapt the tokenizer's files to the model: its longest input, and for a GPT-2 see above."""
    data = read_json(folder / TOKENIZER_CONFIG)
    data["model_max_length"] = config.max_position_embeddings
    if config.is_causal:
        data["model_input_names"] = ["input_ids", "attention_mask"]
        data["bos_token"] = data["eos_token"] = tokenizer.tokens[tokenizer.end_of_text_id()]
        if tokenizer.library is not None:
            definition = {**read_json(folder / TOKENIZER), "post_processor": None}
            write_json(folder / TOKENIZER, definition)
    write_json(folder / TOKENIZER_CONFIG, data)


def read_export(folder: Path) -> Model:
    """Return the model of an export, in evaluation mode; the padding of its vocabulary is zero.

    Raises:
        TokkitError: where a file is missing, or a tensor is missing or has another shape.
    """
    model = outline_model(read_config(folder))
    tensors = read_tensors(folder / MODEL, to_transformers(model.state_dict(), model.config))
    model.load_state_dict(from_transformers(tensors, model.config, model.state_dict()), assign=True)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """Return the shape of an export's model.

    Raises:
        TokkitError: where ``config.json`` is missing, or not that of an export.
    """
    path = folder / CONFIG
    data = read_json(path)
    kind = data.get("model_type")
    if kind not in BY_MODEL_TYPE:
        raise TokkitError(
            f"{path}: model_type is {kind}, not {', '.join(BY_MODEL_TYPE)}; "
            f"name the export folder of a run"
        )
    names = config_names(kind)
    if missing := [their_name for their_name in names.values() if their_name not in data]:
        raise TokkitError(f"{path}: {missing[0]} is missing; name the export folder of a run")
    values = {name: data[their_name] for name, their_name in names.items()}
    return ModelConfig(**values, share_layers=kind == "albert")
