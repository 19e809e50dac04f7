"""Names on the Hugging Face Hub, such as ``bert-base-uncased`` or ``google/mt5-small@main``.

huggingface_hub downloads, and keeps what it downloaded: its cache, token, offline mode and endpoint
are those of its own environment variables. A file or folder of the same name comes first.
"""

import logging
import re
import sys
from functools import cache
from pathlib import Path

from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, refuse_loop
from tokkit.options import find_local

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_FILE = re.compile(r"\.(?:json|txt|model|spm)", re.IGNORECASE)
# Exactly those at the top: some have more in folders, such as the weights' first format.
_TOKENIZER_FILES = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "*.model", "*.spm", "*.tiktoken"),
    *("tekken.json", "target_vocab.json", "dict.txt"),
)
WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin*")
TIMEOUT_SECONDS = 10.0


@cache
def find_folder(name: Path, other_files: tuple[str, ...] = ()) -> Path:
    """Return the file or folder of a name, downloaded from the Hub if there is none here.

    Args:
        name: a path, or a name on the Hub, with ``@`` before its revision.
        other_files: patterns of files to download in addition to those of a tokenizer.

    Returns:
        The path as it is if it exists, or could not be a name on the Hub.

    Raises:
        UsageError: if it is a URI that no folder may be.
        TokkitError: if the Hub does not have it, cannot be reached, or huggingface_hub is missing.
    """
    name = find_local(name)
    pull(name)
    refuse_loop(name)
    match = _NAME.fullmatch(name.as_posix())
    if name.exists() or not match or _FILE.fullmatch(name.suffix):
        return name
    repo, revision, failure = match["repo"], match["revision"], None
    missing = f"{name}: no such file or folder"
    try:
        from huggingface_hub import HfApi, snapshot_download, utils
    except ImportError as error:
        raise TokkitError(
            f"{missing}; for the tokenizer of this name on the Hugging Face Hub, "
            f"pip install 'tokkit[hub]'"
        ) from error
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        # snapshot_download would wait forever for a Hub that does not answer.
        HfApi().repo_info(repo, revision=revision, timeout=TIMEOUT_SECONDS)
    except Exception as error:  # noqa: BLE001  its own errors, those of its HTTP library, OSError
        failure = error
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[*_TOKENIZER_FILES, *other_files],
            ignore_patterns=["*/*"],
            etag_timeout=TIMEOUT_SECONDS,
            local_files_only=failure is not None,
        )
    except Exception as error:
        cause = failure or error
        lines = str(cause).strip().splitlines() or [""]
        raise TokkitError(
            f"{missing}, and not from the Hugging Face Hub ({type(cause).__name__}: {lines[0]})"
        ) from error
    log.info("%s: revision %s of the Hugging Face Hub", name, Path(folder).name)
    return Path(folder)
