"""The detectron2 learner: its refusals everywhere, training and prediction where it is installed."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_backend.errors import BadInput, ModelError
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.detectron2.learner import Detectron2
from ml_backend.learners.detectron2.settings import detectron2_options
from ml_backend.learners.weights import read_weights

from .shapes import LABELS, draw_examples

# detectron2 uses what newer versions of torch and numpy warn about
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
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
    with pytest.raises(BadInput, match=r"options\.mask_head"):
        detectron2_options("light", {"mask_head": "square"})
    with pytest.raises(BadInput, match="preset"):
        detectron2_options("heavy", {})


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="detectron2 is not installed (docs/detectron2.md)")
@pytest.mark.parametrize("mask_head", ["fcn", "pointrend"])
def test_trains_predicts_and_continues(tmp_path: Path, mask_head: str) -> None:
    examples = tuple(draw_examples(tmp_path / "images", 2))
    options = {"iterations": 3, "batch": 1, "size": 128, "weights": "none", "score_threshold": 0.0}
    options["mask_head"] = mask_head
    spec = TrainSpec(LABELS, examples, examples[:1], device="cpu", options=options)
    report = Detectron2().train(spec, tmp_path / "v1", lambda share, line: None)
    assert report.iterations == 3
    found = next(Detectron2().load(tmp_path / "v1", device="cpu").predict([read_image(examples[0].image)]))
    assert found.embedding.shape[1] == 128
    assert np.isfinite(found.embedding).all()
    plain = {name: value for name, value in options.items() if name != "mask_head"}
    again = TrainSpec(("new", *LABELS), examples, (), device="cpu", start=tmp_path / "v1", options=plain)
    said = Detectron2().train(again, tmp_path / "v2", lambda s, line: None).started_from
    assert said.startswith("version v1 (")
    assert "predict" in said
    assert Detectron2().load(tmp_path / "v2", device="cpu").labels == ("new", *LABELS)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="detectron2 is not installed (docs/detectron2.md)")
def test_trains_from_random_weights(tmp_path: Path) -> None:
    examples = tuple(draw_examples(tmp_path / "images", 4))
    options = {"iterations": 25, "batch": 1, "size": 96, "weights": "none"}
    spec = TrainSpec(LABELS, examples, (), device="cpu", options=options)
    history = Detectron2().train(spec, tmp_path / "v1", lambda share, line: None).history
    assert np.mean([loss for _, loss in history[-5:]]) < 0.8 * np.mean([loss for _, loss in history[:3]])


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="detectron2 is not installed (docs/detectron2.md)")
def test_own_weights_by_path(tmp_path: Path) -> None:
    examples = tuple(draw_examples(tmp_path / "images", 1))
    options = {"iterations": 1, "batch": 1, "size": 96}

    def train(out: str, weights: Path | str) -> str:
        spec = TrainSpec(LABELS, examples, (), device="cpu", options=options | {"weights": str(weights)})
        return Detectron2().train(spec, tmp_path / out, lambda share, line: None).started_from

    train("v1", "none")
    assert train("v2", tmp_path / "v1" / "weights.safetensors") == "weights of weights.safetensors"
    state = read_weights(tmp_path / "v1" / "weights.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    assert train("v3", tmp_path / "zoo.pkl") == "weights of zoo.pkl"
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": Path("x")}))
    with pytest.raises(ModelError, match="not an array"):
        train("v4", tmp_path / "bad.pkl")
    torch.save({name: t for name, t in state.items() if "res2" not in name}, tmp_path / "part.pth")
    with pytest.raises(ModelError, match=r"tensors of backbone do not fit .*backbone\.bottom_up\.res2"):
        train("v5", tmp_path / "part.pth")
