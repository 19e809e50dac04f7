"""Cross-entropy of a linear layer, without all logits in memory at once.

The logits of 2,458 predictions over a vocabulary of 30,522 are 300 MB in fp32, and their gradient as
much again. Here they are computed for a chunk of rows at a time, together with their gradient:

    for rows r:   logits = x[r] @ weight.T + bias
                  loss  += sum(logsumexp(logits) - logits[label])
                  dx[r]  = (softmax(logits) - onehot(label)) @ weight,   and so on for weight and bias

The backward pass only scales these gradients, so there are three matrix products, as in any
cross-entropy. (The idea is from Liger Kernel, arXiv:2410.10989; ``torch.nn.functional.
linear_cross_entropy`` does the same from torch 2.13 on, but does not count correct predictions.)
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from tokkit.kernels.instances.flatten import NO_LABEL

CHUNK_LOGITS = 1 << 26  # 256 MB in fp32


def linear_cross_entropy(
    x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Return the loss of predictions, and the number of correct ones.

    Args:
        x_MD: input of the layer; products are computed in its precision, sums in fp32.
        weight_VD: fp32 weight of the layer. Matrix units read rows of 16 bytes, so V should be a
            multiple of 8.
        bias_V: fp32 bias; None for a layer without one.
        labels_M: int64, ``NO_LABEL`` where nothing is predicted.
        vocab_size: the rest of V is padding, whose probability is 0.

    Returns:
        The sum of the cross-entropy over labels, differentiable, and the correct predictions, int64.
    """
    arguments = (x_MD, weight_VD, bias_V, labels_M, vocab_size, torch.is_grad_enabled())
    loss, num_correct = _LinearCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss, num_correct


class TokenLoss(nn.Module):
    """``linear_cross_entropy`` as a module without weights, so that it can be compiled alone."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(
        self, x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the number of correct predictions."""
        return linear_cross_entropy(x_MD, weight_VD, bias_V, labels_M, self.vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  autograd passes by position
        ctx: Any,
        x_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_M: Tensor,
        vocab_size: int,
        needs_gradient: bool,  # noqa: FBT001  the same
    ) -> tuple[Tensor, Tensor]:
        # The products include the padding, which is then masked in the logits: with 30,522 columns,
        # rows of bf16 would not start at multiples of 16 bytes, and cuBLAS would choose slow
        # kernels. (From reading the code; not measured.)
        weight = weight_VD.to(x_MD.dtype)
        inputs = [tensor for tensor in (x_MD, weight_VD, bias_V) if tensor is not None]
        gradients = [torch.zeros_like(tensor) for tensor in inputs if needs_gradient]
        loss, num_correct = weight_VD.new_zeros(()), labels_M.new_zeros(())
        for rows in _chunk_rows(len(x_MD), max(1, CHUNK_LOGITS // len(weight_VD))):
            x, labels = x_MD[rows], labels_M[rows]
            is_labelled = labels != NO_LABEL
            targets = labels.clamp(min=0)[:, None]
            with torch.autocast(x.device.type, enabled=False):
                logits = (x @ weight.T).to(weight_VD.dtype)
                if bias_V is not None:
                    logits += bias_V
                logits[:, vocab_size:] = -torch.inf
                sums = logits.logsumexp(1)
                token_loss = sums - logits.gather(1, targets).squeeze(1)
                loss = loss + (token_loss * is_labelled).sum()
                num_correct = num_correct + (logits.argmax(1) == labels).sum()
                if needs_gradient:
                    gradient = _logit_gradient(
                        logits, sums.masked_fill(~is_labelled, torch.inf), labels
                    )
                    gradient = gradient.to(x.dtype)
                    if bias_V is not None:
                        gradients[2] += gradient.sum(0, dtype=bias_V.dtype)
                    gradients[0][rows] = gradient @ weight
                    gradients[1] += gradient.T @ x
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(num_correct)
        return loss, num_correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, *others = ctx.saved_tensors
        scaled = [x_MD * grad_loss.to(x_MD.dtype), *(other * grad_loss for other in others)]
        return (*scaled, *[None] * (6 - len(scaled)))


def _logit_gradient(logits: Tensor, sums: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the loss with respect to the logits, which it overwrites.

    It is 0 in rows whose sum is infinite.
    """
    gradient = logits.sub_(sums[:, None]).exp_()
    if torch.compiler.is_compiling():
        # The compiler fuses this with the line above into one pass from bf16 logits to bf16
        # gradients; a scatter would write fp32 gradients in between, and read them again.
        token_ids = torch.arange(logits.shape[1], device=logits.device)
        return gradient - (token_ids == labels[:, None]).to(gradient.dtype)
    is_labelled = (labels != NO_LABEL).to(gradient.dtype)
    return gradient.scatter_add_(1, labels.clamp(min=0)[:, None], -is_labelled[:, None])


def _chunk_rows(length: int, longest: int) -> list[slice]:
    """Return chunks of rows, as few and as equal as possible: a short rest is slow on matrix units."""
    number = -(-length // longest)
    bounds = [length * part // number for part in range(number + 1)] if number else []
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
