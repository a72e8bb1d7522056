"""Instructions of review projects: examples per class from drawn masks, sent only when they changed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import cv2
import numpy as np
import pytest
from PIL import Image

from ml_backend.app import create_app
from ml_backend.errors import LeaseLost
from ml_backend.kinds.registry import Wanted
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.review.gold_masks import half, merged, shifted, wrong_mask
from sync.review.instruction_text import Example, instructions
from sync.review.instructions import example_masks, refresh_instructions
from sync.review.review import review
from sync.review.review_tasks import read_questions
from sync.rounds.round_records import trained_round
from sync.store.lease import Lease
from sync.store.tables import LeaseRecord
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _disc(x: int, y: int, r: int = 10) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    rows, columns = np.ogrid[:80, :120]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= r * r)


def _iou(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(("x", "y"), [(12, 12), (60, 40), (108, 68)])
def test_spoiled_masks_are_wrong_and_still_masks(x: int, y: int) -> None:
    mask = _disc(x, y)
    rle = encode_mask(mask)
    for made, most in (
        (shifted(rle), 0.7),
        (half(rle), 0.7),
        (wrong_mask(rle, np.random.default_rng(x)), 0.74),
    ):
        assert made is not None
        other = decode_rle(made).astype(bool)
        assert 0.1 < _iou(mask, other) <= most
        assert other.sum() > 0.4 * mask.sum()


def test_merged_takes_the_nearest_neighbour_only() -> None:
    mask, near, far = _disc(30, 40), _disc(52, 40), _disc(100, 40)
    made = merged(encode_mask(mask), [encode_mask(far), encode_mask(near)])
    assert made is not None
    assert (decode_rle(made).astype(bool) == (mask | near)).all()
    assert merged(encode_mask(mask), [encode_mask(far)]) is None
    assert merged(encode_mask(mask), []) is None


def test_the_text_says_what_to_do_with_each_example() -> None:
    examples = [
        Example("a<b", "k1", "http://x/1.jpg?a=1&b=2", True, "good"),
        Example("a<b", "k2", "http://x/2.jpg", False, "only a part"),
    ]
    single = instructions([Wanted("instances", ("a<b", "c"))], form="single", examples=examples)
    assert 'src="http://x/1.jpg?a=1&amp;b=2"' in single
    assert "<b>y</b> · good" in single
    assert "<b>n</b> · only a part" in single
    assert "a<b" not in single
    sheet = instructions([Wanted("instances", ("a<b", "c"))], form="sheet", examples=examples)
    assert "leave · good" in sheet
    assert "<b>tick</b> · only a part" in sheet
    assert "<img" not in instructions([Wanted("instances", ("a<b", "c"))], form="single")


def _reviewing(make_world: MakeWorld, **options: object) -> World:
    world = make_world(20, **{"crowd": True, "review_form": "single", **options})
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return world


def _shown(world: World) -> str:
    (review_id,) = world.review_projects().values()
    text: str = world.studio._db["projects"][str(review_id)]["instruction"]
    return text


def test_every_class_has_good_and_bad_examples_that_the_backend_serves(make_world: MakeWorld) -> None:
    world = _reviewing(make_world)
    text = _shown(world)
    for label in ("disc", "bar"):
        row = text.split(f"<p><b>{label}</b></p>")[1].split("</table>")[0]
        assert row.count("<b>y</b> · good") == 2
        assert row.count("<b>n</b> · ") >= 3
        assert "shifted" in row
        assert "a part" in row
        assert f"<b>n</b> · {'bar' if label == 'disc' else 'disc'}" in row
    links = [unescape(link) for link in re.findall(r'<img src="([^"]+)"', text)]
    assert len(links) == len(set(links)) >= 10
    client = create_app(world.settings).test_client()
    for link in links:
        path = link.removeprefix(world.settings.backend_url)
        reply = client.get(path)
        assert reply.status_code == 200
        with Image.open(io.BytesIO(reply.data)) as picture:
            assert max(picture.size) == 224
            pixels = np.asarray(picture.convert("HSV"))
        assert ((pixels[..., 1] > 60) & (pixels[..., 2] > 200)).any()  # the outline's light line
        assert client.get(path.split("?")[0]).status_code == 403


def test_instructions_are_sent_when_they_changed_and_examples_stay(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, retrain_after=2)
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    sent: list[str] = []
    world.studio.before_call = lambda name: sent.append(name) if name == "set_instruction" else None
    first = _shown(world)
    step(review, project, record)
    assert sent == []
    world.label(18, 19)
    assert world.worker().look(world.project_id) is not None
    assert sent == []  # a new round with more drawn masks: the same examples
    assert _shown(world) == first
    lost = next(iter(project.paths.crops.glob("example-*.jpg")))
    lost.unlink()
    assert not step(refresh_instructions, world.open(), 2)
    assert lost.exists()
    # a mask that was an example is drawn anew: it is replaced
    task = min(task for task, _ in step(example_masks, project))
    annotation = world.studio.task(task).annotations[0]
    world.studio.delete_annotation(annotation.id)
    other = world.scenes[world.tasks.index(task)]
    other.masks = [
        (label, cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0) for label, mask in other.masks
    ]
    world.label(world.tasks.index(task))
    world.label(16, 17)
    assert world.worker().look(world.project_id) is not None
    assert sent
    assert _shown(world) != first


def test_gold_is_not_what_the_instructions_show(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=20)
    given_away = step(example_masks, world.open())
    assert len(given_away) == 4
    (review_id,) = world.review_projects().values()
    asked = [read_questions(task.data)[1][0] for task in world.studio.tasks(review_id)]
    gold = [question for question in asked if world.tasks.index(question.task_id) < 6]
    assert gold
    assert not {(q.task_id, q.rle["counts"]) for q in gold} & given_away


def test_a_worker_that_lost_its_lease_notes_no_examples(make_world: MakeWorld) -> None:
    world = _reviewing(make_world)
    project = world.open()
    lease = Lease(world.store, "project/x", "a", ttl_s=60, heartbeat_s=0)
    assert lease.acquire()
    with world.store.write() as session:
        session.get_one(LeaseRecord, "project/x").fence += 1
    stale = replace(project, db=replace(project.db, lease=lease))
    noted = (project.paths.root / "instructions.json").read_bytes()
    with pytest.raises(LeaseLost):
        step(refresh_instructions, stale, 2)
    assert (project.paths.root / "instructions.json").read_bytes() == noted
