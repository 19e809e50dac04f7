"""The options of masking, which ``build`` has for static masks and the loader for dynamic ones."""

import math
from dataclasses import dataclass, fields
from typing import Any

from tokkit.errors import require

MASK_UNITS = ("token", "word", "span", "ngram")
MASK_DRAWS = ("token", "word")
RANDOM_TOKENS = ("vocabulary", "all")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How instances are masked; base of the configs that say so.

    Attributes:
        mask_unit: what is masked together: a ``token``, a whole ``word``, SpanBERT's ``span`` of
            words, or ALBERT's ``ngram`` of words.
        mask_draw: what becomes of masked tokens is drawn for each ``token``, or for all tokens of a
            ``word`` (of a span, of an n-gram) at once.
        masked_lm_prob: share of an instance's tokens that are predicted.
        max_predictions_per_seq: most predictions in one instance; None is
            ``ceil(max_seq_length * masked_lm_prob)``.
        mask_ratios: shares of the masked tokens that become ``[MASK]``, become a random token, and
            stay what they are.
        random_tokens: random replacements come from the ``vocabulary`` less its control and
            unused entries, or from ``all`` of it, as google-research/bert does.
    """

    mask_unit: str = "token"
    mask_draw: str = "token"
    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int | None = None
    mask_ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    random_tokens: str = "vocabulary"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require(self.mask_unit in MASK_UNITS, f"--mask-unit must be one of {', '.join(MASK_UNITS)}")
        require(self.mask_draw in MASK_DRAWS, f"--mask-draw must be one of {', '.join(MASK_DRAWS)}")
        require(
            self.mask_draw == "token" or self.mask_unit != "token",
            f"--mask-draw {self.mask_draw} goes with --mask-unit word, span or ngram",
        )
        require(0.0 < self.masked_lm_prob <= 1.0, "--masked-lm-prob must be above 0, at most 1")
        require(
            self.max_predictions_per_seq is None or self.max_predictions_per_seq >= 1,
            "--max-predictions-per-seq must be at least 1",
        )
        require(
            len(self.mask_ratios) == 3
            and min(self.mask_ratios) >= 0
            and math.isclose(sum(self.mask_ratios), 1, abs_tol=1e-9),
            "--mask-ratios must be three shares that add up to 1, such as 0.8,0.1,0.1",
        )
        require(
            self.random_tokens in RANDOM_TOKENS,
            f"--random-tokens must be one of {', '.join(RANDOM_TOKENS)}",
        )

    def mask_options(self, max_seq_length: int) -> dict[str, Any]:
        """The options in force, as JSON.

        Args:
            max_seq_length: the longest instance, for the cap where none is given.
        """
        options = {name: getattr(self, name) for name in MASK_DEFAULTS}
        cap = self.max_predictions_per_seq or math.ceil(max_seq_length * self.masked_lm_prob)
        return {**options, "max_predictions_per_seq": cap, "mask_ratios": [*self.mask_ratios]}

    @property
    def changed_mask_option(self) -> str | None:
        """The flag of an option of masking that is not the default, if there is one."""
        for name, default in MASK_DEFAULTS.items():
            if getattr(self, name) != default:
                return f"--{name.replace('_', '-')}"
        return None


MASK_DEFAULTS: dict[str, Any] = {entry.name: entry.default for entry in fields(MaskConfig)}
