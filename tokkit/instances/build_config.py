"""The options of ``tokkit build``."""

from collections.abc import Iterable
from pathlib import Path

from tokkit.engine.stage_config import StageConfig
from tokkit.errors import require
from tokkit.masking.mask_config import MaskConfig
from tokkit.options import LARGEST_SEED, option
from tokkit.shards import COMPRESSIONS
from tokkit.shards.objectives import MASKED, OBJECTIVES, PAIRED

PACKINGS = ("full-sentences", "doc-sentences")
MASKINGS = ("static", "dynamic")
SINGLE_SENTENCE = ("random", "drop")


class BuildConfig(MaskConfig, StageConfig):
    """The options of ``build``: what instances are made of, and how static masks are drawn.

    With ``packing="full-sentences"`` an instance of ``mlm`` goes on with the next document. That
    was RoBERTa's choice, for batches of one size, though ``doc-sentences`` did slightly better.
    """

    tokens: Path = option("Token folder that encode wrote.", argument="TOKENS")
    output: Path = option("Instance folder to write.", flags=("-o", "--output"))
    objective: str = option(
        "Training objective: pairs of segments of BERT (nsp) or ALBERT (sop), RoBERTa's sequences "
        "(mlm), GPT's blocks (clm), T5's spans (span-corruption), XLNet's permutations (plm) or texts "
        "and their translations (translation).",
        default="nsp",
        choices=tuple(OBJECTIVES),
    )
    targets: Path | None = option(
        "Token folder of the translations: its documents are those of TOKENS, in the same order.",
        default=None,
        only_with={"objective": ("translation",)},
    )
    max_seq_length: int = option(
        "Maximum length of an instance in tokens, special tokens included.",
        default=128,
        minimum=8,
        maximum=65_535,
    )
    short_seq_prob: float = option(
        "Probability that a document is cut into shorter instances.",
        default=0.1,
        minimum=0,
        maximum=1,
        only_with={"objective": PAIRED},
    )
    single_sentence: str = option(
        "Documents of a single sentence: pair them with a random segment, or drop them.",
        default="random",
        choices=SINGLE_SENTENCE,
        only_with={"objective": ("nsp",)},
    )
    packing: str = option(
        "Whether an instance may continue into the next document (full-sentences) or not (doc-sentences).",
        default="full-sentences",
        choices=PACKINGS,
        only_with={"objective": ("mlm",)},
    )
    noise_density: float = option(
        "Share of the tokens that become targets.",
        default=0.15,
        above=0,
        maximum=0.5,
        only_with={"objective": ("span-corruption",)},
    )
    mean_noise_span_length: float = option(
        "Average number of tokens in a span.",
        default=3.0,
        minimum=1,
        only_with={"objective": ("span-corruption",)},
    )
    predict_one_in: int = option(
        "Predict about one token in this many.",
        default=6,
        minimum=1,
        maximum=1000,
        only_with={"objective": ("plm",)},
    )
    dupe_factor: int = option(
        "Number of passes over the corpus, each with different random draws.",
        default=1,
        minimum=1,
        maximum=(1 << 24) - 1,
    )
    masking: str = option(
        "Mask once, now (static), or when instances are loaded, differently in each epoch (dynamic).",
        default="dynamic",
        choices=MASKINGS,
        only_with={"objective": MASKED},
    )
    eval_fraction: float = option(
        "Share of the documents that is held out for evaluation.", default=0.01, minimum=0, below=1
    )
    seed: int = option("Random seed.", default=0, minimum=0, maximum=LARGEST_SEED)
    compression: str = option("Compression of the shards.", default="none", choices=COMPRESSIONS)
    unit_tokens: int = option(
        "Approximate number of tokens that make one shard.", default=16 << 20, minimum=1
    )

    def __post_init__(self) -> None:
        """Refuse passes that would repeat instances, and what every config refuses."""
        super().__post_init__()
        require(
            self.dupe_factor == 1
            or self.objective not in ("mlm", "clm", "translation")
            or self.masking == "static",
            f"--dupe-factor without --masking static gives the same {self.objective} instances "
            f"again and again; train for more epochs instead",
        )
        require(
            self.targets is not None or self.objective != "translation",
            "--objective translation requires --targets, the token folder of the translations",
        )

    def require_effect(self, names: Iterable[str]) -> None:
        """Refuse also options of masking where nothing is masked here."""
        names = [*names]
        super().require_effect(names)
        for name in (name for name in MaskConfig.options if name in names):
            flag = self.options[name].flag
            require(
                self.objective in MASKED,
                f"{flag} has no effect with --objective {self.objective}; leave it out",
            )
            require(
                self.masking == "static",
                f"{flag} requires --masking static; if masking is dynamic, pass it to pretrain",
            )
