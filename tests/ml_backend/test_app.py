"""The served app: answers, credentials, broken tasks, bad bodies, privacy, metrics."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface
from pydantic import SecretStr

import ml_backend.learners
from ml_backend.app import create_app
from ml_backend.artifacts import ProjectPaths
from ml_backend.brush import decode_rle, encode_mask
from ml_backend.errors import BadPrompt, ModelError, StudioError
from ml_backend.facts import save_facts
from ml_backend.fetch import Fetcher
from ml_backend.images import ImageStore
from ml_backend.inbox import read_notices
from ml_backend.instances import Instances
from ml_backend.label_config import build_label_config, parse_label_config
from ml_backend.model import UNTRAINED, GroundswellModel
from ml_backend.pools import PoolWriter, instance_key
from ml_backend.regions import parse_annotation, region_id
from ml_backend.registry import ModelRegistry
from ml_backend.services import Services
from ml_backend.settings import BackendSettings
from ml_backend.signing import crop_url
from tests.ml_backend.helpers import STUDIO, FakeStudioServer, ThresholdLearner, image_bytes, some_facts
from tests.ml_backend.test_protocol import json_values

KEY = "3.1795209803"
CONFIG = build_label_config(["cell", "dirt"])
LABELS = ("cell", "dirt")


class Backend:
    """An app on a folder of its own, with a Label Studio that serves two pictures."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        options: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "studio_url": STUDIO,
            "studio_token": SecretStr("tok"),
        }
        self.settings = BackendSettings(**(options | changes))
        self.studio = FakeStudioServer(
            {f"/data/upload/1/{i}.png": image_bytes(seed=i) for i in range(1, 40)}
            | {"/data/upload/1/text.png": (200, {"content-type": "image/png"}, b"I am text")}
        )
        self.services = Services.from_settings(self.settings)
        self.services.images = ImageStore(
            self.settings, fetcher=Fetcher(self.settings, client=self.studio.client)
        )
        self.services.crops = type(self.services.crops)(self.settings.data_dir, self.services.images)
        self.app = create_app(services=self.services)
        self.client: FlaskClient = self.app.test_client()
        save_facts(self.settings.data_dir, some_facts())

    def publish(self, version: str = "r1-aaaa") -> None:
        def build(folder: Path) -> dict[str, object]:
            (folder / "learner.json").write_text(json.dumps(LABELS))
            return {"learner": "threshold"}

        ModelRegistry(self.settings.data_dir).publish(3, version, build)

    def fill_pool(self, task_ids: list[int], version: str = "r1-aaaa", **facts: Any) -> Instances:
        mask = np.zeros((40, 60), bool)
        mask[5:20, 10:30] = True
        instances = Instances(
            np.array([0, 1]),
            np.array([[10, 5, 30, 20]] * 2, np.float32),
            [encode_mask(mask), encode_mask(~mask)],
            np.array([0.9, 0.1], np.float32),
            np.array([0.9, 0.9], np.float32),
            np.zeros((2, 3), np.float32),
        )
        folder = ProjectPaths(self.settings.data_dir, 3).pool(version)
        with PoolWriter(folder, LABELS, embedding_dim=3) as writer:
            for task_id in task_ids:
                writer.add(task_id, instances, hw=(40, 60), score=0.25, **facts)
        return instances

    def predict(self, *tasks: Any, **changes: Any) -> list[dict[str, Any]]:
        body = {
            "tasks": list(tasks),
            "project": KEY,
            "label_config": CONFIG,
            "params": {"context": None},
        } | changes
        reply = self.client.post("/predict", json=body)
        assert reply.status_code == 200, reply.json
        results = reply.json["results"]
        assert len(results) == len(tasks)
        return list(results)


def task(number: int, **data: Any) -> dict[str, Any]:
    return {
        "id": number,
        "data": data or {"image": f"/data/upload/1/{number}.png"},
        "annotations": [],
        "drafts": [],
    }


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setitem(
        ml_backend.learners.LEARNERS, "threshold", "tests.ml_backend.helpers:ThresholdLearner"
    )
    ThresholdLearner.loads = 0
    yield Backend(tmp_path)
    ThresholdLearner.hook = staticmethod(lambda: None)


# health and setup


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


# batches


def test_stored_predictions_need_no_model_and_no_image(backend: Backend) -> None:
    backend.publish()
    instances = backend.fill_pool([1, 2])
    backend.services.metrics.predicted("store", 0)
    first, second = backend.predict(task(1), task(2))
    assert ThresholdLearner.loads == 0
    assert backend.studio.requests == []
    assert first["score"] == 0.25
    assert first["model_version"] == "r1-aaaa"
    (region,) = first["result"]  # the second instance is below the score shown
    assert region["id"] == region_id(instance_key(1, "cell", str(instances.rle[0]["counts"])))
    assert region["id"] != second["result"][0]["id"]
    back = parse_annotation(first["result"], parse_label_config(CONFIG), (40, 60))
    np.testing.assert_array_equal(decode_rle(back.regions[0].rle), decode_rle(instances.rle[0]))
    assert (
        LabelInterface(CONFIG).validate_prediction(first | {"model_version": "v"}, return_errors=True) == []
    )
    save_facts(backend.settings.data_dir, some_facts(options={"push_min_score": 0.05}))
    assert len(backend.predict(task(1))[0]["result"]) == 2


def test_the_model_answers_what_the_pool_does_not_hold(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    answers = backend.predict(*(task(i) for i in range(1, 8)))
    assert ThresholdLearner.loads == 1
    assert len(backend.studio.requests) == 6
    for number, answer in enumerate(answers[1:], start=2):
        pixels = backend.services.images.pixels(backend.services.images.put(image_bytes(seed=number)))
        (region,) = parse_annotation(answer["result"], parse_label_config(CONFIG), (40, 60)).regions
        np.testing.assert_array_equal(decode_rle(region.rle), pixels.mean(axis=2) > pixels.mean())
        assert 0 <= answer["score"] <= 1


def test_new_parts_and_versions_are_seen_at_once(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    backend.predict(task(1))
    backend.fill_pool([2])
    backend.predict(task(2))
    backend.publish("r2-bbbb")
    backend.fill_pool([1], "r2-bbbb")
    assert backend.predict(task(1))[0]["model_version"] == "r2-bbbb"
    assert ThresholdLearner.loads == 0


def test_a_broken_task_gets_an_empty_result_and_a_reason(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.publish()
    with caplog.at_level(logging.WARNING):
        answers = backend.predict(
            task(1),
            task(2, image="/data/upload/1/text.png"),
            task(3, picture="x"),
            task(4, image="/data/upload/1/gone.png"),
            "not a task",
            task(6, image="http://169.254.169.254/"),
            task(7),
        )
    assert [bool(a["result"]) for a in answers] == [True, False, False, False, False, False, True]
    for number, words in ((2, "not an image"), (3, "data.image"), (4, "HTTP 404"), (6, "not allowed")):
        assert any(f"task {number}" in m and words in m for m in caplog.messages), (number, caplog.messages)
    for answer in answers:
        assert 0 <= answer["score"] <= 1
        assert answer["model_version"] == "r1-aaaa"
    text = backend.client.get("/metrics").text
    assert 'groundswell_task_failures_total{reason="BadImage"} 3.0' in text


def test_the_pools_error_is_passed_on(backend: Backend) -> None:
    backend.publish()
    folder = ProjectPaths(backend.settings.data_dir, 3).pool("r1-aaaa")
    with PoolWriter(folder, LABELS, embedding_dim=3) as writer:
        writer.add(1, Instances.empty(3), error="the file is not an image")
    (answer,) = backend.predict(task(1))
    assert answer["result"] == []
    assert "not an image" in answer["error"]


def test_without_a_model_all_answers_are_empty(backend: Backend) -> None:
    assert backend.predict(task(1), task(2)) == [{"result": [], "score": 0.0, "model_version": UNTRAINED}] * 2
    assert backend.predict() == []
    assert backend.studio.requests == []


@pytest.mark.parametrize("error", [ModelError("weights.safetensors is damaged"), RuntimeError("CUDA error")])
def test_a_model_that_does_not_load_or_run_spares_stored_answers(backend: Backend, error: Exception) -> None:
    backend.publish()
    backend.fill_pool([1])

    def fail() -> None:
        raise error

    ThresholdLearner.hook = staticmethod(fail)
    first, second = backend.predict(task(1), task(2))
    assert first["result"]
    assert second["result"] == []
    assert str(error) in second["error"]


def test_too_slow_is_busy_not_empty(backend: Backend) -> None:
    backend.publish()
    model = GroundswellModel(backend.services, 3, CONFIG)
    from ml_backend.protocol import TaskIn

    tasks = [TaskIn(i, {"image": f"/data/upload/1/{i}.png"}) for i in range(1, 9)]
    with pytest.raises(ModelError, match="busy: 8 of 8"):
        model.predict_tasks(tasks, budget_s=-1.0)


def test_labels_the_config_lost_are_left_out(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    (answer,) = backend.predict(task(1), label_config=build_label_config(["dirt"]))
    assert answer["result"] == []
    (live,) = backend.predict(task(2), label_config=build_label_config(["dirt"]))
    assert live["result"] == []


def test_the_label_config_decides_the_output(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    for output, kind in (
        ("bitmask", "bitmasklabels"),
        ("polygon", "polygonlabels"),
        ("brush", "brushlabels"),
    ):
        (answer,) = backend.predict(task(1), label_config=build_label_config(LABELS, output=output))  # type: ignore[arg-type]
        assert [r["type"] for r in answer["result"]] == [kind]


def test_the_contract_class_without_http(backend: Backend) -> None:
    backend.publish()
    backend.fill_pool([1])
    model = GroundswellModel(backend.services, 3)
    assert model.setup() == {"model_version": "r1-aaaa"}
    (prediction,) = model.predict([task(1)])
    assert set(prediction) == {"result", "score", "model_version"}
    assert model.fit("START_TRAINING", {"anything": 1}) == {"status": "noted"}
    assert [n.action for n in read_notices(backend.settings.data_dir, 3)] == ["START_TRAINING"]


# clicks


class FakeClicks:
    def __init__(self, answer: Callable[[], dict[str, Any]]) -> None:
        self.answer = answer
        self.calls: list[tuple[Mapping[str, Any], Any, Any]] = []

    def predict(self, task: Mapping[str, Any], context: Any, project: Any) -> dict[str, Any]:
        self.calls.append((task, context, project))
        return self.answer()


CONTEXT = {
    "result": [
        {"type": "keypointlabels", "value": {"x": 1, "y": 2, "keypointlabels": ["cell"]}, "is_positive": True}
    ]
}


def click(backend: Backend, **changes: Any) -> Any:
    private = {
        "annotations": [{"result": [{"value": {"rle": [1, 2, 3], "text": "PRIVATE"}}]}],
        "drafts": ["PRIVATE"],
    }
    body = {
        "tasks": [task(1) | private],
        "project": KEY,
        "label_config": CONFIG,
        "params": {"context": CONTEXT},
    }
    return backend.client.post("/predict", json=body | changes)


def test_clicks_go_to_the_click_service_without_private_work(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.publish()
    fake = FakeClicks(lambda: {"result": [{"id": "a"}], "score": 0.5, "model_version": "classical"})
    backend.services._clicks = fake  # type: ignore[assignment]
    with caplog.at_level(logging.DEBUG):
        reply = click(backend)
    assert reply.json == {"results": [{"result": [{"id": "a"}], "score": 0.5, "model_version": "classical"}]}
    sent, context, facts = fake.calls[0]
    assert sent == {"id": 1, "data": {"image": "/data/upload/1/1.png"}}
    assert context == CONTEXT
    assert facts.model_version == "r1-aaaa"
    assert "PRIVATE" not in caplog.text
    assert 'groundswell_clicks_total{outcome="ok"} 1.0' in backend.client.get("/metrics").text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            BadPrompt(
                "the click is outside the image", field="context.result[0]", hint="Click on the picture"
            ),
            400,
        ),
        (StudioError("Label Studio is away", hint="Start it"), 502),
        (ModelError("the checkpoint is missing", hint="groundswell models pull sam_vit_b"), 503),
    ],
)
def test_click_errors_reach_the_status_line(backend: Backend, error: Exception, status: int) -> None:
    def fail() -> dict[str, Any]:
        raise error

    backend.services._clicks = FakeClicks(fail)  # type: ignore[assignment]
    reply = click(backend)
    assert reply.status_code == status
    assert reply.json["error"] in str(error)
    assert reply.json["error"] in reply.status  # Label Studio passes nothing else on
    assert reply.json["hint"]
    assert "\n" not in reply.status


def test_clicks_work_in_a_project_connected_by_hand(backend: Backend) -> None:
    fake = FakeClicks(lambda: {"result": [], "score": 0.0, "model_version": ""})
    backend.services._clicks = fake  # type: ignore[assignment]
    assert click(backend, project="77.1").status_code == 200
    assert fake.calls[0][2].labels == LABELS


# webhook


def hook(backend: Backend, headers: Mapping[str, str] | None = None, **changes: Any) -> Any:
    body = {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": 1, "result": []},
        "project": {"id": 3},
    } | changes
    return backend.client.post("/webhook", json=body, headers=dict(headers or {}))


def test_a_webhook_leaves_a_note(backend: Backend) -> None:
    assert hook(backend).status_code == 200
    assert backend.client.post("/webhook?project=3", data=b'{"action":"TASKS_CREATED",').status_code == 200
    assert [n.action for n in read_notices(backend.settings.data_dir, 3)] == [
        "ANNOTATION_CREATED",
        "TASKS_CREATED",
    ]
    text = backend.client.get("/metrics").text
    assert 'groundswell_webhooks_total{action="ANNOTATION_CREATED"} 1.0' in text


def test_a_review_answer_wakes_the_project_it_is_about(backend: Backend) -> None:
    save_facts(backend.settings.data_dir, some_facts(4, role="review", label_project_id=3))
    assert hook(backend, project={"id": 4}).status_code == 200
    assert [n.action for n in read_notices(backend.settings.data_dir, 3)] == ["ANNOTATION_CREATED"]
    assert [n.action for n in read_notices(backend.settings.data_dir, 4)] == ["ANNOTATION_CREATED"]


def test_webhooks_of_unknown_projects_and_actions(backend: Backend) -> None:
    reply = hook(backend, project={"id": 99})
    assert reply.status_code == 404
    assert not ProjectPaths(backend.settings.data_dir, 99).root.exists()
    assert hook(backend, action="SOMETHING_NEW" * 20).status_code == 200
    assert 'action="other"' in backend.client.get("/metrics").text


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_webhook_credentials(tmp_path: Path) -> None:
    secret = Backend(tmp_path / "a", webhook_secret=SecretStr("s3cret"))
    assert hook(secret).status_code == 401
    assert hook(secret, {"X-Groundswell-Secret": "wrong"}).status_code == 401
    assert hook(secret, basic("", "")).status_code == 401
    assert hook(secret, {"X-Groundswell-Secret": "s3cret"}).status_code == 200
    assert read_notices(secret.settings.data_dir, 3)[0].action == "ANNOTATION_CREATED"
    assert len(read_notices(secret.settings.data_dir, 3)) == 1
    both = Backend(
        tmp_path / "b",
        webhook_secret=SecretStr("s3cret"),
        basic_auth_user="ls",
        basic_auth_pass=SecretStr("pw"),
    )
    assert hook(both).status_code == 401
    assert hook(both, {"X-Groundswell-Secret": "s3cret"}).status_code == 200
    assert hook(both, basic("ls", "pw")).status_code == 200
    assert hook(both, basic("ls", "s3cret")).status_code == 401
    only_basic = Backend(tmp_path / "c", basic_auth_user="ls", basic_auth_pass=SecretStr("pw"))
    assert hook(only_basic, {"X-Groundswell-Secret": ""}).status_code == 401


def test_basic_auth_covers_all_but_health_and_signed_crops(tmp_path: Path) -> None:
    backend = Backend(tmp_path, basic_auth_user="ls", basic_auth_pass=SecretStr("pä§s"))
    client = backend.client
    assert client.get("/health").status_code == 200
    for method, path in (
        ("get", "/metrics"),
        ("get", "/versions"),
        ("post", "/setup"),
        ("post", "/predict"),
        ("get", "/x"),
    ):
        reply = getattr(client, method)(path)
        assert reply.status_code == 401, path
        assert "Basic" in reply.headers["WWW-Authenticate"]
    assert client.get("/metrics", headers=basic("ls", "pä§s")).status_code == 200
    for user, password in (("ls", "no"), ("no", "pä§s"), ("", "")):
        assert client.get("/metrics", headers=basic(user, password)).status_code == 401
    assert (
        client.get("/metrics", headers={"Authorization": "Bearer pä§s".encode().decode("latin1")}).status_code
        == 401
    )
    assert client.get("/crops/3/t1-aa.jpg").status_code == 403


# crops, versions, odd requests


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
        together.wait(10)
        client = backend.app.test_client()
        for step in range(12):
            number = 1 + (7 * worker + step) % 20
            project = ("3.1", "r1-aaaa") if step % 2 else ("4.1", "p4")
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
    assert run_python(code, GROUNDSWELL_DATA_DIR=str(tmp_path)).strip() == "[]"


def test_metrics_of_several_processes_are_added_up(tmp_path: Path) -> None:
    shared = tmp_path / "prometheus"
    shared.mkdir()
    code = (
        "from ml_backend._wsgi import app; c = app.test_client();"
        "c.get('/health'); print(c.get('/metrics').text)"
    )
    env = {"GROUNDSWELL_DATA_DIR": str(tmp_path / "data"), "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    run_python(code, **env)
    text = run_python(code, **env)
    assert 'groundswell_request_seconds_count{route="/health",status="200"} 2.0' in text
