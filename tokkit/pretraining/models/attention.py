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

With a window, a token attends to itself and a number of tokens before and after it. FlashAttention
supports windows. Elsewhere, if sequences are long, the tokens are split into blocks regardless of
sequences, and each block attends to itself and the tokens around it. A window of 2 before and after, in
blocks of 4:

    tokens of a block            b0 b1 b2 c0
    tokens that it attends to    a5 a6 b0 b1 b2 c0 c1 c2, of which each token sees its own sequence

So the cost grows with the window and not with the length. Seconds on one core, forward and backward,
for 8,192 tokens with 4 heads of 64 in sequences of equal length, and a window of 64 on both sides:

    length of a sequence               128    512   2,048   8,192
    blocks of 64                      0.24   0.21    0.19    0.17
    a padded block with a mask        0.09   0.20    0.67    3.33
    the same without a window         0.09   0.16    0.59    2.26

Blocks of 32 and 128, and gathering the tokens around a block instead of using views, were no faster.

Shape letters are those of ``tokkit.pretraining.models.transformer``; T is the length of the longest
sequence, B the number of blocks, Q of tokens in a block, and W of tokens that it attends to.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.pretraining.models.dropout import (
    ATTENTION,
    CROSS_ATTENTION,
    attend_heads,
    hash_int32,
    key_tokens,
)
from tokkit.pretraining.models.transformer import Inputs, ModelConfig

HALVES = (torch.bfloat16, torch.float16)
BLOCK = 64

Window = tuple[int, int]  # number of tokens that a token attends to before and after it


class SelfAttention(nn.Module):
    """Multi-head attention of each token to the tokens of its sequence.

    Args:
        config: shape of the model.
        bias: whether the projections have a bias.
        window: window of tokens that a token attends to; None for all.
        rope_theta: base of rotary position embeddings; None without.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        bias: bool = True,
        window: Window | None = None,
        rope_theta: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.causal = config.task.is_causal
        self.window = window
        self.rope_theta = rope_theta
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=bias)

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the attention's output, of the shape of x_ND."""
        N, D = x_ND.shape
        qkv_N3HK = self.qkv(x_ND).view(N, 3, self.num_heads, D // self.num_heads)
        if self.rope_theta is not None:
            qk_N2HK = rotate(qkv_N3HK[:, :2], inputs.position_ids_N, self.rope_theta)
            qkv_N3HK = torch.cat((qk_N2HK, qkv_N3HK[:, 2:]), 1)
        x_NHK = attend(qkv_N3HK, inputs, self.dropout_prob, causal=self.causal, window=self.window)
        mixed_ND: Tensor = self.output(x_NHK.flatten(1))
        return mixed_ND


class CrossAttention(nn.Module):
    """Multi-head attention of each target to the inputs of its sequence.

    Args:
        config: shape of the model.
        head_size: size of a head, K.
        bias: whether the projections have a bias.
        scale: factor of the scores.
    """

    def __init__(self, config: ModelConfig, head_size: int, *, bias: bool, scale: float) -> None:
        super().__init__()
        self.shape = (config.num_attention_heads, head_size)
        self.dropout_prob, self.scale = config.attention_probs_dropout_prob, scale
        inner_size = config.num_attention_heads * head_size
        self.query = nn.Linear(config.hidden_size, inner_size, bias=bias)
        self.kv = nn.Linear(config.hidden_size, 2 * inner_size, bias=bias)
        self.output = nn.Linear(inner_size, config.hidden_size, bias=bias)

    def forward(self, y_MD: Tensor, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return what the targets, y_MD, attended to in x_ND."""
        q_MHK = self.query(y_MD).unflatten(1, self.shape)
        k_NHK, v_NHK = self.kv(x_ND).unflatten(1, (2, *self.shape)).unbind(1)
        mixed_MHK = attend_biased(
            q_MHK,
            k_NHK,
            v_NHK,
            targets,
            inputs,
            bias_SHTT=None,
            dropout_prob=self.dropout_prob,
            scale=self.scale,
            place=CROSS_ATTENTION,
        )
        mixed_MD: Tensor = self.output(mixed_MHK.flatten(1))
        return mixed_MD


def rotate(qk_N2HK: Tensor, position_ids_N: Tensor, theta: float) -> Tensor:
    """Return queries and keys with rotary position embeddings (Su et al. 2021, arXiv:2104.09864).

    Dimensions k and k + K / 2 are a point of the plane, which is turned by position / theta^(2k / K).
    """
    K = qk_N2HK.shape[-1]
    sin, cos = sinusoids(position_ids_N, K, theta)[:, None, None].chunk(2, -1)
    x, y = qk_N2HK.float().chunk(2, -1)
    return torch.cat((x * cos - y * sin, y * cos + x * sin), -1).to(qk_N2HK.dtype)


def sinusoids(places_P: Tensor, size: int, theta: float = 10_000.0) -> Tensor:
    """Return the sines of positions, then their cosines, fp32 ``[P, size]``, for falling frequencies."""
    exponents = torch.arange(0, size, 2, device=places_P.device, dtype=torch.float32) / size
    angles = places_P[:, None].float() * (1.0 / theta**exponents)
    return torch.cat((angles.sin(), angles.cos()), -1)


def attend(
    qkv_N3HK: Tensor,
    inputs: Inputs,
    dropout_prob: float,
    *,
    causal: bool,
    window: Window | None = None,
) -> Tensor:
    """Return x_NHK: attention of each token to its sequence or, if ``causal``, to itself and before.

    A ``window`` limits it further; if ``causal``, the window has no tokens after the token.
    """
    dropout_prob = inputs.dropout(dropout_prob)
    if has_flash(qkv_N3HK):
        parts = qkv_N3HK.unbind(1)
        return attend_flat(parts, inputs, dropout_prob, causal=causal, window=window)
    if window is not None and inputs.max_seqlen > 2 * (BLOCK + sum(window)):
        return attend_blocks(qkv_N3HK, inputs, dropout_prob, window)
    return attend_padded(qkv_N3HK, inputs, dropout_prob, causal=causal, window=window)


def has_flash(x: Tensor) -> bool:
    """Return whether torch has FlashAttention for a tensor's device (from Ampere) and precision."""
    if not x.is_cuda or x.dtype not in HALVES:
        return False
    major: int = torch.cuda.get_device_properties(x.device).major
    return major >= 8


def attend_flat(
    qkv_NHK: tuple[Tensor, ...],
    inputs: Inputs,
    dropout_prob: float,
    *,
    causal: bool,
    window: Window | None = None,
) -> Tensor:
    """Compute ``attend`` with FlashAttention over variable lengths.

    Queries, keys and values, each of N tokens, may be parts of one tensor.
    """
    left, right = (None, None) if window is None else window
    ends, longest = inputs.cu_seqlens, inputs.max_seqlen
    x_NHK: Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001  see above
        *qkv_NHK,
        ends,
        ends,
        longest,
        longest,
        dropout_prob,
        is_causal=causal,
        return_debug_mask=False,
        window_size_left=left,
        window_size_right=right,
    )[0]
    return x_NHK


def attend_blocks(qkv_N3HK: Tensor, inputs: Inputs, dropout_prob: float, window: Window) -> Tensor:
    """Compute ``attend`` with a window on any device in any precision, in blocks of tokens."""
    left, right = window
    N, _, H, K = qkv_N3HK.shape
    B = max(1, -(-N // BLOCK))
    W = left + BLOCK + right
    rest = B * BLOCK - N
    # Before the first and after the last token are zeros, which no token of a sequence sees.
    q_BHQK = F.pad(qkv_N3HK[:, 0], (0, 0, 0, 0, 0, rest)).view(B, BLOCK, H, K).transpose(1, 2)
    kv = F.pad(qkv_N3HK[:, 1:], (0, 0, 0, 0, 0, 0, left, right + rest))
    k_BHWK, v_BHWK = kv.unfold(0, W, BLOCK).permute(1, 0, 2, 4, 3).unbind(0)

    places_N = torch.arange(N, device=qkv_N3HK.device)
    ends_N = inputs.cu_seqlens[1:].index_select(0, inputs.row_ids_N)
    first_N = torch.maximum(places_N - inputs.position_ids_N, places_N - left)
    last_N = torch.minimum(ends_N - 1, places_N + right)
    # A row that attends to nothing would be NaN, so zeros attend to themselves.
    padding = torch.arange(N, N + rest, device=qkv_N3HK.device)
    first_BQ = torch.cat((first_N, padding)).view(B, BLOCK)
    last_BQ = torch.cat((last_N, padding)).view(B, BLOCK)
    starts_B = torch.arange(-left, B * BLOCK - left, BLOCK, device=qkv_N3HK.device)
    seen_BW = starts_B[:, None] + torch.arange(W, device=qkv_N3HK.device)
    mask_BQW = (seen_BW[:, None] >= first_BQ[..., None]) & (seen_BW[:, None] <= last_BQ[..., None])
    keys_BQ = None
    if dropout_prob:
        keys_BQ = F.pad(inputs.key_tokens(ATTENTION), (0, rest)).view(B, BLOCK)
    x_BHQK = attend_heads(
        q_BHQK,
        k_BHWK,
        v_BHWK,
        mask=mask_BQW[:, None],
        dropout_prob=dropout_prob,
        keys_BQ=keys_BQ,
        shift=-left,
    )
    return x_BHQK.transpose(1, 2).reshape(B * BLOCK, H, K)[:N]


def attend_biased(
    q_MHK: Tensor,
    k_NHK: Tensor,
    v_NHK: Tensor,
    queries: Inputs,
    keys: Inputs,
    *,
    bias_SHTT: Tensor | None,
    dropout_prob: float,
    scale: float = 1.0,
    place: int = ATTENTION,
) -> Tensor:
    """Return x_MHK: attention of each query to the keys of its sequence, in a padded block.

    FlashAttention does not support a bias, so this is used on any device.

    Args:
        q_MHK: queries, one for each token of ``queries``.
        k_NHK: keys, one for each token of ``keys``.
        v_NHK: values, one for each token of ``keys``.
        queries: sequences of the queries.
        keys: as many sequences of the keys, which may be the same.
        bias_SHTT: added to the scores; None for nothing.
        dropout_prob: dropout probability of the attention weights.
        scale: factor of the scores, without the bias.
        place: which of the layer's dropouts this is.
    """
    q_STHK, cells_M = pad_rows(q_MHK, queries)
    (k_STHK, cells_N), (v_STHK, _) = pad_rows(k_NHK, keys), pad_rows(v_NHK, keys)
    mask = None if bias_SHTT is None else bias_SHTT.to(q_MHK.dtype)
    if cells_N is not None:
        places_T = torch.arange(keys.max_seqlen, device=k_NHK.device)
        is_padding_ST = places_T >= keys.cu_seqlens.diff()[:, None]
        # Finite, because a sequence of padding may have no key at all.
        hidden_ST = is_padding_ST.to(q_MHK.dtype) * (torch.finfo(q_MHK.dtype).min / 2)
        hidden = hidden_ST[:, None, None, :]
        mask = hidden if mask is None else mask + hidden
    dropout_prob = queries.dropout(dropout_prob)
    x_SHTK = attend_heads(
        *(part.transpose(1, 2) for part in (q_STHK, k_STHK, v_STHK)),
        mask=mask,
        dropout_prob=dropout_prob,
        keys_BQ=key_block(queries, place) if dropout_prob else None,
        scale=scale,
    )
    x_MHK = x_SHTK.transpose(1, 2).flatten(0, 1)
    return x_MHK if cells_M is None else x_MHK.index_select(0, cells_M)


def index_targets(inputs: Inputs) -> Inputs:
    """Return the sequences of a batch's targets, with the labels as ``input_ids_N``."""
    labels_M, cu_seqlens = inputs.labels_M, inputs.target_cu_seqlens
    places_M = torch.arange(len(labels_M), device=labels_M.device, dtype=cu_seqlens.dtype)
    rows_M = torch.searchsorted(cu_seqlens, places_M, right=True) - 1
    return inputs._replace(
        input_ids_N=labels_M,
        position_ids_N=places_M.long() - cu_seqlens.index_select(0, rows_M),
        row_ids_N=rows_M,
        cu_seqlens=cu_seqlens,
        max_seqlen=inputs.max_target_len,
        dropout_keys=hash_int32(~inputs.dropout_keys),
    )


def key_block(inputs: Inputs, place: int) -> Tensor:
    """Return the keys for one of a layer's dropouts in a padded block, int32 ``[S, T]``."""
    places_T = torch.arange(inputs.max_seqlen, device=inputs.dropout_keys.device)
    return key_tokens(inputs.dropout_keys[1:, None], places_T, place)


def pad_rows(x_N: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Return the values of tokens as a padded block, x_ST, and which of its S * T cells each fills.

    If all sequences have the maximum length, the block is a view, and the cells are None.
    """
    S, T = len(inputs.cu_seqlens) - 1, inputs.max_seqlen
    cells_N = None
    if len(x_N) != S * T:
        cells_N = inputs.row_ids_N * T + inputs.position_ids_N
        x_N = x_N.new_zeros(S * T, *x_N.shape[1:]).index_copy(0, cells_N, x_N)
    return x_N.view(S, T, *x_N.shape[1:]), cells_N


def attend_padded(
    qkv_N3HK: Tensor,
    inputs: Inputs,
    dropout_prob: float,
    *,
    causal: bool,
    window: Window | None = None,
) -> Tensor:
    """Compute ``attend`` on any device in any precision, in a padded block."""
    T, mask = inputs.max_seqlen, None
    qkv_ST3HK, cells_N = pad_rows(qkv_N3HK, inputs)
    if cells_N is not None and not causal:  # padding comes last, where causal attention never looks
        lengths_S = inputs.cu_seqlens.diff()
        places_T = torch.arange(T, device=lengths_S.device)
        mask = (places_T < lengths_S[:, None])[:, None, None, :]  # [S, 1, 1, T]
    if window is not None and (window[0] if causal else min(window)) < T - 1:
        places_T = torch.arange(T, device=qkv_N3HK.device)
        after_TT = places_T - places_T[:, None]  # by how much a key comes after a query
        is_near_TT = (after_TT >= -window[0]) & (after_TT <= window[1])
        # Padding may be too far from any real token; it attends to itself, as a row needs a key.
        mask = is_near_TT if mask is None else (mask & is_near_TT) | (after_TT == 0)
        causal = False
    x_SHTK = attend_heads(
        *qkv_ST3HK.permute(2, 0, 3, 1, 4),
        mask=mask,
        dropout_prob=dropout_prob,
        keys_BQ=key_block(inputs, ATTENTION) if dropout_prob else None,
        causal=causal,
    )
    x_NHK = x_SHTK.transpose(1, 2).flatten(0, 1)
    return x_NHK if cells_N is None else x_NHK.index_select(0, cells_N)
