"""``tokkit pretrain``: train BERT."""

from pathlib import Path
from typing import Any

import click

from tokkit.cli.options import config_option, mask_options, work_options
from tokkit.cli.report import print_pretraining
from tokkit.pretraining.config import DEVICES, PRECISIONS, PRESETS, PretrainConfig


@click.command()
@click.argument("instances", nargs=-1, required=True, type=click.Path(path_type=Path))
@config_option(PretrainConfig, "output", "Run folder to write.", flags=("-o", "--output"))
@config_option(
    PretrainConfig,
    "weights",
    "Shares of several INSTANCES, such as 0.7,0.3.",
    default_text="of one, 1",
)
@config_option(PretrainConfig, "preset", "Size of the model.", choices=PRESETS)
@config_option(PretrainConfig, "max_steps", "Optimizer steps.")
@config_option(PretrainConfig, "batch_size", "Instances a step.")
@config_option(PretrainConfig, "learning_rate", "At the end of warm-up.")
@config_option(
    PretrainConfig,
    "warmup_steps",
    "Steps over which the rate rises.",
    default_text="a tenth of max-steps",
)
@config_option(PretrainConfig, "weight_decay", "On all but biases and norms.")
@config_option(PretrainConfig, "dropout", "Of hidden states and attention.")
@config_option(PretrainConfig, "checkpoint_every", "Steps between checkpoints.")
@config_option(PretrainConfig, "eval_every", "Steps between evaluations.")
@mask_options(PretrainConfig)
@config_option(PretrainConfig, "seed", "Of weights, order, masks and dropout.")
@config_option(
    PretrainConfig, "device", "Where to train; auto takes a GPU if there is one.", choices=DEVICES
)
@config_option(
    PretrainConfig, "precision", "auto is bf16 on a GPU and fp32 on a CPU.", choices=PRECISIONS
)
@config_option(PretrainConfig, "threads", "Of a CPU.", default_text="as many as torch takes")
@work_options(PretrainConfig, workers=None)
def pretrain(*, as_json: bool, **options: Any) -> None:
    """Pretrain BERT on INSTANCES.

    INSTANCES are folders that build wrote. Running the same command again goes on from the last checkpoint.
    """
    config = PretrainConfig(**options)
    from tokkit.pretraining.pretrain import pretrain as run

    print_pretraining(config.output, run(config), as_json=as_json)
