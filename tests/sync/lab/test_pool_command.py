"""``groundswell pool``: columns of one length with true IoU, readable by the simulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ml_backend.errors import BadInput
from ml_backend.masks.edges import EDGES
from ml_backend.masks.statistics import STATISTICS
from sync.commands.pool import register
from tests.ml_backend.learners.shapes import LABELS, draw_examples

TINY = ("batch=1", "size=64", "channels=16", "weights=none", "threads=1", "score_threshold=0.0")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    examples = draw_examples(tmp_path / "images", 4)
    document = {
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(LABELS)],
        "images": [
            {"id": e.task_id, "file_name": e.image.name, "height": 96, "width": 128} for e in examples
        ],
        "annotations": [
            {"image_id": e.task_id, "category_id": label + 1, "segmentation": rle}
            for e in examples
            for label, rle in zip(e.label, e.rle, strict=True)
        ],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    return path


def call(coco: Path, *more: str) -> object:
    app = typer.Typer()
    register(app)
    base = [
        "--images",
        str(coco.parent / "images"),
        "--coco",
        str(coco),
        "--out",
        str(coco.parent / "pool.npz"),
    ]
    options = [part for pair in TINY for part in ("--option", pair)]
    return CliRunner().invoke(app, [*base, *options, *more])


def test_writes_a_pool_the_simulator_reads(coco: Path) -> None:
    result = call(coco, "--iterations", "3", "--threshold", "0", "--train-images", "3", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    with np.load(coco.parent / "pool.npz") as pool:
        n = summary["instances"]
        assert n > 0
        assert pool["embedding"].shape == (n, 128)
        assert pool["extras"].shape == (n, len(STATISTICS) + len(EDGES))
        assert pool["extras"][:, len(STATISTICS) :].any()
        for name in ("score", "quality", "iou"):
            assert pool[name].shape == (n,)
            assert ((pool[name] >= 0) & (pool[name] <= 1)).all()
        assert set(pool["label"]) <= {0, 1}
        assert pool["labels"].tolist() == list(LABELS)
    from sync.lab.pool_files import read_pool

    assert sum(len(entry.pool) for entry in read_pool(coco.parent / "pool.npz")) == n


def test_merges_all_classes_into_one(coco: Path) -> None:
    result = call(
        coco,
        "--merge-classes",
        "object",
        "--iterations",
        "2",
        "--threshold",
        "0",
        "--train-images",
        "3",
        "--json",
    )
    assert result.exit_code == 0, result.output
    with np.load(coco.parent / "pool.npz") as pool:
        assert pool["labels"].tolist() == ["object"]
        assert not pool["label"].any()
        assert len(pool["iou"]) > 0
        # a mask is compared with the true ones of both classes
        assert pool["iou"].max() > 0
    assert isinstance(call(coco, "--merge-classes", " ").exception, BadInput)


def test_refuses_a_split_without_a_side(coco: Path) -> None:
    result = call(coco, "--train-images", "4")
    assert isinstance(result.exception, BadInput)
    assert result.exception.field == "train_fraction"
    result = call(coco, "--option", "size")
    assert isinstance(result.exception, BadInput)
    assert result.exception.field == "option"
