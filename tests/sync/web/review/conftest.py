"""Projects with open questions. One is trained per set of options; each test works on a copy of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.settings import Settings
from sync.store.database import Store
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import World
from tests.sync.web.review.place import Place


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """Trained worlds by their options, shared by the tests of this folder."""
    return {}


@pytest.fixture
def asking(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, trained: dict[str, World]
) -> Iterator[Callable[..., Place]]:
    """``asking(review_overlap=2, …)``: a project whose first round has asked its questions.

    ``page`` holds settings that only the page reads; they need no training of their own.
    """
    made: list[World] = []

    def make(page: dict[str, Any] | None = None, **options: Any) -> Place:
        wanted = {"review_form": "single", "policy": "random", **options}
        name = json.dumps(wanted, sort_keys=True)
        if name not in trained:
            trained[name] = _train(tmp_path_factory.mktemp("asking") / "world", wanted)
        made.append(copy_world(trained[name], tmp_path / f"world{len(made)}", page or {}))
        return Place(made[-1])

    yield make
    for world in made:
        world.store.close()


def _train(folder: Path, options: dict[str, Any]) -> World:
    world = World(folder, 20, in_file=True, **options)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    world.store.close()
    return world


def copy_world(world: World, folder: Path, page: dict[str, Any]) -> World:
    """The same project in another folder: files, store and Label Studio."""
    shutil.copytree(world.folder, folder)
    copy = World.__new__(World)
    copy.folder, copy.images, copy.scenes = folder, world.images, world.scenes
    copy.project_id, copy.tasks = world.project_id, world.tasks
    copy.studio = FakeStudio(folder / "studio.json")
    values = {name: getattr(world.settings, name) for name in world.settings.model_fields_set}
    copy.settings = Settings(
        **{**values, "signing_key": "0123456789abcdefghij" * 2, **page, "data_dir": folder / "data"}
    )
    copy.store = Store(copy.settings.database())
    return copy
