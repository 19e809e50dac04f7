"""Profiles of AWS: what inputs and folders on a store take from ``~/.aws``."""

import os
from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.sources import find_sources
from tokkit.engine import object_store
from tokkit.engine.mirrors import pull
from tokkit.engine.object_store import put_object, read_profile
from tokkit.errors import TokkitError
from tokkit.options import find_local

URI = Path("s3://corpora/a b/é#?")


@pytest.fixture
def profiles(s3: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a profile ``work`` that reaches the store, which the environment does not."""
    del s3
    object_store.open_client.cache_clear()
    address = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = tmp_path / "credentials"
    keys.write_text("[work]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    config = tmp_path / "config"
    config.write_text(
        f"[profile work]\nregion = us-east-1\nendpoint_url = {address}\ns3 =\n  a = b\n"
        f"[profile login]\nsso_session = company\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return config


def test_a_profile_has_keys_and_address_for_inputs_and_folders(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del profiles
    monkeypatch.setenv("AWS_PROFILE", "work")
    text = tmp_path / "text.txt"
    text.write_text("A cat.")
    put_object(text, find_local(URI, tmp_path) / "text.txt")
    read = "s3://corpora/a b/é#?/text.txt"
    assert [source.bytes for source in find_sources(CorpusConfig(inputs=(read,)))] == [6]


def test_keys_that_must_be_fetched_are_left_to_pyarrow(
    profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del profiles
    monkeypatch.setenv("AWS_PROFILE", "login")
    assert read_profile(with_keys=False) == {}
    with pytest.raises(TokkitError, match="a way to fetch them"):
        read_profile(with_keys=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("login", r"config: profile login has no keys in it.* export-credentials"),
        ("none", "^AWS_PROFILE=none: no such profile"),
        ("damaged", r"config: is damaged \(File contains no section headers"),
    ],
)
def test_a_profile_that_gives_no_keys_is_refused(
    profiles: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setenv("AWS_PROFILE", name)
    sound = profiles.read_text()
    if name == "damaged":
        profiles.write_text("key = value")
    with pytest.raises(TokkitError, match=message):
        pull(find_local(URI, profiles.parent))
    if name == "login":  # what aws configure export-credentials prints
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    profiles.write_text(sound)
    monkeypatch.setenv("AWS_PROFILE", "login" if name == "login" else "work")
    read_profile(with_keys=True)


@pytest.mark.usefixtures("s3")
def test_an_address_is_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    object_store.open_client.cache_clear()
    address = os.environ["AWS_ENDPOINT_URL"]
    (tmp_path / "text").write_text("A cat.")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    with pytest.raises(TokkitError, match=r"AWS_ENDPOINT_URL=localhost: not the address of"):
        put_object(tmp_path / "text", find_local(URI, tmp_path) / "text")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    put_object(tmp_path / "text", find_local(URI, tmp_path) / "text")
