"""The commands: options become a config, one call, and what is printed.

The only place that knows click. A fault becomes one line on standard error and an exit status
here and nowhere else; a bug keeps its traceback.
"""

import gc
import logging
import os
import sys

import click

from tokkit import __version__
from tokkit.cli.build import build
from tokkit.cli.encode import encode
from tokkit.cli.inspect import inspect
from tokkit.cli.pretrain import pretrain
from tokkit.cli.run import run
from tokkit.cli.train import train
from tokkit.cli.verify import verify
from tokkit.engine.progress import LineHandler
from tokkit.errors import TokkitError


class WorkflowGroup(click.Group):
    """A group whose help lists the commands in the order of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of registration."""
        del ctx
        return list(self.commands)


@click.group(cls=WorkflowGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokkit")
def cli() -> None:
    """From raw text to a pretrained BERT, one command a stage.

    Every stage reads a folder of plain files and writes one; running a command again goes on
    where it stopped, or says that all is up to date.
    """


for _command in (train, encode, build, pretrain, run, inspect, verify):
    cli.add_command(_command)


def _log_to_standard_error() -> None:
    """Show our own messages, and no library's, as plain lines."""
    logger = logging.getLogger("tokkit")
    logger.handlers = [LineHandler()]  # one, however often a program calls main
    logger.setLevel(logging.INFO)


def main() -> None:
    """Run the command line and exit: 0 done, 1 a fault in data or environment, 2 wrong usage."""
    # Imports make 70,000 objects that stay; to look through them again and again took 0.14 s.
    gc.set_threshold(100_000)
    _log_to_standard_error()
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    """Run one command line and turn whatever ends it into an exit status.

    Not by ``cli.main``, which takes a closed pipe for a failure.
    """
    try:
        with cli.make_context("tokkit", arguments) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TokkitError as error:
        click.echo(f"tokkit: {error}", err=True)
        return error.exit_status
    except (click.Abort, KeyboardInterrupt):
        click.echo("tokkit: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader has what it wanted. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
