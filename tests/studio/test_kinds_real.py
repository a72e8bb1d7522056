"""Every kind of project through the whole loop on a real Label Studio, with the learner that ships for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ml_backend.kinds.registry import KINDS
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_writer import to_result
from ml_backend.masks.coco import CocoSet, load_coco
from sync.lab.demo import Demo, DemoPlan
from sync.lab.ground_truth import Truth
from sync.projects.init_project import init_project
from sync.store.database import Store
from sync.worker.loop import Worker
from tests.studio.conftest import Site

pytestmark = pytest.mark.studio

SIDE, N_IMAGES = 96, 14
OPTIONS: dict[str, dict[str, Any]] = {
    "boxes": {"iterations": 40, "size": 128},
    # a threshold that so short a training surely exceeds somewhere
    "segmentation": {"iterations": 60, "batch": 4, "size": 96, "max_side": 96, "threshold": 0.02},
    "components": {"iterations": 60, "batch": 4, "size": 96, "max_side": 96, "threshold": 0.02},
    "classes": {},
    "weak": {"iterations": 40, "most": 100, "refine_iterations": 20, "refine_size": 128},
}


@pytest.fixture
def coco(tmp_path: Path) -> CocoSet:
    """Red discs or green bars on dark noise; every picture shows one of the two, one to three times."""
    (tmp_path / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    y, x = np.mgrid[:SIDE, :SIDE]
    for i in range(N_IMAGES):
        rng = np.random.default_rng([12, i])
        pixels = rng.integers(20, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        for place in rng.permutation(4)[: 1 + i % 3].tolist():
            cx, cy = 26 + 44 * (place % 2), 26 + 44 * (place // 2)
            disc = (x - cx) ** 2 + (y - cy) ** 2 <= int(rng.integers(12, 16)) ** 2
            bar = (abs(x - cx) <= 8) & (abs(y - cy) <= int(rng.integers(14, 19)))
            mask = bar if i % 2 else disc
            pixels[mask] = np.array((60, 220, 60) if i % 2 else (220, 60, 60)) - rng.integers(0, 30, 3)
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 1 + i % 2,
                    "segmentation": {"size": [SIDE, SIDE], "counts": rle["counts"].decode()},
                    "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(tmp_path / "images" / f"shape{i:02d}.png")
        images.append({"id": i + 1, "file_name": f"shape{i:02d}.png", "height": SIDE, "width": SIDE})
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    return load_coco(tmp_path / "images", tmp_path / "annotations.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "instances"])  # test_loop_real has those
def test_a_project_of_each_kind_is_trained_asked_about_and_pre_annotated(
    site: Site, coco: CocoSet, kind: str
) -> None:
    demo = Demo(
        site.settings.model_copy(update={"push_interval_s": 0.0}),
        coco,
        DemoPlan(
            title=f"kind {kind} {site.settings.data_dir.parent.name[-24:]}",
            rounds=1,
            start_tasks=8,
            budget=2,  # some of what is found stays undecided, and so shown, however bad it is
            kind=kind,  # type: ignore[arg-type]
            options={
                "test_min": 3,
                "push_min_score": 0.0,
                "pool_min_score": 0.0,
                "learner_options": OPTIONS[kind],
            },
        ),
    )
    report = demo.play()
    assert demo.project is not None
    project_id = demo.project.project_id
    (figures,) = report.rounds
    assert figures.headline == KINDS[kind].headline  # type: ignore[index]
    assert figures.headline in figures.metrics or kind == "weak"  # nobody drew a mask there
    assert figures.pool > 0
    assert figures.answers > 0
    # what people see is valid, and of the kind
    config = parse_label_config(site.studio.project(project_id).label_config)
    assert config.kind == kind
    shown = [row for task in site.studio.tasks(project_id) for row in site.studio.predictions(task.id)]
    types = {item["type"] for prediction in shown for item in prediction.result}
    row = {"labels"} if "<Labels " in site.studio.project(project_id).label_config else set()
    # what was found, its label where labels have a row of their own, and why the task comes
    assert types == {config.targets[0].outputs[0].type, *row, "textarea"}
    for prediction in shown:
        assert validate_result(prediction.result, config, prediction.score, deep=True) == []
    for number in (*demo._review_projects(), project_id):
        site.studio.delete_project(number)


BOTH = """<View>
<Choices name="what" toName="image" choice="single"><Choice value="discs"/><Choice value="bars"/></Choices>
<RectangleLabels name="box" toName="image" smart="false"><Label value="disc"/><Label value="bar"/>
</RectangleLabels>
<Image name="image" value="$image"/></View>"""


@pytest.mark.slow
def test_boxes_and_a_class_of_one_config_are_both_served(site: Site, coco: CocoSet) -> None:
    made = init_project(
        site.studio,
        title=f"both {site.settings.data_dir.parent.name[-24:]}",
        labels=[],
        label_config=BOTH,
        images=[image.path for image in coco.images],
        settings=site.settings,
        options={"min_finished": 8, "test_min": 2, "push_min_score": 0.0, "iterations": 20, "early_s": 0,
                 "train_clicks": False, "question_budget": 0},
    )  # fmt: skip
    config = parse_label_config(BOTH)
    assert config.labels == ("disc", "bar", "discs", "bars")
    truth = Truth(coco, KINDS["boxes"])
    tasks = sorted(site.studio.tasks(made.project_id), key=lambda task: task.id)
    for task in tasks[:8]:
        address = config.image_of(task.data)
        result = to_result(truth.regions(address), config, (SIDE, SIDE))
        said = {"choices": [truth.tags(address)[0] + "s"]}
        result.append({"id": "c", "type": "choices", "from_name": "what", "to_name": "image", "value": said})
        site.studio.create_annotation(task.id, result, lead_time_s=5.0)
    look = Worker(site.settings, Store(site.settings.database()), site.studio).look(made.project_id)
    assert look is not None
    assert look.error == ""
    right = 0
    for task in tasks[8:]:
        (prediction,) = site.studio.predictions(task.id)
        assert validate_result(prediction.result, config, prediction.score) == []
        by_type = {item["type"] for item in prediction.result}
        assert "choices" in by_type
        (picked,) = (item["value"]["choices"] for item in prediction.result if item["type"] == "choices")
        right += picked == [truth.tags(config.image_of(task.data))[0] + "s"]
    assert right >= 4  # of six pictures, all red or all green, learnt from six
    assert any(
        item["type"] == "rectanglelabels"
        for task in tasks[8:]
        for prediction in site.studio.predictions(task.id)
        for item in prediction.result
    )
    for number in (made.review_project_id, made.project_id):
        site.studio.delete_project(number)
