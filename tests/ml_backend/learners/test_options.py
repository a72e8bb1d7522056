"""Options are checked where they are set: by name of the learner, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ml_backend.clicks.training.options import click_options
from ml_backend.errors import BadInput
from ml_backend.learners.registry import check_options


@pytest.mark.parametrize(
    ("learner", "preset", "options", "field"),
    [
        ("magic", "light", {}, "learner"),
        ("maskrcnn", "heavy", {}, "preset"),
        ("maskrcnn", "light", {"epochs": 3}, "options.epochs"),
        ("maskrcnn", "light", {"iterations": 3.5}, "options.iterations"),
        ("maskrcnn", "light", {"iterations": True}, "options.iterations"),
        ("maskrcnn", "light", {"lr": "nan"}, "options.lr"),
        ("maskrcnn", "light", {"lr": None}, "options.lr"),
        ("maskrcnn", "light", {"channels": 6}, "options.channels"),
        ("detectron2", "light", {"epochs": 3}, "options.epochs"),
        ("detectron2", "light", {"batch": 0}, "options.batch"),
        ("detectron2", "heavy", {}, "preset"),
    ],
)
def test_a_typo_is_named(learner: str, preset: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_options(learner, preset, options)
    assert caught.value.field == field


@pytest.mark.parametrize("learner", ["maskrcnn", "detectron2"])
def test_what_training_takes_passes(learner: str) -> None:
    check_options(learner, "full", {})
    check_options(learner, "light", {"iterations": "9", "lr": 1, "batch": 2.0, "weights": "none"})


@pytest.mark.parametrize(
    ("given", "field"), [({"iteration": 5}, "options.iteration"), ({"size": 50}, "options.size")]
)
def test_options_of_click_trainings_are_checked_too(given: dict[str, Any], field: str) -> None:
    assert click_options({"iterations": "5"}).iterations == 5
    with pytest.raises(BadInput) as caught:
        click_options(given)
    assert caught.value.field == field


def test_checking_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from ml_backend.clicks.training.options import click_options\n"
        "from ml_backend.learners.registry import LEARNERS, check_options\n"
        "needed = {'several': {'parts': [{'kind': 'boxes', 'learner': 'fasterrcnn', 'labels': ['car']}]},\n"
        "          'zero-shot': {'detector': 'owl'}}\n"
        "for name in set(LEARNERS) - {'adopted'}: check_options(name, 'light', needed.get(name, {}))\n"
        "click_options({})\n"
        "print(sorted({'torch', 'torchvision', 'cv2'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
