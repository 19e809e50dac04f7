"""The options of masking, which ``build`` has for static masks and the loader for dynamic ones."""

import math
from typing import Any, ClassVar

from tokkit.errors import require
from tokkit.options import Config, option, parse_numbers

MASK_UNITS = ("token", "word", "span", "ngram")
MASK_DRAWS = ("token", "word")
RANDOM_TOKENS = ("vocabulary", "all")
# Figures of what replaced masked tokens, in the order of the shares in ``--mask-ratios``.
REPLACED = ("masked_by_mask", "masked_by_random_tokens", "masked_by_themselves")


class MaskConfig(Config):
    """How instances are masked.

    Spans are those of SpanBERT, n-grams those of ALBERT, both of whole words. Without
    ``max_predictions_per_seq`` there are at most ``ceil(max_seq_length * masked_lm_prob)``.
    """

    heading: ClassVar[str] = "Masking"

    mask_unit: str = option(
        "Unit of masking: a token, a whole word, a span of words, or an n-gram of words.",
        default="token",
        choices=MASK_UNITS,
    )
    mask_draw: str = option(
        "Draw a replacement per token, or once per word, span or n-gram.",
        default="token",
        choices=MASK_DRAWS,
        only_with={"mask_unit": ("word", "span", "ngram")},
    )
    masked_lm_prob: float = option(
        "Share of the tokens of an instance that are predicted.", default=0.15, above=0, maximum=1
    )
    max_predictions_per_seq: int | None = option(
        "Maximum number of predictions in one instance.",
        default=None,
        minimum=1,
        shown_default="max-seq-length x masked-lm-prob, rounded up",
    )
    mask_ratios: tuple[float, ...] = option(
        "Shares of the masked tokens that become [MASK], become a random token, or stay.",
        default=(0.8, 0.1, 0.1),
        minimum=0,
        parse=parse_numbers,
        shown_default="0.8,0.1,0.1",
    )
    random_tokens: str = option(
        "Where random tokens come from: the vocabulary without special and unused tokens, or all of "
        "it, as in google-research/bert.",
        default="vocabulary",
        choices=RANDOM_TOKENS,
    )

    def __post_init__(self) -> None:
        """Refuse shares that do not add up, and what every config refuses."""
        super().__post_init__()
        require(
            len(self.mask_ratios) == 3 and math.isclose(sum(self.mask_ratios), 1, abs_tol=1e-9),
            "--mask-ratios must be three shares that add up to 1, such as 0.8,0.1,0.1",
        )

    def mask_options(self, max_seq_length: int) -> dict[str, Any]:
        """Return the options of masking as JSON values.

        Args:
            max_seq_length: maximum length of an instance, on which the default of
                ``max_predictions_per_seq`` depends.
        """
        options = {name: getattr(self, name) for name in MaskConfig.options}
        cap = self.max_predictions_per_seq or math.ceil(max_seq_length * self.masked_lm_prob)
        return {**options, "max_predictions_per_seq": cap, "mask_ratios": [*self.mask_ratios]}

    @property
    def changed_mask_option(self) -> str | None:
        """The flag of a masking option that is not at its default; None if all are."""
        changed = (o.flag for name, o in MaskConfig.options.items() if self.is_given(name))
        return next(changed, None)


def find_deviation(share: float, expected: float, total: int) -> float | None:
    """Return how far a share of independent draws is from the expected one, in standard errors.

    None if all draws are expected to be the same.
    """
    error = math.sqrt(expected * (1 - expected) / max(total, 1))
    return (share - expected) / error if error > 0 else None
