"""The served app: health, setup, crops, versions, odd requests, many threads, its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.artifacts.project_facts import save_facts
from ml_backend.images.signed_links import crop_url
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import encode_mask
from ml_backend.model import UNTRAINED
from tests.ml_backend.helpers import ThresholdLearner, image_bytes, some_facts
from tests.ml_backend.label_studio.test_protocol import json_values
from tests.ml_backend.notices import noted_actions
from tests.ml_backend.served import CONFIG, KEY, LABELS, Backend, FakeClicks, click, hook, task


def test_health_and_setup_never_touch_a_model(backend: Backend) -> None:
    backend.publish()

    def stuck() -> None:
        raise AssertionError("a model was loaded")

    ThresholdLearner.hook = staticmethod(stuck)
    assert backend.client.get("/health").json["status"] == "UP"
    reply = backend.client.post(
        "/setup", json={"project": KEY, "schema": CONFIG, "access_token": "x", "hostname": "y"}
    )
    assert reply.json == {"model_version": "r1-aaaa"}
    save_facts(backend.settings.data_dir, some_facts(model_version="r1-aaaa.pushed"))
    reply = backend.client.post("/setup", json={"project": KEY, "schema": CONFIG})
    assert reply.json == {"model_version": "r1-aaaa.pushed"}
    assert backend.studio.requests == []


def test_setup_before_training_and_of_unknown_projects(backend: Backend) -> None:
    assert (
        backend.client.post("/setup", json={"project": KEY, "schema": CONFIG}).json["model_version"]
        == UNTRAINED
    )
    # a project connected by hand: its label config is enough for clicks
    assert backend.client.post("/setup", json={"project": "9.1", "schema": CONFIG}).status_code == 200
    reply = backend.client.post("/setup", json={"project": "9.1"})
    assert reply.status_code == 404
    assert "groundswell init" in reply.json["hint"]
    reply = backend.client.post(
        "/setup", json={"project": KEY, "schema": "<View><Text name='t' value='$t'/></View>"}
    )
    assert reply.status_code == 400
    assert reply.json["field"] == "label_config.Image"


OTHER_KEY = "3.1795300000"
"""the same number, given to a new project after Label Studio was set up anew"""


def test_a_new_project_under_an_old_number_sees_nothing_of_the_old_one(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    fake = FakeClicks(lambda: {"result": [], "score": 0.0, "model_version": ""})
    backend.services._clicks = fake  # type: ignore[assignment]
    hooked = {"id": 3, "created_at": "2026-11-21T23:33:20.123456Z"}
    for reply in (
        backend.client.post("/setup", json={"project": OTHER_KEY, "schema": CONFIG}),
        backend.post(task(1), project=OTHER_KEY),
        click(backend, project=OTHER_KEY),
        hook(backend, project=hooked),
        backend.client.post(f"/webhook?project={OTHER_KEY}", data=b'{"action":"TASKS_CREATED"}'),
        backend.client.get(f"/versions?project={OTHER_KEY}"),
    ):
        assert reply.status_code == 404, reply.json
        assert reply.json["field"] == "project"
        assert "another project" in reply.json["error"]
        assert "r1-aaaa" not in reply.text
    assert fake.calls == []
    assert noted_actions(backend.settings.data_dir, 3) == []
    # the project itself, and who names it without its time of creation
    created = {"id": 3, "created_at": "2026-11-20T21:23:23.930521Z"}
    assert hook(backend, project=created).status_code == 201
    assert backend.predict(task(1), project=KEY)[0]["result"]
    assert backend.predict(task(1), project="3")[0]["result"]


def test_what_lies_under_the_number_of_an_unregistered_project_is_not_served(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    ProjectPaths(backend.settings.data_dir, 3).facts.unlink()
    assert backend.post(task(1)).json["results"] == [[]]
    assert backend.client.get(f"/versions?project={KEY}").status_code == 404


def test_crops_are_served_to_signed_links_only(backend: Backend) -> None:
    backend.publish()
    ref = backend.services.images.put(image_bytes(seed=1))
    instances = backend.fill_pool([1], image_sha=ref.sha)
    key = instance_key(1, "cell", str(instances.rle[0]["counts"]))
    url = crop_url(backend.settings, 3, key).removeprefix(backend.settings.backend_url)
    reply = backend.client.get(url)
    assert reply.status_code == 200
    assert reply.mimetype == "image/jpeg"
    assert reply.data[:2] == b"\xff\xd8"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "immutable" in reply.headers["Cache-Control"]
    again = backend.client.get(url, headers={"If-None-Match": reply.headers["ETag"]})
    assert again.status_code == 304
    path = url.partition("?")[0]
    assert backend.client.get(path).status_code == 403
    assert backend.client.get(f"{path}?sig=AAAA").status_code == 403
    other = url.replace(key, key[:-1] + ("0" if key[-1] != "0" else "1"))
    assert backend.client.get(other).status_code == 403
    unknown = crop_url(backend.settings, 3, "t1-00000000").removeprefix(backend.settings.backend_url)
    assert backend.client.get(unknown).status_code == 404
    expired = crop_url(backend.settings, 3, key, expires_at=1).removeprefix(backend.settings.backend_url)
    assert backend.client.get(expired).status_code == 403


def test_versions(backend: Backend) -> None:
    assert backend.client.get("/versions").json["versions"] == []
    assert backend.client.get(f"/versions?project={KEY}").json["versions"] == [UNTRAINED]
    backend.publish()
    assert backend.client.get(f"/versions?project={KEY}").json == {
        "versions": ["r1-aaaa"],
        "current": "r1-aaaa",
    }
    assert backend.client.get("/versions?project=x").status_code == 400


def test_unknown_routes_and_methods_are_json(backend: Backend) -> None:
    assert backend.client.get("/nothing").json["error"]
    assert backend.client.get("/predict").status_code == 405
    assert backend.client.get("/nothing").status_code == 404


def test_a_body_too_large_is_413(backend: Backend) -> None:
    backend.app.config["MAX_CONTENT_LENGTH"] = 1000
    reply = backend.client.post("/predict", data=b"x" * 2000)
    assert reply.status_code == 413
    assert reply.json["error"]


def test_an_unforeseen_error_hides_its_text(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    def boom() -> dict[str, Any]:
        raise KeyError("internal detail")

    backend.services._clicks = FakeClicks(boom)  # type: ignore[assignment]
    reply = click(backend)
    assert reply.status_code == 500
    assert "internal detail" not in reply.text
    assert "internal detail" in caplog.text


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return Backend(tmp_path_factory.mktemp("fuzz"))


bodies = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda v: json.dumps(v).encode()),
    st.fixed_dictionaries(
        {},
        optional={
            "tasks": json_values
            | st.lists(st.fixed_dictionaries({"id": json_values, "data": json_values}), max_size=3),
            "project": json_values | st.just(KEY) | st.just({"id": 3}),
            "label_config": json_values | st.just(CONFIG) | st.text("<View/>=\"' ", max_size=30),
            "schema": json_values | st.just(CONFIG),
            "params": json_values | st.fixed_dictionaries({"context": json_values}),
            "action": json_values | st.just("ANNOTATION_CREATED"),
        },
    ).map(lambda v: json.dumps(v).encode()),
)


@given(
    body=bodies,
    path=st.sampled_from(["/predict", "/setup", "/webhook", "/webhook?project=3", "/webhook?project=a"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bad_bodies_are_never_a_server_error(fuzzed: Backend, body: bytes, path: str) -> None:
    fuzzed.services._clicks = FakeClicks(lambda: {"result": [], "score": 0.0, "model_version": "v"})  # type: ignore[assignment]
    reply = fuzzed.client.post(path, data=body, content_type="application/json")
    assert reply.status_code < 500, reply.text
    if reply.status_code == 400:
        assert reply.json["field"]
    if reply.status_code == 200 and path == "/predict":
        assert len(reply.json["results"]) == len(json.loads(body)["tasks"])


def test_many_threads_on_two_projects(backend: Backend) -> None:
    """Each answer belongs to its own task, whichever version and project it is of."""
    backend.publish()
    save_facts(backend.settings.data_dir, some_facts(4))

    def build(folder: Path) -> dict[str, object]:
        (folder / "learner.json").write_text(json.dumps(LABELS))
        return {"learner": "threshold"}

    ModelRegistry(backend.settings.data_dir).publish(4, "p4", build)
    expected = {}
    for number in range(1, 21):
        pixels = backend.services.images.pixels(backend.services.images.put(image_bytes(seed=number)))
        expected[number] = encode_mask(pixels.mean(axis=2) > pixels.mean())
    together = threading.Barrier(8)

    def job(worker: int) -> None:
        together.wait(60)
        client = backend.app.test_client()
        for step in range(12):
            number = 1 + (7 * worker + step) % 20
            project = (KEY, "r1-aaaa") if step % 2 else (some_facts(4).key, "p4")
            body = {"tasks": [task(number)], "project": project[0], "label_config": CONFIG}
            (answer,) = client.post("/predict", json=body).json["results"]
            assert answer["model_version"] == project[1]
            (region,) = parse_annotation(answer["result"], parse_label_config(CONFIG), (40, 60)).regions
            assert region.rle == expected[number]

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(job, i) for i in range(8)]:
            future.result(timeout=60)
    assert ThresholdLearner.loads == 2


def run_python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_entry_point_starts_without_heavy_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from ml_backend._wsgi import app; c = app.test_client();"
        "assert c.get('/health').status_code == 200; assert c.get('/metrics').status_code == 200;"
        "print(sorted({'torch', 'pyarrow', 'sklearn', 'label_studio_sdk', 'matplotlib'} & set(sys.modules)))"
    )
    env = {"GROUNDSWELL_DATA_DIR": str(tmp_path), "GROUNDSWELL_OPEN_BACKEND": "true"}
    assert run_python(code, **env).strip() == "[]"


def test_metrics_of_several_processes_are_added_up(tmp_path: Path) -> None:
    shared = tmp_path / "prometheus"
    shared.mkdir()
    code = (
        "from ml_backend._wsgi import app; c = app.test_client();"
        "c.get('/health'); print(c.get('/metrics').text)"
    )
    env = {"GROUNDSWELL_DATA_DIR": str(tmp_path / "data"), "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    env["GROUNDSWELL_OPEN_BACKEND"] = "true"
    run_python(code, **env)
    text = run_python(code, **env)
    assert 'groundswell_request_seconds_count{route="/health",status="200"} 2.0' in text
