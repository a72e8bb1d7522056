"""Played annotators and crowd workers, on FakeStudio with the generated sample set."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clustering.costs import Costs
from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.label_studio.config_builder import build_label_config, build_sheet_config
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.coco import CocoImage, CocoSet, load_coco
from sync.lab.ground_truth import Truth
from sync.lab.sample_set import LABELS, make_sample_set
from sync.lab.simulated_people import Annotator, CrowdWorker, play_crowd
from sync.review.question import Question
from sync.review.review_project import build_review_config as review_config
from sync.review.review_tasks import parse_answers, sheet_task, single_task
from sync.review.weighing import SHEET_PACE
from sync.settings import CROWD_DEFAULTS
from tests.fakes.label_studio import FakeStudio


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> CocoSet:
    folder = make_sample_set(tmp_path_factory.mktemp("sample") / "set", n=5, seed=3, hw=(120, 160))
    return load_coco(folder / "images", folder / "annotations.json")


@pytest.fixture
def studio() -> FakeStudio:
    return FakeStudio()


@pytest.fixture
def config() -> LabelConfig:
    return parse_label_config(build_label_config(LABELS))


@pytest.fixture
def project(studio: FakeStudio, coco: CocoSet, config: LabelConfig) -> int:
    row = studio.create_project("some project", config.xml)
    studio.upload_images(row.id, [image.path for image in coco.images])
    return row.id


def moved(rle: Rle, by: int) -> Rle:
    mask = coco_mask.decode({"size": rle["size"], "counts": str(rle["counts"]).encode()})
    found = coco_mask.encode(np.asfortranarray(np.roll(mask, by, axis=1)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def question(
    task: int, image: CocoImage, instance: int, number: int, *, by: int = 0, label: str = ""
) -> Question:
    return Question(
        key=f"1:q{number}",
        project_id=1,
        round=1,
        task_id=task,
        instance=f"t{task}-{number:08x}",
        label=label or LABELS[image.label[instance]],
        item=number,
        cluster=0,
        stream=0,
        inclusion=1.0,
        form=0,
        repeat=0,
        prior=0.7,
        rle=moved(image.rle[instance], by),
    )


def test_the_truth_is_found_by_any_address(coco: CocoSet) -> None:
    truth = Truth(coco)
    image = coco.images[0]
    for address in (
        f"/data/upload/7/0a1b2c3d-{image.path.name}",
        f"/data/local-files/?d=a/b/{image.path.name}",
        f"/data/local-files/?d={image.path.name}",
        str(image.path),
    ):
        assert truth.image(address) is image
    with pytest.raises(BadInput, match="other"):
        truth.image("/data/upload/7/0a1b2c3d-other.jpg")
    with pytest.raises(BadInput, match="two pictures"):
        Truth(CocoSet(coco.categories, (image, image)))


def test_an_annotator_draws_exactly_the_true_instances(
    studio: FakeStudio, project: int, coco: CocoSet, config: LabelConfig
) -> None:
    annotator = Annotator(studio, Truth(coco), config)
    seen = set()
    while (task := annotator.label_next(project)) is not None:
        seen.add(task)
        row = studio.task(task)
        assert row.is_labeled
        image = annotator.truth.image(str(row.data["image"]))
        parsed = parse_annotation(row.annotations[0].result, config, image.hw)
        assert [region.label for region in parsed.regions] == [LABELS[k] for k in image.label]
        for region, rle in zip(parsed.regions, image.rle, strict=True):
            assert region.rle["counts"] == rle["counts"]
    assert seen == studio.task_ids(project)
    assert annotator.done == 5


def test_an_overlooking_annotator_leaves_instances_out(
    studio: FakeStudio, project: int, coco: CocoSet, config: LabelConfig
) -> None:
    annotator = Annotator(studio, Truth(coco), config, error=0.5)
    while annotator.label_next(project) is not None:
        pass
    drawn = sum(len(row.annotations[0].result) for row in studio.tasks(project))
    assert 0 < drawn < coco.n_instances


@pytest.fixture
def asked(studio: FakeStudio, project: int, coco: CocoSet) -> list[tuple[Question, bool]]:
    """Good masks, moved masks and wrong labels, with the truth about each."""
    truth = Truth(coco)
    found = []
    for row in studio.tasks(project):
        image = truth.image(str(row.data["image"]))
        for i, label in enumerate(image.label):
            other = LABELS[(label + 1) % len(LABELS)]
            found.append((question(row.id, image, i, 3 * len(found)), True))
            found.append((question(row.id, image, i, 3 * len(found) + 1, by=60), False))
            found.append((question(row.id, image, i, 3 * len(found) + 2, label=other), False))
    return found


def worker(studio: FakeStudio, coco: CocoSet, **options: float) -> CrowdWorker:
    client = studio.as_user("w1@example.com", "a long password")
    return CrowdWorker(client, studio, Truth(coco), "image", **options)  # type: ignore[arg-type]


def test_a_careful_worker_answers_every_question_rightly(
    studio: FakeStudio, coco: CocoSet, asked: list[tuple[Question, bool]]
) -> None:
    review = studio.create_project("review", review_config(), sampling="Sequential sampling")
    studio.import_tasks(review.id, [single_task(q, f"https://x.invalid/{q.key}.png") for q, _ in asked])
    careful = worker(studio, coco)
    assert play_crowd([careful], [review.id]) == len(asked)
    answers = {
        answer.question_key: answer.value
        for row in studio.tasks(review.id)
        for answer in parse_answers(row.data, row.annotations[0])
    }
    wrong = [q.key for q, good in asked if answers[q.key] != ("yes" if good else "no")]
    assert wrong == []


def test_errors_come_at_the_given_rate_and_are_the_same_in_any_order(
    coco: CocoSet, asked: list[tuple[Question, bool]], studio: FakeStudio
) -> None:
    sloppy = worker(studio, coco, error=0.3)
    answers = {q.key: sloppy._says_yes(q) for q, _ in asked}
    wrong = np.mean([answers[q.key] != good for q, good in asked])
    assert 0.15 < wrong < 0.45
    again = worker(studio, coco, error=0.3)
    assert {q.key: again._says_yes(q) for q, _ in reversed(asked)} == answers
    other = worker(studio, coco, error=0.3)
    other.name = "another"
    assert {q.key: other._says_yes(q) for q, _ in asked} != answers


def test_sheets_are_answered_by_ticking_the_wrong_cards(
    studio: FakeStudio, coco: CocoSet, asked: list[tuple[Question, bool]]
) -> None:
    review = studio.create_project("review sheets", build_sheet_config(), sampling="Sequential sampling")
    first = asked[:6]
    questions = [q for q, _ in first]
    studio.import_tasks(review.id, [sheet_task(questions, [f"https://x.invalid/{i}.png" for i in range(6)])])
    careful = worker(studio, coco)
    assert play_crowd([careful], [review.id]) == 6
    (row,) = studio.tasks(review.id)
    answers = {a.question_key: a.value for a in parse_answers(row.data, row.annotations[0])}
    assert answers == {q.key: "yes" if good else "no" for q, good in first}


def test_several_workers_answer_a_question_that_asks_for_several(
    studio: FakeStudio, coco: CocoSet, asked: list[tuple[Question, bool]]
) -> None:
    review = studio.create_project(
        "review", review_config(), sampling="Sequential sampling", maximum_annotations=2
    )
    studio.import_tasks(review.id, [single_task(q, "https://x.invalid/0.png") for q, _ in asked[:9]])
    truth = Truth(coco)
    crowd = [
        CrowdWorker(
            studio.as_user(f"w{i}@example.com", "long password"), studio, truth, "image", name=f"w{i}"
        )
        for i in range(3)
    ]
    assert play_crowd(crowd, [review.id]) == 18
    for row in studio.tasks(review.id):
        assert row.is_labeled
        assert len({annotation.completed_by for annotation in row.annotations}) == 2


def test_questions_keep_their_form_on_the_way(asked: list[tuple[Question, bool]], tmp_path: Path) -> None:
    task = single_task(asked[0][0], "https://x.invalid/0.png")
    assert task["groundswell"]["questions"] == [asdict(asked[0][0])]


def test_played_people_take_the_time_that_the_cost_model_says(
    studio: FakeStudio, coco: CocoSet, asked: list[tuple[Question, bool]]
) -> None:
    costs = Costs()
    player = worker(studio, coco)
    questions = [q for q, _ in asked]
    _, seconds, count = player._answer(sheet_task(questions[:24], ["u"] * 24))
    assert (seconds, count) == (pytest.approx(costs.sheet + 24 * costs.sheet_mask), 24)
    times = [player._answer(single_task(q, "u"))[1] for q in questions]
    assert np.mean(times) == pytest.approx(costs.question, rel=0.2)
    assert min(times) > CROWD_DEFAULTS["min_answer_s"]
    assert seconds / 24 > CROWD_DEFAULTS["min_answer_s"] * SHEET_PACE
