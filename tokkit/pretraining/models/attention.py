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

Shape letters are those of ``tokkit.pretraining.models.transformer``; T is the length of the longest
sequence.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.pretraining.models.transformer import Inputs, ModelConfig

HALVES = (torch.bfloat16, torch.float16)


class SelfAttention(nn.Module):
    """Multi-head attention of each token to the tokens of its sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.causal = config.is_causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the attention's output, of the shape of x_ND."""
        N, D = x_ND.shape
        qkv_N3HK = self.qkv(x_ND).view(N, 3, self.num_heads, D // self.num_heads)
        dropout_prob = self.dropout_prob if self.training else 0.0
        x_NHK = attend(qkv_N3HK, inputs, dropout_prob, causal=self.causal)
        mixed_ND: Tensor = self.output(x_NHK.flatten(1))
        return mixed_ND


def attend(qkv_N3HK: Tensor, inputs: Inputs, dropout_prob: float, *, causal: bool) -> Tensor:
    """Return x_NHK: attention of each token to its sequence, or ``causal`` to itself and before."""
    if has_flash(qkv_N3HK):
        return attend_flat(qkv_N3HK, inputs, dropout_prob, causal=causal)
    return attend_padded(qkv_N3HK, inputs, dropout_prob, causal=causal)


def has_flash(x: Tensor) -> bool:
    """Return whether torch has FlashAttention for a tensor's device (from Ampere) and precision."""
    if not x.is_cuda or x.dtype not in HALVES:
        return False
    major: int = torch.cuda.get_device_properties(x.device).major
    return major >= 8


def attend_flat(qkv_N3HK: Tensor, inputs: Inputs, dropout_prob: float, *, causal: bool) -> Tensor:
    """Compute ``attend`` with FlashAttention over variable lengths."""
    q_NHK, k_NHK, v_NHK = qkv_N3HK.unbind(1)
    ends, longest = inputs.cu_seqlens, inputs.max_seqlen
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


def attend_padded(qkv_N3HK: Tensor, inputs: Inputs, dropout_prob: float, *, causal: bool) -> Tensor:
    """Compute ``attend`` on any device in any precision, in a padded block."""
    N, _, H, K = qkv_N3HK.shape
    S, T = len(inputs.cu_seqlens) - 1, inputs.max_seqlen
    mask_S11T, cells_N = None, None
    if S * T == N:  # all sequences are full
        qkv_ST3HK = qkv_N3HK.view(S, T, 3, H, K)
    else:
        cells_N = inputs.row_ids_N * T + inputs.position_ids_N
        block = qkv_N3HK.new_zeros(S * T, 3, H, K)
        qkv_ST3HK = block.index_copy(0, cells_N, qkv_N3HK).view(S, T, 3, H, K)
        if not causal:  # padding comes last, so causal attention never sees it
            lengths_S = inputs.cu_seqlens.diff()
            places_T = torch.arange(T, device=lengths_S.device)
            mask_S11T = (places_T < lengths_S[:, None])[:, None, None, :]
    q_SHTK, k_SHTK, v_SHTK = qkv_ST3HK.permute(2, 0, 3, 1, 4).unbind(0)
    x_SHTK = F.scaled_dot_product_attention(
        q_SHTK, k_SHTK, v_SHTK, attn_mask=mask_S11T, dropout_p=dropout_prob, is_causal=causal
    )
    x_NHK = x_SHTK.transpose(1, 2).reshape(S * T, H, K)
    return x_NHK if cells_N is None else x_NHK.index_select(0, cells_N)
