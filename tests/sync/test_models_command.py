"""``groundswell models export-clicks``: the project's click network as a file that click-onnx runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.project_network.click_net import ClickNet, NetworkManifest, save_network
from ml_backend.clicks.segmenters.click_onnx import ClickOnnxSegmenter
from ml_backend.errors import BadInput
from sync.commands import models


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    models.register(made)
    return made


@pytest.fixture
def project(tmp_path: Path) -> ProjectPaths:
    """A project with one click version that serves and an older one."""
    torch.manual_seed(0)
    paths = ProjectPaths(tmp_path / "data", 3)
    for version in ("click-r1-aaaa", "click-r2-bbbb"):
        folder = paths.clicks / version
        folder.mkdir(parents=True)
        save_network(folder, ClickNet(8), NetworkManifest(size=64, width=8, first_side=44.0))
    write_atomic(paths.clicks / "current", b"click-r2-bbbb")
    return paths


def run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["models", "export-clicks", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_network_that_serves_is_written(app: typer.Typer, project: ProjectPaths, tmp_path: Path) -> None:
    out, data = tmp_path / "clicks.onnx", str(tmp_path / "data")
    said = json.loads(run(app, "3", str(out), "--data-dir", data, "--json"))
    assert said == {"version": "click-r2-bbbb", "path": str(out)}
    assert ClickOnnxSegmenter(out, threads=1).size == 64
    assert "GROUNDSWELL_CLICK_ONNX" in run(
        app, "3", str(out), "--data-dir", data, "--version", "click-r1-aaaa"
    )


def test_what_is_not_there_is_said_with_what_is(
    app: typer.Typer, project: ProjectPaths, tmp_path: Path
) -> None:
    out, data = str(tmp_path / "clicks.onnx"), str(tmp_path / "data")
    with pytest.raises(BadInput, match=r"no click network 'v9'.*click-r1-aaaa, click-r2-bbbb"):
        run(app, "3", out, "--data-dir", data, "--version", "v9")
    (project.clicks / "current").unlink()
    with pytest.raises(BadInput, match=r"no click network of project 3 serves.*--version"):
        run(app, "3", out, "--data-dir", data)
    with pytest.raises(BadInput, match="The worker trains one"):
        run(app, "4", out, "--data-dir", data)
    assert not Path(out).exists()
