"""`groundswell doctor` finds what was broken on purpose."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from sync.projects.init_project import init_project
from sync.report.doctor import Finding, examine
from sync.settings import Settings
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


def test_a_healthy_installation_has_no_finding(site: Site, project: int) -> None:
    findings = found(site.settings)
    assert {finding.level for finding in findings.values()} == {"ok"}, findings
    assert f"project {project} webhook" in findings
    assert "40×30" in findings[f"project {project} images"].detail


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
