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

from typing import Any

import torch
from torch import Tensor

from tokkit.pretraining.data import NO_LABEL

CHUNK_LOGITS = 1 << 26  # 256 MB in fp32


def linear_cross_entropy(
    x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor, num_entries: int
) -> tuple[Tensor, Tensor]:
    """Compare predictions with labels.

    Args:
        x_MD: what the layer gets; products are made in its precision, sums in fp32.
        weight_VD: of the layer; fp32.
        bias_V: likewise; None where the layer has none.
        labels_M: int64, ``NO_LABEL`` where nothing is to be predicted.
        num_entries: how many of the V there are in truth; the others fill up.

    Returns:
        The sum of the cross-entropy over labels, differentiable, and how many were predicted.
    """
    arguments = (x_MD, weight_VD, bias_V, labels_M, num_entries, torch.is_grad_enabled())
    loss, num_correct = _LinearCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss, num_correct


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
        weight = weight_VD[:num_entries].to(x_MD.dtype)
        bias = None if bias_V is None else bias_V[:num_entries]
        inputs = [tensor for tensor in (x_MD, weight_VD, bias_V) if tensor is not None]
        gradients = [torch.zeros_like(tensor) for tensor in inputs if needs_gradient]
        loss, num_correct = weight_VD.new_zeros(()), labels_M.new_zeros(())
        num_rows = max(1, CHUNK_LOGITS // num_entries)
        for start in range(0, len(x_MD), num_rows):
            rows = slice(start, start + num_rows)
            x, labels = x_MD[rows], labels_M[rows]
            is_labelled = labels != NO_LABEL
            targets = labels.clamp(min=0)[:, None]
            with torch.autocast(x.device.type, enabled=False):
                logits = (x @ weight.T).to(weight_VD.dtype)
                if bias is not None:
                    logits += bias
                sums = logits.logsumexp(1)
                chances = sums - logits.gather(1, targets).squeeze(1)
                loss = loss + (chances * is_labelled).sum()
                num_correct = num_correct + (logits.argmax(1) == labels).sum()
                if needs_gradient:
                    slope = (logits - sums[:, None]).exp()
                    slope.scatter_add_(1, targets, slope.new_full(targets.shape, -1.0))
                    slope *= is_labelled[:, None]
                    if bias is not None:
                        gradients[2][:num_entries] += slope.sum(0)
                    slope = slope.to(x.dtype)
                    gradients[0][rows] = slope @ weight
                    gradients[1][:num_entries] += slope.T @ x
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(num_correct)
        return loss, num_correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, *others = ctx.saved_tensors
        slopes = [x_MD * grad_loss.to(x_MD.dtype), *(slope * grad_loss for slope in others)]
        return (*slopes, *[None] * (6 - len(slopes)))
