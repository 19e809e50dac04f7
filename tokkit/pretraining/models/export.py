"""The export of a run: a folder that ``transformers`` loads, and that ``fill_mask`` reads.

It has ``config.json`` and ``model.safetensors`` with the names of ``transformers``, and the tokenizer:

    objective, layers          loads as it was trained in            and in
    nsp, sop                   BertForPreTraining                    BertForMaskedLM, AutoModel
    mlm                        BertForMaskedLM                       AutoModel
    mlm; roberta               RobertaForMaskedLM                    AutoModelForMaskedLM, AutoModel
    nsp, sop; shared layers    AlbertForPreTraining                  AlbertForMaskedLM, AutoModel
    mlm; shared layers         AlbertForMaskedLM                     AutoModel
    clm                        GPT2LMHeadModel                       AutoModelForCausalLM, AutoModel
    mlm; modernbert            ModernBertForMaskedLM                 AutoModelForMaskedLM, AutoModel
    clm; modernbert            ModernBertDecoderForCausalLM          AutoModelForCausalLM, AutoModel
    span-corruption            T5ForConditionalGeneration            AutoModelForSeq2SeqLM, AutoModel
    plm                        XLNetLMHeadModel                      AutoModelForCausalLM, AutoModel
    translation                MarianMTModel                         AutoModelForSeq2SeqLM, AutoModel
    translation; t5            T5ForConditionalGeneration            AutoModelForSeq2SeqLM, AutoModel

``mlm`` trains no pooler, so AutoModel initializes one at random and says so; ``add_pooling_layer=False``
leaves it out. In both models the label of a pair is 0 for in order and 1 for swapped with ``sop``, and 0
for next and 1 for random with ``nsp``.

A tokenizer adds BERT's ``[CLS]`` and ``[SEP]`` and numbers the segments. A decoder was trained on
neither, and a GPT-2 would take segment numbers for token ids, so its export leaves out both, and names
the end-of-text token. The tokenizer of an encoder-decoder adds the end of text, that of an XLNet
``[SEP] [CLS]``. A ModernBERT has no segments.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokkit.engine.files import hash_file, write_folder_atomically
from tokkit.engine.json_files import FileRow, read_json, write_json
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.models.architectures import (
    ARCHITECTURES,
    build_meta_model,
    choose_architecture,
    config_names,
    from_transformers,
    parse_config,
    require_possible,
    to_transformers,
)
from tokkit.pretraining.models.model_files import (
    CONFIG,
    MODEL,
    DamagedError,
    read_tensors,
    write_tensors,
)
from tokkit.pretraining.models.transformer import Inputs, ModelConfig, Transformer
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.special_tokens import encode_masked
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

Answer = tuple[str, float]


def write_export(
    folder: Path, weights: Mapping[str, Tensor], config: ModelConfig, tokenizer: Tokenizer
) -> list[FileRow]:
    """Write the folder, whole or not at all.

    Args:
        folder: output folder, replaced if it exists.
        weights: whole tensors by the names of our ``state_dict``, on any device.
        config: shape of the model.
        tokenizer: tokenizer of the instances.

    Returns:
        A row for each file of the folder.

    Raises:
        TokkitError: if the disk is full, or the vocabulary of a GPT-2 has no end-of-text token.
    """
    tensors = to_transformers(weights, config)
    with wrap_os_errors(folder), write_folder_atomically(folder) as written:
        write_json(written / CONFIG, describe_model(config, tokenizer))
        write_tensors(written / MODEL, tensors)
        save_tokenizer(tokenizer, written)
        _fit_tokenizer(written, config, tokenizer)
    return [
        FileRow(name=path.name, bytes=path.stat().st_size, sha256=hash_file(path))
        for path in sorted(folder.iterdir())
    ]


def describe_model(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of ``config.json``."""
    architecture, ours = choose_architecture(config), asdict(config)
    return {
        "model_type": architecture.model_type,
        "pad_token_id": tokenizer.special_ids.get("pad"),
        **{their_name: ours[name] for name, their_name in config_names(architecture).items()},
        **architecture.describe(config, tokenizer),
    }


def _fit_tokenizer(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Adapt the tokenizer's files to the model: its maximum length, and the above."""
    data = read_json(folder / TOKENIZER_CONFIG, dict[str, Any])
    data["model_max_length"] = config.max_position_embeddings
    if "type_vocab_size" not in config_names(choose_architecture(config)):
        data["model_input_names"] = ["input_ids", "attention_mask"]
    if not config.task.has_masks:
        data["eos_token"] = tokenizer.tokens[tokenizer.end_of_text_id()]
        if config.task.is_causal:
            data["bos_token"] = data["eos_token"]
        if tokenizer.library is not None:
            definition = read_json(folder / TOKENIZER, dict[str, Any])
            definition["post_processor"] = _add_special_tokens(config, tokenizer)
            write_json(folder / TOKENIZER, definition)
    write_json(folder / TOKENIZER_CONFIG, data)


def _add_special_tokens(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Return the post-processor that adds the special tokens of instances without masks, if any."""
    if config.task.is_causal:
        return None
    ids = [tokenizer.end_of_text_id()]
    if config.task.targets == "target_positions":
        ids = [tokenizer.special_ids[role] for role in ("sep", "cls")]
    tokens = [tokenizer.tokens[number] for number in ids]

    def piece(kind: str, name: str, segment: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": segment}}

    first, second = (
        [piece("Sequence", "AB"[segment], segment), piece("SpecialToken", tokens[0], segment)]
        for segment in (0, 1)
    )
    last = [piece("SpecialToken", token, 2) for token in tokens[1:]]
    return {
        "type": "TemplateProcessing",
        "single": first + last,
        "pair": first + second + last,
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in zip(tokens, ids, strict=True)
        },
    }


def read_export(folder: Path) -> Transformer:
    """Return the model of an export, in evaluation mode; the padding of its vocabulary is zero.

    Raises:
        TokkitError: if a file is missing, or a tensor is missing or has another shape.
    """
    model = build_meta_model(read_config(folder))
    tensors = read_tensors(folder / MODEL, to_transformers(model.state_dict(), model.config))
    model.load_state_dict(from_transformers(tensors, model.config, model.state_dict()), assign=True)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """Return the shape of an export's model.

    Raises:
        TokkitError: if ``config.json`` is missing, or is not that of an export.
    """
    path = folder / CONFIG
    data = read_json(path, dict[str, Any])
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise TokkitError(
            f"{path}: model_type is {kind}, not {', '.join(ARCHITECTURES)}; "
            f"name the export folder of a run"
        )
    config = parse_config(path, data, ARCHITECTURES[kind], "name the export folder of a run")
    if (folder / MODEL).is_file():  # otherwise the reader of the weights raises
        require_possible(path, config, (folder / MODEL).stat().st_size)
    return config


def fill_mask(folder: Path, sentence: str, top: int = 5) -> list[list[Answer]]:
    """Predict the masked tokens of a sentence.

    Args:
        folder: export with model and tokenizer.
        sentence: text with masks, such as ``The [MASK] is empty.``; see ``encode_masked``.
        top: number of answers for each mask.

    Returns:
        For each mask, in order, the most likely tokens with their probabilities, best first.

    Raises:
        UsageError: if the sentence has no mask.
        TokkitError: if the folder is not a complete export, its model was trained without masks, or
            the sentence is too long.
    """
    config = read_config(folder)
    if not config.task.has_masks:
        has_decoder = config.task.targets == "target_ids"
        raise TokkitError(
            f"{folder}: the model was trained without masks and fills no masks; "
            f"use AutoModel{'ForSeq2SeqLM' if has_decoder else 'ForCausalLM'} of transformers to "
            f"generate text"
        )
    tokenizer = load_tokenizer(folder)
    ids = encode_masked(tokenizer, sentence)
    if len(ids) > config.max_position_embeddings:
        raise TokkitError(
            f"{folder}: the sentence has {len(ids)} tokens, but the model "
            f"{config.max_position_embeddings} positions; shorten it"
        )
    try:
        model = read_export(folder)
    except DamagedError as error:
        raise TokkitError(
            f"{error}; remove {folder} and run the same tokkit pretrain again, which writes it"
        ) from error
    return predict_masked(model, tokenizer, ids, top)


def predict_masked(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], top: int
) -> list[list[Answer]]:
    """Return the most likely tokens of each mask among ``ids``, best first.

    Args:
        model: model in evaluation mode.
        tokenizer: tokenizer of the model.
        ids: output of ``encode_masked``, at most as long as the model has positions.
        top: number of answers for each mask.
    """
    with torch.inference_mode():
        logits_MV, _ = model.logits(_make_inputs(ids, tokenizer.special_ids["mask"]))
    best = logits_MV.softmax(dim=1).topk(min(top, tokenizer.vocab_size))
    return [
        [(tokenizer.tokens[number], share) for number, share in zip(numbers, shares, strict=True)]
        for numbers, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _make_inputs(ids: list[int], mask_id: int) -> Inputs:
    """Return a batch of one sequence, whose masks are to be predicted."""
    input_ids_N = torch.tensor(ids)
    masked_positions_M = torch.nonzero(input_ids_N == mask_id).flatten()
    return Inputs(
        input_ids_N=input_ids_N,
        token_type_ids_N=torch.zeros_like(input_ids_N),
        position_ids_N=torch.arange(len(ids)),
        row_ids_N=torch.zeros_like(input_ids_N),
        cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
        predicted_positions_M=masked_positions_M,
        labels_M=torch.full_like(masked_positions_M, NO_LABEL),
        pair_labels_S=torch.tensor([NO_LABEL]),
        max_seqlen=len(ids),
    )
