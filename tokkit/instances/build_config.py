"""The options of ``tokkit build``."""

from dataclasses import dataclass, fields
from pathlib import Path

from tokkit.errors import require
from tokkit.masking.mask_config import MaskConfig
from tokkit.shards import COMPRESSIONS
from tokkit.shards.objectives import MASKED, OBJECTIVES, PAIRED

PACKINGS = ("full-sentences", "doc-sentences")
MASKINGS = ("static", "dynamic")
SINGLE_SENTENCE = ("random", "drop")

# Options that some objectives alone heed; the others refuse them.
HEEDED_BY = {
    "short_seq_prob": PAIRED,
    "single_sentence": ("nsp",),
    "packing": ("mlm",),
    "noise_density": ("span-corruption",),
    "mean_noise_span_length": ("span-corruption",),
    "predict_one_in": ("plm",),
    "masking": MASKED,
}


@dataclass(frozen=True, kw_only=True)
class BuildConfig(MaskConfig):
    """What ``build`` needs to know; ``MaskConfig`` says how static masks are drawn.

    Attributes:
        tokens: the token folder that ``encode`` wrote.
        output: the instance folder to write.
        objective: ``nsp``, BERT's pairs of segments; ``sop``, ALBERT's; ``mlm``, RoBERTa's
            sequences without pairs; ``clm``, GPT's blocks; ``span-corruption``, T5's inputs and
            targets; ``plm``, XLNet's permutations.
        max_seq_length: longest instance in tokens, control tokens among them.
        short_seq_prob: how often a document is cut into shorter instances than the longest.
        single_sentence: documents of one sentence give a ``random`` pair, or are ``drop``ped.
        packing: of mlm: ``full-sentences`` go on with the next document, ``doc-sentences`` do not.
            (RoBERTa's was the former, for batches of one size, though the latter did slightly
            better.)
        noise_density: share of a block that span-corruption makes targets of.
        mean_noise_span_length: how long its spans are on average.
        predict_one_in: plm predicts about one token in so many.
        dupe_factor: how many times the corpus is passed over, with other draws each time.
        masking: ``dynamic`` leaves masking to the loader, ``static`` masks here.
        eval_fraction: share of the documents that is held out for evaluation.
        seed: of every draw.
        compression: of the shards' buffers; ``none`` lets them be memory-mapped without a copy.
        unit_tokens: about how many tokens of the token folder make one work unit.
        workers: processes; 0 works in this one.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    tokens: Path
    output: Path
    objective: str = "nsp"
    max_seq_length: int = 128
    short_seq_prob: float = 0.1
    single_sentence: str = "random"
    packing: str = "full-sentences"
    noise_density: float = 0.15
    mean_noise_span_length: float = 3.0
    predict_one_in: int = 6
    dupe_factor: int = 1
    masking: str = "dynamic"
    eval_fraction: float = 0.01
    seed: int = 0
    compression: str = "none"
    unit_tokens: int = 16 << 20
    workers: int = 1
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(self.objective in OBJECTIVES, f"--objective must be one of {', '.join(OBJECTIVES)}")
        require(8 <= self.max_seq_length <= 65_535, "--max-seq-length must be from 8 to 65535")
        require(0.0 <= self.short_seq_prob <= 1.0, "--short-seq-prob must be from 0 to 1")
        require(
            self.single_sentence in SINGLE_SENTENCE,
            f"--single-sentence must be one of {', '.join(SINGLE_SENTENCE)}",
        )
        require(self.packing in PACKINGS, f"--packing must be one of {', '.join(PACKINGS)}")
        require(0.0 < self.noise_density <= 0.5, "--noise-density must be above 0, at most 0.5")
        require(self.mean_noise_span_length >= 1.0, "--mean-noise-span-length must be at least 1")
        require(1 <= self.predict_one_in <= 1000, "--predict-one-in must be from 1 to 1000")
        for option, objectives in HEEDED_BY.items():
            require(
                self.objective in objectives or getattr(self, option) == _DEFAULTS[option],
                f"--{option.replace('_', '-')} goes with --objective {' or '.join(objectives)}",
            )
        require(
            self.dupe_factor == 1
            or self.objective not in ("mlm", "clm")
            or self.masking == "static",
            f"--dupe-factor without --masking static gives the same {self.objective} instances "
            f"again and again; pass over them in pretraining",
        )
        require(1 <= self.dupe_factor < 1 << 24, "--dupe-factor must be at least 1")
        require(self.masking in MASKINGS, f"--masking must be one of {', '.join(MASKINGS)}")
        require(0.0 <= self.eval_fraction < 1.0, "--eval-fraction must be at least 0, below 1")
        require(0 <= self.seed < 1 << 64, "--seed must be from 0 to 2^64 - 1")
        require(
            self.compression in COMPRESSIONS,
            f"--compression must be one of {', '.join(COMPRESSIONS)}",
        )
        require(self.unit_tokens >= 1, "--unit-tokens must be at least 1")
        require(self.workers >= 0, "--workers must be 0 or more")
        require(
            self.masking == "static" or self.changed_mask_option is None,
            f"{self.changed_mask_option} goes with --masking static; "
            f"where masking is dynamic, pretrain takes it",
        )


_DEFAULTS = {entry.name: entry.default for entry in fields(BuildConfig)}
