"""The layers of a BERT with Triton kernels, each of which replaces several passes over memory.

    kernel                  reads           writes                    sums over tokens
    add and norm            x, out          z = x + drop(out), y      nothing
    its backward pass       dy, z           dx, dout                  three biases and weights
    GELU, backward          dg, h           dh                        the bias of ``up``
    split, backward         dq, dk, dv      their concatenation       the bias of ``qkv``

A projection adds its bias, which is free in a matrix product, but does not compute the gradient of the
bias: that is the sum over tokens of its output's gradient, and the kernel that writes that gradient
computes it. The input of a norm is kept rather than recomputed from three tensors; dropout is recomputed
from keys, without a mask. Sums are fp32, in a fixed order: each program sums some of the tokens, and
torch adds up the programs' sums.

None of this has been timed yet, so plain code is the default. ``TRITON_INTERPRET=1`` runs the kernels in
NumPy.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from tokkit.errors import TokkitError
from tokkit.pretraining.models.attention import attend, attend_flat, has_flash
from tokkit.pretraining.models.bert import Bert, Layer
from tokkit.pretraining.models.dropout import HIDDEN, OUTPUT, threshold
from tokkit.pretraining.models.transformer import Inputs, Transformer

MAX_SUMS = 528  # programs that sum tokens; 4 for each multiprocessor of an H100
ROWS, COLUMNS = tl.constexpr(16), tl.constexpr(128)  # of a tile


@triton.jit
def _is_kept(key, columns, least: tl.constexpr):
    """Whether elements of a token are kept; see ``dropout.keep``."""
    x = key.to(tl.uint32, bitcast=True) ^ (columns.to(tl.uint32) * 0x9E3779B1)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    x = x ^ (x >> 16)
    return x.to(tl.int32, bitcast=True) >= least


@triton.jit
def _add_norm(
    x,
    out,
    keys,
    weight,
    bias,
    z,
    y,
    mean,
    inverse,
    D,
    eps: tl.constexpr,
    least: tl.constexpr,
    scale: tl.constexpr,
    drops: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    at = row * D + columns
    added = tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
    if drops:
        added = tl.where(_is_kept(tl.load(keys + row), columns, least), added * scale, 0.0)
    total = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + added).to(z.dtype.element_ty)
    tl.store(z + at, total, mask=inside)
    total = total.to(tl.float32)
    own_mean = tl.sum(total, 0) / D
    centered = tl.where(inside, total - own_mean, 0.0)
    own_inverse = 1.0 / tl.sqrt(tl.sum(centered * centered, 0) / D + eps)
    tl.store(mean + row, own_mean)
    tl.store(inverse + row, own_inverse)
    gain = tl.load(weight + columns, mask=inside, other=0.0)
    normed = centered * own_inverse * gain + tl.load(bias + columns, mask=inside, other=0.0)
    tl.store(y + at, normed.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm_backward(
    dy,
    z,
    keys,
    weight,
    mean,
    inverse,
    dx,
    dout,
    sums,
    N,
    D,
    least: tl.constexpr,
    scale: tl.constexpr,
    drops: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    gain = tl.load(weight + columns, mask=inside, other=0.0)
    of_weight = tl.zeros([BLOCK], tl.float32)
    of_bias = tl.zeros([BLOCK], tl.float32)
    of_out_bias = tl.zeros([BLOCK], tl.float32)
    for row in range(program, N, tl.num_programs(0)):
        at = tl.cast(row, tl.int64) * D + columns
        own_inverse = tl.load(inverse + row)
        normed = (
            tl.load(z + at, mask=inside, other=0.0).to(tl.float32) - tl.load(mean + row)
        ) * own_inverse
        normed = tl.where(inside, normed, 0.0)
        of_y = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        of_weight += of_y * normed
        of_bias += of_y
        of_normed = of_y * gain
        slope, level = tl.sum(of_normed * normed, 0) / D, tl.sum(of_normed, 0) / D
        of_z = (of_normed - normed * slope - level) * own_inverse
        of_z = tl.where(inside, of_z, 0.0)
        tl.store(dx + at, of_z.to(dx.dtype.element_ty), mask=inside)
        if drops:
            of_z = tl.where(_is_kept(tl.load(keys + row), columns, least), of_z * scale, 0.0)
            tl.store(dout + at, of_z.to(dout.dtype.element_ty), mask=inside)
        of_out_bias += of_z
    sums += program * 3 * D + columns
    tl.store(sums, of_weight, mask=inside)
    tl.store(sums + D, of_bias, mask=inside)
    tl.store(sums + 2 * D, of_out_bias, mask=inside)


@triton.jit
def _gelu_backward(dg, h, dh, sums, N, F, tanh: tl.constexpr) -> None:
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(tl.program_id(0) * ROWS, N, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        at, inside = rows * F + columns, (rows < N) & (columns < F)
        x = tl.load(h + at, mask=inside, other=0.0).to(tl.float32)
        if tanh:
            # 0.5 + 0.5 tanh(u) is sigmoid(2 u); u = sqrt(2 / pi) (x + 0.044715 x^3).
            share = tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
            slope = 1.5957691216057308 * (1.0 + 0.134145 * x * x) * share * (1.0 - share)
        else:
            share = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
            slope = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        of_h = tl.load(dg + at, mask=inside, other=0.0).to(tl.float32) * (share + x * slope)
        tl.store(dh + at, of_h.to(dh.dtype.element_ty), mask=inside)
        total += of_h
    tl.store(sums + tl.program_id(0) * F + columns, tl.sum(total, 0), mask=columns < F)


@triton.jit
def _split_backward(dq, dk, dv, packed, sums, N, D) -> None:
    program, part = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    source = dq
    if part == 1:
        source = dk
    if part == 2:
        source = dv
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(program * ROWS, N, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        inside = (rows < N) & (columns < D)
        own = tl.load(source + rows * D + columns, mask=inside, other=0.0)
        tl.store(packed + (rows * 3 + part) * D + columns, own, mask=inside)
        total += own.to(tl.float32)
    tl.store(sums + (program * 3 + part) * D + columns, tl.sum(total, 0), mask=columns < D)


class ResidualNorm(Function):
    """The norm of the sum of a residual and the output of a projection after dropout.

    The output already has the projection's bias, which is passed for its gradient only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        out_ND: Tensor,
        out_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        keys_N: Tensor | None,
        eps: float,
        prob: float,
    ) -> Tensor:
        N, D = x_ND.shape
        y_ND, z_ND = torch.empty_like(out_ND), torch.empty_like(out_ND)
        mean_N, inverse_N = weight.new_empty(2, N).unbind()
        ctx.options = (
            threshold(prob),
            1 / (1 - prob),
            keys_N is not None,
            triton.next_power_of_2(D),
        )
        keys_N = y_ND if keys_N is None else keys_N
        _add_norm[(N,)](
            x_ND, out_ND, keys_N, weight, bias, z_ND, y_ND, mean_N, inverse_N, D, eps, *ctx.options
        )
        ctx.save_for_backward(z_ND, keys_N, weight, mean_N, inverse_N)
        ctx.dtype = x_ND.dtype
        return y_ND

    @staticmethod
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        z_ND, keys_N, weight, mean_N, inverse_N = ctx.saved_tensors
        N, D = z_ND.shape
        num = min(N, MAX_SUMS)
        dx_ND = torch.empty_like(z_ND, dtype=ctx.dtype)
        dout_ND = torch.empty_like(z_ND) if ctx.options[2] else dx_ND
        sums = weight.new_empty(num, 3, D)
        _add_norm_backward[(num,)](
            dy_ND.contiguous(),
            z_ND,
            keys_N,
            weight,
            mean_N,
            inverse_N,
            dx_ND,
            dout_ND,
            sums,
            N,
            D,
            *ctx.options,
        )
        dweight, dbias, dout_bias = sums.sum(0).unbind()
        return dx_ND, dout_ND.to(z_ND.dtype), dout_bias, dweight, dbias, None, None, None


class BiasedGelu(Function):
    """GELU of the output of a projection, whose bias is passed for its gradient."""

    @staticmethod
    def forward(ctx: Any, h_NF: Tensor, bias: Tensor, approximate: str) -> Tensor:
        del bias
        ctx.save_for_backward(h_NF)
        ctx.tanh = approximate == "tanh"
        return F.gelu(h_NF, approximate=approximate)

    @staticmethod
    def backward(ctx: Any, dg_NF: Tensor) -> tuple[Tensor | None, ...]:
        (h_NF,) = ctx.saved_tensors
        N, width = h_NF.shape
        grid = _tiles(N, width)
        dh_NF, sums = torch.empty_like(h_NF), h_NF.new_empty(grid[0], width, dtype=torch.float32)
        _gelu_backward[grid](dg_NF.contiguous(), h_NF, dh_NF, sums, N, width, ctx.tanh)
        return dh_NF, sums.sum(0), None


class SplitProjection(Function):
    """Queries, keys and values in the output of a projection, whose bias is passed for its gradient."""

    @staticmethod
    def forward(ctx: Any, qkv_ND: Tensor, bias: Tensor, num_heads: int) -> tuple[Tensor, ...]:
        del bias
        return qkv_ND.view(len(qkv_ND), 3, num_heads, -1).unbind(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = [part.flatten(1).contiguous() for part in gradients]
        N, D = parts[0].shape
        num, columns = _tiles(N, D)
        packed, sums = (
            parts[0].new_empty(N, 3 * D),
            parts[0].new_empty(num, 3 * D, dtype=torch.float32),
        )
        _split_backward[num, columns, 3](*parts, packed, sums, N, D)
        return packed, sums.sum(0), None


def _tiles(num_rows: int, num_columns: int) -> tuple[int, int]:
    """Return the numbers of programs that sum tiles, and of columns of tiles."""
    columns = -(-num_columns // COLUMNS.value)
    return min(-(-num_rows // ROWS.value), max(1, 2 * MAX_SUMS // columns)), columns


class FusedLayer(Layer):
    """A layer of a BERT, with its parameters."""

    def compile(self, *_: Any, **__: Any) -> None:
        """Do nothing: little is left to fuse, and torch would compile it for each size."""

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Pass x_ND through the layer."""
        attention = self.attention
        qkv_NHK = SplitProjection.apply(
            project(x_ND, attention.qkv), attention.qkv.bias, attention.num_heads
        )
        if has_flash(qkv_NHK[0]):
            prob = inputs.dropout(attention.dropout_prob)
            mixed_NHK = attend_flat(qkv_NHK, inputs, prob, causal=False)
        else:
            stacked = torch.stack(qkv_NHK, 1)
            mixed_NHK = attend(stacked, inputs, attention.dropout_prob, causal=False)
        norms = self.attention_norm, self.output_norm
        x_ND = self.add_norm(x_ND, mixed_NHK.flatten(1), attention.output, norms[0], inputs, HIDDEN)
        h_NF = BiasedGelu.apply(project(x_ND, self.up), self.up.bias, self.gelu)
        return self.add_norm(x_ND, h_NF, self.down, norms[1], inputs, OUTPUT)

    def add_norm(
        self,
        x_ND: Tensor,
        h: Tensor,
        linear: nn.Linear,
        norm: nn.LayerNorm,
        inputs: Inputs,
        place: int,
    ) -> Tensor:
        """Add a projection of h to x_ND, with dropout before and a norm after."""
        prob = inputs.dropout(self.dropout_prob)
        keys_N = inputs.key_tokens(place) if prob else None
        out_ND = project(h, linear)
        y_ND: Tensor = ResidualNorm.apply(
            x_ND, out_ND, linear.bias, norm.weight, norm.bias, keys_N, norm.eps, prob
        )
        return y_ND


def project(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply a projection; the gradient of its bias is computed elsewhere."""
    return F.linear(x, linear.weight, linear.bias.detach())


def fuse_layers(model: Transformer) -> None:
    """Replace the layers of a BERT, RoBERTa or ALBERT, in place, before it is compiled.

    Raises:
        TokkitError: if the model is another.
    """
    if not isinstance(model, Bert):
        raise TokkitError(
            f"--kernels triton has no effect on a {model.config.model_type}, only on bert and roberta; leave it out"
        )
    for layer in model.layers:
        layer.__class__ = FusedLayer
