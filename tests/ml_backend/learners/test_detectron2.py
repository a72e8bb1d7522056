"""The detectron2 learner: its refusals everywhere, training and prediction where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import BadInput, ModelError
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.detectron2.learner import Detectron2
from ml_backend.learners.detectron2.settings import detectron2_options

from .shapes import LABELS, draw_examples

INSTALLED = importlib.util.find_spec("detectron2") is not None


@pytest.mark.skipif(INSTALLED, reason="detectron2 is installed")
def test_says_how_to_get_it(tmp_path: Path) -> None:
    spec = TrainSpec(LABELS, tuple(draw_examples(tmp_path, 1)), ())
    for call in (
        lambda: Detectron2().train(spec, tmp_path / "v", lambda share, line: None),
        lambda: Detectron2().load(tmp_path),
        lambda: Detectron2().export(tmp_path, tmp_path / "x.pt"),
    ):
        with pytest.raises(ModelError, match=r"docs/detectron2\.md"):
            call()


def test_options_are_checked() -> None:
    assert detectron2_options("light", {"iterations": "9"})["iterations"] == 9
    with pytest.raises(BadInput, match=r"options\.epochs"):
        detectron2_options("light", {"epochs": 9})
    with pytest.raises(BadInput, match="preset"):
        detectron2_options("heavy", {})


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="detectron2 is not installed (docs/detectron2.md)")
def test_trains_predicts_and_continues(tmp_path: Path) -> None:
    examples = tuple(draw_examples(tmp_path / "images", 2))
    options = {"iterations": 2, "batch": 1, "size": 128, "weights": "none", "score_threshold": 0.0}
    spec = TrainSpec(LABELS, examples, examples[:1], device="cpu", options=options)
    report = Detectron2().train(spec, tmp_path / "v1", lambda share, line: None)
    assert report.iterations == 2
    found = next(Detectron2().load(tmp_path / "v1", device="cpu").predict([read_image(examples[0].image)]))
    assert found.embedding.shape[1] == 128
    assert np.isfinite(found.embedding).all()
    again = TrainSpec(("new", *LABELS), examples, (), device="cpu", start=tmp_path / "v1", options=options)
    assert Detectron2().train(again, tmp_path / "v2", lambda s, line: None).started_from == "version v1"
