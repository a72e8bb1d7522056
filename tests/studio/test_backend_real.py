"""The backend on a real Label Studio: formats are kept, predictions arrive, images are read, clicks work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.project_facts import ProjectFacts, save_facts
from ml_backend.errors import StudioError
from ml_backend.images.store import ImageStore
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import Output, parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import provenance_meta
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box
from sync.studio.client import Studio
from sync.studio.protocol import PredictionRow, ProjectRow
from tests.conftest import LOGIN
from tests.studio.conftest import Site, serve_backend

pytestmark = pytest.mark.studio

HW = (60, 80)
LABELS = ("cell", "dirt")


def picture(folder: Path, name: str, *, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    path = folder / name
    Image.fromarray(rng.integers(0, 255, (*HW, 3)).astype(np.uint8)).save(path)
    return path


def found() -> Instances:
    mask = np.zeros(HW, bool)
    mask[10:30, 20:50] = True
    mask[15:20, 25:30] = False
    rles = [encode_mask(mask), encode_mask(np.roll(mask, 20, axis=0))]
    return Instances(
        np.array([0, 1]),
        np.array([rle_box(r) for r in rles], np.float32),
        rles,
        np.array([0.9, 0.8], np.float32),
        np.array([0.9, 0.9], np.float32),
        np.zeros((2, 0), np.float32),
    )


def post(studio: Studio, path: str, body: Any) -> Any:
    headers = {"Authorization": f"Token {LOGIN.token}"}
    answer = httpx.post(f"{studio.url}{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code < 300, answer.text
    return answer.json()


@pytest.mark.parametrize("output", ["bitmask", "brush", "polygon", "rectangle"])
def test_label_studio_keeps_every_output_as_it_was_sent(
    studio: Studio, project_factory: Callable[..., ProjectRow], tmp_path: Path, output: Output
) -> None:
    kind = "boxes" if output == "rectangle" else "instances"
    xml = build_label_config(LABELS, output=output, kind=kind)
    config = parse_label_config(xml)
    project = project_factory(f"output {output}", xml)
    studio.upload_images(project.id, [picture(tmp_path, "a.png")])
    (task_id,) = studio.task_ids(project.id)
    meta = provenance_meta("cluster 7, purity 0.97", key="t1-0011aabb", cluster=7, purity=[0.93, 0.99])
    result = to_result(found(), config, HW, keys=["a", "b"], meta=[meta, None])
    assert validate_result(result, config, 0.5) == []
    assert studio.import_predictions(project.id, [PredictionRow(task_id, result, 0.5, "v1")]) == 1
    (kept,) = studio.predictions(task_id)
    assert list(kept.result) == result
    # as if a person had accepted it
    studio.create_annotation(task_id, kept.result, lead_time_s=1.0)
    (annotation,) = studio.task(task_id).annotations
    back = parse_annotation(annotation.result, config, HW)
    assert back.dropped == ()
    assert [r.label for r in back.regions] == list(LABELS)
    assert back.regions[0].provenance["cluster"] == 7
    if output in ("bitmask", "brush"):
        for region, rle in zip(back.regions, found().rle, strict=True):
            np.testing.assert_array_equal(decode_rle(region.rle), decode_rle(rle))


def test_a_label_config_is_shown_as_it_was_built(
    studio: Studio, project_factory: Callable[..., ProjectRow]
) -> None:
    for kind in ("instances", "segmentation", "weak", "classes", "boxes"):
        xml = build_label_config(['a "b" <c>', "d & e"], kind=kind)  # type: ignore[arg-type]
        project = project_factory(f"kind {kind}", xml)
        config = parse_label_config(studio.project(project.id).label_config)
        assert config.kind == kind
        assert config.labels == ('a "b" <c>', "d & e")
        assert config.digest == parse_label_config(xml).digest


def test_images_are_read_with_both_kinds_of_token(
    site: Site, project_factory: Callable[..., ProjectRow], tmp_path: Path
) -> None:
    project = project_factory("tokens", build_label_config(LABELS))
    path = picture(tmp_path, "ä b.png")
    site.studio.upload_images(project.id, [path])
    (task,) = site.studio.tasks(project.id)
    address = str(task.data["image"])
    legacy = ImageStore(site.settings)
    assert legacy.get(address, task_id=task.id).path.read_bytes() == path.read_bytes()
    post(site.studio, "/api/jwt/settings", {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    personal = post(site.studio, "/api/token/", {})["token"]
    assert personal.count(".") == 2
    other = site.settings.model_copy(
        update={"studio_token": SecretStr(personal), "data_dir": tmp_path / "other"}
    )
    assert ImageStore(other).get(address).hw == HW


def test_stored_predictions_reach_label_studio_through_the_backend(
    site: Site, project_factory: Callable[..., ProjectRow], tmp_path: Path
) -> None:
    xml = build_label_config(LABELS)
    project = project_factory("retrieve", xml)
    site.studio.upload_images(project.id, [picture(tmp_path, f"{i}.png", seed=i) for i in range(3)])
    tasks = sorted(site.studio.task_ids(project.id))
    data_dir = site.settings.data_dir
    save_facts(data_dir, ProjectFacts(project.id, project.key, project.title, "instances", xml, LABELS))

    def build(folder: Path) -> dict[str, object]:
        (folder / "learner.json").write_text(json.dumps(LABELS))
        return {"learner": "maskrcnn"}

    ModelRegistry(data_dir).publish(project.id, "r1-stored", build)
    with PoolWriter(ProjectPaths(data_dir, project.id).pool("r1-stored"), LABELS, embedding_dim=0) as writer:
        writer.add(tasks[0], found(), hw=HW, score=0.25)
        writer.add(tasks[1], Instances.empty(), hw=HW, score=0.5)
        writer.add(tasks[2], Instances.empty(), error="the file is not an image")
    site.studio.connect_backend(
        project.id, site.settings.backend_url, title="Groundswell", basic_auth=site.basic_auth
    )
    body = {"selectedItems": {"all": False, "included": tasks}}
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project.id}"
    post(site.studio, path, body)
    stored = [site.studio.predictions(task) for task in tasks]
    assert [len(rows) for rows in stored] == [1, 1, 0]  # nothing is stored for an image that cannot be read
    assert {row.model_version for rows in stored for row in rows} == {"r1-stored"}
    assert [row.score for rows in stored for row in rows] == [0.25, 0.5]
    back = parse_annotation(stored[0][0].result, parse_label_config(xml), HW)
    assert [r.rle for r in back.regions] == list(found().rle)
    post(site.studio, path, body)  # an unchanged version is not asked for again
    assert [len(site.studio.predictions(task)) for task in tasks] == [1, 1, 0]


def test_what_cannot_be_answered_is_not_stored_and_asked_for_again(
    site: Site, project_factory: Callable[..., ProjectRow], tmp_path: Path
) -> None:
    xml = build_label_config(LABELS)
    project = project_factory("failures", xml)
    site.studio.upload_images(project.id, [picture(tmp_path, f"{i}.png", seed=i) for i in range(3)])
    tasks = sorted(site.studio.task_ids(project.id))
    data_dir = site.settings.data_dir
    save_facts(data_dir, ProjectFacts(project.id, project.key, project.title, "instances", xml, LABELS))
    site.studio.connect_backend(
        project.id, site.settings.backend_url, title="Groundswell", basic_auth=site.basic_auth
    )
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project.id}"

    def retrieve(*wanted: int) -> list[int]:
        """How many predictions each task has after Label Studio asked for those of ``wanted``."""
        post(site.studio, path, {"selectedItems": {"all": False, "included": list(wanted)}})
        return [len(site.studio.predictions(task)) for task in tasks]

    assert retrieve(*tasks) == [0, 0, 0]  # before the first model there is nothing to store

    def damaged(folder: Path) -> dict[str, object]:
        (folder / "model.safetensors").write_bytes(b"not weights")
        return {"learner": "maskrcnn"}

    ModelRegistry(data_dir).publish(project.id, "r1-damaged", damaged)
    assert retrieve(*tasks) == [0, 0, 0]  # the whole request failed
    with PoolWriter(ProjectPaths(data_dir, project.id).pool("r1-damaged"), LABELS, embedding_dim=0) as writer:
        writer.add(tasks[1], found(), hw=HW, score=0.25)
    assert retrieve(*tasks) == [0, 1, 0]  # one task has an answer, the model still fails for the others
    assert retrieve(tasks[0]) == [0, 1, 0]
    with PoolWriter(ProjectPaths(data_dir, project.id).pool("r1-damaged"), LABELS, embedding_dim=0) as writer:
        writer.add(tasks[0], found(), hw=HW, score=0.25)
        writer.add(tasks[2], Instances.empty(), hw=HW, score=0.5)
    assert retrieve(*tasks) == [1, 1, 1]


def test_the_backend_answers_label_studio_and_nobody_without_the_password(
    site: Site, project_factory: Callable[..., ProjectRow], tmp_path: Path
) -> None:
    xml = build_label_config(LABELS)
    project = project_factory("password", xml)
    site.studio.upload_images(project.id, [picture(tmp_path, "a.png")])
    (task_id,) = site.studio.task_ids(project.id)
    data_dir = site.settings.data_dir
    save_facts(data_dir, ProjectFacts(project.id, project.key, project.title, "instances", xml, LABELS))
    ModelRegistry(data_dir).publish(project.id, "r1-stored", lambda folder: {"learner": "maskrcnn"})
    with PoolWriter(ProjectPaths(data_dir, project.id).pool("r1-stored"), LABELS, embedding_dim=0) as writer:
        writer.add(task_id, found(), hw=HW, score=0.25)
    body = {"tasks": [{"id": task_id, "data": {"image": "/api/users"}}], "project": project.key}
    url = f"{site.settings.backend_url}/predict"
    for auth in (None, ("groundswell", "guess"), ("", "")):
        assert httpx.post(url, json=body, auth=auth, timeout=30).status_code == 401

    # Label Studio with the wrong password, then with the right one: connecting again mends it
    user, password = site.basic_auth
    with pytest.raises(StudioError, match="401"):
        site.studio.connect_backend(
            project.id, site.settings.backend_url, title="Groundswell", basic_auth=(user, "wrong")
        )
    first = site.studio.connect_backend(
        project.id, site.settings.backend_url, title="Groundswell", basic_auth=site.basic_auth
    )
    again = site.studio.connect_backend(
        project.id, site.settings.backend_url, title="Groundswell", basic_auth=site.basic_auth
    )
    assert again == first
    (row,) = site.studio.backends(project.id)
    assert (row["auth_method"], row["basic_auth_user"], row["state"]) == ("BASIC_AUTH", user, "CO")
    assert password not in json.dumps(row)
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project.id}"
    post(site.studio, path, {"selectedItems": {"all": False, "included": [task_id]}})
    assert [row.model_version for row in site.studio.predictions(task_id)] == ["r1-stored"]


def test_a_backend_connected_without_a_password_gets_it_when_connected_again(
    site: Site, project_factory: Callable[..., ProjectRow]
) -> None:
    xml = build_label_config(LABELS)
    project = project_factory("opened", xml)
    save_facts(
        site.settings.data_dir,
        ProjectFacts(project.id, project.key, project.title, "instances", xml, LABELS),
    )
    nobody = {"basic_auth_user": "", "basic_auth_pass": SecretStr(""), "open_backend": True}
    plain = site.settings.model_copy(update=nobody)
    with serve_backend(plain) as url:
        backend = site.studio.connect_backend(project.id, url, title="Groundswell", basic_auth=None)
        port = int(url.rsplit(":", 1)[1])
    with serve_backend(site.settings, port):
        (row,) = site.studio.backends(project.id)
        assert row["state"] != "CO"  # Label Studio still calls it without
        connected = site.studio.connect_backend(
            project.id, url, title="Groundswell", basic_auth=site.basic_auth
        )
        (row,) = site.studio.backends(project.id)
        assert (connected, row["state"]) == (backend, "CO")
        assert site.studio.disconnect(project.id, url, title="Groundswell") == 1
        assert site.studio.backends(project.id) == site.studio.webhooks(project.id) == []


def test_clicks_and_their_errors_pass_through_label_studio(
    site: Site, project_factory: Callable[..., ProjectRow], tmp_path: Path
) -> None:
    xml = build_label_config(LABELS, output="bitmask")
    project = project_factory("clicks", xml)
    canvas = np.full((*HW, 3), 30, np.uint8)
    canvas[15:45, 20:60] = (220, 60, 40)
    Image.fromarray(canvas).save(tmp_path / "square.png")
    site.studio.upload_images(project.id, [tmp_path / "square.png"])
    (task_id,) = site.studio.task_ids(project.id)
    save_facts(
        site.settings.data_dir,
        ProjectFacts(project.id, project.key, project.title, "instances", xml, LABELS, segmenter="classical"),
    )
    backend = site.studio.connect_backend(
        project.id, site.settings.backend_url, title="Groundswell", basic_auth=site.basic_auth
    )
    click = {
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "original_width": HW[1],
        "original_height": HW[0],
        "image_rotation": 0,
        "is_positive": True,
        "value": {"x": 50.0, "y": 50.0, "width": 0.3, "keypointlabels": ["cell"]},
    }
    path = f"/api/ml/{backend}/interactive-annotating"
    answer = post(site.studio, path, {"task": task_id, "context": {"result": [click]}})
    (region,) = parse_annotation(answer["data"]["result"], parse_label_config(xml), HW).regions
    truth = np.zeros(HW, bool)
    truth[15:45, 20:60] = True
    mask = decode_rle(region.rle)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    outside = click | {"value": click["value"] | {"x": 150.0}}  # type: ignore[operator]
    refused = post(site.studio, path, {"task": task_id, "context": {"result": [outside]}})
    assert "context.result[0]" in refused["errors"][0]
