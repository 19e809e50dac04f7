"""``--push-to-hub`` uploads the export and its card; a stand-in for the Hub runs on this machine."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from instancefolders import write_instance_folder
from realcommands import pretrain_arguments
from storeservers import Answer, answer_json, serve

from tokkit.cli import cli
from tokkit.errors import TokkitError, UsageError

OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "batch_size": 4,
    "max_steps": 2,
    "device": "cpu",
    "threads": 1,
}


class ModelHub:
    """Takes the repository ``owner/model``.

    Attributes:
        created: what was asked for when it was made.
        files: of its last commit.
        is_down: answer nothing but errors.
    """

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.is_down = False

    def receive(self, path: str, body: bytes) -> Answer:
        if path.endswith("/api/repos/create") and not self.is_down:
            self.created.append(json.loads(body))
            return answer_json({"url": "http://127.0.0.1/owner/model"})
        if path.endswith("/api/validate-yaml"):
            return answer_json({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            rows = json.loads(body)["files"]
            modes = [
                {"path": r["path"], "uploadMode": "regular", "shouldIgnore": False} for r in rows
            ]
            return answer_json({"files": modes})
        if path.endswith("/api/models/owner/model/commit/main") and not self.is_down:
            rows = [json.loads(line) for line in body.splitlines()]
            self.files = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"])
                for row in rows
                if row["key"] == "file"
            }
            answer = {"commitUrl": "http://127.0.0.1/owner/model/commit/1", "commitOid": "1"}
            return answer_json({**answer, "success": True})
        return 403, b'{"error": "no rights"}', {"Content-Type": "application/json"}

    def respond(self, path: str, headers: Any) -> Answer:
        del headers
        if self.is_down or not path.startswith("/api/models/owner/model"):
            return 403, b"", {}
        return answer_json({"id": "owner/model", "sha": "0", "private": True, "tags": []})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    hub = ModelHub()
    with serve(hub.respond, hub.receive) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        yield hub


def call(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    if result.exception is not None:
        raise result.exception


def test_the_export_arrives_with_a_card(hub: ModelHub, tmp_path: Path) -> None:
    instances, output = write_instance_folder(tmp_path / "instances"), tmp_path / "run"
    arguments = pretrain_arguments([instances], output, push_to_hub="owner/model", **OPTIONS)
    call([*arguments, "--model-license", "apache-2.0"])
    (created,) = hub.created
    assert (created["organization"], created["name"]) == ("owner", "model")
    assert created["visibility"] == "private"
    card = hub.files.pop("README.md").decode()
    assert hub.files == {path.name: path.read_bytes() for path in (output / "export").iterdir()}
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: transformers\n")
    for part in ("BertForPreTraining with ", "| hidden_size | 128 |", "| max_steps | 2 |"):
        assert part in card
    assert "\n| 2 | " in card  # the last evaluation
    assert str(tmp_path) not in card

    hub.files.clear()
    call(arguments)  # has finished, and is uploaded again
    assert "license: unknown" in hub.files["README.md"].decode()


def test_a_hub_that_refuses_costs_no_training(hub: ModelHub, tmp_path: Path) -> None:
    instances, output = write_instance_folder(tmp_path / "instances"), tmp_path / "run"
    arguments = pretrain_arguments([instances], output, push_to_hub="owner/model", **OPTIONS)
    hub.is_down = True
    with pytest.raises(
        TokkitError, match=r"--push-to-hub owner/model: .*403.*; log in with: hf auth"
    ):
        call(arguments)
    assert not output.exists()


@pytest.mark.parametrize("name", ["a b", "x/y/z", "a/b.git"])
def test_a_name_that_no_repository_can_have_is_refused(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "instances"  # the name is checked before they are read
    arguments = pretrain_arguments([missing], tmp_path / "run", push_to_hub=name, **OPTIONS)
    with pytest.raises(UsageError, match=f"--push-to-hub {name}: is no name on the .* Hub, such"):
        call(arguments)


def test_a_license_without_a_repository_is_refused(tmp_path: Path) -> None:
    arguments = pretrain_arguments([tmp_path], tmp_path / "run", model_license="mit", **OPTIONS)
    with pytest.raises(UsageError, match="--model-license has no effect without --push-to-hub"):
        call(arguments)
