"""A name is a tokenizer on the Hugging Face Hub; a stand-in for it runs on this machine."""

import hashlib
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from storeservers import serve
from tinytokenizers import write_vocab

from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import TokkitError
from tokkit.tokenizer.hub_names import WEIGHT_FILES, find_folder
from tokkit.tokenizer.tokenizer import load_tokenizer

CASED, UNCASED = (f"{number}" * 40 for number in (1, 2))
ROUTES = {
    "info": r"/api/models/(?:owner/)?tiny(?:/revision/(?P<revision>\w+))?",
    "tree": r"/api/models/(?:owner/)?tiny/tree/(?P<revision>\w+)",
    "file": r"/(?:owner/)?tiny/resolve/(?P<revision>\w+)/(?P<name>.*)",
}


def hash_content(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


class Hub:
    """A Hub with the repositories ``tiny`` and ``owner/tiny``.

    Attributes:
        commits: the folder of each commit.
        sent: names of the files that were sent.
        is_down: answer nothing but errors.
    """

    def __init__(self, commits: dict[str, Path]) -> None:
        self.commits = commits
        self.sent: list[str] = []
        self.is_down = False

    def respond(self, url: str) -> tuple[int, bytes, dict[str, str]]:
        path = url.split("?", maxsplit=1)[0]
        found = ((kind, re.fullmatch(route, path)) for kind, route in ROUTES.items())
        kind, match = next(((k, m) for k, m in found if m), ("", None))
        if match is None or self.is_down:
            return 404, b"", {"X-Error-Code": "RepoNotFound"}
        revision = match["revision"] or "main"
        commit = CASED if revision in ("main", "v1") else revision
        if commit not in self.commits:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        folder = self.commits[commit]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
        rows = [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hash_content(content),
            }
            for name, content in files.items()
        ]
        if kind == "info":
            siblings = [{"rfilename": name} for name in files]
            data = {"id": "tiny", "sha": commit, "siblings": siblings, "private": False, "tags": []}
            return 200, json.dumps(data).encode(), {}
        if kind == "tree":
            return 200, json.dumps(rows).encode(), {}
        if match["name"] not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        self.sent.append(match["name"])
        content = files[match["name"]]
        oid = hash_content(content)
        return 200, content, {"ETag": f'"{oid}"', "X-Repo-Commit": commit}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    commits = {
        CASED: write_vocab(tmp_path / "cased", do_lower_case=False),
        UNCASED: write_vocab(tmp_path / "uncased", do_lower_case=True),
    }
    (commits[CASED] / "model.safetensors").write_bytes(b"weights")
    (commits[CASED] / "README.md").write_text("About.")
    write_vocab(commits[CASED] / "original")
    hub = Hub(commits)

    with serve(lambda path, _: hub.respond(path)) as url:
        use_endpoint(monkeypatch, url, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        yield hub


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Set what huggingface_hub reads from the environment when it is imported."""
    import huggingface_hub.constants

    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    find_folder.cache_clear()


def test_a_name_is_downloaded_once_and_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_folder(Path("owner/tiny"))
    assert load_tokenizer(folder).fingerprint == load_tokenizer(hub.commits[CASED]).fingerprint
    assert {*hub.sent} == {"vocab.txt", "tokenizer_config.json"}
    hub.is_down = True
    find_folder.cache_clear()
    assert find_folder(Path("owner/tiny")) == folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    find_folder.cache_clear()
    assert find_folder(Path("owner/tiny")) == folder


def test_a_model_to_start_from_comes_with_its_weights(hub: Hub) -> None:
    folder = find_folder(Path("tiny"), WEIGHT_FILES)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not (folder / "README.md").exists()
    assert not (folder / "original").exists()
    assert hub.sent


def test_encode_takes_a_name_with_its_revision(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The cat.")
    for name, commit in (("tiny", CASED), (f"tiny@{UNCASED}", UNCASED), ("tiny@v1", CASED)):
        config = EncodeConfig(
            inputs=("text.txt",),
            tokenizer=Path(name),
            output=Path("out"),
            workers=0,
            overwrite=True,
            progress=False,
        )
        fingerprint = load_tokenizer(hub.commits[commit]).fingerprint
        assert encode(config).tokenizer_fingerprint == fingerprint


def test_a_local_folder_of_the_name_comes_first(hub: Hub, tmp_path: Path) -> None:
    write_vocab(tmp_path / "owner" / "tiny", do_lower_case=True)
    assert find_folder(Path("owner/tiny")) == Path("owner/tiny")
    assert not hub.sent


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nobody/none", "not from the Hugging Face Hub (RepositoryNotFoundError: 404"),
        ("owner/tiny@v9", "not from the Hugging Face Hub (RevisionNotFoundError: 404"),
        ("../owner/tiny", "../owner/tiny: no such file or folder; pass a folder with"),
        ("missing/vocab.txt", "missing/vocab.txt: no such file or folder; pass a folder with"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, line: str) -> None:
    with pytest.raises(TokkitError) as caught:
        load_tokenizer(find_folder(Path(name)))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    find_folder.cache_clear()
    with pytest.raises(TokkitError, match=r"pip install 'tokkit\[hub\]'"):
        find_folder(Path("bert-base-uncased"))


def test_a_hub_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.tokenizer.hub_names.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        use_endpoint(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path)
        started = time.monotonic()
        with pytest.raises(TokkitError, match=r"not from the Hugging Face Hub \(ReadTimeout"):
            find_folder(Path("owner/tiny"))
    assert time.monotonic() - started < 20
