"""How many floating-point operations a token costs, and how many a device could do.

Forward and backward, each parameter of a matrix that a token goes through costs 6 operations: a
multiplication and an addition, once forward and twice backward. Attention costs beside that 12 a
layer, a hidden unit and a token that is looked at (two products of 2 operations, three times). The
head is gone through by predicted tokens only. So a token costs

    6 * encoder parameters  +  12 * layers * hidden * length  +  6 * head parameters * masked share

For BERT-base with 30,522 entries, 128 tokens to a sequence and a share of 0.15 that is
510.3 + 14.2 + 21.6 = 546.1 million. Embeddings are looked up, not multiplied; what is computed for
padding, or computed twice to save memory, is not counted: it is no use to anyone.

MFU, model FLOPs utilization (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B), is the
rate of these operations as a share of what the device's data sheet promises.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt


def count_encoder_parameters(*, num_layers: int, hidden_size: int, intermediate_size: int) -> int:
    """Parameters that a token goes through: layers that share weights count as many times.

    They are those of attention (4 matrices), of the feed-forward network (2) and of 2 norms.
    """
    attention = 4 * (hidden_size * hidden_size + hidden_size)
    feed_forward = 2 * hidden_size * intermediate_size + hidden_size + intermediate_size
    return num_layers * (attention + feed_forward + 4 * hidden_size)


def count_head_parameters(*, hidden_size: int, vocab_size: int, has_transform: bool = True) -> int:
    """Parameters that a predicted token goes through: BERT's transform and norm, and a decoder."""
    transform = hidden_size * hidden_size + 3 * hidden_size if has_transform else 0
    return transform + vocab_size * hidden_size + vocab_size


def count_flops_per_token(
    *,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    vocab_size: int,
    mean_length: float,
    masked_share: float,
    has_transform: bool = True,
) -> float:
    """Operations of a token of text, forward and backward.

    Args:
        num_layers: of the encoder.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward network.
        vocab_size: entries, without what fills up the decoder.
        mean_length: tokens that a token looks at, see ``mean_length``; half of it where it looks
            back only.
        masked_share: predicted tokens of all; 1 where every token is predicted.
        has_transform: whether the head is BERT's; GPT's is the decoder alone.
    """
    encoder = count_encoder_parameters(
        num_layers=num_layers, hidden_size=hidden_size, intermediate_size=intermediate_size
    )
    head = count_head_parameters(
        hidden_size=hidden_size, vocab_size=vocab_size, has_transform=has_transform
    )
    return 6 * encoder + 12 * num_layers * hidden_size * mean_length + 6 * head * masked_share


def mean_length(lengths: npt.NDArray[np.integer[Any]]) -> float:
    """The length of the sequence that a token is in, on average over tokens.

    Two sequences of 10 and 30 tokens: (10 * 10 + 30 * 30) / 40 = 25, not 20.

    Args:
        lengths: tokens of each sequence.
    """
    exact = lengths.astype(np.float64)
    return float((exact * exact).sum() / max(exact.sum(), 1.0))


# Dense operations a second in bf16 with sums in fp32, by the name that ``torch.cuda.
# get_device_name`` gives: whole names, since a slice of a card (MIG) or a cut-down one has a name
# that begins alike. Data sheets that name the rate with sparsity only are halved. What is not
# here, such as the A10G, of which NVIDIA publishes no such figure, has no MFU.
PEAKS: tuple[tuple[str, float], ...] = (
    # NVIDIA Blackwell Architecture technical brief and DGX/HGX B200, GB200 NVL72 data sheets
    (r"NVIDIA B200", 2250e12),
    (r"NVIDIA GB200", 2500e12),
    # NVIDIA H100 and H200 Tensor Core GPU data sheets; H100 architecture white paper, table 2
    (r"NVIDIA H100 80GB HBM3|NVIDIA H200|NVIDIA GH200 480GB", 989.4e12),
    (r"NVIDIA H100 PCIe", 756e12),
    (r"NVIDIA H100 NVL|NVIDIA H200 NVL", 835.5e12),
    # NVIDIA A100, A40, A30 and A10 Tensor Core GPU data sheets
    (r"(NVIDIA )?A100-(SXM4|SXM|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe", 312e12),
    (r"NVIDIA A40", 149.7e12),
    (r"NVIDIA A30", 165e12),
    (r"NVIDIA A10", 125e12),
    # NVIDIA L4, L40 and L40S data sheets
    (r"NVIDIA L4", 121e12),
    (r"NVIDIA L40", 181.05e12),
    (r"NVIDIA L40S", 362.05e12),
    # NVIDIA RTX A6000 data sheet; Ada GPU architecture white paper, RTX 6000
    (r"NVIDIA RTX A6000", 154.8e12),
    (r"NVIDIA RTX 6000 Ada Generation", 364.2e12),
    # NVIDIA V100, V100S and T4 data sheets: of fp16, since they have no units for bf16
    (r"Tesla V100-SXM[23]-(16|32)GB(-LS)?", 125e12),
    (r"Tesla V100-PCIE-(16|32)GB", 112e12),
    (r"Tesla V100S-PCIE-32GB", 130e12),
    (r"Tesla T4", 65e12),
    # NVIDIA GA102, Ada and RTX Blackwell GPU architecture white papers: with sums in fp32, at
    # half the rate of sums in fp16
    (r"NVIDIA GeForce RTX 3090", 71e12),
    (r"NVIDIA GeForce RTX 3090 Ti", 80e12),
    (r"NVIDIA GeForce RTX 4090", 165.2e12),
    (r"NVIDIA GeForce RTX 5090", 209.5e12),
    # AMD Instinct MI210, MI250X, MI300X and MI325X data sheets; of the two dies of an MI250X,
    # each is a device
    (r"AMD Instinct MI210", 181e12),
    (r"AMD Instinct MI250X", 191.5e12),
    (r"AMD Instinct MI300X|AMD Instinct MI325X", 1307.4e12),
)


def find_peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations a second that a device's data sheet promises.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it.

    Returns:
        None where the device is not known: then there is no MFU.
    """
    return next((peak for name, peak in PEAKS if re.fullmatch(name, device_name)), None)
