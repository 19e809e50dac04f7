"""The training objectives, and what the instances of each have.

    objective          pairs    masks    causal    targets
    nsp                yes      yes                            BERT's pairs of segments
    sop                yes      yes                            ALBERT's
    mlm                         yes                            RoBERTa's sequences
    clm                                  yes                   GPT's blocks
    span-corruption                                ids         T5's inputs and targets
    plm                                            positions   XLNet's permutations
    translation                                    ids         a text and its translation

It imports nothing heavy, so that the options of a command are checked without loading a stage.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """What instances of one objective have.

    Attributes:
        has_pairs: two segments and a label that says how they belong together.
        has_masks: tokens that are masked and predicted, when built or when loaded.
        is_causal: each token is predicted from those before it.
        targets: the column of what is predicted where that is neither; else None.
    """

    has_pairs: bool = False
    has_masks: bool = False
    is_causal: bool = False
    targets: str | None = None


OBJECTIVES = {
    "nsp": Objective(has_pairs=True, has_masks=True),
    "sop": Objective(has_pairs=True, has_masks=True),
    "mlm": Objective(has_masks=True),
    "clm": Objective(is_causal=True),
    "span-corruption": Objective(targets="target_ids"),
    "plm": Objective(targets="target_positions"),
    "translation": Objective(targets="target_ids"),
}
PAIRED = tuple(name for name, has in OBJECTIVES.items() if has.has_pairs)
MASKED = tuple(name for name, has in OBJECTIVES.items() if has.has_masks)
TARGET_COLUMNS = tuple(has.targets for has in OBJECTIVES.values() if has.targets is not None)
