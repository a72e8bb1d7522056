"""The tab "Look here" on a real Label Studio: which tasks it lists, in which order, with which column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.artifacts.mistakes import Finding, MistakeTable
from ml_backend.label_studio.config_builder import build_label_config
from sync.mistakes.look_here import TITLE, push_look_here
from sync.mistakes.marks import LINE_FIELD
from sync.rounds.project import OpenProject, open_project
from sync.rounds.pull import pull
from sync.rounds.registration import register_project
from sync.store.database import Store
from tests.studio.conftest import Site
from tests.sync.steps import step

pytestmark = pytest.mark.studio


@pytest.fixture
def opened(site: Site, tmp_path: Path) -> Iterator[OpenProject]:
    paths = []
    for i in range(6):
        paths.append(tmp_path / f"picture{i}.png")
        Image.fromarray(np.full((60, 80, 3), 30 * i, np.uint8)).save(paths[-1])
    number = site.studio.create_project("look here", build_label_config(["cell"])).id
    site.studio.upload_images(number, paths)
    store = Store(site.settings.database())
    register_project(site.settings, store, site.studio, number)
    yield open_project(site.settings, store, site.studio, number)
    site.studio.delete_project(number)
    store.close()


def listed(site: Site, project: int) -> list[tuple[int, str]]:
    """Tasks and lines as the Data Manager shows them in the tab."""
    tab = next(view for view in site.studio.views(project) if view.title == TITLE)
    rows = site.studio._http.get("/api/tasks/", project=project, view=tab.id, fields="task_only")["tasks"]
    return [(row["id"], row["data"].get(LINE_FIELD, "")) for row in rows]


def test_the_tab_lists_likely_mistakes_first_and_follows_them(site: Site, opened: OpenProject) -> None:
    step(pull, opened)
    tasks = sorted(site.studio.task_ids(opened.id))
    site.studio.create_annotation(tasks[1], [])
    before = site.studio.task(tasks[1])
    about: dict[str, Any] = {"judged": {}}
    first = [Finding(tasks[1], "overlooked", 0.4, "one"), Finding(tasks[4], "placed", 0.9, "other")]
    table = MistakeTable("a", about, tuple(sorted(first, key=lambda f: -f.score)))
    step(push_look_here, opened, table)
    lines = [(tasks[4], "0.90 other"), (tasks[1], "0.40 one")]
    assert listed(site, opened.id) == lines
    assert [view.title for view in site.studio.views(opened.id)] == ["Default", TITLE]
    columns = site.studio._http.get("/api/dm/columns", project=opened.id)["columns"]
    assert LINE_FIELD in {column["id"] for column in columns}

    # the annotation and its time stay, and the next pull finds nothing changed in it
    after = site.studio.task(tasks[1])
    assert after.annotations == before.annotations
    assert after.updated_at > before.updated_at
    step(pull, opened)
    assert step(pull, opened).changes == 0
    assert step(push_look_here, opened, table)
    assert listed(site, opened.id) == lines

    step(push_look_here, opened, MistakeTable("b", about, (Finding(tasks[2], "placed", 0.5, "third"),)))
    assert listed(site, opened.id) == [(tasks[2], "0.50 third")]
    assert len(site.studio.views(opened.id)) == 2
    step(pull, opened)
    step(push_look_here, opened, None)
    assert [view.title for view in site.studio.views(opened.id)] == ["Default"]
    assert site.studio.task_values(opened.id, LINE_FIELD) == {}
