"""How the instances that a rank has of a step fall into micro-batches, and to what sizes.

A micro-batch has room for so many instances of the greatest length. A step's instances are cut into
as few nearly equal runs as have room: 10 instances with room for 4 make runs of 3, 3 and 4. So how
many there are depends on the options alone, and ranks that wait for each other agree on it.

A compiled model is compiled anew for each shape that it meets, so its sizes are rounded up: tokens
to 32nds of the room for them, predictions to 16ths of the most there can be. Measured on pairs of
segments from English books, for --max-seq-length and --micro-batch-tokens:

                      shapes met    of them nine tenths meet    tokens wasted    if all were padded
    128    16,384         5                    4                     1.7%               8.3%
           65,536         4                    2                     1.6%               8.3%
    512    16,384        16                    6                     1.9%              19.9%
           65,536         7                    3                     1.8%              19.9%

With 64ths 0.9% are wasted, and there are up to twice as many shapes; with 16ths 2 to 4% and, where
there were 16, 11.
"""

from dataclasses import dataclass
from typing import Self

from tokkit.pretraining.batch import EXACT, Rounding, round_up
from tokkit.pretraining.loader import Loader

PARTS = 32  # of the room for tokens: to multiples of one their number is rounded up
PREDICTION_PARTS = 16
TOKEN_FLOOR = 64  # what tokens are rounded up to at least


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a number of instances.

    Attributes:
        bounds: where each begins among the instances, and their number.
        rounding: of the sizes of each.
        room: tokens, sequences and predictions of all, at most, and how many batches there are.
    """

    bounds: tuple[int, ...]
    rounding: Rounding
    room: tuple[int, int, int, int]

    @classmethod
    def plan(cls, loader: Loader, num_rows: int, micro_batch_tokens: int, *, static: bool) -> Self:
        """Cut instances into micro-batches.

        Args:
            loader: for the longest of its instances, and the most predictions in one.
            num_rows: instances.
            micro_batch_tokens: most tokens in a micro-batch of more than one instance.
            static: for a compiled model: sizes are rounded.
        """
        longest = loader.max_seq_length
        number = -(-num_rows // most_rows(loader, micro_batch_tokens))
        bounds = tuple(num_rows * part // number for part in range(number + 1))
        largest = -(-num_rows // number)
        tokens, predictions = largest * longest, largest * loader.max_predictions
        if not static:
            room = (number * tokens, number * largest, number * predictions, number)
            return cls(bounds, EXACT, room)
        unit = max(TOKEN_FLOOR, tokens // PARTS)
        rounding = Rounding(
            tokens=unit,
            sequences=largest + -(-unit // longest),
            predictions=max(1, predictions // PREDICTION_PARTS),
            max_seqlen=longest,
        )
        room = (
            number * round_up(tokens, rounding.tokens),
            number * rounding.sequences,
            number * round_up(predictions, rounding.predictions),
            number,
        )
        return cls(bounds, rounding, room)


def most_rows(loader: Loader, micro_batch_tokens: int) -> int:
    """How many instances a micro-batch has room for."""
    return max(1, micro_batch_tokens // loader.max_seq_length)
