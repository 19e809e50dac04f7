"""How the instances that a rank has of a step fall into micro-batches, and to what sizes.

A micro-batch has room for so many instances of the greatest length. A step's instances are cut into
as few equal runs as have room: of 10 instances with room for 4 there are 3 runs, of 3, 3 and 4. So
how many there are depends on the options alone, and ranks that wait for each other agree on it.

A compiled model is compiled anew for each shape that it meets, so its sizes are rounded up.
"""

from dataclasses import dataclass

from tokkit.pretraining.batch import EXACT, Rounding

PARTS = 32  # of the room for tokens that their number is rounded up to
PREDICTION_PARTS = 16
TOKEN_FLOOR = 64  # what tokens are rounded up to at least


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a step.

    Attributes:
        bounds: rows where each begins, and the number of rows.
        rounding: of the sizes of each.
    """

    bounds: tuple[int, ...]
    rounding: Rounding


def plan_micro_batches(
    num_rows: int,
    *,
    max_seq_length: int,
    max_predictions: int,
    micro_batch_tokens: int,
    static: bool,
) -> MicroBatches:
    """Cut a number of instances into micro-batches.

    Args:
        num_rows: instances.
        max_seq_length: of the longest.
        max_predictions: most predictions in one instance.
        micro_batch_tokens: most tokens in a micro-batch of more than one instance.
        static: for a compiled model: sizes are rounded.
    """
    number = -(-num_rows // room_of(max_seq_length, micro_batch_tokens))
    bounds = tuple(num_rows * part // number for part in range(number + 1))
    if not static:
        return MicroBatches(bounds, EXACT)
    most_rows = -(-num_rows // number)
    tokens = max(TOKEN_FLOOR, most_rows * max_seq_length // PARTS)
    return MicroBatches(
        bounds,
        Rounding(
            tokens=tokens,
            sequences=most_rows + -(-tokens // max_seq_length),
            predictions=max(1, most_rows * max_predictions // PREDICTION_PARTS),
            max_seqlen=max_seq_length,
        ),
    )


def room_of(max_seq_length: int, micro_batch_tokens: int) -> int:
    """How many instances a micro-batch has room for."""
    return max(1, micro_batch_tokens // max_seq_length)
