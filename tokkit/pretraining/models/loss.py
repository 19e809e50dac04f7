"""Cross-entropy of a linear layer, without having all logits in memory at once.

The logits of 2,458 predictions over a vocabulary of 30,522 are 300 MB in fp32, and so is their
gradient. Here both are computed for a chunk of rows at a time:

    for rows r:   logits = x[r] @ weight.T + bias
                  loss  += sum(logsumexp(logits) - logits[label])
                  dx[r]  = (softmax(logits) - onehot(label)) @ weight,   and so on for weight and bias

The backward pass only scales these gradients, so there are three matrix products, as for any
cross-entropy. The idea is from Liger Kernel (arXiv:2410.10989). From torch 2.13 on,
``torch.nn.functional.linear_cross_entropy`` does the same, but does not count correct predictions.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tokkit.kernels.instances.flatten import NO_LABEL

CHUNK_LOGITS = 1 << 26  # 256 MB in fp32

Chunk = Callable[..., tuple[Tensor, Tensor, Tensor | None, Tensor | None]]


class TokenLoss(nn.Module):
    """The cross-entropy of a linear layer, as a module without weights whose chunks can be compiled.

    Compiling the whole module would unroll its loop: 57 seconds and 6 GB for 65,536 tokens of a GPT-2.

    Args:
        vocab_size: size of the vocabulary; further rows of the layer's weight are padding, with a
            probability of 0.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.chunk: Chunk = differentiate_chunk

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the computation of a chunk; see ``torch.compile``."""
        self.chunk = torch.compile(differentiate_chunk, *arguments, **options)

    def forward(
        self, x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of predictions, and the number of correct ones.

        Args:
            x_MD: input of the layer; products are computed in its precision, sums in fp32.
            weight_VD: fp32 weight of the layer. V should be a multiple of 8, so that rows of halves
                start at multiples of 16 bytes, as matrix units want.
            bias_V: fp32 bias; None for a layer without one.
            labels_M: int64, ``NO_LABEL`` where nothing is predicted.

        Returns:
            The sum of the cross-entropy over labels, differentiable, and the number of correct
            predictions, int64.
        """
        layer, needs_gradient = (x_MD, weight_VD, bias_V), torch.is_grad_enabled()
        loss, num_correct = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            *layer, labels_M, self.vocab_size, needs_gradient, self.chunk
        )
        return loss, num_correct


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
        chunk: Chunk,
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
            with torch.autocast(x.device.type, enabled=False):
                own_loss, own_correct, gradient, of_bias = chunk(
                    x, weight, bias_V, labels, vocab_size, needs_gradient=needs_gradient
                )
                loss, num_correct = loss + own_loss, num_correct + own_correct
                if gradient is not None:
                    if of_bias is not None:
                        gradients[2] += of_bias
                    gradients[0][rows] = gradient @ weight
                    gradients[1] += gradient.T @ x
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(num_correct)
        return loss, num_correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, *others = ctx.saved_tensors
        scaled = [x_MD * grad_loss.to(x_MD.dtype), *(other * grad_loss for other in others)]
        return (*scaled, *[None] * (7 - len(scaled)))


def differentiate_chunk(
    x: Tensor,
    weight: Tensor,
    bias_V: Tensor | None,
    labels: Tensor,
    vocab_size: int,
    *,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return loss and correct predictions of a chunk, and the gradients of its logits and the bias.

    Args:
        x: input of the chunk.
        weight: weight of the layer in the precision of ``x``; sums are fp32.
        bias_V: bias of the layer.
        labels: labels of the chunk.
        vocab_size: see ``TokenLoss``.
        needs_gradient: whether to compute gradients; else they are None.
    """
    is_labelled = labels != NO_LABEL
    targets = labels.clamp(min=0)[:, None]
    logits = (x @ weight.T).to(torch.promote_types(x.dtype, torch.float32))
    if bias_V is not None:
        logits += bias_V
    logits[:, vocab_size:] = -torch.inf
    sums = logits.logsumexp(1)
    token_loss = sums - logits.gather(1, targets).squeeze(1)
    loss, num_correct = (token_loss * is_labelled).sum(), (logits.argmax(1) == labels).sum()
    if not needs_gradient:
        return loss, num_correct, None, None
    gradient = _logit_gradient(logits, sums.masked_fill(~is_labelled, torch.inf), labels).to(
        x.dtype
    )
    of_bias = None if bias_V is None else gradient.sum(0, dtype=bias_V.dtype)
    return loss, num_correct, gradient, of_bias


def _logit_gradient(logits: Tensor, sums: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the loss with respect to the logits, which it overwrites.

    It is 0 in rows whose sum is infinite.
    """
    gradient = logits.sub_(sums[:, None]).exp_()
    if torch.compiler.is_compiling():
        # The compiler fuses this with the line above into one pass from bf16 logits to bf16
        # gradients; for a scatter it would write fp32 gradients and read them again.
        token_ids = torch.arange(logits.shape[1], device=logits.device)
        return gradient - (token_ids == labels[:, None]).to(gradient.dtype)
    is_labelled = (labels != NO_LABEL).to(gradient.dtype)
    return gradient.scatter_add_(1, labels.clamp(min=0)[:, None], -is_labelled[:, None])


def _chunk_rows(length: int, longest: int) -> list[slice]:
    """Return as few and as equal chunks of rows as possible, as short ones are slow on matrix units."""
    number = -(-length // longest)
    bounds = [length * part // number for part in range(number + 1)] if number else []
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
