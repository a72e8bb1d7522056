"""`groundswell doctor` finds what was broken on purpose."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from ml_backend.artifacts.model_versions import ModelRegistry
from sync.projects.init_project import init_project
from sync.report.doctor import Finding, examine
from sync.settings import Settings
from sync.worker.signs import SignsOfLife
from tests.conftest import free_port
from tests.studio.conftest import Site

pytestmark = pytest.mark.studio


@pytest.fixture
def project(site: Site, tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "one.png")
    made = init_project(
        site.studio,
        title=f"doctor {uuid.uuid4().hex[:6]}",
        labels=["Cat"],
        images=folder,
        settings=site.settings,
    )
    yield made.project_id
    site.studio.delete_project(made.review_project_id)
    if any(row.id == made.project_id for row in site.studio.projects()):
        site.studio.delete_project(made.project_id)


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(settings)}


@pytest.fixture
def worker(site: Site) -> Iterator[SignsOfLife]:
    """A worker that lives."""
    with SignsOfLife(site.settings.data_dir, 5.0) as signs:
        yield signs


def test_a_healthy_installation_has_no_finding(site: Site, project: int, worker: SignsOfLife) -> None:
    findings = found(site.settings)
    assert {finding.level for finding in findings.values()} == {"ok"}, findings
    assert f"project {project} webhook" in findings
    assert "40×30" in findings[f"project {project} images"].detail


def with_settings(**changes: Any) -> Callable[[Site, int], Settings]:
    return lambda site, project: site.settings.model_copy(update=changes)


def in_the_way(site: Site, project: int) -> Settings:
    """The data directory cannot be written, whoever asks: a file is in its place."""
    (site.settings.data_dir.parent / "file").write_text("")
    return site.settings.model_copy(update={"data_dir": site.settings.data_dir.parent / "file"})


def read_only(site: Site, project: int) -> Settings:
    url = f"sqlite:///file:{site.settings.data_dir / 'groundswell.db'}?mode=ro&uri=true"
    return site.settings.model_copy(update={"database_url": SecretStr(url)})


def newer_schema(site: Site, project: int) -> Settings:
    with sqlite3.connect(site.settings.data_dir / "groundswell.db") as connection:
        connection.execute("UPDATE groundswell_schema SET version_num = '9999'")
    return site.settings


def dead_worker(site: Site, project: int) -> Settings:
    (sign,) = (site.settings.data_dir / "workers").iterdir()
    told = json.loads(sign.read_text())
    sign.with_name("killed-1.json").write_text(json.dumps(told | {"pid": 1, "at": told["at"] - 1000}))
    sign.unlink()
    return site.settings


def cut_weights(site: Site, project: int) -> Settings:
    def build(folder: Path) -> dict[str, object]:
        header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
        return {"learner": "maskrcnn"}

    ModelRegistry(site.settings.data_dir).publish(project, "gs1-r1", build)
    return site.settings


def no_weights(site: Site, project: int) -> Settings:
    settings = cut_weights(site, project)
    (settings.data_dir / f"projects/{project}/models/gs1-r1/model.safetensors").unlink()
    return settings


def backend_away(site: Site, project: int) -> Settings:
    return site.settings.model_copy(update={"backend_url": f"http://127.0.0.1:{free_port()}"})


FAULTS: list[tuple[str, Callable[[Site, int], Settings], str, str, str]] = [
    # what is broken, how, the finding that says so, words of it, words of the hint
    ("token", with_settings(studio_token=SecretStr("f" * 40)), "token", "401", "GROUNDSWELL_STUDIO_TOKEN"),
    (
        "backend password",
        with_settings(basic_auth_pass=SecretStr("a wrong one")),
        "backend",
        "refuses our user name and password",
        "GROUNDSWELL_BASIC_AUTH_PASS",
    ),
    ("backend address", backend_away, "project {} backend", "is not connected", "groundswell init --title"),
    ("data directory", in_the_way, "data directory", "cannot write", ""),
    ("database read-only", read_only, "store", "readonly", "Is the disk full or the file read-only?"),
    ("database of a newer release", newer_schema, "store", "newer", ""),
    ("worker killed", dead_worker, "worker", "dead or stopped: no sign of life", "groundswell worker"),
    ("weights cut off", cut_weights, "project {} model", "model.safetensors is damaged", "groundswell round"),
    ("weights missing", no_weights, "project {} model", "its weights are missing", "from a backup"),
    (
        "weights for clicks missing",
        with_settings(segmenter="sam", sam_checkpoint=Path("/nowhere/sam.pth")),
        "clicks",
        "/nowhere/sam.pth",
        "groundswell models",
    ),
]


@pytest.mark.parametrize(
    ("fault", "break_it", "name", "detail", "hint"), FAULTS, ids=[row[0] for row in FAULTS]
)
def test_a_broken_set_up_is_named_with_what_to_do(
    site: Site,
    project: int,
    worker: SignsOfLife,
    fault: str,
    break_it: Callable[[Site, int], Settings],
    name: str,
    detail: str,
    hint: str,
) -> None:
    finding = found(break_it(site, project))[name.format(project)]
    assert (finding.level, detail in finding.detail) == ("bad", True), finding
    assert finding.hint, "it says what to do"
    assert hint in finding.hint


def test_each_fault_is_named_with_what_to_do(site: Site, project: int) -> None:
    (hook,) = site.studio.webhooks(project)
    site.studio.ensure_webhook(project, hook["url"], secret="another")
    assert found(site.settings)[f"project {project} webhook"].level == "warn"

    away = site.settings.model_copy(update={"backend_url": f"http://127.0.0.1:{free_port()}"})
    findings = found(away)
    assert findings["backend"].level == "bad"
    assert findings[f"project {project} backend"].level == "bad"
    assert "init --title" in findings[f"project {project} backend"].hint

    stranger = site.settings.model_copy(update={"basic_auth_pass": SecretStr("guess")})
    assert "refuses our user name and password" in found(stranger)["backend"].detail

    site.studio.delete_project(project)
    gone = found(site.settings)[f"project {project}"]
    assert gone.level == "bad"
    assert "404" in gone.detail


def test_a_wrong_token_and_a_wrong_address_stop_the_examination(site: Site) -> None:
    wrong = site.settings.model_copy(update={"studio_token": type(site.settings.studio_token)("0" * 40)})
    findings = found(wrong)
    assert findings["token"].level == "bad"
    assert "GROUNDSWELL_STUDIO_TOKEN" in findings["token"].hint
    assert "projects" not in findings

    nobody = site.settings.model_copy(update={"studio_url": f"http://127.0.0.1:{free_port()}"})
    assert found(nobody)["label studio"].level == "bad"
    backend = site.settings.model_copy(update={"studio_url": site.settings.backend_url})
    assert "no Label Studio" in found(backend)["label studio"].detail
