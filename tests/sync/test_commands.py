"""The worker's commands and its loop: thin, plain about errors, stoppable at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ml_backend.artifacts.inbox import mark_dirty
from ml_backend.errors import BadInput, GroundswellError
from sync.commands import export, history, project, projects, rebuild, repartition, status, worker
from sync.commands import round as round_command
from sync.installation import Installation
from sync.store.lease import hold_project
from sync.worker.console import WorkerConsole
from sync.worker.loop import Worker
from sync.worker.signs import worker_health
from tests.sync.conftest import World
from tests.sync.worker.test_kill import start_worker, wait_for, write_world

MakeWorld = Callable[..., World]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, make_world: MakeWorld) -> tuple[typer.Typer, World]:
    """The commands on a world with five finished tasks."""
    world = make_world(8)
    world.label(*range(5))

    def open_installation(*_: Any, **__: Any) -> Installation:
        return Installation(world.settings, world.store, world.studio, None)

    monkeypatch.setattr("sync.installation.open_installation", open_installation)
    monkeypatch.setattr("sync.installation.open_store", lambda *_, **__: (world.settings, world.store))
    made = typer.Typer()
    for module in (worker, round_command, export, status, history, repartition, rebuild, project, projects):
        module.register(made)
    return made, world


def _run(app: typer.Typer, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_every_command_has_help_with_an_example(app: tuple[typer.Typer, World]) -> None:
    for name in ("worker", "round", "export", "status", "history", "repartition", "rebuild"):
        code, text = _run(app[0], name, "--help")
        assert code == 0
        assert f"Example: groundswell {name}" in " ".join(text.split())


def test_worker_once_round_status_export_and_rebuild(app: tuple[typer.Typer, World], tmp_path: Path) -> None:
    commands, world = app
    code, text = _run(commands, "worker", "--once", "--json")
    assert code == 0
    (look,) = json.loads(text)
    assert (look["round"], look["error"], look["pushed"]["tasks"]) == (1, "", 3)
    code, text = _run(commands, "round", "--project", str(world.project_id), "--json")
    assert (code, json.loads(text)["round"]) == (0, 2)
    code, text = _run(commands, "status", "--json")
    assert [row["number"] for row in json.loads(text)["projects"][0]["rounds"]] == [1, 2]
    assert "finished 5" in _run(commands, "status")[1]
    out = tmp_path / "out.json"
    code, text = _run(commands, "export", "--project", str(world.project_id), "--out", str(out), "--json")
    assert json.loads(text)["human"] == 15
    assert (json.loads(text)["round"], json.loads(text)["left_out"]) == (2, [])
    assert (
        "model version " in _run(commands, "export", "--project", str(world.project_id), "--out", str(out))[1]
    )
    assert len(json.loads(out.read_text())["images"]) == 5
    code, text = _run(commands, "rebuild", "--json")
    assert code == 0
    assert json.loads(text)[0]["rounds"] == 2


def test_a_worker_shows_signs_of_life_and_serves_metrics(
    app: tuple[typer.Typer, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, world = app
    seen: list[str] = []

    def run(worker: Worker) -> bool:
        assert worker_health(world.settings.data_dir, stuck_s=100.0).ok
        reports = worker.look_at_all()
        (line,) = (word for word in "".join(lines).split() if word.endswith("/metrics"))
        seen.append(urllib.request.urlopen(line, timeout=10).read().decode())
        assert reports[0].error == ""
        return True  # all threads have ended: with False the command would end this process

    lines: list[str] = []
    monkeypatch.setattr(WorkerConsole, "say", lambda self, line: lines.append(line + "\n"))
    monkeypatch.setattr(Worker, "run", run)
    monkeypatch.setattr(Worker, "install_signal_handlers", lambda self: None)
    assert _run(commands, "worker", "--metrics-port", "0")[0] == 0
    assert f'groundswell_worker_labels_pulled_total{{project="{world.project_id}"}} 5.0' in seen[0]
    assert not worker_health(world.settings.data_dir, stuck_s=100.0).ok, "it has ended"


def test_status_watch_shows_it_again_and_again(
    app: tuple[typer.Typer, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    done = CliRunner().invoke(app[0], ["status", "--watch", "--every", "7", "--json"])
    assert slept == [7.0] * 3
    assert [len(json.loads(line)["projects"]) for line in done.stdout.splitlines()[:3]] == [1, 1, 1]


def test_a_removed_project_takes_part_no_more_until_it_is_named_again(
    app: tuple[typer.Typer, World],
) -> None:
    commands, world = app
    number = str(world.project_id)
    (listed,) = json.loads(_run(commands, "projects", "--json")[1])
    assert (listed["id"], listed["title"]) == (world.project_id, "Shapes")
    assert _run(commands, "worker", "--once")[0] == 0
    before = len(world.studio.task_ids(world.project_id))
    code, text = _run(commands, "project", "remove", number, "--yes")
    assert code == 0
    assert "nothing was deleted" in text
    assert json.loads(_run(commands, "worker", "--once", "--json")[1]) == []
    assert "no project takes part" in _run(commands, "projects")[1]
    assert len(world.studio.task_ids(world.project_id)) == before
    with pytest.raises(GroundswellError, match="does not take part"):
        _run(commands, "project", "remove", number, "--yes")
    code, text = _run(commands, "worker", "--once", "--project", number, "--json")
    assert (code, json.loads(text)[0]["error"]) == (0, "")


def test_repartition_and_history(app: tuple[typer.Typer, World]) -> None:
    commands, world = app
    number = str(world.project_id)
    assert _run(commands, "history", number) == (0, "no model version was measured yet\n")
    assert _run(commands, "worker", "--once")[0] == 0
    code, text = _run(commands, "repartition", number, "--fraction", "0.4", "--json")
    assert code == 0
    assert json.loads(text)["number"] == 2
    assert len(json.loads(text)["tasks"]) == 2
    assert _run(commands, "round", "--project", number)[0] == 0
    rows = json.loads(_run(commands, "history", number, "--json")[1])
    assert [(row["round"], row["split"], row["metric"]) for row in rows] == [(1, 1, "AP"), (2, 2, "AP")]
    lines = _run(commands, "history", number, "--csv")[1].splitlines()
    assert len(lines) == 3
    assert (
        "test split 2 (2 pictures: too few pictures (n=2) to tell): not to be compared"
        in _run(commands, "history", number)[1]
    )
    assert "test split 2 (no. 2)" in _run(commands, "status")[1]
    with pytest.raises(GroundswellError, match="does not take part"):
        _run(commands, "repartition", "999")


def test_errors_are_told_and_end_with_code_1(app: tuple[typer.Typer, World]) -> None:
    commands, world = app
    with pytest.raises(GroundswellError, match="does not take part"):
        _run(commands, "export", "--project", "99", "--out", "x.json")
    world.studio._db["projects"][str(world.project_id)]["label_config"] = "<View/>"
    code, text = _run(commands, "worker", "--once", "--json")
    assert code == 1
    assert "Image tag" in json.loads(text)[0]["error"]
    with pytest.raises(GroundswellError, match="Image tag"):
        _run(commands, "round", "--project", str(world.project_id))


def test_a_round_of_a_busy_worker_is_asked_for(app: tuple[typer.Typer, World]) -> None:
    commands, world = app
    number = str(world.project_id)
    world.worker().look(world.project_id)
    with hold_project(world.store, world.settings, world.project_id):
        assert "starts it at its next look" in _run(commands, "round", "--project", number)[1]
        assert "asked for it before" in _run(commands, "round", "--project", number)[1]
        assert json.loads(_run(commands, "round", "--project", number, "--json")[1])["asked_for"]
    assert "a round was asked for" in _run(commands, "status")[1]
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.round == 2
    assert "a round was asked for" not in _run(commands, "status")[1]


def test_status_says_where_questions_are_open(app: tuple[typer.Typer, World]) -> None:
    commands, world = app
    assert "answer     " not in _run(commands, "status")[1]
    world.worker().look(world.project_id)
    places = json.loads(_run(commands, "status", "--json")[1])["projects"][0]["answer_at"]
    assert sum(place["open"] for place in places) > 0
    text = _run(commands, "status")[1]
    for place in places:
        assert (place["url"] in text) == (place["open"] > 0)


def test_status_of_one_project(app: tuple[typer.Typer, World]) -> None:
    commands, world = app
    text = _run(commands, "status", "--project", str(world.project_id))[1]
    assert f"project {world.project_id}  " in text
    assert "a worker will count them at its first look" in text
    world.worker().look(world.project_id)
    assert "tasks      8, finished 5" in _run(commands, "status", "--project", str(world.project_id))[1]
    with pytest.raises(BadInput, match="does not take part"):
        _run(commands, "status", "--project", str(world.project_id + 1000))


def test_a_webhook_shortens_the_wait_and_stop_ends_it(make_world: MakeWorld) -> None:
    world = make_world(8, poll_s=300.0)
    looked = threading.Event()
    seen: list[int] = []

    def report(project: int, step: str, share: float, text: str) -> None:
        if step == "pull" and share == 1.0:
            seen.append(project)
            looked.set()

    made = Worker(world.settings, world.store, world.studio, report=report)
    thread = threading.Thread(target=made.run)
    thread.start()
    assert looked.wait(60)
    looked.clear()
    mark_dirty(world.settings.data_dir, world.project_id, "ANNOTATION_CREATED")
    assert looked.wait(60)
    made.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert len(seen) >= 2


def test_stop_takes_effect_inside_a_step_and_the_next_worker_goes_on(make_world: MakeWorld) -> None:
    world = make_world(12, infer_batch=2)
    world.label(*range(5))
    made: list[Worker] = []
    made.append(world.worker(lambda place: made[0].stop() if place == "infer.batch" else None))
    report = made[0].look(world.project_id)
    assert report is not None
    assert "infer.batch" in report.error
    report = world.worker().look(world.project_id)
    assert report is not None
    assert (report.error, report.trained) == ("", "")
    assert report.pushed is not None
    assert report.pushed.tasks == 7


def test_the_console_is_quiet_when_told_and_leaves_one_line_per_step_and_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with WorkerConsole() as console:
        for text in ("5 tasks", "5 tasks", "6 tasks"):
            console.report(1, "pull", 0.5, "half")
            console.report(1, "pull", 1.0, text)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-2] for line in lines] == ["50%", "5", "6"]  # progress once per tenth
    with WorkerConsole(quiet=True) as console:
        console.report(1, "pull", 1.0, "x")
        console.say("y")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_sigterm_ends_a_worker_process_and_its_training(make_world: MakeWorld) -> None:
    world = make_world(8, in_file=True)
    world.label(*range(5))
    write_world(world, {})
    marker = world.folder / "training"
    child = start_worker(world, TINY_MARK=str(marker), TINY_SLEEP_S="600", INSTALL_SIGNALS="1")
    wait_for(marker, child)
    training = int(marker.read_text())
    child.send_signal(signal.SIGTERM)
    try:
        child.communicate(timeout=60)
    finally:
        child.kill()
    until = time.monotonic() + 30
    while Path(f"/proc/{training}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_commands_start_without_heavy_libraries() -> None:
    code = (
        "import sys, typer\n"
        "from sync.commands import export, projects, rebuild, status, worker, round\n"
        "app = typer.Typer()\n"
        "[m.register(app) for m in (export, rebuild, status, worker, round)]\n"
        "heavy = {'torch', 'sklearn', 'pyarrow', 'label_studio_sdk', 'sqlalchemy', 'cv2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_init_hands_on_the_cold_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sync.commands import init

    given: dict[str, Any] = {}

    def stop(*_: Any, **options: Any) -> None:
        given.update(options)
        raise GroundswellError("far enough")

    monkeypatch.setattr("sync.projects.init_project.init_project", stop)
    made = typer.Typer()
    init.register(made)
    words = ["--title", "Street", "--labels", "vehicle", "--data-dir", str(tmp_path), "--api-key", "x"]
    cold = [
        "--cold-start",
        "owl",
        "--cold-option",
        'synonyms={"vehicle": ["car"]}',
        "--cold-option",
        "nms=0.5",
    ]
    with pytest.raises(GroundswellError, match="far enough"):
        _run(made, *words, *cold, "--option", "min_finished=9")
    assert given["options"] == {
        "min_finished": 9,
        "cold_start": "zero-shot",
        "cold_start_options": {"detector": "owl", "synonyms": {"vehicle": ["car"]}, "nms": 0.5},
    }
    with pytest.raises(GroundswellError, match="far enough"):
        _run(made, *words, "--cold-start", "everything", "--cold-option", "most=30")
    assert given["options"] == {"cold_start": "everything", "cold_start_options": {"most": 30}}
    with pytest.raises(GroundswellError, match="belongs to --cold-start"):
        _run(made, *words, "--cold-option", "nms=0.5")
