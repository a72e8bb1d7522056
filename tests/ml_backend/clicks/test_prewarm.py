"""Embedding ahead and prewarming: order, yielding to clicks, tasks that fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.clicks.serving import prewarm
from ml_backend.clicks.serving.prewarm import Prewarmer, TaskRef, Upcoming, embed_ahead, save_upcoming
from ml_backend.clicks.serving.service import ClickService
from ml_backend.images.store import ImageStore
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.click_helpers import FixedPool, TellTale, click, facts, save_picture, task


@pytest.fixture
def segmenter() -> TellTale:
    return TellTale()


@pytest.fixture
def service(tmp_path: Path, segmenter: TellTale) -> Iterator[ClickService]:
    settings = BackendSettings(data_dir=tmp_path / "data", allow_image_dirs=str(tmp_path), device="cpu")
    made = ClickService(settings, ImageStore(settings), segmenters=FixedPool(settings, segmenter))
    yield made
    made.prewarmer.close()


def pictures(folder: Path, count: int) -> list[tuple[int, str]]:
    return [(number, str(save_picture(folder / f"{number}.png", number))) for number in range(1, count + 1)]


def wait_for(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.005)
    assert condition()  # type: ignore[operator]


def test_embed_ahead_counts_and_goes_on_after_a_bad_image(
    service: ClickService, segmenter: TellTale, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = pictures(tmp_path, 3)
    (tmp_path / "bad.png").write_text("no image")
    refs = [TaskRef(facts(), number, url) for number, url in [(99, str(tmp_path / "bad.png")), *tasks]]
    with caplog.at_level(logging.WARNING):
        report = embed_ahead(service, refs)
    assert (report.encoded, report.present, report.failed) == (3, 0, 1)
    assert "task 99 not embedded ahead" in caplog.text
    report = embed_ahead(service, refs[1:])
    assert (report.encoded, report.present, report.failed) == (0, 3, 0)
    assert segmenter.embeds == 3


def test_embed_ahead_stops_at_its_limit_and_when_told(service: ClickService, tmp_path: Path) -> None:
    refs = [TaskRef(facts(), number, url) for number, url in pictures(tmp_path, 5)]
    assert embed_ahead(service, refs, most=2).encoded == 2
    assert embed_ahead(service, refs, stop=lambda: True).encoded == 0


def test_upcoming_tasks_follow_the_clicked_one(tmp_path: Path) -> None:
    upcoming = Upcoming(tmp_path)
    assert upcoming.after(1, 5, 2) == []
    save_upcoming(tmp_path, 1, [(7, "a"), (5, "b"), (9, "c"), (2, "d")])
    assert upcoming.after(1, 5, 2) == [(9, "c"), (2, "d")]
    assert upcoming.after(1, 2, 2) == []
    assert upcoming.after(1, 1234, 2) == [(7, "a"), (5, "b")]
    assert upcoming.after(2, 5, 2) == []


def test_lists_of_tasks_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prewarm, "_LIST_BYTES", 200_000)
    upcoming = Upcoming(tmp_path)
    for project_id in range(1, 6):
        save_upcoming(tmp_path, project_id, [(i, f"/data/upload/{i}.png") for i in range(200)])
    for _ in range(2):
        for project_id in range(1, 6):
            assert upcoming.after(project_id, 5, 1) == [(6, "/data/upload/6.png")]
    assert 0 < upcoming.nbytes <= 200_000


def test_a_click_prewarms_the_next_tasks(service: ClickService, segmenter: TellTale, tmp_path: Path) -> None:
    tasks = pictures(tmp_path, 6)
    save_upcoming(tmp_path / "data", 1, tasks)
    service.prewarmer = Prewarmer(service, Upcoming(tmp_path / "data"), count=3, idle_s=0.0)
    service.predict(task(2, Path(tasks[1][1])), {"result": [click(50, 50)]}, facts())
    wait_for(lambda: service.prewarmer.done == 3)
    assert segmenter.embeds == 4
    for number in (3, 4, 5):
        service.predict(task(number, Path(tasks[number - 1][1])), {"result": [click(50, 50)]}, facts())
    wait_for(lambda: segmenter.embeds >= 5)
    service.prewarmer.close()
    assert segmenter.embeds == 5  # the clicked four and the sixth, once each


def test_nothing_is_prewarmed_while_somebody_clicks(
    service: ClickService, segmenter: TellTale, tmp_path: Path
) -> None:
    tasks = pictures(tmp_path, 3)
    save_upcoming(tmp_path / "data", 1, tasks)
    service.prewarmer = Prewarmer(service, Upcoming(tmp_path / "data"), idle_s=60.0)
    service.predict(task(1, Path(tasks[0][1])), {"result": [click(50, 50)]}, facts())
    time.sleep(0.1)
    assert segmenter.embeds == 1
    service.prewarmer.close()
    assert segmenter.embeds == 1
