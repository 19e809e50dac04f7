"""The two losses of BERT's pretraining, and the sums from which every figure is made.

What is minimized is the mean cross-entropy over the batch's masked tokens plus the mean over its
labelled pairs. Logs and evaluations keep sums and counts, and divide at the end, so that figures
over several batches weigh each token alike.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tokkit.pretraining.batch import Batch
from tokkit.pretraining.data import NO_LABEL
from tokkit.pretraining.model import Bert


@dataclass(frozen=True)
class Losses:
    """What one batch gave, on its device; sums over masked tokens and over labelled pairs."""

    mlm_sum: Tensor
    mlm_correct: Tensor
    nsp_sum: Tensor
    nsp_correct: Tensor
    num_masked: int
    num_pairs: int

    @property
    def total(self) -> Tensor:
        """What is minimized. Instances without a label have no part in the second term."""
        return self.mlm_sum / max(1, self.num_masked) + self.nsp_sum / max(1, self.num_pairs)


def compute_losses(model: Bert, batch: Batch) -> Losses:
    """Run the model on a batch and compare its logits with the labels, in fp32."""
    logits_MV, logits_BC = model(
        batch.input_ids_BT,
        batch.token_type_ids_BT,
        batch.attention_mask_BT,
        batch.masked_positions_M,
    )
    return Losses(
        mlm_sum=F.cross_entropy(logits_MV.float(), batch.masked_labels_M, reduction="sum"),
        mlm_correct=(logits_MV.argmax(dim=1) == batch.masked_labels_M).sum(),
        nsp_sum=F.cross_entropy(
            logits_BC.float(),
            batch.next_sentence_labels_B,
            ignore_index=NO_LABEL,
            reduction="sum",
        ),
        nsp_correct=(logits_BC.argmax(dim=1) == batch.next_sentence_labels_B).sum(),
        num_masked=batch.num_masked,
        num_pairs=batch.num_pairs,
    )


@dataclass
class Tally:
    """Sums over batches: of the steps since the last log line, or of an evaluation.

    They are floats and integers of Python, so they pass through a checkpoint's JSON unchanged.
    """

    tokens: int = 0
    seconds: float = 0.0
    num_masked: int = 0
    num_pairs: int = 0
    mlm_sum: float = 0.0
    mlm_correct: int = 0
    nsp_sum: float = 0.0
    nsp_correct: int = 0

    def add(self, losses: Losses, num_tokens: int) -> None:
        """Add one batch; its figures come from the device in one transfer."""
        figures = (losses.mlm_sum, losses.mlm_correct, losses.nsp_sum, losses.nsp_correct)
        mlm_sum, mlm_correct, nsp_sum, nsp_correct = torch.stack(
            [figure.detach().float() for figure in figures]
        ).tolist()
        self.tokens += num_tokens
        self.num_masked += losses.num_masked
        self.num_pairs += losses.num_pairs
        self.mlm_sum += mlm_sum
        self.mlm_correct += int(mlm_correct)
        self.nsp_sum += nsp_sum
        self.nsp_correct += int(nsp_correct)

    @property
    def is_finite(self) -> bool:
        """Whether every loss so far was a number."""
        return math.isfinite(self.mlm_sum) and math.isfinite(self.nsp_sum)

    def figures(self) -> dict[str, float]:
        """Means over masked tokens and over labelled pairs; of the latter where there are any."""
        mlm_loss = self.mlm_sum / max(1, self.num_masked)
        figures = {
            "loss": mlm_loss,
            "mlm_loss": mlm_loss,
            "mlm_accuracy": self.mlm_correct / max(1, self.num_masked),
        }
        if self.num_pairs:
            figures["nsp_loss"] = self.nsp_sum / self.num_pairs
            figures["nsp_accuracy"] = self.nsp_correct / self.num_pairs
            figures["loss"] += figures["nsp_loss"]
        return figures
