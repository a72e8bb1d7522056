"""The learner ``everything``: options, one label for all masks, and a version that can be loaded again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.clicks.serving.everything_options import label_for
from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import check_options, get_learner
from ml_backend.masks.rle import decode_rle
from tests.ml_backend.clicks.hf_folders import save


def picture() -> Any:
    """Two bright discs on a dark, slightly noisy ground, and their masks."""
    y, x = np.mgrid[:60, :90]
    discs = [(x - 25) ** 2 + (y - 30) ** 2 <= 12**2, (x - 65) ** 2 + (y - 28) ** 2 <= 9**2]
    image = np.random.default_rng(0).integers(20, 40, (60, 90, 3)).astype(np.uint8)
    for disc in discs:
        image[disc] = (210, 60, 60)
    return image, discs


def start(out: Path, options: dict[str, Any], labels: tuple[str, ...] = ("disc",)) -> TrainReport:
    spec = TrainSpec(labels, (), (), device="cpu", options=options)
    return get_learner("everything").train(spec, out, lambda share, line: None)


def test_a_version_finds_everything_under_its_label(tmp_path: Path) -> None:
    report = start(tmp_path, {"segmenter": "classical", "label": "disc"}, ("bar", "disc"))
    assert report.iterations == 0
    assert "classical" in report.started_from
    predictor = get_learner("everything").load(tmp_path, device="cpu")
    image, discs = picture()
    found, blank = predictor.predict([image, np.zeros((40, 40, 3), np.uint8)])
    assert predictor.labels == ("bar", "disc")
    assert len(blank) == 0
    assert set(found.label.tolist()) == {1}
    assert found.embedding.shape == (len(found), predictor.embedding_dim)
    assert ((found.score > 0.3) & (found.score <= found.quality)).all()
    for disc in discs:
        ious = [(m & disc).sum() / (m | disc).sum() for m in map(decode_rle, found.rle)]
        assert max(ious) > 0.8
    (again,) = get_learner("everything").load(tmp_path, device="cpu").predict([image])
    assert again.rle == found.rle


def test_a_model_of_transformers_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDSWELL_SEGMENTER", "hf")
    monkeypatch.setenv("GROUNDSWELL_HF_MODEL", str(save("sam2", tmp_path / "model")))
    start(tmp_path / "out", {"min_trust": 0.0})
    predictor = get_learner("everything").load(tmp_path / "out", device="cpu")
    assert predictor.nbytes > 0
    image, _ = picture()
    (found,) = predictor.predict([image])
    for field in ("label", "box_xyxy", "rle", "score", "quality", "embedding"):
        assert len(getattr(found, field)) == len(found)


@pytest.mark.parametrize(("named", "used"), [("project", "shipped"), ("classical", "classical")])
def test_a_version_stays_with_the_segmenter_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, used: str
) -> None:
    """A project's own network is trained on finished tasks: there is none yet."""
    monkeypatch.setenv("GROUNDSWELL_SEGMENTER", named)
    start(tmp_path, {})
    monkeypatch.setenv("GROUNDSWELL_SEGMENTER", "sam")
    assert json.loads((tmp_path / "learner.json").read_text())["options"]["segmenter"] == used
    (found,) = get_learner("everything").load(tmp_path, device="cpu").predict([picture()[0]])
    assert len(found)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"colour": 1}, "options.colour"),
        ({"most": 0}, "options.most"),
        ({"min_trust": 1.5}, "options.min_trust"),
        ({"segmenter": "sharp"}, "options.segmenter"),
        ({"segmenter": "project"}, "options.segmenter"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_options("everything", "light", options)
    assert caught.value.field == field


def test_a_label_must_be_chosen_where_there_are_several(tmp_path: Path) -> None:
    assert label_for({}, ("cell",)) == "cell"
    assert label_for({"label": "b"}, ("a", "b")) == "b"
    for options in ({}, {"label": "c"}):
        with pytest.raises(BadInput) as caught:
            start(tmp_path / "out", options, ("a", "b"))
        assert caught.value.field == "options.label"
    assert not (tmp_path / "out").exists()


def test_a_damaged_description_is_said(tmp_path: Path) -> None:
    start(tmp_path, {"segmenter": "classical"})
    described = json.loads((tmp_path / "learner.json").read_text())
    described["options"]["label"] = "gone"
    (tmp_path / "learner.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="damaged"):
        get_learner("everything").load(tmp_path)
    with pytest.raises(ModelError, match="not exported"):
        get_learner("everything").export(tmp_path, tmp_path / "out")


def test_options_are_checked_without_torch() -> None:
    code = (
        "import sys; from ml_backend.learners.registry import check_options; "
        "check_options('everything', 'light', {}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
