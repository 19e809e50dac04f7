"""tokkit takes raw text all the way to a pretrained transformer.

Each stage is a function that takes one frozen config: ``train``, ``encode``, ``build`` and
``pretrain``; ``InstanceLoader`` feeds the instances to any training loop. All are imported on
first use, so that ``import tokkit`` costs nothing.

The packages, from the highest level to the lowest. Each imports only from levels below its own:

    cli           the commands
    inspection    verify, inspect and report on output folders
    vocab, encoding, instances, pretraining: one level, so none imports another
        vocab         the train stage: text in, vocabulary out
        encoding      the encode stage: text in, token shards out
        instances     the build stage: token shards in, instances out
        pretraining   the pretrain stage: instances in, model out
    masking       which tokens are predicted, and what replaces them
    tokenizer     loading and saving tokenizers, encoding text
    corpus        reading text of any format, splitting it into sentences
    shards        Arrow files of tokens and instances
    engine        running a stage: work units, processes, manifests, resuming
    kernels       compiled loops over arrays
    options       options as fields of configs (a module)
    errors        the errors that a user sees (a module)

Each of these modules says what to change to add one: a special token in
``tokenizer/special_tokens.py``, a class of tokenizers in ``tokenizer/conversion.py``, a format of
inputs in ``corpus/formats.py``, their compression in ``corpus/compression.py``, a way to find
sentences in ``corpus/sentences.py``, a column of shards in ``shards/schema.py``, a section of reports in
``inspection/report/page.py``, and models, optimizers, metrics and options of training in
``pretraining/__init__.py``.
"""

# Nothing is imported here, not even typing, so that Ctrl-C soon meets the handler of __main__.
TYPE_CHECKING = False  # type checkers take it for True, as they do that of typing
if TYPE_CHECKING:
    from typing import Any

    from tokkit.encoding.encode import encode as encode
    from tokkit.encoding.encode_config import EncodeConfig as EncodeConfig
    from tokkit.errors import TokkitError as TokkitError
    from tokkit.errors import UsageError as UsageError
    from tokkit.instances.build import build as build
    from tokkit.instances.build_config import BuildConfig as BuildConfig
    from tokkit.pretraining.data.instance_loader import InstanceLoader as InstanceLoader
    from tokkit.pretraining.pretrain import pretrain as pretrain
    from tokkit.pretraining.pretrain_config import PretrainConfig as PretrainConfig
    from tokkit.vocab.train import train as train
    from tokkit.vocab.train_config import TrainConfig as TrainConfig

__version__ = "0.1.0"

_HOMES = {
    "BuildConfig": "tokkit.instances.build_config",
    "EncodeConfig": "tokkit.encoding.encode_config",
    "InstanceLoader": "tokkit.pretraining.data.instance_loader",
    "PretrainConfig": "tokkit.pretraining.pretrain_config",
    "TokkitError": "tokkit.errors",
    "TrainConfig": "tokkit.vocab.train_config",
    "UsageError": "tokkit.errors",
    "build": "tokkit.instances.build",
    "encode": "tokkit.encoding.encode",
    "pretrain": "tokkit.pretraining.pretrain",
    "train": "tokkit.vocab.train",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604  the names are the keys above, all strings


def __getattr__(name: str) -> "Any":
    """Import a public name from its home on first use (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'tokkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
