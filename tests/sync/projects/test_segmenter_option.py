"""A project's own click segmenter: an option like others, which the backend follows after a look."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.project_facts import load_facts, save_facts
from ml_backend.clicks.serving.segmenter_note import write_note
from ml_backend.errors import BadInput
from sync.projects.option_changes import set_options
from sync.projects.option_effects import effects_of
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.rounds import click_training
from sync.settings import Settings, load_settings
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def facts_segmenter(world: World) -> str:
    world.worker().look(world.project_id)
    return load_facts(world.settings.data_dir, world.project_id).segmenter


def change(world: World, options: dict[str, Any], *unset: str) -> None:
    set_options(world.settings, world.store, world.project_id, options, unset=list(unset))


def test_the_backend_follows_the_option(make_world: MakeWorld) -> None:
    world = make_world(3)
    assert facts_segmenter(world) == ""
    (effect,) = effects_of(world.settings, world.store, world.project_id, {"segmenter": "sam-onnx"})
    assert effect == "segmenter: counts for clicks from the worker's next look on"
    change(world, {"segmenter": "sam-onnx"})
    assert facts_segmenter(world) == "sam-onnx"
    assert "clicks by sam-onnx" in "\n".join(status_lines(status(world.settings, world.store)))
    change(world, {}, "segmenter")
    assert facts_segmenter(world) == ""


def test_a_name_that_does_not_exist_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world(3)
    with pytest.raises(BadInput, match=r"options\.segmenter.*no click segmenter is called 'c") as caught:
        change(world, {"segmenter": "clasical"})
    assert "classical" in str(caught.value)
    assert facts_segmenter(world) == ""
    with pytest.raises(BadInput, match=r"no click segmenter is called 'sam3'"):
        load_settings(segmenter="sam3")


def test_what_an_earlier_release_wrote_is_kept(make_world: MakeWorld) -> None:
    world = make_world(3)
    facts_segmenter(world)
    old = load_facts(world.settings.data_dir, world.project_id)
    save_facts(world.settings.data_dir, old.with_changes(segmenter="sam"))
    assert facts_segmenter(world) == "sam"
    change(world, {"segmenter": "shipped"})
    assert facts_segmenter(world) == "shipped"


def test_the_status_says_what_the_backend_said(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.settings.data_dir.mkdir(exist_ok=True)  # with Postgres nothing needed it so far

    def lines() -> list[str]:
        return status_lines(status(world.settings, world.store))

    assert "clicks        the backend decides by what when it starts" in lines()
    write_note(world.settings, "shipped (auto: no other weights are here)", ["fetch some"])
    assert "clicks        shipped (auto: no other weights are here)" in lines()
    assert "              better: fetch some" in lines()
    write_json(world.settings.data_dir / "segmenter.json", [])
    assert "clicks        the backend decides by what when it starts" in lines()


@pytest.mark.parametrize(("segmenter", "incumbent"), [("auto", "auto"), ("sam", "sam"), ("project", "auto")])
def test_a_network_is_measured_against_what_would_answer_without_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, segmenter: str, incumbent: str
) -> None:
    specs: list[Any] = []

    def spec(*_: Any, **given: Any) -> dict[str, Any]:
        specs.append(given["incumbent"])
        return {}

    monkeypatch.setattr(click_training, "job_spec", spec)
    monkeypatch.setattr(click_training, "load_snapshot", lambda *_: {"train": [], "test": []})
    monkeypatch.setattr(click_training, "wanted_of", lambda snapshot: [])
    monkeypatch.setattr(click_training, "examples_of", lambda *_: [])
    monkeypatch.setattr(click_training, "publish_click_model", lambda *_, **__: {"use": False})
    world = make_world(3)
    project = world.open()
    lease = click_training.click_lease(project.db, world.settings)
    assert lease.acquire()
    record = SimpleNamespace(number=1, digest="d" * 12)
    settings = Settings(data_dir=world.settings.data_dir, segmenter=segmenter)
    training = click_training.ClickTraining(
        project.db,
        settings,
        project.paths,
        project.images,
        record,
        lease,  # type: ignore[arg-type]
    )
    training.wait(30)
    assert specs == [incumbent]
