"""A training with a time limit that is over too soon says so: then a whole training follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_backend.learners.base import TrainSpec
from ml_backend.learners.registry import get_learner

from .shapes import LABELS, draw_examples

TINY: dict[str, dict[str, Any]] = {
    "maskrcnn": {"channels": 16, "size": 64, "batch": 1, "weights": "none", "threads": 1, "max_side": 64},
    "fcos": {"channels": 16, "size": 64, "batch": 1, "weights": "none", "threads": 1, "max_side": 64},
    "deeplabv3": {"size": 64, "batch": 2, "weights": "none", "threads": 1, "max_side": 64},
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("seconds", [0.01, 600.0])
def test_only_a_training_that_time_ended_is_cut_short(name: str, seconds: float, tmp_path: Path) -> None:
    is_short = seconds < 1
    options = TINY[name] | {"iterations": 400 if is_short else 2}
    examples = tuple(draw_examples(tmp_path, 4))
    spec = TrainSpec(LABELS, examples, (), device="cpu", options=options, seconds=seconds)
    report = get_learner(name).train(spec, tmp_path / "out", lambda share, line: None)
    assert report.cut_short == is_short
    assert (report.iterations < 400) if is_short else (report.iterations == 2)


def test_the_parts_of_a_composite_share_the_time_and_keep_apart_what_they_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_backend.learners.boxes.learner import OneStage
    from ml_backend.learners.maskrcnn.learner import MaskRcnn

    specs: list[TrainSpec] = []
    for learner in (MaskRcnn, OneStage):
        whole = learner.train

        def train(self: Any, spec: TrainSpec, *rest: Any, whole: Any = whole) -> Any:
            specs.append(spec)
            return whole(self, spec, *rest)

        monkeypatch.setattr(learner, "train", train)
    parts = [
        {"kind": "instances", "learner": "maskrcnn", "labels": ["disc"], "options": TINY["maskrcnn"]},
        {"kind": "boxes", "learner": "fcos", "labels": ["square"], "options": TINY["fcos"]},
    ]
    spec = TrainSpec(
        LABELS,
        tuple(draw_examples(tmp_path, 4)),
        (),
        device="cpu",
        options={"parts": parts},
        seconds=0.1,
        resume=tmp_path / "resume",
    )
    report = get_learner("several").train(spec, tmp_path / "out", lambda share, line: None)
    assert report.cut_short
    assert [each.seconds for each in specs] == [0.05, 0.05]
    assert [each.resume for each in specs] == [tmp_path / "resume/part-0", tmp_path / "resume/part-1"]
    assert (tmp_path / "resume/part-1/checkpoint.safetensors").is_file()
