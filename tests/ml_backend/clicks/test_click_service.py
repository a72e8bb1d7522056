"""The click service: chains, undo, caches, ids, controls, errors, and a hammer."""

from __future__ import annotations

import itertools
import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.app import create_app
from ml_backend.artifacts.project_facts import save_facts
from ml_backend.clicks.base import ClickResult
from ml_backend.clicks.device_gate import CLICK, Ticket, gate_for
from ml_backend.clicks.serving.embeddings import EmbeddingStore
from ml_backend.clicks.serving.prewarm import TaskRef
from ml_backend.clicks.serving.service import ClickService
from ml_backend.errors import BadImage, BadLabelConfig, BadPrompt, GroundswellError
from ml_backend.images.store import ImageRef, ImageStore
from ml_backend.services import Services
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.click_helpers import (
    CONFIG,
    Build,
    FixedPool,
    TellTale,
    click,
    disc,
    facts,
    mask_of,
    rectangle,
    save_picture,
    task,
)


def test_a_click_gives_the_mask_in_the_output_control(build: Build, tmp_path: Path) -> None:
    image = save_picture(tmp_path / "a.png", 9)
    reply = build().predict(task(7, image), {"result": [click(50, 50)]}, facts())
    (region,) = reply["result"]
    assert region["from_name"] == "brush"
    assert region["type"] == "brushlabels"
    assert region["value"]["brushlabels"] == ["Cat"]
    assert region["score"] == 0.75
    np.testing.assert_array_equal(mask_of(reply), disc((60, 80), 40, 30, 9))


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("BitmaskLabels", "bitmasklabels"),
        ("PolygonLabels", "polygonlabels"),
        ("RectangleLabels", "rectanglelabels"),
    ],
)
def test_reply_in_whatever_the_config_wants(build: Build, tmp_path: Path, tag: str, kind: str) -> None:
    config = CONFIG.replace("BrushLabels", tag)
    if tag == "RectangleLabels":  # as a prompt it would be no output
        config = re.sub(r'<RectangleLabels name="rect".*?</RectangleLabels>', "", config, flags=re.DOTALL)
    image = save_picture(tmp_path / "a.png", 9)
    (region,) = build().predict(task(7, image), {"result": [click(50, 50)]}, facts(config=config))["result"]
    assert region["type"] == kind
    assert region["value"][kind] == ["Cat"]


def test_unchanged_prompts_cost_nothing(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    first = service.predict(task(7, image), {"result": [click(50, 50)]}, facts())
    again = service.predict(task(7, image), {"result": [click(50, 50)]}, facts())
    assert again == first
    assert segmenter.segments == 1


def test_each_click_starts_from_the_mask_before_and_undo_is_served_from_memory(
    build: Build, tmp_path: Path
) -> None:
    segmenter = TellTale()
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    clicks = [click(20, 20), click(50, 50), click(80, 80, False)]
    replies = [service.predict(task(7, image), {"result": clicks[:n]}, facts()) for n in (1, 2, 3)]
    assert segmenter.segments == 3
    assert segmenter.start_masks[0] is None
    second = segmenter.start_masks[1]
    assert second is not None
    np.testing.assert_array_equal(second.mask, mask_of(replies[0]))
    assert second.logits is not None
    assert not second.from_proposal
    undone = service.predict(task(7, image), {"result": clicks[:2]}, facts())
    assert undone == replies[1]
    assert segmenter.segments == 3


def test_same_prompts_give_the_same_mask_and_id_in_a_fresh_process(build: Build, tmp_path: Path) -> None:
    image = save_picture(tmp_path / "a.png", 9)
    clicks = [click(20, 20), click(50, 50), click(80, 80, False)]
    warm = build()
    for n in (1, 2, 3):
        kept = warm.predict(task(7, image), {"result": clicks[:n]}, facts())
    fresh = build().predict(task(7, image), {"result": clicks}, facts())
    assert fresh == kept


def test_ids_differ_by_task_and_prompts(build: Build, tmp_path: Path) -> None:
    service = build()
    image = save_picture(tmp_path / "a.png", 9)
    ids = {
        service.predict(task(number, image), {"result": [click(x, 50, label=label)]}, facts(project))[
            "result"
        ][0]["id"]
        for number, x, label, project in itertools.product((1, 2), (40, 50), ("Cat", "Dog"), (1, 2))
    }
    assert len(ids) == 16
    assert all(len(i) == 10 for i in ids)


def sent(person: str, *results: dict[str, Any]) -> dict[str, Any]:
    """A context of a host that says who clicks."""
    return {"result": list(results), "user_id": person}


def test_background_click_after_a_box_refines_the_box(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    boxed = service.predict(task(7, image), sent("ann", rectangle(40, 40, 20, 20)), facts())
    service.predict(task(7, image), sent("ann", click(50, 50, False)), facts())
    start_mask = segmenter.start_masks[-1]
    assert start_mask is not None
    np.testing.assert_array_equal(start_mask.mask, mask_of(boxed))
    service.predict(task(7, image), sent("ann", click(10, 10)), facts())
    assert segmenter.start_masks[-1] is None  # an object click begins anew
    service.predict(task(8, image), sent("ann", click(50, 50, False)), facts())
    assert segmenter.start_masks[-1] is None  # another task has no box


@pytest.mark.parametrize(
    ("boxing", "clicking"),
    [
        ({"user_id": 1}, {"user_id": 2}),
        ({"annotation_id": 11}, {"annotation_id": 12}),
        ({"draft_id": 21}, {"draft_id": 22}),
        ({"user_id": 1}, {}),
        ({}, {}),  # all that Label Studio 1.23 sends: nobody can be told by it
        ({"user_id": None, "draft_id": 0}, {"user_id": None, "draft_id": 0}),
    ],
)
def test_a_box_never_reaches_another_persons_clicks(
    build: Build, tmp_path: Path, boxing: dict[str, Any], clicking: dict[str, Any]
) -> None:
    segmenter = TellTale()
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    service.predict(task(7, image), {"result": [rectangle(40, 40, 20, 20)], **boxing}, facts())
    service.predict(task(7, image), {"result": [click(50, 50, False)], **clicking}, facts())
    assert segmenter.start_masks[-1] is None


def test_a_box_does_not_outlive_the_project_of_its_number(build: Build, tmp_path: Path) -> None:
    """A server that was reset gives numbers again."""
    segmenter = TellTale()
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    again = replace(facts(), key="1.1800000000")
    service.predict(task(7, image), sent("ann", rectangle(40, 40, 20, 20)), facts())
    service.predict(task(7, image), sent("ann", click(50, 50, False)), again)
    assert segmenter.start_masks[-1] is None


class Changing:
    """An image source whose address holds another picture from time to time."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.path = Path()

    def get(self, value: str, *, task_id: int | None = None, project_id: int | None = None) -> ImageRef:
        return self.store.put(self.path.read_bytes())

    def pixels(self, ref: ImageRef) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self.store.pixels(ref)


def test_a_changed_picture_under_the_same_address_gets_its_own_answer(
    settings: BackendSettings, tmp_path: Path
) -> None:
    images = Changing(ImageStore(settings))
    service = ClickService(settings, images, segmenters=FixedPool(settings, TellTale()))
    address = tmp_path / "same.png"
    for radius in (9, 4):
        images.path = save_picture(tmp_path / f"{radius}.png", radius)
        reply = service.predict(task(7, address), {"result": [click(50, 50)]}, facts())
        np.testing.assert_array_equal(mask_of(reply), disc((60, 80), 40, 30, radius))


def test_embedding_survives_a_restart_and_the_image_is_not_decoded_again(
    build: Build, tmp_path: Path
) -> None:
    image = save_picture(tmp_path / "a.png", 9)
    before = build()
    before.predict(task(7, image), {"result": [click(50, 50)]}, facts())
    before.store.flush()  # it is written in the background
    segmenter = TellTale()
    phases: list[str] = []
    service = build(segmenter, observe=lambda phase, seconds: phases.append(phase))
    service.predict(task(7, image), {"result": [click(20, 20)]}, facts())
    assert segmenter.embeds == 0
    assert phases == ["fetch", "segment", "serialise"]


def test_equal_images_of_two_tasks_share_one_embedding(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter)
    for number in (1, 2):
        image = save_picture(tmp_path / f"{number}.png", 9)
        service.predict(task(number, image), {"result": [click(50, 50)]}, facts())
    assert segmenter.embeds == 1


def test_embedding_ahead(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    assert service.embed(TaskRef(facts(), 7, str(image))) == "encoded"
    service.predict(task(7, image), {"result": [click(50, 50)]}, facts())
    assert segmenter.embeds == 1


def test_errors_say_what_is_wrong_and_leave_the_service_alive(build: Build, tmp_path: Path) -> None:
    service = build()
    image = save_picture(tmp_path / "a.png", 9)
    with pytest.raises(BadPrompt, match="outside the image"):
        service.predict(task(7, image), {"result": [click(101, 50)]}, facts())
    with pytest.raises(BadPrompt, match="unknown label"):
        service.predict(task(7, image), {"result": [click(50, 50, label="Cow")]}, facts())
    with pytest.raises(BadPrompt, match="no area"):
        service.predict(task(7, image), {"result": [rectangle(5, 5, 0, 0)]}, facts())
    with pytest.raises(GroundswellError):
        service.predict(task(7, tmp_path / "gone.png"), {"result": [click(50, 50)]}, facts())
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(BadImage, match="not an image"):
        service.predict(task(7, tmp_path / "text.png"), {"result": [click(50, 50)]}, facts())
    with pytest.raises(BadLabelConfig, match="image"):
        service.predict({"id": 7, "data": {}}, {"result": [click(50, 50)]}, facts())
    assert mask_of(service.predict(task(7, image), {"result": [click(50, 50)]}, facts())).any()


def test_an_empty_mask_is_an_empty_suggestion(build: Build, tmp_path: Path) -> None:
    image = save_picture(tmp_path / "a.png", 0)
    segmenter = TellTale()
    nothing = ClickResult(np.zeros((1, 60, 80), bool), np.zeros(1, np.float32), None)
    segmenter.segment = lambda embedding, prompt, start_mask: nothing  # type: ignore[method-assign]
    assert build(segmenter).predict(task(7, image), {"result": [click(50, 50)]}, facts())["result"] == []


def test_hammer_through_the_app_every_mask_belongs_to_its_image(
    build: Build, settings: BackendSettings, tmp_path: Path
) -> None:
    """12 threads, 24 images, 2 projects, 1,200 requests through the app; the tiers are so small that
    entries keep being evicted.
    """
    images = {value: save_picture(tmp_path / f"{value}.png", value) for value in range(3, 27)}
    service = build(store=EmbeddingStore(tmp_path / "embeddings", ram_bytes=400, disk_bytes=3000))
    for project_id in (1, 2):
        save_facts(settings.data_dir, facts(project_id))
    shared = Services.from_settings(settings)
    shared._clicks = service
    app = create_app(services=shared)
    errors: list[str] = []
    statuses: list[int] = []

    def user(seed: int) -> None:
        rng, client = random.Random(seed), app.test_client()
        for _ in range(100):
            value = rng.choice(list(images))
            points = [
                click(rng.randint(0, 99), rng.randint(0, 99)),
                click(rng.randint(0, 99), rng.randint(0, 99), False),
            ][: rng.randint(1, 2)]
            body = {
                "tasks": [task(value, images[value])],
                "project": f"{rng.choice((1, 2))}.1700000000",
                "label_config": CONFIG,
                "params": {"context": {"result": points}},
            }
            reply = client.post("/predict", json=body)
            statuses.append(reply.status_code)
            if reply.status_code != 200:
                errors.append(reply.get_data(as_text=True))
                continue
            want = np.zeros((60, 80), bool)
            for point in points:
                x, y = point["value"]["x"] / 100 * 80, point["value"]["y"] / 100 * 60
                want |= disc((60, 80), x, y, value)
            if not np.array_equal(mask_of(reply.get_json()["results"][0]), want):
                errors.append(f"foreign mask for image {value}")

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(user, range(12)))
    assert errors == []
    assert statuses == [200] * 1200


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([click(101, 50)], "outside the image"),
        ([click(50, 50, label="Cow")], "unknown label"),
        ([rectangle(5, 5, 0, 0)], "no area"),
        ([], "no clicks"),
    ],
)
def test_the_app_answers_bad_clicks_in_words(
    build: Build, settings: BackendSettings, tmp_path: Path, points: list[Any], words: str
) -> None:
    save_facts(settings.data_dir, facts(1))
    shared = Services.from_settings(settings)
    shared._clicks = build()
    client = create_app(services=shared).test_client()
    image = save_picture(tmp_path / "a.png", 9)
    body = {
        "tasks": [task(1, image)],
        "project": "1.1700000000",
        "label_config": CONFIG,
        "params": {"context": {"result": points}},
    }
    reply = client.post("/predict", json=body)
    assert reply.status_code == 400
    assert words in reply.get_json()["error"]
    body["params"] = {"context": {"result": [click(50, 50)]}}
    assert client.post("/predict", json=body).status_code == 200


def test_a_segmenter_without_encoder_does_not_wait_for_one(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    segmenter.persist = False
    service = build(segmenter)
    image = save_picture(tmp_path / "a.png", 9)
    with gate_for("cpu").hold(Ticket(CLICK)), ThreadPoolExecutor(1) as other:  # another project's encode
        reply = other.submit(service.predict, task(7, image), {"result": [click(50, 50)]}, facts()).result(20)
    assert mask_of(reply).any()
    assert service.embed(TaskRef(facts(), 7, str(image))) == "not needed"
