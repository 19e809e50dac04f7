"""Attention within concatenated sequences, without padding.

Three sequences of 2, 1 and 3 tokens are N = 6 tokens:

    tokens         a0 a1 b0 c0 c1 c2
    cu_seqlens     0 2 3 6              sequence s is tokens cu_seqlens[s] to cu_seqlens[s + 1]
    row_ids        0  0  1  2  2  2
    position_ids   0  1  0  0  1  2

On a CUDA device in half precision, torch's FlashAttention accepts this layout. It is called through
the operator below ``torch.nn.attention.varlen``, because that function has no dropout. Elsewhere each
sequence is copied to a row of a padded block for ``scaled_dot_product_attention``, and back.

From reading torch's ``flash_api.cpp`` (not measured): queries, keys and values may be strided views of
one projection, since only their last dimension must be contiguous, but their gradients are three
separate tensors, which are then copied into one. Rows that ``cu_seqlens`` does not cover are left
uninitialized, so a padded batch must cover its padding with sequences.

Shape letters are those of ``tokkit.pretraining.models.bert``; T is the length of the longest sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

HALVES = (torch.bfloat16, torch.float16)


class Sequences(NamedTuple):
    """The layout of concatenated sequences.

    Attributes:
        cu_seqlens: int32 ``[S + 1]``, offsets from 0 to N; sequences may be empty.
        row_ids_N: int64, the sequence of each token.
        position_ids_N: int64, its position in the sequence.
        max_seqlen: T, at least the length of the longest sequence.
    """

    cu_seqlens: Tensor
    row_ids_N: Tensor
    position_ids_N: Tensor
    max_seqlen: int


def attend(qkv_N3HK: Tensor, sequences: Sequences, dropout_prob: float, *, causal: bool) -> Tensor:
    """Return x_NHK: attention of each token to its sequence, or ``causal`` to itself and before."""
    if has_flash(qkv_N3HK):
        return attend_flat(qkv_N3HK, sequences, dropout_prob, causal=causal)
    return attend_padded(qkv_N3HK, sequences, dropout_prob, causal=causal)


def has_flash(x: Tensor) -> bool:
    """Return whether torch has FlashAttention for a tensor's device (from Ampere) and precision."""
    if not x.is_cuda or x.dtype not in HALVES:
        return False
    major: int = torch.cuda.get_device_properties(x.device).major
    return major >= 8


def attend_flat(
    qkv_N3HK: Tensor, sequences: Sequences, dropout_prob: float, *, causal: bool
) -> Tensor:
    """Compute ``attend`` with FlashAttention over variable lengths."""
    q_NHK, k_NHK, v_NHK = qkv_N3HK.unbind(1)
    ends, longest = sequences.cu_seqlens, sequences.max_seqlen
    x_NHK: Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001  see above
        q_NHK,
        k_NHK,
        v_NHK,
        ends,
        ends,
        longest,
        longest,
        dropout_prob,
        is_causal=causal,
        return_debug_mask=False,
    )[0]
    return x_NHK


def attend_padded(
    qkv_N3HK: Tensor, sequences: Sequences, dropout_prob: float, *, causal: bool
) -> Tensor:
    """Compute ``attend`` on any device in any precision, in a padded block."""
    N, _, H, K = qkv_N3HK.shape
    S, T = len(sequences.cu_seqlens) - 1, sequences.max_seqlen
    mask_S11T, cells_N = None, None
    if S * T == N:  # all sequences are full
        qkv_ST3HK = qkv_N3HK.view(S, T, 3, H, K)
    else:
        cells_N = sequences.row_ids_N * T + sequences.position_ids_N
        block = qkv_N3HK.new_zeros(S * T, 3, H, K)
        qkv_ST3HK = block.index_copy(0, cells_N, qkv_N3HK).view(S, T, 3, H, K)
        if not causal:  # padding comes last, so causal attention never sees it
            lengths_S = sequences.cu_seqlens.diff()
            places_T = torch.arange(T, device=lengths_S.device)
            mask_S11T = (places_T < lengths_S[:, None])[:, None, None, :]
    q_SHTK, k_SHTK, v_SHTK = qkv_ST3HK.permute(2, 0, 3, 1, 4).unbind(0)
    x_SHTK = F.scaled_dot_product_attention(
        q_SHTK, k_SHTK, v_SHTK, attn_mask=mask_S11T, dropout_p=dropout_prob, is_causal=causal
    )
    x_NHK = x_SHTK.transpose(1, 2).reshape(S * T, H, K)
    return x_NHK if cells_N is None else x_NHK.index_select(0, cells_N)
