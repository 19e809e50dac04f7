"""How much memory a process of a run needs: a sum of what is known to be there.

Of BERT-base with 30,522 entries, 110.1 million parameters, in bf16 on a GPU, with micro-batches of
16,384 tokens of which 2,458 are predicted, in MB:

    weights       440    fp32
    gradients     440    fp32
    moments       881    two of the optimizer, fp32
    copies        220    the weights in bf16, for products
    activations  5832    what the backward pass needs of the forward pass
    logits        899    those of a part of the predictions, and the decoder's gradient

The first three are exact. Activations are those of a model that is not compiled: a compiler
computes some of them again rather than keeping them. What libraries keep for themselves, some
hundred MB on a GPU, is not counted.
"""

import os
from dataclasses import asdict, dataclass

import torch
from torch import nn

from tokkit.pretraining.crossentropy import CHUNK_LOGITS
from tokkit.pretraining.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process.

    Attributes:
        weights: in fp32.
        gradients: likewise.
        moments: of the optimizer, likewise.
        copies: of weights, for products in bf16; where weights are split among processes, all that
            is whole at one time.
        activations: of one micro-batch.
        logits: of one part of its predictions, and the gradient of the decoder.
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them, which are there at once when the backward pass begins."""
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        """The parts and ``total``."""
        return {**asdict(self), "total": self.total}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by part, and ``total``; what layers share counts once."""
    counts = {"embeddings": 0, "layers": 0, "heads": 0}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        counts[part if part in counts else "heads"] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def estimate_memory(
    shape: ModelConfig,
    parameters: dict[str, int],
    *,
    num_tokens: int,
    num_predicted: int,
    mean_length: float,
    is_half: bool,
    on_gpu: bool,
    num_shards: int = 1,
) -> Memory:
    """Estimate what a process needs.

    Args:
        shape: of the model.
        parameters: as ``count_parameters`` gives them.
        num_tokens: of a micro-batch.
        num_predicted: of them.
        mean_length: see ``tokkit.pretraining.flops``.
        is_half: products are in bf16.
        on_gpu: where attention keeps no weights, and dropout a byte for each place.
        num_shards: processes among which weights, gradients and moments are split; 1 for none.
    """
    total = parameters["total"]
    own = -(-total // num_shards)
    if num_shards > 1:
        # What is no layer stays whole; of layers the one in use is, and the next.
        num_layers = 1 if shape.share_layers else shape.num_hidden_layers
        whole = total - parameters["layers"] + 2 * parameters["layers"] // num_layers
        copies = (4 + (2 if is_half else 0)) * whole
    else:
        copies = 2 * total if is_half else 0
    chunk = min(num_predicted, max(1, CHUNK_LOGITS // shape.vocab_size))
    return Memory(
        weights=4 * own,
        gradients=4 * own,
        moments=8 * own,
        copies=copies,
        activations=_estimate_activations(
            shape, num_tokens, num_predicted, mean_length, is_half=is_half, on_gpu=on_gpu
        ),
        # Logits, their distance from the sum, and its exponential, in fp32.
        logits=3 * 4 * chunk * shape.vocab_size + 4 * shape.num_entries * (shape.hidden_size + 1),
    )


def _estimate_activations(
    shape: ModelConfig,
    num_tokens: int,
    num_predicted: int,
    mean_length: float,
    *,
    is_half: bool,
    on_gpu: bool,
) -> int:
    """What autograd keeps: the inputs of products, norms and GELU, and what was dropped.

    A layer keeps of each token its input, queries, keys, values, their mixture and the first norm's
    output (6 times the hidden size), the inputs of both norms (2, in fp32 always), and the input
    and output of GELU (2 times the feed-forward size).
    """
    product = 2 if is_half else 4
    D, F = shape.hidden_size, shape.intermediate_size
    layer: float = product * (6 * D + 2 * F) + 2 * 4 * D
    if shape.hidden_dropout_prob:
        layer += 2 * D * (1 if on_gpu else product)
    if not on_gpu and shape.attention_probs_dropout_prob:
        # All in fp32: queries, keys and values once more, in a padded block; the weights of
        # attention, what was dropped of them, and what was left.
        layer += 4 * 3 * (D + shape.num_attention_heads * mean_length)
    elif not on_gpu:
        layer += 3 * product * D  # the block
    embeddings = (4 + product) * D  # the input of the norm, and what was dropped
    head = 5 * product * D  # inputs of the transform, of GELU, norm and decoder, and a gradient
    return round(num_tokens * (shape.num_hidden_layers * layer + embeddings) + num_predicted * head)


def find_capacity(device: torch.device) -> int | None:
    """Bytes of memory that a run could use: free on a GPU, all there is beside a CPU; else None."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
