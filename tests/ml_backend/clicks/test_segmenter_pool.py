"""Which segmenter answers for a project: its own network, one by name, or what ``auto`` stands for."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.artifacts.files import write_atomic, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT
from ml_backend.clicks.serving import auto_choice, catalog, segmenter_pool
from ml_backend.clicks.serving.segmenter_note import read_note
from ml_backend.clicks.serving.segmenter_pool import SegmenterPool
from ml_backend.device_fallback import DeviceChange, DeviceFallback
from ml_backend.errors import ModelError, StorageError
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.hf_folders import save


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

    monkeypatch.setattr(segmenter_pool, "build_segmenter", fake)
    return calls


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
    monkeypatch.setattr(segmenter_pool, "_NETWORK_BYTES", 2500)
    pool = SegmenterPool(settings(tmp_path))
    projects = [ProjectPaths(tmp_path, number) for number in (1, 2, 3)]
    for project in projects:
        publish(project, "click-a", "classical")
    networks = [pool.get("project", project) for project in projects]
    assert pool.get("project", projects[2]) is networks[2]
    assert pool.get("project", projects[0]) is not networks[0]


def test_a_segmenter_off_its_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = DeviceFallback("sam", "cuda")
    made = SimpleNamespace(nbytes=0, fallback=fallback)
    monkeypatch.setattr(segmenter_pool, "build_segmenter", lambda *_: made)
    heard: list[DeviceChange] = []
    SegmenterPool(settings(tmp_path), device_changed=heard.append).get("sam")
    fallback.leave("ran out of memory")
    assert [change.model for change in heard] == ["sam"]


def test_project_falls_back_until_there_is_a_model(
    tmp_path: Path, built: list[tuple[str, int | None]]
) -> None:
    pool = SegmenterPool(settings(tmp_path, segmenter="project"))
    pool.get("project", ProjectPaths(tmp_path, 1))
    assert built == [("shipped", None)]


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
    assert built == [("classical", None), ("shipped", None)]
    assert caplog.text.count("not used") == 1
    with pytest.raises(ModelError, match="no click model has been trained"):
        catalog.project_segmenter(settings(tmp_path), project)


def test_auto_is_one_segmenter_that_projects_share(
    tmp_path: Path, built: list[tuple[str, int | None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pool = SegmenterPool(settings(tmp_path))
    pool.announce()
    assert "clicks by shipped (auto: no other weights are here)" in caplog.text
    note = read_note(tmp_path)
    assert note is not None
    assert note.line == "shipped (auto: no other weights are here)"
    assert "groundswell models pull" in note.better[0]
    first = pool.get("auto", ProjectPaths(tmp_path, 1))
    assert pool.get("auto", ProjectPaths(tmp_path, 2)) is first
    assert pool.get("shipped") is first
    assert built == [("shipped", None)]


@pytest.mark.parametrize(("incumbent", "serves"), [("shipped", True), ("classical", True), ("hf", False)])
def test_under_auto_a_network_serves_that_beat_what_needs_no_weights(
    tmp_path: Path, built: list[tuple[str, int | None]], incumbent: str, serves: bool
) -> None:
    project = ProjectPaths(tmp_path, 1)
    publish(project, "click-a", incumbent)
    SegmenterPool(settings(tmp_path)).get("auto", project)
    assert built == [("project", 1) if serves else ("shipped", None)]


def test_a_network_that_beat_less_does_not_stand_against_a_large_model(
    tmp_path: Path, built: list[tuple[str, int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(given: BackendSettings) -> auto_choice.AutoChoice:
        named = given.model_copy(update={"segmenter": "hf"})
        return auto_choice.AutoChoice((auto_choice.Candidate("hf", named, "a model"),))

    monkeypatch.setattr(segmenter_pool, "choose", large)
    project = ProjectPaths(tmp_path, 1)
    publish(project, "click-a", "classical")
    pool = SegmenterPool(settings(tmp_path))
    pool.get("auto", project)
    publish(project, "click-b", "hf")
    pool.get("auto", project)
    assert built == [("hf", None), ("project", 1)]


def test_what_cannot_be_loaded_is_told_and_the_next_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint whose header is right and whose weights do not fit."""
    import torch

    file = tmp_path / "half.pth"
    names = ("image_encoder.patch_embed.proj.weight", "prompt_encoder.x", "mask_decoder.x")
    torch.save({name: torch.zeros(1) for name in names}, file)
    pool = SegmenterPool(settings(tmp_path, sam_checkpoint=file))
    assert pool.get("auto").name == "shipped"
    assert "does not fit the SAM architecture" in caplog.text
    assert "Now shipped does" in caplog.text
    note = read_note(tmp_path)
    assert note is not None
    assert note.line.startswith("shipped")
    assert "does not fit" in note.better[0]
    assert pool.get("auto") is pool.get("shipped")


@pytest.mark.parametrize(
    "error", [StorageError("no space left"), MemoryError(), OSError(5, "I/O"), RuntimeError("CUDA error")]
)
def test_whatever_goes_wrong_while_loading_the_next_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    real = segmenter_pool.build_segmenter

    def build(name: str, given: BackendSettings, project: ProjectPaths | None = None) -> ClickSegmenter:
        if name == "hf":
            raise error
        if name == "project":
            return SimpleNamespace(name="project", nbytes=1)  # type: ignore[return-value]
        return real(name, given, project)

    monkeypatch.setattr(segmenter_pool, "build_segmenter", build)
    pool = SegmenterPool(settings(tmp_path, hf_model=str(save("sam2", tmp_path / "sam2"))))
    assert pool.get("auto").name == "shipped"
    said = str(error) if isinstance(error, StorageError) else type(error).__name__
    assert f"hf cannot answer clicks: {said}" in caplog.text
    note = read_note(tmp_path)
    assert note is not None
    assert said in note.better[0]
    project = ProjectPaths(tmp_path, 1)
    publish(project, "click-a", "classical")  # of what answers now it could be the better one
    assert pool.get("auto", project).name == "project"


def test_a_project_that_names_what_was_pulled_is_served_with_it(tmp_path: Path) -> None:
    save("sam2", tmp_path / "checkpoints" / "somebody--sam2")
    pool = SegmenterPool(settings(tmp_path))
    named = pool.get("hf", ProjectPaths(tmp_path, 1))
    assert named.name == "hf"
    assert pool.get("auto") is named  # in memory once
    with pytest.raises(ModelError, match="no SAM checkpoint"):
        pool.get("sam")
    with pytest.raises(ModelError, match="GROUNDSWELL_HF_MODEL"):  # a setting that names another is kept to
        SegmenterPool(settings(tmp_path, segmenter="classical")).get("hf")


def test_a_named_segmenter_is_noted_too(tmp_path: Path) -> None:
    SegmenterPool(settings(tmp_path, segmenter="classical")).announce()
    note = read_note(tmp_path)
    assert note is not None
    assert note.line == "classical"
    (tmp_path / "segmenter.json").write_text("{")
    assert read_note(tmp_path) is None
