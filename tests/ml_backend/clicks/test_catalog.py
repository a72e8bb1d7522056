"""The table of segmenters: listing, errors that say what to do, and when a project's own model answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.artifacts.files import write_atomic, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT
from ml_backend.clicks.serving import catalog
from ml_backend.clicks.serving.catalog import SEGMENTERS, SegmenterPool, build_segmenter, list_segmenters
from ml_backend.device_fallback import DeviceChange, DeviceFallback
from ml_backend.devices import is_out_of_memory, resolve_device
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings


def settings(tmp_path: Path, **changes: Any) -> BackendSettings:
    return BackendSettings(data_dir=tmp_path, device="cpu", **changes)


def publish(project: ProjectPaths, version: str, incumbent: str) -> None:
    write_json(project.clicks / version / "report.json", {"incumbent": {"segmenter": incumbent}})
    write_atomic(project.clicks / "current", version.encode())


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    calls: list[tuple[str, int | None]] = []

    def fake(name: str, _: BackendSettings, project: ProjectPaths | None = None) -> Any:
        calls.append((name, None if project is None else project.project_id))
        return SimpleNamespace(nbytes=1000)

    monkeypatch.setattr(catalog, "build_segmenter", fake)
    return calls


def test_all_segmenters_are_listed_with_what_they_need(tmp_path: Path) -> None:
    rows = {row.name: row for row in list_segmenters(settings(tmp_path))}
    known = {"classical", "shipped", "sam", "sam-onnx", "click-onnx", "hf", "project"}
    assert set(rows) == known == set(SEGMENTERS)
    assert rows["classical"].ready
    assert "GROUNDSWELL_SAM_CHECKPOINT is not set" in rows["sam"].reason
    assert "GROUNDSWELL_SAM_ONNX or GROUNDSWELL_SAM_CHECKPOINT is not set" in rows["sam-onnx"].reason
    assert "GROUNDSWELL_HF_MODEL is not set" in rows["hf"].reason
    assert all(bool(row.licence) == bool(SEGMENTERS[name].weights) for name, row in rows.items())
    assert "trained" in rows["project"].reason
    gone = list_segmenters(settings(tmp_path, sam_checkpoint=tmp_path / "gone.pth"))
    assert "does not exist" in next(row.reason for row in gone if row.name == "sam")
    (tmp_path / "pair").mkdir()
    own = list_segmenters(
        settings(tmp_path, sam_checkpoint=tmp_path / "gone.pth", sam_onnx=tmp_path / "pair")
    )
    assert {row.name for row in own if row.ready} == {"classical", "shipped", "sam-onnx"}


@pytest.mark.parametrize("name", ["sam", "sam-onnx", "click-onnx", "hf", "project", "nonsense"])
def test_what_cannot_be_built_says_why(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_segmenter(name, settings(tmp_path))
    assert caught.value.field
    assert caught.value.hint


def test_every_factory_exists() -> None:
    from importlib import import_module

    for entry in SEGMENTERS.values():
        module, _, attribute = entry.factory.partition(":")
        assert callable(getattr(import_module(module), attribute))


def test_each_is_built_once(tmp_path: Path, built: list[tuple[str, int | None]]) -> None:
    pool = SegmenterPool(settings(tmp_path))
    one, two = ProjectPaths(tmp_path, 1), ProjectPaths(tmp_path, 2)
    assert pool.get("classical", one) is pool.get("classical", two)
    assert built == [("classical", None)]


def test_own_model_answers_instead_of_what_it_beat(
    tmp_path: Path, built: list[tuple[str, int | None]]
) -> None:
    pool = SegmenterPool(settings(tmp_path))
    one, two = ProjectPaths(tmp_path, 1), ProjectPaths(tmp_path, 2)
    before = pool.get("classical", one)
    publish(one, "click-a", "classical")
    own = pool.get("classical", one)
    assert own is not before
    assert pool.get("project", one) is own
    assert pool.get("classical", two) is before
    assert pool.get("sam", one) is not own  # it was never measured against sam
    publish(one, "click-b", "classical")
    assert pool.get("classical", one) is not own
    (one.clicks / "current").unlink()
    assert pool.get("classical", one) is before
    assert built == [("classical", None), ("project", 1), ("sam", None), ("project", 1)]


def test_a_version_trained_again_under_its_name_is_loaded_again(
    tmp_path: Path, built: list[tuple[str, int | None]], caplog: pytest.LogCaptureFixture
) -> None:
    """After a rebuild, or once a new release has trained the version of an old one again."""
    project = ProjectPaths(tmp_path, 1)
    version = project.clicks / "click-a"
    pool = SegmenterPool(settings(tmp_path))

    def train(click_format: int, incumbent: str) -> None:
        shutil.rmtree(version, ignore_errors=True)
        publish(project, version.name, incumbent)
        write_json(version / "click.json", {"format": click_format})

    train(CLICK_FORMAT - 1, "classical")
    before = pool.get("classical", project)
    train(CLICK_FORMAT, "classical")
    own = pool.get("classical", project)
    assert own is not before
    assert pool.get("classical", project) is own
    train(CLICK_FORMAT, "classical")
    again = pool.get("classical", project)
    assert again is not own
    assert again is not before
    train(CLICK_FORMAT, "sam")
    assert pool.get("classical", project) is before
    assert caplog.text.count("not used") == 1
    assert built == [("classical", None), ("project", 1), ("project", 1)]


def test_networks_of_many_projects_are_bounded_by_bytes(
    tmp_path: Path, built: list[tuple[str, int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_NETWORK_BYTES", 2500)
    pool = SegmenterPool(settings(tmp_path))
    projects = [ProjectPaths(tmp_path, number) for number in (1, 2, 3)]
    for project in projects:
        publish(project, "click-a", "classical")
    networks = [pool.get("project", project) for project in projects]
    assert pool.get("project", projects[2]) is networks[2]
    assert pool.get("project", projects[0]) is not networks[0]


def test_a_segmenter_off_its_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = DeviceFallback("sam", "cuda")
    monkeypatch.setattr(catalog, "build_segmenter", lambda *_: SimpleNamespace(nbytes=0, fallback=fallback))
    heard: list[DeviceChange] = []
    SegmenterPool(settings(tmp_path), device_changed=heard.append).get("sam")
    fallback.leave("ran out of memory")
    assert [change.model for change in heard] == ["sam"]


def test_project_falls_back_until_there_is_a_model(
    tmp_path: Path, built: list[tuple[str, int | None]]
) -> None:
    pool = SegmenterPool(settings(tmp_path, segmenter="project"))
    pool.get("project", ProjectPaths(tmp_path, 1))
    assert built == [("classical", None)]


def test_a_model_without_report_does_not_serve_by_itself(
    tmp_path: Path, built: list[tuple[str, int | None]], caplog: pytest.LogCaptureFixture
) -> None:
    project = ProjectPaths(tmp_path, 1)
    write_atomic(project.clicks / "current", b"click-x")
    SegmenterPool(settings(tmp_path)).get("classical", project)
    assert built == [("classical", None)]
    assert "no readable report" in caplog.text


def test_a_model_of_an_earlier_release_does_not_serve(
    tmp_path: Path, built: list[tuple[str, int | None]], caplog: pytest.LogCaptureFixture
) -> None:
    project = ProjectPaths(tmp_path, 1)
    publish(project, "click-old", "classical")
    write_json(project.clicks / "click-old" / "click.json", {"format": CLICK_FORMAT - 1})
    pool = SegmenterPool(settings(tmp_path))
    pool.get("classical", project)
    pool.get("project", project)
    assert built == [("classical", None)]
    assert caplog.text.count("not used") == 1
    with pytest.raises(ModelError, match="no click model has been trained"):
        catalog.project_segmenter(settings(tmp_path), project)


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(ModelError, match="unknown device"):
        resolve_device("toaster")
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))
