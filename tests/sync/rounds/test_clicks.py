"""What the worker does for clicks: embeddings in serving order, a click network that never stops a round."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_backend.artifacts.files import write_json
from ml_backend.clicks.project_network.versions import is_usable
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT
from ml_backend.clicks.serving.prewarm import TaskRef
from ml_backend.clicks.serving.service import ClickService
from ml_backend.errors import BadImage, ModelError
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.rounds.click_training import ClickTraining, training_reason
from sync.rounds.round_records import current_round, load_snapshot
from sync.store.tables import LeaseRecord
from sync.worker.look import LookReport
from sync.worker.loop import Worker
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _figures(world: World) -> dict[str, Any]:
    record = step(current_round, world.open())
    assert record is not None
    found: dict[str, Any] = record.figures.get("clicks", {})
    return found


def test_the_next_tasks_are_embedded_least_certain_first(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []

    def embed(service: ClickService, ref: TaskRef, **_: Any) -> str:
        embedded.append(ref.task_id)
        if len(embedded) == 2:
            raise BadImage("gone")
        return "encoded"

    monkeypatch.setattr(ClickService, "embed", embed)
    world = make_world(12, embed_ahead=4)
    world.label(*range(5))
    worker = world.worker()
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""
    scores = {task: world.studio.predictions(task)[0].score for task in world.tasks[5:]}
    order = sorted(scores, key=lambda task: (round(scores[task], 5), task))
    assert embedded == order[:4]
    assert (_figures(world)["embedded"], _figures(world)["not_embedded"]) == (3, 1)
    upcoming = json.loads((world.open().paths.root / "upcoming.json").read_text())
    assert [task for task, _ in upcoming] == order
    worker.look(world.project_id)
    assert len(embedded) == 4  # nothing changed, nothing to do


class Job:
    """Stands for the training process: writes what it was asked, waits until it may go on."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.error: Exception | None = None

    def __call__(
        self, spec: dict[str, Any], out: Path, progress: Callable[[float, str], None]
    ) -> dict[str, Any]:
        self.asked.append(spec)
        progress(0.5, "half way")
        assert self.may_end.wait(20)
        if self.error is not None:
            raise self.error
        report: dict[str, Any] = {"use": True, "reason": "fewer clicks", "n_train_images": len(spec["train"])}
        report["ranking"] = {"use": False, "reason": "no ranking yet"}
        write_json(out / "click.json", {"format": CLICK_FORMAT})
        write_json(out / "report.json", report)
        return report


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    """The training, where three held-out masks on three pictures would be enough."""
    made = Job()
    monkeypatch.setattr("ml_backend.clicks.training.job.run_click_job", made)
    monkeypatch.setattr("sync.rounds.click_training.MIN_PICTURES", 3)
    monkeypatch.setattr("sync.rounds.click_training.MIN_MASKS", 3)
    return made


def _look(worker: Worker, world: World) -> LookReport:
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""
    return report


def _end(worker: Worker, world: World) -> None:
    """Let the training that runs come to its end."""
    training = worker._memos["sync"].get(("click training", world.project_id))
    assert isinstance(training, ClickTraining)
    training.wait(20)


def test_looks_go_on_while_a_click_network_is_trained(make_world: MakeWorld, job: Job) -> None:
    job.may_end.clear()
    world = make_world(30, train_clicks=True, retrain_after=2)
    left = world.open().paths.clicks / ".click-r0-left.x"  # by a worker that was killed
    left.mkdir(parents=True)
    (left.parent / ".spec.json").write_text("{}")
    world.label(*range(14))
    worker = world.worker()
    assert _look(worker, world).pushed is not None
    assert _figures(world).get("version") is None
    assert not left.exists()
    assert not (left.parent / ".spec.json").exists()
    world.label(14, 15)
    second = _look(worker, world)  # a whole round beside the training
    assert second.round == 2
    assert second.pushed is not None
    assert len(job.asked) == 1
    job.may_end.set()
    _end(worker, world)
    _look(worker, world)
    (spec,) = job.asked[:1]
    test = {row["task_id"] for row in spec["test"]}
    assert len(test) == 4
    assert not test & {row["task_id"] for row in spec["train"]}
    assert spec["start"] is None
    model = Path(spec["model"])  # the version whose proposals people saw when the training began
    assert model.parent == world.open().paths.models
    assert "-r1-" in model.name
    first = json.loads((world.open().paths.rounds / "1" / "round.json").read_text())["figures"]["clicks"]
    assert (first["serves"], first["reason"]) == (True, "fewer clicks")
    nowhere = {"studio_url": "http://127.0.0.1:1", "backend_url": "http://127.0.0.1:1"}
    found = status(world.settings.model_copy(update=nowhere), world.store)
    found["projects"][0]["rounds"] = found["projects"][0]["rounds"][:1]
    shown = status_lines(found)
    at = shown.index(
        next(line for line in shown if f"{first['version']} serves" in line and "   clicks" in line)
    )
    assert [line.strip() for line in shown[at + 1 : at + 3]] == ["fewer clicks", "no ranking yet"]
    assert (world.open().paths.clicks / "current").read_text() == first["version"]


def test_the_next_click_network_waits_for_a_quarter_more_and_goes_on_from_the_last(
    make_world: MakeWorld, job: Job
) -> None:
    world = make_world(30, train_clicks=True, retrain_after=1)
    world.label(*range(14))
    worker = world.worker()
    _look(worker, world)
    _end(worker, world)
    _look(worker, world)
    version = _figures(world)["version"]
    world.label(14)
    _look(worker, world)
    assert len(job.asked) == 1  # 11 training tasks after 10
    world.label(15, 16)
    _look(worker, world)
    _end(worker, world)
    assert len(job.asked) == 2  # 13 after 10
    assert job.asked[1]["start"] == str(world.open().paths.clicks / version)
    _look(worker, world)
    assert _figures(world)["version"] != version
    # a version of an earlier release cannot be gone on from; it is replaced without waiting for anything
    folder = world.open().paths.clicks / _figures(world)["version"]
    write_json(folder / "click.json", {"format": CLICK_FORMAT - 1})
    _look(worker, world)
    _end(worker, world)
    _look(worker, world)
    assert job.asked[2]["start"] is None
    assert is_usable(folder)
    _look(worker, world)
    assert len(job.asked) == 3


def test_too_little_is_not_trained_on(make_world: MakeWorld, job: Job) -> None:
    world = make_world(12, train_clicks=True)
    world.label(*range(6))  # two test images: no verdict would be possible
    worker = world.worker()
    _look(worker, world)
    assert job.asked == []
    assert "click training" not in {key[0] for key in worker._memos["sync"] if isinstance(key, tuple)}


@pytest.mark.parametrize(
    ("train", "test", "is_due"),
    [
        ([3] * 10, [3] * 10, True),
        ([2] * 10, [3] * 10, False),  # too little to learn from
        ([3] * 10, [2] * 10, False),  # 20 held-out masks could not be decided on
        ([3] * 10, [10] * 9 + [0] * 5, False),  # nor could 9 pictures
    ],
)
def test_a_network_that_could_not_be_compared_is_not_trained(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, train: list[int], test: list[int], is_due: bool
) -> None:
    def rows(counts: list[int]) -> list[dict[str, Any]]:
        return [{"regions": [{"rle": {"counts": ""}, "label": "disc"}] * count} for count in counts]

    world = make_world(8, train_clicks=False)
    world.label(*range(6))
    world.worker().look(world.project_id)
    project = world.open()
    record = step(current_round, project)
    assert record is not None
    snapshot = {**load_snapshot(project.paths, record.number), "train": rows(train), "test": rows(test)}
    monkeypatch.setattr("sync.rounds.click_training.load_snapshot", lambda *_: snapshot)
    assert bool(training_reason(project.paths, record)) is is_due


@pytest.mark.parametrize("named", [True, False])
def test_a_network_whose_worker_was_killed_at_the_end_serves(
    make_world: MakeWorld, job: Job, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Killed between publishing the version, naming it, and writing the result down: no second training."""
    world = make_world(20, train_clicks=True)
    world.label(*range(14))
    worker = world.worker()
    _look(worker, world)
    _end(worker, world)
    current = world.open().paths.clicks / "current"
    version = current.read_text()
    if not named:
        current.unlink()
    assert "trained" not in _figures(world)
    after = world.worker()  # knows nothing of the first one's memory
    _look(after, world)
    _end(after, world)
    _look(after, world)
    assert current.read_text() == version
    assert _figures(world)["version"] == version
    assert len(job.asked) == 1


def test_a_click_network_that_fails_leaves_the_round_alone(make_world: MakeWorld, job: Job) -> None:
    job.error = ModelError("no memory left")
    world = make_world(20, train_clicks=True)
    world.label(*range(14))
    worker = world.worker()
    assert _look(worker, world).pushed is not None
    _end(worker, world)
    _look(worker, world)
    assert "no memory left" in _figures(world)["failed"]
    _look(worker, world)
    assert len(job.asked) == 1  # the same masks would fail again
    assert not (world.open().paths.clicks / "current").exists()


def test_a_training_that_lost_its_lease_stops_and_publishes_nothing(make_world: MakeWorld, job: Job) -> None:
    job.may_end.clear()
    world = make_world(20, train_clicks=True)
    world.label(*range(14))
    worker = world.worker()
    _look(worker, world)
    name = f"clicks/{world.project_id}"
    _look(world.worker(), world)  # another worker leaves the training to the first
    assert len(job.asked) == 1
    with world.store.write() as session:
        lease = session.get_one(LeaseRecord, name)
        lease.holder, lease.fence = "another worker", lease.fence + 1
    job.may_end.set()
    _end(worker, world)
    clicks = world.open().paths.clicks
    assert [path for path in clicks.rglob("*") if path.is_file()] == []
    _look(worker, world)
    assert "failed" not in _figures(world)
    with world.store.read() as session:
        assert session.get_one(LeaseRecord, name).holder == "another worker"


def test_a_bug_in_the_training_is_shown(make_world: MakeWorld, job: Job) -> None:
    job.error = ZeroDivisionError("oops")
    world = make_world(20, train_clicks=True)
    world.label(*range(14))
    worker = world.worker()
    _look(worker, world)
    _end(worker, world)
    _look(worker, world)
    assert "unexpected ZeroDivisionError: oops" in _figures(world)["failed"]
