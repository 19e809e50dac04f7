"""The export: a folder that ``transformers`` loads.

``config.json`` and ``model.safetensors`` under its names, and the tokenizer's files:

    objective, layers          loads as it was trained in            and in
    nsp, sop                   BertForPreTraining                    BertForMaskedLM, AutoModel
    mlm                        BertForMaskedLM                       AutoModel
    nsp, sop; shared layers    AlbertForPreTraining                  AlbertForMaskedLM, AutoModel
    mlm; shared layers         AlbertForMaskedLM                     AutoModel
    clm                        GPT2LMHeadModel                       AutoModelForCausalLM, AutoModel

``mlm`` trains no pooler, so AutoModel draws one anew and says so; ``add_pooling_layer=False`` makes
it without. The pair's label of ``sop`` is 0 in order and 1 swapped, that of ``nsp`` 0 follows and 1
random, whichever head has it. ALBERT puts a linear layer between embeddings and encoder, which is
exported as the identity: here both have one size.

A tokenizer adds BERT's ``[CLS]`` and ``[SEP]`` and names segments. A GPT-2 has seen neither, and
would take segments for words: beside it both are left out, and the end-of-text token is named.
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

CONFIG = "config.json"
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
        folder: its final name; what stands there is replaced.
        weights: all of them, by the names of our ``state_dict``, on any device.
        config: of the model.
        tokenizer: that made the ids.

    Returns:
        A row for each file in it: ``name``, ``bytes``, ``sha256``.

    Raises:
        TokkitError: where the disk is full, or a GPT-2's vocabulary has nothing that ends a text.
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
    """What ``config.json`` says."""
    kind = model_type(config)
    ours = asdict(config)
    form = {
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
            **form,
        }
    head = "ForPreTraining" if config.has_pairs else "ForMaskedLM"
    form |= {"architectures": [f"{CLASSES[kind]}{head}"], "hidden_act": "gelu"}
    if kind == "albert":
        form |= {
            "embedding_size": config.hidden_size,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
            "classifier_dropout_prob": config.hidden_dropout_prob,  # as BERT has it
            "bos_token_id": tokenizer.special_ids.get("cls"),
            "eos_token_id": tokenizer.special_ids.get("sep"),
        }
    return form


def _fit_tokenizer(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Let the tokenizer's files say what fits the model beside them."""
    form = read_json(folder / TOKENIZER_CONFIG)
    form["model_max_length"] = config.max_position_embeddings
    if config.objective == "clm":
        form["model_input_names"] = ["input_ids", "attention_mask"]
        form["bos_token"] = form["eos_token"] = tokenizer.tokens[tokenizer.end_of_text_id()]
        if tokenizer.library is not None:
            definition = {**read_json(folder / TOKENIZER), "post_processor": None}
            write_json(folder / TOKENIZER, definition)
    write_json(folder / TOKENIZER_CONFIG, form)


def read_export(folder: Path) -> Model:
    """Load the model of an export; what fills up its vocabulary is zero.

    Raises:
        TokkitError: where a file is missing, or a tensor is not there or has another shape.
    """
    model = outline_model(read_config(folder))
    tensors = read_tensors(folder / MODEL, to_transformers(model.state_dict(), model.config))
    model.load_state_dict(from_transformers(tensors, model), assign=True)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """What an export's ``config.json`` says of our model.

    Raises:
        TokkitError: where it is missing, or not that of an export.
    """
    path = folder / CONFIG
    form = read_json(path)
    kind = form.get("model_type")
    if kind not in BY_MODEL_TYPE:
        raise TokkitError(
            f"{path}: model_type {kind} is none of {', '.join(BY_MODEL_TYPE)}; "
            f"it is not that of an export"
        )
    names = config_names(kind)
    if missing := [their_name for their_name in names.values() if their_name not in form]:
        raise TokkitError(f"{path}: has no {missing[0]}; it is not that of an export")
    values = {name: form[their_name] for name, their_name in names.items()}
    return ModelConfig(**values, share_layers=kind == "albert")
