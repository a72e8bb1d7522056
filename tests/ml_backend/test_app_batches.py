"""Batches of tasks: from the pool, from the model, broken ones, the model class without HTTP."""

from __future__ import annotations

import base64
import logging
from typing import Any

import httpx
import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.project_facts import save_facts
from ml_backend.artifacts.verdicts import Verdict, write_verdicts
from ml_backend.errors import ModelError
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.regions import region_id
from ml_backend.masks.rle import decode_rle
from ml_backend.model import UNTRAINED, GroundswellModel
from tests.ml_backend.helpers import ThresholdLearner, bright_instances, image_bytes, some_facts
from tests.ml_backend.notices import noted_actions
from tests.ml_backend.served import CONFIG, KEY, LABELS, Backend, task


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
    save_facts(backend.settings.data_dir, some_facts(push_min_score=0.05))
    assert len(backend.predict(task(1))[0]["result"]) == 2


def test_decided_masks_are_shown_as_they_are_pushed(backend: Backend) -> None:
    backend.publish(round=4)
    sure, unsure = backend.fill_pool([1, 2]).rle
    keys = [instance_key(task_id, "cell", str(sure["counts"])) for task_id in (1, 2)]
    below = instance_key(1, "dirt", str(unsure["counts"]))
    assert len(backend.predict(task(1))[0]["result"]) == 1
    rejected = Verdict(keys[0], "cell", -1, False, 0, 5, 0.0, 0.1, 0.95, "original")
    accepted = Verdict(below, "dirt", 1, False, 1, 7, 0.9, 1.0, 0.95, "original")
    folder = ProjectPaths(backend.settings.data_dir, 3).round(4)
    write_verdicts(folder, [rejected, accepted])
    first, second = backend.predict(task(1), task(2))
    (region,) = first["result"]  # accepted though its score is below what is shown undecided
    assert region["id"] == region_id(below)
    assert region["meta"] == accepted.meta(4)
    assert [r["id"] for r in second["result"]] == [region_id(keys[1])]
    (folder / "verdicts.parquet").write_bytes(b"damaged")
    assert [r["id"] for r in backend.predict(task(1))[0]["result"]] == [region_id(keys[0])]


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


def _damaged_avif() -> str:
    data = image_bytes(fmt="AVIF").replace(b"pitm", bytes(4))  # Pillow raises RuntimeError
    return "data:image/avif;base64," + base64.b64encode(data).decode()


AVIF = _damaged_avif()


def test_a_broken_task_gets_no_prediction_and_a_reason(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.publish()
    tasks = [
        task(1),
        task(2, image="/data/upload/1/text.png"),
        task(3, picture="x"),
        task(4, image="/data/upload/1/gone.png"),
        "not a task",
        task(6, image="http://169.254.169.254/"),
        task(7),
    ]
    with caplog.at_level(logging.WARNING):
        reply = backend.post(*tasks)
    answers = reply.json["results"]
    assert [bool(a) for a in answers] == [True, False, False, False, False, False, True]
    assert all(answer == [] for answer in answers[1:-1])  # Label Studio stores nothing for an empty list
    told = {e["task"]: e["error"] for e in reply.json["errors"]}
    assert list(told) == [2, 3, 4, None, 6]
    for number, words in ((2, "not an image"), (3, "data.image"), (4, "HTTP 404"), (6, "not allowed")):
        assert any(f"task {number}" in m and words in m for m in caplog.messages), (number, caplog.messages)
        assert words in told[number]
    for answer in (answers[0], answers[-1]):
        assert answer["result"]
        assert 0 <= answer["score"] <= 1
        assert answer["model_version"] == "r1-aaaa"
    text = backend.client.get("/metrics").text
    assert 'groundswell_task_failures_total{reason="BadImage"} 3.0' in text


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 10**30, "data": {"image": "/data/upload/1/2.png"}},
        {"id": -(10**30), "data": {"image": "/data/upload/1/2.png"}},
        task(2, image="/data/upload/1/\ud800.png"),
        task(2, image="data:image/png,\ud800"),
        task(2, image="s3://bucket/\ud800"),
        task(2, image=AVIF),
    ],
    ids=["large id", "low id", "half a character", "half in data:", "half in s3:", "damaged AVIF"],
)
def test_a_hostile_task_costs_no_other_its_answer(backend: Backend, bad: dict[str, Any]) -> None:
    backend.publish()
    backend.fill_pool([1])
    reply = backend.post(task(1), bad, task(3))
    assert reply.status_code == 200, reply.json
    assert [bool(answer) for answer in reply.json["results"]] == [True, False, True]
    assert len(reply.json["errors"]) == 1
    assert "model failed" not in reply.json["errors"][0]["error"]
    assert "cannot be reached" not in reply.json["errors"][0]["error"]


def test_the_pools_error_is_passed_on(backend: Backend) -> None:
    backend.publish()
    folder = ProjectPaths(backend.settings.data_dir, 3).pool("r1-aaaa")
    with PoolWriter(folder, LABELS, embedding_dim=3) as writer:
        writer.add(1, Instances.empty(3), error="the file is not an image")
    reply = backend.post(task(1))
    assert reply.json["results"] == [[]]
    assert "not an image" in reply.json["errors"][0]["error"]


def test_without_a_model_no_task_has_a_prediction(backend: Backend) -> None:
    assert backend.predict(task(1), task(2)) == [[], []]
    assert backend.predict() == []
    assert backend.studio.requests == []
    setup = backend.client.post("/setup", json={"project": KEY, "schema": CONFIG})
    assert setup.json == {"model_version": UNTRAINED}


BROKEN = [
    ModelError("weights.safetensors is damaged"),
    RuntimeError("CUDA error: out of memory"),
    MemoryError("no room"),
]


@pytest.mark.parametrize("error", BROKEN)
def test_a_model_that_does_not_load_or_run_spares_stored_answers(backend: Backend, error: Exception) -> None:
    backend.publish()
    backend.fill_pool([1])

    def fail() -> None:
        raise error

    ThresholdLearner.hook = staticmethod(fail)
    reply = backend.post(task(1), task(2))
    assert reply.status_code == 200
    first, second = reply.json["results"]
    assert first["result"]
    assert second == []
    (told,) = reply.json["errors"]
    assert told["task"] == 2
    assert str(error) in told["error"]


@pytest.mark.parametrize("error", BROKEN)
def test_a_model_that_does_not_load_or_run_is_503_where_nothing_is_stored(
    backend: Backend, error: Exception
) -> None:
    backend.publish()

    def fail() -> None:
        raise error

    ThresholdLearner.hook = staticmethod(fail)
    reply = backend.post(task(1), task(2))
    assert reply.status_code == 503
    assert str(error) in reply.json["error"]
    assert "results" not in reply.json


def test_an_unreachable_label_studio_is_502(backend: Backend) -> None:
    backend.publish()
    backend.studio.routes["/data/upload/1/1.png"] = httpx.ConnectError("refused")
    reply = backend.post(task(1))
    assert reply.status_code == 502
    assert "cannot be reached" in reply.json["error"]
    mixed = backend.post(task(1), task(2))
    assert mixed.json["results"][0] == []
    assert mixed.json["results"][1]["result"]


def test_answers_carry_the_version_their_masks_came_from(backend: Backend) -> None:
    def versions() -> set[str]:
        setup = backend.client.post("/setup", json={"project": KEY, "schema": CONFIG})
        return {setup.json["model_version"], *(a["model_version"] for a in backend.predict(task(1), task(2)))}

    backend.publish()
    backend.fill_pool([1])
    assert versions() == {"r1-aaaa"}
    save_facts(backend.settings.data_dir, some_facts(model_version="r1-aaaa.0123abcd"))
    assert versions() == {"r1-aaaa.0123abcd"}
    # a new model serves, and its predictions are not pushed yet
    backend.publish("r2-bbbb")
    backend.fill_pool([1], "r2-bbbb")
    assert versions() == {"r2-bbbb"}
    backend.publish("r1-aaaa1")  # a name that begins like the pushed one
    assert versions() == {"r1-aaaa1"}


def test_what_is_shown_of_a_task_has_one_mask_per_object_in_live_answers_too(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.publish(round=4)
    twice = bright_instances(
        backend.services.images.pixels(backend.services.images.put(image_bytes(seed=2))), LABELS
    )
    again = twice.take(np.array([0, 0, 0]))
    again.label[1], again.score[1] = 1, 0.95  # the same object as dirt, a little surer
    monkeypatch.setattr("tests.ml_backend.helpers.bright_instances", lambda image, labels: again)
    (answer,) = backend.predict(task(2))
    (region,) = answer["result"]
    assert region["value"]["brushlabels"] == ["dirt"]
    dirt, cell = (instance_key(2, name, str(twice.rle[0]["counts"])) for name in ("dirt", "cell"))
    rejected = Verdict(dirt, "dirt", -1, False, 0, 5, 0.0, 0.1, 0.95, "original")
    accepted = Verdict(cell, "cell", 1, False, 1, 7, 0.9, 1.0, 0.95, "original")
    write_verdicts(ProjectPaths(backend.settings.data_dir, 3).round(4), [rejected, accepted])
    (answer,) = backend.predict(task(2))
    (region,) = answer["result"]
    assert region["id"] == region_id(cell)
    assert region["meta"] == accepted.meta(4)


def test_too_slow_is_busy_not_empty(backend: Backend) -> None:
    backend.publish()
    model = GroundswellModel(backend.services, 3, CONFIG)
    from ml_backend.label_studio.protocol import TaskIn

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
    assert noted_actions(backend.settings.data_dir, 3) == ["START_TRAINING"]
