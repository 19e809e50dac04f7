"""Profiles of AWS: the keys, the region and the address that its own programs find in ``~/.aws``.

    ~/.aws/credentials    [work]              aws_access_key_id, aws_secret_access_key, aws_session_token
    ~/.aws/config         [profile work]      region, endpoint_url, and keys where the other has none

pyarrow reads them for inputs, obstore does not for folders. The environment comes first, as in AWS's
programs: ``AWS_PROFILE`` chooses the profile, else it is ``default``.
"""

import os
from configparser import Error, RawConfigParser
from contextlib import suppress
from pathlib import Path

from tokkit.errors import TokkitError, wrap_os_errors

# By the names that obstore gives them: the variables that come first, and the name in a profile.
_SETTINGS = {
    "aws_region": (("AWS_REGION", "AWS_DEFAULT_REGION"), "region"),
    "aws_endpoint": (("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"), "endpoint_url"),
}
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_OTHER_SOURCES = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
# What a profile has whose keys a program must fetch.
_FETCHED = ("sso_session", "sso_start_url", "role_arn", "credential_process")


def read_profile(*, with_keys: bool) -> dict[str, str]:
    """Return what the chosen profile adds to the environment, as options of obstore.

    Args:
        with_keys: return its keys, too. pyarrow finds them itself, also those that must be fetched.

    Raises:
        TokkitError: there is no such profile, its keys must be fetched, or a file is damaged.
    """
    name = os.environ.get("AWS_PROFILE", "default")
    config_file, config = _read("AWS_CONFIG_FILE", "config")
    credentials_file, credentials = _read("AWS_SHARED_CREDENTIALS_FILE", "credentials")
    profile: dict[str, str] = {}
    for file, section in ((config, f"profile {name}"), (config, name), (credentials, name)):
        if file.has_section(section):
            profile |= file[section]
    if not profile and "AWS_PROFILE" in os.environ:
        raise TokkitError(
            f"AWS_PROFILE={name}: no such profile in {config_file} or {credentials_file}"
        )
    options = {
        option: profile[key]
        for option, (variables, key) in _SETTINGS.items()
        if key in profile and not any(variable in os.environ for variable in variables)
    }
    if not with_keys or any(variable in os.environ for variable in _OTHER_SOURCES):
        return options
    keys = {key: profile[key] for key in _KEYS if key in profile}
    if not keys and any(source in profile for source in _FETCHED):
        raise TokkitError(
            f"{config_file}: profile {name} has no keys in it, but a way to fetch them; set the "
            f"variables that aws configure export-credentials prints"
        )
    return options | keys


def has_keys() -> bool:
    """Return whether keys are known without asking a server of the network for them."""
    with suppress(TokkitError):
        known = {*read_profile(with_keys=True), *(name.lower() for name in os.environ)}
        return not known.isdisjoint({_KEYS[0], *(name.lower() for name in _OTHER_SOURCES)})
    return False


def _read(variable: str, name: str) -> tuple[Path, RawConfigParser]:
    """Return a file of AWS's programs, which may be missing, and its sections."""
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
    # AWS writes no interpolation, and a section that stands twice is one.
    sections = RawConfigParser(strict=False, default_section="")
    with wrap_os_errors(path):
        if path.is_file():
            try:
                sections.read_string(path.read_text("utf-8"))
            except (Error, UnicodeDecodeError) as error:
                reason = str(error).split("\n", 1)[0]
                raise TokkitError(f"{path}: is damaged ({reason}); restore the file") from error
    return path, sections
