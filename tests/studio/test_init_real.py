"""`init_project` on a real Label Studio with our backend running beside it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from label_studio_sdk import LabelStudio
from PIL import Image
from pydantic import SecretStr

from ml_backend.artifacts.inbox import last_notice
from ml_backend.artifacts.project_facts import load_facts
from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.why_line import why_items
from sync.local.label_studio_server import StudioServer
from sync.projects.init_project import BACKEND_TITLE, InitReport, init_project
from sync.rounds.registration import project_ids
from sync.store.database import Store
from tests.conftest import LOGIN, free_port
from tests.ml_backend.notices import noted_actions
from tests.studio.conftest import Site, serve_backend

pytestmark = pytest.mark.studio


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "my pictures"
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("one.png", "two three (4).jpg", "inner/one.png"):
        canvas = np.full((60, 80, 3), 40, np.uint8)
        canvas[20:40, 30:55] = (200, 60, 40)
        canvas = (canvas + rng.integers(0, 12, canvas.shape)).astype(np.uint8)
        Image.fromarray(canvas).save(folder / name)
    return folder


@pytest.fixture
def title(site: Site) -> Iterator[str]:
    name = f"init {uuid.uuid4().hex[:8]}"
    yield name
    for row in site.studio.projects():
        if name in row.title:
            site.studio.delete_project(row.id)


def call(site: Site, path: str, **params: Any) -> Any:
    headers = {"Authorization": f"Token {LOGIN.token}"}
    answer = httpx.get(f"{site.studio.url}{path}", params=params, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def make(site: Site, title: str, images: Path, **options: Any) -> InitReport:
    client = LabelStudio(base_url=site.studio.url, api_key=LOGIN.token)
    return init_project(
        client, title=title, labels=["Cat", "Dog"], images=images, settings=site.settings, **options
    )


def test_a_project_gets_all_it_needs_and_nothing_twice(site: Site, title: str, pictures: Path) -> None:
    (pictures / "broken.jpg").write_text("this is no picture")
    made = make(site, title, pictures)
    assert made.created
    assert made.images_added == 3
    assert len(made.refused) == 1
    assert "broken.jpg" in made.refused[0]

    detail = call(site, f"/api/projects/{made.project_id}/")
    assert detail["sampling"] == "Uncertainty sampling"
    assert detail["model_version"] in ("", None)
    config = parse_label_config(detail["label_config"])
    assert config.labels == ("Cat", "Dog")
    assert config.prompts
    assert why_items(config.xml, "a reason")
    (backend,) = call(site, "/api/ml/", project=made.project_id)
    assert (backend["title"], backend["state"], backend["is_interactive"]) == (BACKEND_TITLE, "CO", True)
    (hook,) = call(site, "/api/webhooks/", project=made.project_id)
    assert hook["headers"] == {"X-Groundswell-Secret": "a webhook secret"}
    assert not hook["send_for_all_actions"]
    facts = load_facts(site.settings.data_dir, made.project_id)
    assert facts.review_project_id == made.review_project_id
    assert facts.key == site.studio.project(made.project_id).key
    assert project_ids(Store(site.settings.database())) == [made.project_id]
    review = site.studio.project(made.review_project_id)
    assert "verdict" in review.label_config

    Image.new("RGB", (10, 10)).save(pictures / "later.png")
    again = make(site, title, pictures)
    assert (again.project_id, again.review_project_id) == (made.project_id, made.review_project_id)
    assert not again.created
    assert again.images_added == 1
    assert len(site.studio.task_ids(made.project_id)) == 4
    assert len(call(site, "/api/ml/", project=made.project_id)) == 1
    assert len(call(site, "/api/webhooks/", project=made.project_id)) == 1
    with pytest.raises(BadInput, match="Cat, Dog"):
        init_project(site.studio, title=title, labels=["Horse"], settings=site.settings)


def test_the_backend_moves_without_leaving_the_old_address_behind(site: Site, title: str) -> None:
    made = init_project(site.studio, title=title, labels=["Cat"], settings=site.settings)
    port = site.settings.backend_url.rsplit(":", 1)[1]
    moved = site.settings.model_copy(update={"backend_url": f"http://localhost:{port}"})
    init_project(site.studio, title=title, labels=["Cat"], settings=moved)
    (backend,) = call(site, "/api/ml/", project=made.project_id)
    assert backend["url"].startswith("http://localhost:")
    (hook,) = call(site, "/api/webhooks/", project=made.project_id)
    assert hook["url"] == f"http://localhost:{port}/webhook"


def test_a_login_set_later_reaches_a_connection_that_is_there(site: Site, title: str) -> None:
    port = free_port()
    locked = site.settings.model_copy(update={"backend_url": f"http://127.0.0.1:{port}"})
    nobody = {"basic_auth_user": "", "basic_auth_pass": SecretStr(""), "open_backend": True}
    no_login = locked.model_copy(update=nobody)
    with serve_backend(no_login, port):
        made = init_project(site.studio, title=title, labels=["Cat"], settings=no_login)
        (before,) = call(site, "/api/ml/", project=made.project_id)
    with serve_backend(locked, port):
        for _ in range(2):
            init_project(site.studio, title=title, labels=["Cat"], settings=locked)
            (backend,) = call(site, "/api/ml/", project=made.project_id)
            assert backend["id"] == before["id"]
            assert (backend["auth_method"], backend["basic_auth_user"]) == ("BASIC_AUTH", "groundswell")
            assert backend["state"] == "CO"


def test_uploaded_and_served_pictures_can_be_read_by_the_worker(
    site: Site, title: str, pictures: Path, tmp_path: Path, studio_server: StudioServer
) -> None:
    uploaded = make(site, title, pictures)
    root = studio_server.files_root
    served = make(site, f"{title} local", pictures, serve="local", files_root=root)
    assert served.images_added == 3
    assert make(site, f"{title} local", pictures, serve="local", files_root=root).images_added == 0
    odd = root / f"{title} R&D #2"
    odd.mkdir()
    Image.new("RGB", (80, 60), (9, 9, 9)).save(odd / "a&b=c 50%25 + #1.png")
    odd_names = make(site, f"{title} odd names", odd, serve="local", files_root=root)
    assert odd_names.images_added == 1
    images = ImageStore(site.settings)
    for made in (uploaded, served, odd_names):
        for row in site.studio.tasks(made.project_id):
            ref = images.get(str(row.data["image"]), task_id=row.id)
            assert images.pixels(ref).shape == (60, 80, 3)
    with pytest.raises(BadInput, match="not below"):
        make(site, f"{title} local", pictures, serve="local", files_root=tmp_path / "elsewhere")
    with pytest.raises(StudioError, match="does not serve"):
        make(site, f"{title} wrong root", pictures, serve="local", files_root=tmp_path)


def test_an_empty_folder_is_refused_before_anything_is_made(site: Site, title: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadImage, match="no pictures"):
        make(site, title, tmp_path / "empty")
    with pytest.raises(BadInput, match="no folder"):
        make(site, title, tmp_path / "nothing")
    assert not any(title in row.title for row in site.studio.projects())


def test_what_people_do_reaches_the_worker_as_a_note(site: Site, title: str, pictures: Path) -> None:
    made = make(site, title, pictures)
    assert last_notice(site.settings.data_dir, made.project_id) is None
    task = min(site.studio.task_ids(made.project_id))
    annotation = site.studio.create_annotation(task, [])
    site.studio.update_annotation(annotation.id, [])
    site.studio.delete_annotation(annotation.id)
    notes = noted_actions(site.settings.data_dir, made.project_id)
    assert notes == ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"]


def test_a_webhook_with_a_wrong_secret_leaves_no_note(site: Site, title: str, pictures: Path) -> None:
    made = make(site, title, pictures)
    url = f"{site.settings.backend_url}/webhook"
    site.studio.ensure_webhook(made.project_id, url, secret="a guess")
    site.studio.create_annotation(min(site.studio.task_ids(made.project_id)), [])
    assert last_notice(site.settings.data_dir, made.project_id) is None
    site.studio.ensure_webhook(made.project_id, url, secret="a webhook secret")
    site.studio.create_annotation(max(site.studio.task_ids(made.project_id)), [])
    assert last_notice(site.settings.data_dir, made.project_id) is not None


def test_a_click_travels_through_label_studio_and_comes_back_as_a_mask(
    site: Site, title: str, pictures: Path
) -> None:
    made = make(site, title, pictures)
    (backend,) = call(site, "/api/ml/", project=made.project_id)
    task = min(site.studio.task_ids(made.project_id))
    prompt = {
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
        "value": {"x": 53, "y": 50, "width": 0.5, "labels": ["Cat"], "keypointlabels": ["Cat"]},
        "is_positive": True,
        "id": "hv7Y4k55qB",
        "from_name": "click",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
    answer = httpx.post(
        f"{site.studio.url}/api/ml/{backend['id']}/interactive-annotating",
        json={"task": task, "context": {"result": [prompt]}},
        headers={"Authorization": f"Token {LOGIN.token}"},
        timeout=60,
    )
    assert answer.status_code == 200
    region, label = answer.json()["data"]["result"]
    assert region["type"] == "brush"
    assert label["value"]["labels"] == ["Cat"]
    assert (region["original_width"], region["original_height"]) == (80, 60)
