"""``groundswell export-model``: a folder with a model that works where Groundswell is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.registry import get_learner
from sync.commands import export_model
from tests.ml_backend.learners.classes import stripes
from tests.ml_backend.learners.shapes import draw_examples

CLASSES = {"weights": "none", "method": "linear", "side": 64, "threads": 1}
MASKS = {"iterations": 2, "batch": 2, "size": 128, "channels": 32, "weights": "none", "threads": 1}
BOXES = MASKS | {"target_px": 20, "max_side": 128}
MASKS |= {"target_px": 20, "max_side": 128, "max_detections": 30}
PIXELS = {"iterations": 2, "batch": 2, "weights": "none", "threads": 1}


def publish(data: Path, learner: str, spec: TrainSpec) -> None:
    def build(folder: Path) -> dict[str, object]:
        report = get_learner(learner).train(spec, folder, lambda share, line: None)
        metrics = {name: list(values) for name, values in report.evaluation.metrics.items()}
        return {
            "learner": learner,
            "labels": list(spec.labels),
            "started_from": report.started_from,
            "n_train": len(spec.train),
            "evaluation": {"n_images": report.evaluation.n_images, "metrics": metrics},
        }

    ModelRegistry(data).publish(3, "v1", build)


def run(*arguments: str) -> str:
    app = typer.Typer()
    export_model.register(app)
    app.callback()(lambda: None)
    result = CliRunner().invoke(app, ["export-model", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def predicted(folder: Path, *pictures: Path) -> list[dict[str, object]]:
    """What predict.py prints in a process that cannot import Groundswell."""
    hide = "import sys\nfor name in ('ml_backend', 'sync', 'clustering'): sys.modules[name] = None\n"
    start = f"{hide}import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", start, str(folder / "predict.py"), *map(str, pictures)],
        cwd=folder,
        env={"PATH": "/usr/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_classifier_answers_the_same_without_groundswell(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    test = stripes.draw_tagged(tmp_path / "images", 6, seed=1)
    spec = TrainSpec(
        stripes.LABELS, stripes.draw_tagged(tmp_path / "images", 18), test, device="cpu", options=CLASSES,
        exclusive=True,
    )  # fmt: skip
    publish(tmp_path / "data", "classifier", spec)
    out = tmp_path / "out"
    said = json.loads(run("3", "--out", str(out), "--data-dir", str(tmp_path / "data"), "--json"))
    assert set(said["files"]) == {p.name for p in out.iterdir()}
    assert set(said["files"]) == {"model.onnx", "model.json", "predict.py", "README.md"}
    card = (out / "README.md").read_text()
    assert "Trained on** 18 pictures, measured on 6 others" in card
    assert "| accuracy | " in card
    assert "random numbers" in card
    rows = predicted(out, *(example.image for example in test))
    learner = ModelRegistry(tmp_path / "data").info(3, "v1").folder
    wanted, _ = (
        get_learner("classifier")
        .load(learner, device="cpu")
        .probabilities([read_image(example.image) for example in test])
    )
    found = np.array([[row[name] for name in stripes.LABELS] for row in rows])
    assert np.allclose(found, wanted, atol=2e-4)
    assert len((out / "predict.py").read_text().splitlines()) <= 16


@pytest.mark.parametrize(
    ("learner", "options", "columns"),
    [
        ("maskrcnn", MASKS, {"boxes", "labels", "scores", "pixels"}),
        ("fasterrcnn", BOXES, {"boxes", "labels", "scores"}),
        ("deeplabv3", PIXELS, {"pixels"}),
    ],
)
def test_other_learners_run_without_groundswell(
    tmp_path: Path, learner: str, options: dict[str, object], columns: set[str]
) -> None:
    images = tuple(draw_examples(tmp_path / "images", 3))
    labels = ("disc", "square")
    publish(tmp_path / "data", learner, TrainSpec(labels, images, (), device="cpu", options=options))
    out = tmp_path / "out"
    assert "predict.py" in run("3", "--out", str(out), "--data-dir", str(tmp_path / "data"))
    (row,) = predicted(out, images[0].image)
    assert row["names"] == list(labels)
    assert columns <= set(row)
    assert "It was not measured" in (out / "README.md").read_text()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with pytest.raises(BadInput, match="has no model yet"):
        run("3", "--out", str(tmp_path / "out"), "--data-dir", data)
    images = stripes.draw_tagged(tmp_path / "images", 3)
    spec = TrainSpec(stripes.LABELS, images, (), device="cpu", options=CLASSES, exclusive=True)
    publish(tmp_path / "data", "classifier", spec)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(BadInput, match="not an empty folder"):
        run("3", "--out", str(tmp_path / "full"), "--data-dir", data)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
