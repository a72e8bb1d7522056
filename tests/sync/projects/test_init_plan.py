"""``init --dry-run``: what it says comes true, and nothing is written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from ml_backend.errors import BadInput
from sync.projects.init_plan import InitPlan, plan_init
from sync.projects.init_project import init_project
from sync.projects.init_request import check_request
from sync.report.plan_lines import init_lines
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from tests.fakes.label_studio import FakeStudio

READING = {"projects", "task_data"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (20 + i, 16), (90, i, 40)).save(folder / f"p{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", webhook_secret="a secret of the tests")


def _plan(
    studio: FakeStudio, settings: Settings, pictures: Path, known: ProjectRecord | None = None, **options: Any
) -> InitPlan:
    """The plan, and that making it wrote nothing."""
    asked = {"title": "Cells", "labels": ["a", "b"], "output": "brush", "kind": "instances", **options}
    request = check_request(
        settings, images=pictures, multiple=False, label_config="", groups=None,
        **{"options": None, **asked},
    )  # fmt: skip
    before, usual, calls = copy.deepcopy(studio._db), studio.before_call, list[str]()
    there = settings.data_dir.exists()
    studio.before_call = calls.append
    try:
        plan = plan_init(studio, settings, request, images=pictures, known=known)
    finally:
        studio.before_call = usual
    assert set(calls) <= READING, calls
    assert studio._db == before
    assert settings.data_dir.exists() == there
    return plan


def _init(studio: FakeStudio, settings: Settings, pictures: Path, **options: Any) -> int:
    made = init_project(
        studio, title="Cells", labels=["a", "b"], images=pictures, settings=settings, connect=False, **options
    )
    return made.project_id


def test_a_new_project_is_foreseen(settings: Settings, pictures: Path) -> None:
    studio = FakeStudio()
    plan = _plan(studio, settings, pictures, options={"retrain_after": 7})
    assert (plan.project_id, plan.takes_part, plan.makes_review) == (None, False, True)
    assert (plan.pictures, plan.new_pictures) == (3, 3)
    assert plan.copied_bytes == sum((pictures / f"p{i}.png").stat().st_size for i in range(3))
    assert len(plan.refused) == 1
    assert [(change.name, change.new) for change in plan.options] == [("retrain_after", 7)]
    assert plan.problems == ()
    number = _init(studio, settings, pictures)
    assert studio.project(number).label_config == plan.label_config
    text = "\n".join(init_lines(plan))
    assert "a project 'Cells' of kind instances would be made" in text
    assert "3 of 3 pictures would be added" in text
    assert "option retrain_after: 20 → 7" in text
    assert text.endswith("Nothing was made: this was a dry run.")


def test_a_project_that_is_there_is_completed(settings: Settings, pictures: Path) -> None:
    studio = FakeStudio()
    number = _init(studio, settings, pictures, options={"retrain_after": 7})
    Image.new("RGB", (50, 50)).save(pictures / "later.png")
    with Store(settings.database()).read() as session:
        known = session.get(ProjectRecord, number)
    plan = _plan(studio, settings, pictures, known, options={"min_finished": 9})
    assert (plan.project_id, plan.takes_part, plan.makes_review) == (number, True, False)
    assert (plan.pictures, plan.new_pictures) == (4, 1)
    assert [change.name for change in plan.options] == ["min_finished"]
    with pytest.raises(BadInput, match="has the labels a, b"):
        _plan(studio, settings, pictures, known, labels=["a", "c"])


def test_what_would_stop_it_half_way_is_told(settings: Settings, pictures: Path) -> None:
    without = settings.model_copy(update={"webhook_secret": SecretStr("")})
    plan = _plan(FakeStudio(), without, pictures)
    assert len(plan.problems) == 1
    assert "no webhook secret" in plan.problems[0]
    with pytest.raises(BadInput, match="2 characters"):
        _plan(FakeStudio(), settings, pictures, title="ab")
