"""Fetching a model from the hub, with a stand-in for the hub: nothing here leaves the machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
import typer
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from typer.testing import CliRunner

from ml_backend.clicks.segmenters.hf_models import find_folder, pulled_folder
from ml_backend.clicks.segmenters.hf_pull import pull_hf_model
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings
from sync.commands import models
from tests.ml_backend.clicks.hf_folders import save

NAME = "somebody/sam2-tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository on the stand-in hub; gives its folder."""
    there = save("sam2", tmp_path / "hub")
    (there / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (there / "sam2.pt").write_bytes(b"a pickle")

    def snapshot(name: str, *, revision: str | None, local_dir: Path, allow_patterns: list[str]) -> str:
        assert name == NAME
        assert revision in (None, "v2")
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        for file in there.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local_dir)
        return str(local_dir)

    weights = (there / "model.safetensors").read_bytes()
    listed = SimpleNamespace(
        siblings=[
            SimpleNamespace(
                rfilename="model.safetensors", lfs=SimpleNamespace(sha256=hashlib.sha256(weights).hexdigest())
            ),
            SimpleNamespace(rfilename="config.json", lfs=None),
            SimpleNamespace(rfilename="sam2.pt", lfs=SimpleNamespace(sha256="0" * 64)),
        ]
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=lambda *_, **__: listed))
    return there


def test_the_command_fetches_what_the_setting_then_finds(hub: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    models.register(app)
    data = tmp_path / "data"

    def run(*arguments: str) -> str:
        command = ["models", "pull", NAME, "--data-dir", str(data), *arguments]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    said = run()
    assert f"GROUNDSWELL_HF_MODEL={NAME}" in said
    assert "apache-2.0" in said
    folder = pulled_folder(data, NAME)
    assert find_folder(BackendSettings(data_dir=data, hf_model=NAME)) == folder
    assert not (folder / "sam2.pt").exists()
    versioned = json.loads(run("--revision", "v2", "--json"))
    assert Path(versioned["path"]) == pulled_folder(data, NAME, "v2") != folder
    assert versioned["licence"] == "apache-2.0"
    assert CliRunner().invoke(app, ["models", "pull", "sam_vit_b", "--revision", "v2"]).exit_code == 2
    assert CliRunner().invoke(app, ["models", "pull", NAME, "--mirror", "https://m"]).exit_code == 2


def test_a_damaged_file_does_not_stay(hub: Path, tmp_path: Path) -> None:
    weights = hub / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match=r"model\.safetensors of somebody/sam2-tiny came damaged"):
        pull_hf_model(NAME, tmp_path / "here")
    assert not (tmp_path / "here" / "model.safetensors").exists()


def test_a_model_of_another_kind_is_named(hub: Path, tmp_path: Path) -> None:
    (hub / "config.json").write_text('{"model_type": "detr"}')
    with pytest.raises(ModelError, match=r"detection model \(detr\)"):
        pull_hf_model(NAME, tmp_path / "here")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "accepted its licence.*HF_TOKEN"),
        (RepositoryNotFoundError, "the hub has no somebody/sam2-tiny"),
        (httpx.ConnectError, "could not be fetched.*Without internet"),
    ],
)
def test_what_the_hub_refuses_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        if error is httpx.ConnectError:
            raise httpx.ConnectError("no route")
        raise error("no", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=words):
        pull_hf_model(NAME, tmp_path / "here")
