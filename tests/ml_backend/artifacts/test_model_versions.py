"""Model versions: published whole or not at all, loaded once, dropped when idle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, ModelError, StorageError
from ml_backend.learners.predictor_cache import PredictorCache
from ml_backend.learners.registry import LEARNERS, get_learner
from tests.ml_backend.helpers import ThresholdLearner


@pytest.fixture(autouse=True)
def threshold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(LEARNERS, "threshold", "tests.ml_backend.helpers:ThresholdLearner")
    monkeypatch.setitem(LEARNERS, "missing", "no_such_package.here:Learner")
    ThresholdLearner.loads = 0
    yield
    ThresholdLearner.hook = staticmethod(lambda: None)


def build(folder: Path) -> dict[str, object]:
    (folder / "learner.json").write_text('["cell"]')
    return {"learner": "threshold", "AP": 0.5}


def test_publish_and_read_back(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    assert registry.current(3) is None
    assert registry.versions(3) == []
    first = registry.publish(3, "r1-abc", build)
    assert first.manifest["AP"] == 0.5
    assert first.learner == "threshold"
    registry.publish(3, "r2-abc", build, make_current=False)
    assert registry.current(3) == "r1-abc"
    assert [v.version for v in registry.versions(3)] == ["r1-abc", "r2-abc"]
    registry.set_current(3, "r2-abc")
    assert registry.current(3) == "r2-abc"
    assert registry.current(4) is None


def test_a_version_is_built_once(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(3, "v1", build)

    def never(folder: Path) -> dict[str, object]:
        raise AssertionError("built again")

    assert registry.publish(3, "v1", never).manifest["AP"] == 0.5


def test_a_failed_build_leaves_nothing_and_the_old_version_serving(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(3, "v1", build)

    def broken(folder: Path) -> dict[str, object]:
        (folder / "half").write_text("x")
        raise ModelError("out of memory")

    with pytest.raises(ModelError):
        registry.publish(3, "v2", broken)
    assert registry.current(3) == "v1"
    assert [p.name for p in ProjectPaths(tmp_path, 3).models.iterdir()] == ["v1"]


def test_areas_are_apart(tmp_path: Path) -> None:
    ModelRegistry(tmp_path).publish(3, "v1", build)
    clicks = ModelRegistry(tmp_path, area="clicks")
    assert clicks.current(3) is None
    clicks.publish(3, "c1", build)
    assert clicks.current(3) == "c1"
    assert [v.version for v in clicks.versions(3)] == ["c1"]


@pytest.mark.parametrize("name", ["", "../v1", ".hidden", "a/b", "a" * 101, "v\n1"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the name"):
        ModelRegistry(tmp_path).publish(3, name, build)


def test_missing_and_damaged_versions_are_named(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(3, "v1", build)
    with pytest.raises(ModelError, match=r"'v9'.*Versions: v1"):
        registry.set_current(3, "v9")
    manifest = registry.folder(3, "v1") / "manifest.json"
    for text, words in (("{", "damaged"), ("[]", "not a JSON object")):
        manifest.write_text(text)
        with pytest.raises(ModelError, match=words):
            registry.info(3, "v1")


def test_unknown_learners_and_missing_packages() -> None:
    with pytest.raises(BadInput, match="no learner 'magic'"):
        get_learner("magic")
    with pytest.raises(ModelError, match="not installed"):
        get_learner("missing")


def test_a_version_is_loaded_once_by_many_threads(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(3, "v1", build)
    cache = PredictorCache(registry)
    together = threading.Barrier(8)

    def job() -> int:
        together.wait(60)
        with cache.use(3, "v1", device="cpu") as predictor:
            return id(predictor)

    with ThreadPoolExecutor(8) as threads:
        found = {f.result() for f in [threads.submit(job) for _ in range(8)]}
    assert len(found) == 1
    assert ThresholdLearner.loads == 1


def test_idle_versions_are_dropped_but_never_one_in_use(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    for name in ("v1", "v2", "v3"):
        registry.publish(3, name, build)
    cache = PredictorCache(registry, max_bytes=1500)  # room for one
    with cache.use(3, "v1") as held:
        with cache.use(3, "v2"), cache.use(3, "v3"):
            assert len(cache.loaded()) == 3
        assert (3, "v1", "auto") in cache.loaded()
        with cache.use(3, "v1") as again:
            assert again is held
    assert len(cache.loaded()) == 1
    before = ThresholdLearner.loads
    with cache.use(3, "v2"):
        pass
    assert ThresholdLearner.loads == before + 1


def test_a_failed_load_is_not_kept(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.publish(3, "v1", build)
    cache = PredictorCache(registry)

    def fail() -> None:
        raise ModelError("weights do not fit")

    ThresholdLearner.hook = staticmethod(fail)
    with pytest.raises(ModelError), cache.use(3, "v1"):
        pass
    assert cache.loaded() == set()
    ThresholdLearner.hook = staticmethod(lambda: None)
    with cache.use(3, "v1") as predictor:
        assert predictor.labels == ("cell",)


def test_a_wrong_field_of_a_manifest_is_named_with_its_file(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    info = registry.publish(3, "r1", lambda folder: {"learner": "threshold", "round": 1, "new": [1]})
    assert info.manifest["new"] == [1]
    path = info.folder / "manifest.json"
    path.write_text(path.read_text().replace('"round": 1', '"round": "first"'))
    with pytest.raises(StorageError, match=r"manifest\.json") as caught:
        registry.info(3, "r1")
    assert caught.value.field == "round"
