"""The click service: chains, undo, start masks, caches, ids, controls, errors, and a hammer."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.app import create_app
from ml_backend.artifacts.pool_writer import write_pool
from ml_backend.artifacts.project_facts import ProjectFacts, save_facts
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.device_gate import CLICK, Ticket, gate_for
from ml_backend.clicks.serving.embeddings import EmbeddingStore
from ml_backend.clicks.serving.prewarm import TaskRef
from ml_backend.clicks.serving.service import ClickService
from ml_backend.clicks.start_masks import Proposals, box_of_mask
from ml_backend.errors import BadImage, BadLabelConfig, BadPrompt, GroundswellError
from ml_backend.images.store import ImageRef, ImageStore
from ml_backend.instances import Instances
from ml_backend.kinds.base import Kind
from ml_backend.label_studio.codecs.brush import decode_brush
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.rle import encode_mask
from ml_backend.services import PoolProposals, Pools, Services
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.click_helpers import (
    CONFIG,
    FixedPool,
    TellTale,
    click,
    disc,
    facts,
    rectangle,
    save_picture,
    task,
)

Build = Callable[..., ClickService]


@pytest.fixture
def settings(tmp_path: Path) -> BackendSettings:
    return BackendSettings(data_dir=tmp_path / "data", allow_image_dirs=str(tmp_path), device="cpu")


@pytest.fixture
def build(settings: BackendSettings) -> Build:
    def make(segmenter: Any = None, **options: Any) -> ClickService:
        return ClickService(
            settings,
            ImageStore(settings),
            segmenters=FixedPool(settings, segmenter or TellTale()),
            **options,
        )

    return make


def mask_of(reply: dict[str, Any], hw: tuple[int, int] = (60, 80)) -> np.ndarray[Any, np.dtype[np.bool_]]:
    (region,) = reply["result"]
    assert (region["original_height"], region["original_width"]) == hw
    return decode_brush(region["value"]["rle"], hw)


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


TWO_IMAGES = """<View>
<KeyPointLabels name="kp" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<KeyPointLabels name="kp2" toName="second" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Cat"/></BrushLabels>
<BrushLabels name="brush2" toName="second" smart="false"><Label value="Cat"/></BrushLabels>
<Image name="image" value="$image"/><Image name="second" value="$more[0].url"/></View>"""


class EverywhereProposal:
    """One proposal that covers all of the first picture."""

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals:
        rle = encode_mask(np.ones((60, 80), bool))
        box = np.array([[0, 0, 80, 60]], np.float32)
        one = np.ones(1, np.float32)
        found = Instances(np.zeros(1, np.int64), box, [rle], one, one, np.zeros((1, 0), np.float32))
        return Proposals("v1", ("Cat",), found)


def test_a_click_on_the_second_image_gets_a_mask_of_that_image(build: Build, tmp_path: Path) -> None:
    service = build(proposals=EverywhereProposal())
    first = save_picture(tmp_path / "a.png", 5)
    second = save_picture(tmp_path / "b.png", 12, hw=(90, 40))
    data = {"image": str(first), "more": [{"url": str(second)}]}
    shown = facts(config=TWO_IMAGES)
    click_b = click(50, 50) | {"from_name": "kp2", "to_name": "second"}
    for sent in ([click_b], [click(10, 10), click_b]):  # the editor sends unaccepted clicks of both
        reply = service.predict({"id": 7, "data": data}, {"result": sent}, shown)
        (region,) = reply["result"]
        assert (region["from_name"], region["to_name"]) == ("brush2", "second")
        np.testing.assert_array_equal(mask_of(reply, (90, 40)), disc((90, 40), 20, 45, 12))
    on_a = service.predict({"id": 7, "data": data}, {"result": [click(50, 50)]}, shown)
    assert on_a["result"][0]["from_name"] == "brush"
    assert mask_of(on_a).all()  # starts from the proposal, which is of the first picture alone
    assert on_a["result"][0]["id"] != region["id"]


def test_a_click_on_an_image_that_is_gone_is_refused(build: Build, tmp_path: Path) -> None:
    image = save_picture(tmp_path / "a.png", 5)
    with pytest.raises(BadPrompt, match="no Image tag"):
        build().predict(task(7, image), {"result": [click(50, 50) | {"to_name": "old"}]}, facts())


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


class OneProposal:
    def __init__(
        self,
        masks: list[np.ndarray[Any, np.dtype[np.bool_]]],
        *,
        score: float = 0.9,
        whole: frozenset[str] = frozenset(),
    ) -> None:
        boxes = np.array([box_of_mask(mask) for mask in masks], np.float32)
        worth = np.full(len(masks), score, np.float32)
        self.found = Proposals(
            "v1",
            ("Cat", "Dog"),
            Instances(
                np.zeros(len(masks), np.int64),
                boxes,
                [encode_mask(m) for m in masks],
                worth,
                worth,
                np.zeros((len(masks), 0), np.float32),
            ),
            whole,
        )

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals | None:
        return self.found if task_id == 7 else None


def test_a_click_on_a_proposal_starts_from_it(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    proposal = disc((60, 80), 30, 30, 15)
    service = build(segmenter, proposals=OneProposal([proposal]))
    image = save_picture(tmp_path / "a.png", 3)
    service.predict(task(7, image), {"result": [click(37.5, 50)]}, facts())
    start_mask = segmenter.start_masks[-1]
    assert start_mask is not None
    assert start_mask.from_proposal
    np.testing.assert_array_equal(start_mask.mask, proposal)
    service.predict(task(7, image), {"result": [click(80, 50)]}, facts())
    assert segmenter.start_masks[-1] is None  # off the proposal
    service.predict(task(7, image), {"result": [click(37.5, 50, label="Dog")]}, facts())
    assert segmenter.start_masks[-1] is None  # another label
    service.predict(task(8, image), {"result": [click(37.5, 50)]}, facts())
    assert segmenter.start_masks[-1] is None  # another task


def test_one_mask_per_label_is_corrected_as_a_whole(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    proposal = disc((60, 80), 20, 30, 9) | disc((60, 80), 60, 30, 9)
    service = build(segmenter, proposals=OneProposal([proposal], whole=frozenset({"Cat"})))
    image = save_picture(tmp_path / "a.png", 3)
    for context in (
        [click(25, 50)],  # on one part
        [click(50, 50)],  # between the parts: something is missed there
        [click(95, 95)],  # far off
        [click(75, 50, positive=False)],  # a part that is wrong
    ):
        service.predict(task(7, image), {"result": context}, facts())
        start_mask = segmenter.start_masks[-1]
        assert start_mask is not None
        np.testing.assert_array_equal(start_mask.mask, proposal)
    reply = service.predict(task(7, image), {"result": [click(50, 50)]}, facts())
    assert (mask_of(reply) & proposal).sum() == proposal.sum()  # nothing of it is lost
    service.predict(task(7, image), {"result": [click(50, 50, label="Dog")]}, facts())
    assert segmenter.start_masks[-1] is None
    poor = build(segmenter, proposals=OneProposal([proposal], score=0.5, whole=frozenset({"Cat"})))
    poor.predict(task(7, image), {"result": [click(25, 50)]}, facts())
    assert segmenter.start_masks[-1] is None


@pytest.mark.parametrize(
    ("kind", "whole"), [("segmentation", True), ("components", False), ("instances", False)]
)
def test_the_kind_says_whether_a_label_has_one_mask(
    settings: BackendSettings, tmp_path: Path, kind: Kind, whole: bool
) -> None:
    found = OneProposal([disc((60, 80), 30, 30, 15)]).found.instances
    folder = settings.data_dir / "projects/1/pools/v1"
    write_pool(folder, ("Cat", "Dog"), [(7, found, {"hw": (60, 80)})], embedding_dim=0)
    config = build_label_config(("Cat", "Dog"), kind=kind)
    got = PoolProposals(Pools(settings.data_dir)).proposals(facts(1, config, model_version="v1"), 7)
    assert got is not None
    assert got.whole == (frozenset({"Cat", "Dog"}) if whole else frozenset())


def test_bad_proposals_are_not_started_from(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter, proposals=OneProposal([disc((60, 80), 30, 30, 15)], score=0.5))
    image = save_picture(tmp_path / "a.png", 3)
    service.predict(task(7, image), {"result": [click(37.5, 50)]}, facts())
    assert segmenter.start_masks[-1] is None


def test_a_proposal_from_an_image_of_another_size_is_not_started_from(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter, proposals=OneProposal([np.ones((60, 80), bool)]))
    for hw in ((30, 40), (120, 160)):
        image = save_picture(tmp_path / f"{hw[0]}.png", 3, hw)
        for context in ([click(37.5, 50)], [click(99, 99)], [rectangle(0, 0, 100, 100)]):
            assert service.predict(task(7, image), {"result": context}, facts())["result"]
            assert segmenter.start_masks[-1] is None


def test_proposals_come_from_the_pool_of_the_shown_version(settings: BackendSettings, tmp_path: Path) -> None:
    mask = disc((60, 80), 30, 30, 15)
    found = OneProposal([mask]).found.instances
    write_pool(
        settings.data_dir / "projects/1/pools/v1",
        ("Cat", "Dog"),
        [(7, found, {"hw": (60, 80)})],
        embedding_dim=0,
    )
    source = PoolProposals(Pools(settings.data_dir))
    assert source.proposals(facts(), 7) is None
    got = source.proposals(facts(model_version="v1"), 7)
    assert got is not None
    assert got.instances.rle == found.rle
    assert source.proposals(facts(model_version="v1"), 8) is None


def test_embedding_survives_a_restart_and_the_image_is_not_decoded_again(
    build: Build, tmp_path: Path
) -> None:
    image = save_picture(tmp_path / "a.png", 9)
    build().predict(task(7, image), {"result": [click(50, 50)]}, facts())
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


class OnlyClicks(TellTale):
    """Keeps nothing of what it starts from."""

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        return super().segment(embedding, prompt, None)


def test_a_correction_takes_the_place_of_the_proposal_it_started_from(build: Build, tmp_path: Path) -> None:
    """The editor replaces a region by an accepted suggestion of the same id; see docs/annotators.md."""
    source = OneProposal([disc((60, 80), 30, 30, 15)])
    source.found = replace(source.found, region_ids=("shown",))
    image = save_picture(tmp_path / "a.png", 14)  # drawn around the last click with this radius

    def answer(*points: dict[str, Any]) -> dict[str, Any]:
        (item,) = build(OnlyClicks(), proposals=source).predict(
            task(7, image), {"result": list(points)}, facts()
        )["result"]
        return item  # type: ignore[no-any-return]

    on = answer(click(37.5, 50))
    assert on["id"] == "shown"
    assert on["meta"] == {"groundswell": {"started_from": "shown"}}
    beside = answer(click(95, 50))
    assert beside["id"] != "shown"
    assert "meta" not in beside
    # of two objects under one proposal, the one with the smaller share does not take the other's place
    source.found = replace(source.found, instances=OneProposal([np.ones((60, 80), bool)]).found.instances)
    part = answer(click(37.5, 50))
    assert part["id"] != "shown"
    assert part["meta"] == {"groundswell": {"started_from": "shown"}}


def test_a_click_without_a_label_is_about_the_proposal_under_it(build: Build, tmp_path: Path) -> None:
    config = build_label_config(("Cat", "Dog"), one_row=True)
    image = save_picture(tmp_path / "a.png", 9)
    unsaid = {**click(37.5, 50), "type": "keypoint", "value": {"x": 37.5, "y": 50.0, "labels": []}}
    service = build(TellTale(), proposals=OneProposal([disc((60, 80), 30, 30, 15)]))
    shape, label = service.predict(task(7, image), {"result": [unsaid]}, facts(1, config))["result"]
    assert (shape["type"], label["type"], label["value"]["labels"]) == ("brush", "labels", ["Cat"])
    assert shape["id"] == label["id"]
    with pytest.raises(BadPrompt, match="no label is chosen"):
        service.predict(task(8, image), {"result": [unsaid]}, facts(1, config))
    alone = replace(facts(1, build_label_config(("Cat",), one_row=True)), labels=("Cat",))
    _, label = service.predict(task(8, image), {"result": [unsaid]}, alone)["result"]
    assert label["value"]["labels"] == ["Cat"]


class Grows(TellTale):
    """Adds a square of 21 pixels to what it starts from, ``shift`` pixels to the right of the last click."""

    shift = 0

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        super().segment(embedding, prompt, start_mask)
        mask = np.zeros(embedding.hw, bool) if start_mask is None else start_mask.mask.copy()
        x, y, _ = prompt.points[-1]
        at = [slice(max(0, int(v) - 10), int(v) + 11) for v in (y, x + self.shift)]
        mask[at[0], at[1]] = True
        return ClickResult(mask[None], np.array([0.75], np.float32), None)


def test_a_click_just_beside_a_proposal_extends_it(build: Build, tmp_path: Path) -> None:
    """The first positive click within a fifth of the proposal's size; the nearest proposal of the label."""
    segmenter = Grows()
    near, far = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    near[20:41, 5:26], far[20:41, 45:66] = True, True  # 21 pixels on a side
    service = build(segmenter, proposals=OneProposal([far, near]))
    image = save_picture(tmp_path / "a.png", 3)

    def start(*points: dict[str, Any]) -> Any:
        service.predict(task(7, image), {"result": list(points)}, facts())
        found = segmenter.start_masks[-1]
        return None if found is None or not found.from_proposal else found.mask

    def at(x: float, **fields: Any) -> dict[str, Any]:
        return click((x + 0.5) / 80 * 100, 50, **fields)

    np.testing.assert_array_equal(start(at(28)), near)  # 3 px beside it
    np.testing.assert_array_equal(start(at(42)), far)
    assert start(at(32)) is None  # 7 px
    assert start(at(28, label="Dog")) is None
    assert start(at(28, positive=False)) is None
    segmenter.shift = 20
    service = build(segmenter, proposals=OneProposal([far, near]))
    assert start(at(28)) is None  # the mask would be of two objects
    later = service.predict(task(7, image), {"result": [at(28), at(29)]}, facts())
    assert not mask_of(later)[30, 10]  # further clicks do not start there either
