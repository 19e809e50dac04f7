"""``tokkit pretrain``: train BERT."""

import os
from pathlib import Path
from typing import Any

import click

from tokkit.cli.options import Duration, Phases, config_option, mask_options, work_options
from tokkit.cli.output import print_estimate, print_pretraining
from tokkit.pretraining.pretrain_config import (
    COMPILE,
    DEFAULT_MAX_STEPS,
    DEFAULT_PRESET,
    DEVICES,
    OPTIMIZERS,
    PRECISIONS,
    PRESETS,
    PretrainConfig,
)


@click.command()
@click.argument("instances", nargs=-1, required=True, type=click.Path(path_type=Path))
@config_option(PretrainConfig, "output", "Run folder to write.", flags=("-o", "--output"))
@config_option(
    PretrainConfig,
    "weights",
    "Shares of several INSTANCES, such as 0.7,0.3.",
    default_text="of one, 1",
)
@config_option(
    PretrainConfig,
    "phases",
    "Longest sequence and share of the run of several INSTANCES, such as 128:0.9,512:0.1.",
    value_type=Phases(),
    default_text="none",
)
@config_option(
    PretrainConfig, "preset", "Size of the model.", choices=PRESETS, default_text=DEFAULT_PRESET
)
@config_option(PretrainConfig, "init_from", "Hugging Face folder of a BERT to start from.")
@config_option(PretrainConfig, "share_layers", "One layer in place of all, as in ALBERT.")
@config_option(
    PretrainConfig, "max_steps", "Optimizer steps.", default_text=f"{DEFAULT_MAX_STEPS:,}"
)
@config_option(
    PretrainConfig,
    "max_time",
    "Or the time after which the run ends, such as 24h; the schedule follows the clock.",
    value_type=Duration(),
)
@config_option(PretrainConfig, "batch_size", "Instances a step, of all processes together.")
@config_option(PretrainConfig, "optimizer", "LAMB is for large batches.", choices=OPTIMIZERS)
@config_option(PretrainConfig, "learning_rate", "At the end of warm-up.")
@config_option(
    PretrainConfig,
    "warmup_steps",
    "Steps over which the rate rises.",
    default_text="a tenth of the run",
)
@config_option(PretrainConfig, "weight_decay", "On all but biases and norms.")
@config_option(PretrainConfig, "betas", "Of the optimizer's moments.", default_text="0.9,0.999")
@config_option(PretrainConfig, "max_gradient_norm", "Of all gradients together; 0 is any.")
@config_option(PretrainConfig, "dropout", "Of hidden states and attention.")
@config_option(
    PretrainConfig,
    "micro_batch_tokens",
    "Tokens that go through the model at once; a step adds up as many such parts as it needs.",
)
@config_option(PretrainConfig, "checkpoint_every", "Steps between checkpoints.")
@config_option(PretrainConfig, "keep_checkpoints", "The last so many, beside the best.")
@config_option(PretrainConfig, "eval_every", "Steps between evaluations.")
@mask_options(PretrainConfig)
@config_option(PretrainConfig, "seed", "Of weights, order, masks and dropout.")
@config_option(
    PretrainConfig, "device", "Where to train; auto takes a GPU if there is one.", choices=DEVICES
)
@config_option(
    PretrainConfig, "precision", "auto is bf16 on a GPU and fp32 on a CPU.", choices=PRECISIONS
)
@config_option(
    PretrainConfig, "compile", "By torch.compile; auto does so on a GPU.", choices=COMPILE
)
@config_option(
    PretrainConfig,
    "nproc_per_node",
    "Processes to start on this machine.",
    default_text="1, or those that torchrun or Slurm has started",
)
@config_option(PretrainConfig, "fsdp", "Split weights and moments among the processes.")
@config_option(PretrainConfig, "threads", "Of a CPU.", default_text="as many as torch takes")
@config_option(PretrainConfig, "tensorboard", "Write files for TensorBoard as well.")
@click.option(
    "--dry-run", is_flag=True, help="Say what the run needs and how long it takes, and stop."
)
@work_options(PretrainConfig, workers=None)
def pretrain(*, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Pretrain BERT on INSTANCES.

    INSTANCES are folders that build wrote, for any of its objectives nsp, sop, mlm and clm. Running the same command again goes on from the last
    checkpoint.
    """
    config = PretrainConfig(**options)
    from tokkit.pretraining.pretrain import estimate_run
    from tokkit.pretraining.pretrain import pretrain as run
    from tokkit.pretraining.training.launch_info import is_first_process

    if dry_run:
        if is_first_process(os.environ):  # of several processes one speaks
            print_estimate(estimate_run(config), as_json=as_json)
        return
    manifest = run(config)
    if is_first_process(os.environ):
        print_pretraining(config.output, manifest, as_json=as_json)
