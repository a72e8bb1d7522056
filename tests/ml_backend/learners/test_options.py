"""Options are checked where they are set: by name of the learner, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ml_backend.clicks.training.options import click_options
from ml_backend.errors import BadInput
from ml_backend.learners.maskrcnn.settings import PRESETS, train_settings
from ml_backend.learners.registry import check_options
from ml_backend.learners.weak.settings import cim_settings


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


def test_a_short_training_is_short_when_it_goes_on_too() -> None:
    """A project's option ``iterations`` is for every training of it, and for all parts of one."""
    light = PRESETS["light"]
    assert train_settings("light", {}).continue_iterations == light.continue_iterations > 30
    assert train_settings("light", {"iterations": 30}).continue_iterations == 30
    assert train_settings("light", {"iterations": 9999}).continue_iterations == light.continue_iterations
    assert train_settings("light", {"iterations": 30, "continue_iterations": 70}).continue_iterations == 70
    assert cim_settings("light", {"iterations": 30})[1] == {"iterations": 30}
    assert cim_settings("light", {"iterations": 30, "refine_iterations": 70})[1] == {"iterations": 70}
    assert cim_settings("light", {})[1] == {}


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
