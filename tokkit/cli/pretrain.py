"""``tokkit pretrain``, apart from the other commands: they need not wait for its options."""

import os

import click

from tokkit.cli.command_options import stage_command
from tokkit.cli.pretraining_output import print_estimate, print_pretraining
from tokkit.cli.streams import name_next
from tokkit.pretraining.pretrain_config import PretrainConfig


@stage_command(PretrainConfig)
@click.option(
    "--dry-run", is_flag=True, help="Print what the run needs and how long it takes, and exit."
)
def pretrain(config: PretrainConfig, *, dry_run: bool, as_json: bool) -> None:
    """Pretrain a transformer on INSTANCES.

    INSTANCES are folders that build wrote. Their objective selects the model: BERT, ALBERT, RoBERTa,
    ModernBERT, GPT-2, T5, XLNet or an encoder-decoder. Run the same command again to resume from the
    last checkpoint.
    """
    from tokkit.pretraining.pretrain import estimate_run
    from tokkit.pretraining.pretrain import pretrain as run
    from tokkit.pretraining.training.launch_info import is_first_process

    is_first = is_first_process(os.environ)  # one of several processes prints
    if not dry_run:
        manifest = run(config)
        if is_first:
            print_pretraining(config.output, manifest, as_json=as_json)
            name_next("report", config.output)
    elif is_first:
        print_estimate(estimate_run(config), as_json=as_json)
