"""The whole loop on a real Label Studio: people played, a learner of milliseconds, everything else real."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ml_backend.learners.registry import LEARNERS
from ml_backend.masks.coco import CocoSet, load_coco
from sync.lab.demo import Demo, DemoPlan
from sync.lab.demo_report import DemoReport
from sync.lab.demo_report_output import report_table, save_report
from tests.studio.conftest import Site
from tests.sync import tiny_learner

pytestmark = pytest.mark.studio

COLUMNS, ROWS = 8, 4
HW = (28 * ROWS, 24 * COLUMNS)
N_IMAGES = 16
KILL_SITE = Path(__file__).resolve().parents[1] / "sync" / "kill_site"
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def coco(tmp_path: Path) -> CocoSet:
    """Bright discs and bars on dark noise, sixteen each; in every second picture a quarter of them has the
    other's colour.

    Label Studio serves the first tasks at random: whichever they are, both classes can be learnt from them.
    The model takes an object of the other's colour for the other class, and its form tells that it is none.
    So there are enough masks, and enough that are told apart, to accept some that nobody saw.
    """
    (tmp_path / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    y, x = np.mgrid[: HW[0], : HW[1]]
    for i in range(N_IMAGES):
        rng = np.random.default_rng([11, i])
        pixels = rng.integers(20, 60, (*HW, 3)).astype(np.uint8)
        for place in range(COLUMNS * ROWS):
            column, row = place % COLUMNS, place // COLUMNS
            cx, cy = 12 + 24 * column, 14 + 28 * row + int(rng.integers(-1, 2))
            is_disc = (column + row) % 2 == 0
            disc = (x - cx) ** 2 + (y - cy) ** 2 <= int(rng.integers(5, 9)) ** 2
            bar = (abs(x - cx) <= 3) & (abs(y - cy) <= int(rng.integers(7, 12)))
            mask = disc if is_disc else bar
            is_odd = i % 2 == 0 and column % 4 == i // 2 % 4
            looks_like_disc = is_disc != is_odd
            colour = np.array((220, 60, 60) if looks_like_disc else (60, 220, 60)) - rng.integers(0, 30, 3)
            pixels[mask] = colour
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 1 if is_disc else 2,
                    "segmentation": {"size": list(HW), "counts": rle["counts"].decode()},
                    "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(tmp_path / "images" / f"shape{i:02d}.png")
        images.append({"id": i + 1, "file_name": f"shape{i:02d}.png", "height": HW[0], "width": HW[1]})
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    return load_coco(tmp_path / "images", tmp_path / "annotations.json")


@pytest.fixture
def fast_learner(monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny learner, known to this process and to the training process the worker starts."""
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    paths = [str(KILL_SITE), str(REPO), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    return tiny_learner.NAME


def play(site: Site, coco: CocoSet, learner: str, **plan: Any) -> tuple[Demo, DemoReport]:
    # a promise that the few hundred masks of either round can prove
    options = {"learner": learner, "test_min": 1, "policy_options": {"purity": 0.6}}
    demo = Demo(
        site.settings.model_copy(update={"push_interval_s": 0.0}),
        coco,
        DemoPlan(
            title=f"loop {site.settings.data_dir.parent.name[-24:]}",
            start_tasks=4,
            tasks_per_round=2,
            options=options,
            **plan,
        ),
    )
    return demo, demo.play()


def test_two_rounds_label_propagate_and_push(
    site: Site, coco: CocoSet, fast_learner: str, tmp_path: Path
) -> None:
    demo, report = play(site, coco, fast_learner, rounds=2)
    assert demo.project is not None
    project_id = demo.project.project_id
    first, second = report.rounds
    assert (first.labelled_tasks, second.labelled_tasks) == (4, 6)
    assert first.answers > 0
    for figures, open_tasks in ((first, 12), (second, 10)):
        assert figures.pool == open_tasks * COLUMNS * ROWS
        assert figures.pool_precision is not None
        assert 0.6 < figures.pool_precision.value < 0.95
        assert figures.metrics["AP"] is not None
        assert figures.answers < figures.pool  # the second round may live on answers carried over
        assert figures.propagated > 0
        assert figures.accepted > figures.propagated
        assert figures.precision is not None
        assert figures.precision.value > 0.7
        assert figures.precision.n == figures.accepted
        assert {"label", "round", "crowd", "train", "infer", "cluster", "review", "push"} <= set(
            figures.seconds
        )

    # what Label Studio holds: one prediction per unfinished task, of one version, the active one
    row = site.studio.project(project_id)
    versions = site.studio.prediction_versions(project_id)
    unfinished = {task.id for task in site.studio.tasks(project_id) if not task.is_labeled}
    assert versions == {row.model_version: len(unfinished)} == {row.model_version: 10}
    assert site.studio.predicted_tasks(project_id, row.model_version) == unfinished
    shown = [
        region
        for task in unfinished
        for prediction in site.studio.predictions(task)
        for region in prediction.result
    ]
    sources = [region["meta"]["groundswell"]["source"] for region in shown if "meta" in region]
    assert len(sources) == second.accepted
    assert sources.count("propagated") == second.propagated

    # the next task that people get is the least certain one
    scores = {task: site.studio.predictions(task)[0].score for task in unfinished}
    served = site.studio.next_task(project_id)
    assert served is not None
    assert scores[served.id] == min(scores.values())

    save_report(report, tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert [r["accepted"] for r in saved["rounds"]] == [first.accepted, second.accepted]
    assert (tmp_path / "report.png").stat().st_size > 5_000
    assert report_table(report).row_count == 2
    for review in demo._review_projects():
        site.studio.delete_project(review)
    site.studio.delete_project(project_id)


def test_wrong_answers_cost_correct_masks(site: Site, coco: CocoSet, fast_learner: str) -> None:
    few = CocoSet(coco.categories, coco.images[:10])
    correct = {}
    for error in (0.0, 0.45):
        data_dir = site.settings.data_dir / f"error{error}"
        its = Site(site.settings.model_copy(update={"data_dir": data_dir}), site.studio)
        demo, report = play(its, few, fast_learner, rounds=1, answers_error=error)
        found = report.rounds[0].precision
        # not the precision: the few masks that are accepted in spite of wrong answers may all be good
        correct[error] = 0.0 if found is None else found.value * found.n
        assert demo.project is not None
        for project_id in (*demo._review_projects(), demo.project.project_id):
            site.studio.delete_project(project_id)
    assert correct[0.0] > correct[0.45]
