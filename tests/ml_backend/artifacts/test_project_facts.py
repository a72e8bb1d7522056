"""Facts of projects, the inbox, and task confidence."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.inbox import last_notice, mark_dirty
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import FactsCache, load_facts, save_facts
from ml_backend.errors import BadInput, StorageError
from ml_backend.instances import Instances
from ml_backend.label_studio.protocol import ProjectKey, parse_project_key
from tests.ml_backend.helpers import some_facts
from tests.ml_backend.notices import noted_actions


def test_round_trip(tmp_path: Path) -> None:
    facts = some_facts(review_project_id=4, model_version="r1", options={"preset": "light"})
    save_facts(tmp_path, facts)
    assert load_facts(tmp_path, 3) == facts
    assert facts.config.labels == ("cell", "dirt")


def test_unknown_and_damaged_projects(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="project 3 is not known"):
        load_facts(tmp_path, 3)
    path = ProjectPaths(tmp_path, 3).facts
    path.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"project_id": 3}', '{"labels": 5}'):
        path.write_text(text)
        with pytest.raises(StorageError, match=r"project\.json"):
            load_facts(tmp_path, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("role", "watch"),
        ("kind", "shapes"),
        ("labels", "cell"),
        ("labels", [1, 2]),
        ("review_project_id", "none"),
        ("push_min_score", "high"),
        ("options", []),
        ("project_id", None),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, name: str, value: Any) -> None:
    save_facts(tmp_path, some_facts())
    path = ProjectPaths(tmp_path, 3).facts
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(StorageError, match=r"project\.json") as caught:
        load_facts(tmp_path, 3)
    assert caught.value.field.split(".")[0] == name


def test_the_cache_is_bounded_by_bytes(tmp_path: Path) -> None:
    for number in range(1, 9):
        save_facts(tmp_path, some_facts(number))
    size = 4 * ProjectPaths(tmp_path, 1).facts.stat().st_size + 1000
    cache = FactsCache(tmp_path, max_bytes=3 * size)
    for number in range(1, 9):
        assert cache.get(number).project_id == number
        assert cache.nbytes <= 3 * size
    assert cache.nbytes > 2 * size


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    save_facts(tmp_path, some_facts())
    path = ProjectPaths(tmp_path, 3).facts
    path.write_text(path.read_text().replace('"key"', '"from_the_future": 1,\n "key"'))
    assert load_facts(tmp_path, 3) == some_facts()


def test_cache_sees_changes_and_deletion(tmp_path: Path) -> None:
    cache = FactsCache(tmp_path)
    save_facts(tmp_path, some_facts())
    assert cache.get(3) is cache.get(3)
    save_facts(tmp_path, some_facts(model_version="r2"))
    assert cache.get(3).model_version == "r2"
    ProjectPaths(tmp_path, 3).facts.unlink()
    with pytest.raises(BadInput):
        cache.get(3)


def test_project_keys() -> None:
    assert parse_project_key("12.1795209803") == ProjectKey(12, 1795209803)
    assert parse_project_key(12) == ProjectKey(12, None)
    for key in ("", "x", "-1", "1e3", None, True, 1.5, [], "٣", "0", "../1", "9" * 30, "1.", "1.x", "1.2.3"):
        with pytest.raises(BadInput, match="project"):
            parse_project_key(key)


def test_notices(tmp_path: Path) -> None:
    assert last_notice(tmp_path, 3) is None
    assert noted_actions(tmp_path, 3) == []
    mark_dirty(tmp_path, 3, "ANNOTATION_CREATED")
    mark_dirty(tmp_path, 3, "evil\nline <x>")
    assert noted_actions(tmp_path, 3) == ["ANNOTATION_CREATED", "evil_line__x_"]
    assert last_notice(tmp_path, 3) is not None


def test_the_inbox_stays_small_and_whole_under_threads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for job in [threads.submit(mark_dirty, tmp_path, 3, "ANNOTATION_UPDATED") for _ in range(3000)]:
            job.result()
    assert os.path.getsize(ProjectPaths(tmp_path, 3).dirty) <= 64 * 1024
    assert set(noted_actions(tmp_path, 3)) == {"ANNOTATION_UPDATED"}


def found(*pairs: tuple[float, float]) -> Instances:
    n = len(pairs)
    return Instances(
        np.zeros(n, np.int64),
        np.zeros((n, 4), np.float32),
        [{"size": [1, 1], "counts": "01"}] * n,
        np.array([p[0] for p in pairs], np.float32),
        np.array([p[1] for p in pairs], np.float32),
        np.zeros((n, 0), np.float32),
    )
