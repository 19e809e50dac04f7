"""Cross-entropy of a linear layer whose logits are never there all at once.

The logits of 2,458 predictions over 30,522 entries are 300 MB in fp32, and as much again for their
gradient. Here they are made for some rows at a time, and the gradient of those rows is taken while
they are there:

    for rows r:   logits = x[r] @ weight.T + bias
                  loss  += sum(logsumexp(logits) - logits[label])
                  dx[r]  = (softmax(logits) - onehot(label)) @ weight,   likewise for weight and bias

So the backward pass has nothing to do but scale: the products are the three that any cross-entropy
needs. (The idea is that of Liger Kernel, arXiv:2410.10989; ``torch.nn.functional.
linear_cross_entropy`` does the same from torch 2.13 on, but does not say how many were right.)
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from tokkit.kernels.instances.flatten import NO_LABEL

CHUNK_LOGITS = 1 << 26  # 256 MB in fp32


def linear_cross_entropy(
    x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor, num_entries: int
) -> tuple[Tensor, Tensor]:
    """Compare predictions with labels.

    Args:
        x_MD: what the layer gets; products are made in its precision, sums in fp32.
        weight_VD: of the layer; fp32. V is best a multiple of 8: matrix units read rows of 16 bytes.
        bias_V: likewise; None where the layer has none.
        labels_M: int64, ``NO_LABEL`` where nothing is to be predicted.
        num_entries: how many of the V there are in truth; the others fill up, and have no chance.

    Returns:
        The sum of the cross-entropy over labels, differentiable, and how many were predicted.
    """
    arguments = (x_MD, weight_VD, bias_V, labels_M, num_entries, torch.is_grad_enabled())
    loss, num_correct = _LinearCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss, num_correct


class TokenLoss(nn.Module):
    """``linear_cross_entropy`` as a module without weights, which can be compiled by itself."""

    def __init__(self, num_entries: int) -> None:
        super().__init__()
        self.num_entries = num_entries

    def forward(
        self, x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of the loss, and how many were predicted."""
        return linear_cross_entropy(x_MD, weight_VD, bias_V, labels_M, self.num_entries)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  autograd passes by position
        ctx: Any,
        x_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_M: Tensor,
        num_entries: int,
        needs_gradient: bool,  # noqa: FBT001  likewise
    ) -> tuple[Tensor, Tensor]:
        # All V rows go into the products and what fills up is struck out of the logits: cut to
        # 30,522 columns, rows of bf16 would not begin at multiples of 16 bytes, and cuBLAS would
        # take its slow kernels. (By reading; not measured.)
        weight = weight_VD.to(x_MD.dtype)
        inputs = [tensor for tensor in (x_MD, weight_VD, bias_V) if tensor is not None]
        gradients = [torch.zeros_like(tensor) for tensor in inputs if needs_gradient]
        loss, num_correct = weight_VD.new_zeros(()), labels_M.new_zeros(())
        for rows in _cut(len(x_MD), max(1, CHUNK_LOGITS // len(weight_VD))):
            x, labels = x_MD[rows], labels_M[rows]
            is_labelled = labels != NO_LABEL
            targets = labels.clamp(min=0)[:, None]
            with torch.autocast(x.device.type, enabled=False):
                logits = (x @ weight.T).to(weight_VD.dtype)
                if bias_V is not None:
                    logits += bias_V
                logits[:, num_entries:] = -torch.inf
                sums = logits.logsumexp(1)
                chances = sums - logits.gather(1, targets).squeeze(1)
                loss = loss + (chances * is_labelled).sum()
                num_correct = num_correct + (logits.argmax(1) == labels).sum()
                if needs_gradient:
                    slope = _slope(logits, sums.masked_fill(~is_labelled, torch.inf), labels)
                    slope = slope.to(x.dtype)
                    if bias_V is not None:
                        gradients[2] += slope.sum(0, dtype=bias_V.dtype)
                    gradients[0][rows] = slope @ weight
                    gradients[1] += slope.T @ x
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(num_correct)
        return loss, num_correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, *others = ctx.saved_tensors
        slopes = [x_MD * grad_loss.to(x_MD.dtype), *(slope * grad_loss for slope in others)]
        return (*slopes, *[None] * (6 - len(slopes)))


def _slope(logits: Tensor, sums: Tensor, labels: Tensor) -> Tensor:
    """The loss's gradient in the logits, in their place; 0 in rows whose sum is infinite."""
    slope = logits.sub_(sums[:, None]).exp_()
    if torch.compiler.is_compiling():
        # A compiler makes one pass of this and the line above, from logits in bf16 to slopes in
        # bf16; a scatter would have it write the slopes in fp32 between, and read them again.
        entries = torch.arange(logits.shape[1], device=logits.device)
        return slope - (entries == labels[:, None]).to(slope.dtype)
    is_labelled = (labels != NO_LABEL).to(slope.dtype)
    return slope.scatter_add_(1, labels.clamp(min=0)[:, None], -is_labelled[:, None])


def _cut(length: int, longest: int) -> list[slice]:
    """Cut rows into as few parts as can be, of equal size: matrix units like no short rest."""
    number = -(-length // longest)
    bounds = [length * part // number for part in range(number + 1)] if number else []
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
