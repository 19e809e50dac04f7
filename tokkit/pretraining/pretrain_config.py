"""The options of ``tokkit pretrain``."""

import math
from pathlib import Path

from tokkit.engine.stage_config import OutputConfig
from tokkit.errors import require
from tokkit.options import option, parse_batch_size, parse_duration, parse_numbers
from tokkit.pretraining.data.loader_config import DEFAULT_BATCH_SIZE, PhasesConfig
from tokkit.pretraining.families import DEFAULT_FAMILIES, FAMILIES

# The keys of ``optimizers.BUILDERS``, repeated because this module must not import torch.
OPTIMIZERS = ("adamw", "lamb", "stable-adamw", "muon")
SCHEDULES = ("linear", "cosine", "wsd")
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
EXTENSIONS = ("repeat", "interpolate")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE = ("auto", "on", "off")
KERNELS = ("plain", "triton")


# Pairs of options that exclude each other, and why, with places for both.
EXCLUSIVE = {
    ("preset", "init_from"): "{} has no effect with {}, whose model has its own size",
    ("architecture", "init_from"): "{} has no effect with {}, whose model has its own",
    ("share_layers", "init_from"): "{} has no effect with {}, whose layers differ",
    ("max_steps", "max_time"): "{} and {} both say when the run ends",
    ("warmup_steps", "warmup_tokens"): "{} and {} both say how long the warm-up is",
    ("continue_from", "decay_from"): "{} and {} both say where the run begins",
    ("warmup_tokens", "max_time"): "{} counts steps, and {} seconds",
    ("decay_steps", "max_time"): "{} counts steps, and {} seconds",
    ("continue_from", "max_time"): "{} counts steps, and {} seconds",
    ("decay_from", "max_time"): "{} counts steps, and {} seconds",
}
# Options that have an effect only together with another one.
DEPENDENT = {"extend_positions": "init_from", "model_license": "push_to_hub"}

DEFAULT_MAX_STEPS = 100_000
DEFAULT_EVAL_EVERY = 1000


class PretrainConfig(PhasesConfig, OutputConfig):
    """The options of ``pretrain``: the model, its schedule and optimizer, and where it runs.

    Presets are the sizes of google-research/bert, and of Ettin for a ModernBERT. ``phases`` use the
    instance folders one after the other. With ``max_time`` the schedule follows the clock. This run
    takes over model and optimizer state of the run that ``continue_from`` or ``decay_from`` names, and
    its schedule begins there.
    """

    output: Path = option("Run folder to write.", flags=("-o", "--output"))
    architecture: str | None = option(
        "Architecture of the model; roberta is for instances of mlm, modernbert for mlm and clm.",
        default=None,
        choices=tuple(FAMILIES),
        shown_default="bert, gpt2 for clm, t5 for span-corruption, xlnet for plm, marian for translation",
    )
    preset: str | None = option(
        "Size of the model: tiny to large; for modernbert 17m to 68m, base and large; for t5 t5-small to "
        "t5-large; for marian tiny, base and big.",
        default=None,
        choices=tuple(
            dict.fromkeys(name for family in FAMILIES.values() for name in family.presets)
        ),
        shown_default="base, or t5-base",
    )
    init_from: Path | None = option(
        "Hugging Face folder of the model to start from, or its name on the Hugging Face Hub; its size "
        "replaces --preset.",
        default=None,
    )
    extend_positions: str | None = option(
        "Give the model of --init-from as many positions as the instances need: repeat those that it "
        "has, or interpolate between them (rotary positions: a larger base).",
        default=None,
        choices=EXTENSIONS,
        shown_default="refuse longer instances",
    )
    continue_from: Path | None = option(
        "Run folder, or one of its checkpoints, to continue from, with its optimizer state; --max-steps "
        "includes the steps already done.",
        default=None,
    )
    decay_from: Path | None = option(
        "Run folder, or one of its checkpoints, to finish, in --decay-steps steps over which the learning "
        "rate falls from its current value to 0. Of a run, the newest checkpoint without decay.",
        default=None,
    )
    share_layers: bool = option("Give all layers the same weights, as ALBERT does.", default=False)
    batch_size: int | tuple[tuple[int, float], ...] = option(
        "Number of instances per step, over all processes; or several with their shares of the "
        "steps, such as 128:0.1,512.",
        default=DEFAULT_BATCH_SIZE,
        parse=parse_batch_size,
    )
    max_steps: int | None = option(
        "Number of optimizer steps; raise it to extend a finished run.",
        default=None,
        minimum=1,
        shown_default=f"{DEFAULT_MAX_STEPS:,}",
    )
    max_time: float | None = option(
        "Time after which the run ends, such as 24h, in place of --max-steps.",
        default=None,
        above=0,
        parse=parse_duration,
    )
    optimizer: str = option(
        "Optimizer; lamb suits batches of thousands; muon updates the weight matrices of the layers, and "
        "AdamW all else.",
        default="adamw",
        choices=OPTIMIZERS,
    )
    learning_rate: float = option("Learning rate after warm-up.", default=1e-4, above=0)
    schedule: str = option(
        "Learning rate after warm-up: linear or cosine decay, or constant and then decay over the last "
        "--decay-steps (wsd).",
        default="linear",
        choices=SCHEDULES,
    )
    warmup_steps: int | None = option(
        "Number of steps over which the learning rate rises.",
        default=None,
        minimum=0,
        shown_default="a tenth of the run; 0 with --continue-from",
    )
    warmup_tokens: int | None = option(
        "Number of tokens over which the learning rate rises, in place of --warmup-steps.",
        default=None,
        minimum=1,
    )
    decay_steps: int | None = option(
        "Number of steps of the decay of wsd, or of --decay-from.",
        default=None,
        minimum=1,
        shown_default="a tenth of the run",
    )
    weight_decay: float = option(
        "Weight decay of all parameters but biases and norms.", default=0.01, minimum=0
    )
    betas: tuple[float, ...] = option(
        "Decay rates of the optimizer's two moments.",
        default=(0.9, 0.999),
        minimum=0,
        below=1,
        parse=parse_numbers,
        shown_default="0.9,0.999",
    )
    max_gradient_norm: float = option(
        "Norm to which the gradients are clipped; 0 does not clip.", default=1.0, minimum=0
    )
    dropout: float | None = option(
        "Dropout probability of hidden states and attention.",
        default=None,
        minimum=0,
        below=1,
        shown_default="0.1; 0 for modernbert",
    )
    micro_batch_tokens: int | None = option(
        "Number of tokens that go through the model at once; a step accumulates the gradients of "
        "as many micro-batches as its instances need.",
        default=None,
        minimum=1,
        shown_default="16,384; on a GPU what its memory has room for, up to 131,072",
    )
    checkpoint_every: int = option("Steps between checkpoints.", default=1000, minimum=1)
    keep_checkpoints: int = option(
        "Number of recent checkpoints to keep, besides the best.", default=2, minimum=1
    )
    eval_every: int | None = option(
        "Steps between evaluations on the held-out instances.",
        default=None,
        minimum=1,
        shown_default=f"{DEFAULT_EVAL_EVERY:,}",
    )
    tracker: str | None = option(
        "Tracker that gets the metrics as well.", default=None, choices=TRACKERS
    )
    push_to_hub: str | None = option(
        "Name on the Hugging Face Hub, such as owner/name, under which the export is uploaded with a "
        "model card, to a private repository if there is none.",
        default=None,
    )
    model_license: str | None = option(
        "License of the model for its card, as the Hub writes it: apache-2.0.", default=None
    )
    device: str = option(
        "Device to train on; auto takes a GPU if there is one.", default="auto", choices=DEVICES
    )
    precision: str = option(
        "Precision; auto is bf16 on a GPU, fp16 on one before Ampere, and fp32 on a CPU. With fp16 the "
        "loss is scaled, and steps whose gradients are not finite are skipped.",
        default="auto",
        choices=PRECISIONS,
    )
    compile: str = option(
        "Compile with torch.compile; auto does so on a GPU.", default="auto", choices=COMPILE
    )
    kernels: str = option(
        "Kernels of a BERT's layers: plain, torch's; or triton, fewer passes over memory, on a GPU from "
        "Ampere (not measured yet).",
        default="plain",
        choices=KERNELS,
    )
    nproc_per_node: int | None = option(
        "Number of processes to start on this machine.",
        default=None,
        minimum=1,
        shown_default="1, or those that torchrun or Slurm started",
    )
    fsdp: bool = option(
        "Split weights, gradients and optimizer state among the processes; a GPU before Ampere then "
        "trains in fp32.",
        default=False,
    )
    threads: int | None = option(
        "Number of CPU threads.", default=None, minimum=1, shown_default="torch decides"
    )

    def __post_init__(self) -> None:
        """Refuse options that exclude each other or are out of range."""
        super().__post_init__()
        for (name, other), fault in EXCLUSIVE.items():
            require(
                not (self.is_given(name) and self.is_given(other)),
                f"{fault.format(self.options[name].flag, self.options[other].flag)}; leave one out",
            )
        for name, other in DEPENDENT.items():
            require(
                self.is_given(other) or not self.is_given(name),
                f"{self.options[name].flag} has no effect without {self.options[other].flag}; leave "
                "it out",
            )
        family = self.architecture or "bert"
        if self.architecture is not None:
            self._check_preset(family)
        require(
            not self.share_layers or family == "bert",
            f"--share-layers has no effect with --architecture {family}; leave one out",
        )
        require(self.max_time is None or math.isfinite(self.max_time), "--max-time must be finite")
        require(
            not self.fsdp or self.precision != "fp16",
            "--precision fp16 and --fsdp exclude each other, because shards of gradients have no common "
            "scale; leave --fsdp out, or use --precision bf16",
        )
        self._check_schedule()
        self._check_origin()
        require(len(self.betas) == 2, "--betas must be two numbers, such as 0.9,0.999")

    def _check_schedule(self) -> None:
        require(
            self.decay_steps is None or self.schedule == "wsd" or self.decay_from is not None,
            "--decay-steps has no effect without --schedule wsd or --decay-from; leave it out",
        )
        if self.max_time is None and self.origin_path is None:
            decay = (self.schedule == "wsd") * (self.decay_steps or 1)
            require(
                (self.warmup_steps or 0) + decay <= self.num_steps,
                f"--warmup-steps must be at most --max-steps, {self.num_steps:,}"
                + ", less --decay-steps" * (self.schedule == "wsd"),
            )
        sizes, shares = zip(*self.batch_stages, strict=True)
        require(min(sizes) >= 1, "--batch-size must be at least 1")
        require(
            min(shares) > 0 and math.isclose(sum(shares), 1, abs_tol=1e-9),
            "the shares of --batch-size must be above 0 and leave a rest for the last, such as "
            "128:0.1,512",
        )
        require(
            len(sizes) == 1 or self.max_time is None,
            "--batch-size in stages counts steps, and --max-time seconds; leave one out",
        )

    def _check_origin(self) -> None:
        if self.origin_path is None:
            return
        require(
            self.decay_from is None or not any(p.learning_rate for p in self.own_phases),
            "the learning-rate of a phase has no effect with --decay-from, whose run decides it; "
            "leave it out",
        )
        flag, given = "--continue-from", ["architecture", "preset", "init_from", "share_layers"]
        if self.decay_from is not None:
            require(self.decay_steps is not None, "--decay-from requires --decay-steps")
            flag = "--decay-from"
            given += ["max_steps", "learning_rate", "schedule", "warmup_steps", "warmup_tokens"]
        for name in given:
            require(
                not self.is_given(name),
                f"{self.options[name].flag} has no effect with {flag}, whose run decides it; leave "
                "it out",
            )

    def _check_preset(self, family: str) -> None:
        require(
            self.preset is None or self.preset in FAMILIES[family].presets,
            f"--preset {self.preset} is no size of {family}; use one of "
            f"{', '.join(FAMILIES[family].presets)}, or another --architecture",
        )

    def choose_preset(self, family: str) -> str:
        """Return the preset of a run with a model of an architecture."""
        return self.preset or FAMILIES[family].preset

    def choose_family(self, objective: str) -> str:
        """Return the architecture of a run without ``init_from``, on instances of an objective.

        Raises:
            UsageError: if the architecture does not learn from them.
        """
        family = self.architecture or DEFAULT_FAMILIES.get(objective, "bert")
        objectives = FAMILIES[family].objectives
        require(
            objective in objectives,
            f"--architecture {family} learns from {', '.join(objectives)}, but the instances were "
            f"built with --objective {objective}; use another one, or build again",
        )
        self._check_preset(family)
        return family

    def choose_dropout(self, family: str) -> float:
        """Return the dropout of a run with a model of an architecture."""
        return FAMILIES[family].dropout if self.dropout is None else self.dropout

    @property
    def origin_path(self) -> Path | None:
        """The run or checkpoint that this run continues from."""
        return self.decay_from if self.continue_from is None else self.continue_from

    @property
    def batch_stages(self) -> tuple[tuple[int, float], ...]:
        """The batch size of each stage, and its share of the steps."""
        return self.batch_size if isinstance(self.batch_size, tuple) else ((self.batch_size, 1.0),)

    @property
    def all_batch_sizes(self) -> set[int]:
        """The batch sizes of all phases."""
        of_phases = {phase.batch_size for phase in self.own_phases if phase.batch_size}
        return of_phases | {size for size, _ in self.batch_stages}

    @property
    def num_steps(self) -> int:
        """The step at which a run by steps ends, unless it has ``decay_from``."""
        return DEFAULT_MAX_STEPS if self.max_steps is None else self.max_steps

    @property
    def eval_steps(self) -> int:
        """Steps between evaluations."""
        return DEFAULT_EVAL_EVERY if self.eval_every is None else self.eval_every
