"""``groundswell project``: list, show, set, pause, resume, remove; what it says before a change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ml_backend.errors import BadInput, StudioError
from sync.cli import build_app
from sync.installation import Installation
from sync.projects.option_effects import COUNTS_FROM, effects_of
from sync.settings import PROJECT_OPTIONS
from sync.store.tables import ProjectRecord, QuestionRecord
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, make_world: MakeWorld) -> World:
    made = make_world(8)
    place = Installation(made.settings, made.store, made.studio, None)
    monkeypatch.setattr("sync.installation.open_installation", lambda *_, **__: place)
    monkeypatch.setattr("sync.installation.open_store", lambda *_, **__: (made.settings, made.store))
    return made


def _run(*arguments: Any, answer: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["project", *map(str, arguments)], input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def _options(world: World) -> dict[str, Any]:
    with world.store.read() as session:
        return session.get_one(ProjectRecord, world.project_id).options


def test_projects_are_listed_with_their_pauses(world: World) -> None:
    number = world.project_id
    assert _run("list") == (0, f"{number}  Shapes\n")
    code, text = _run("pause", number)
    assert (code, "no new questions" in text) == (0, True)
    assert "was already" in _run("pause", number)[1]
    assert json.loads(_run("list", "--json")[1]) == [
        {"id": number, "title": "Shapes", "paused": "asking", "gone": False}
    ]
    assert json.loads(_run("pause", number, "--all", "--json")[1])["changed"] is True
    assert "(paused: nothing is trained" in _run("list")[1]
    assert _run("resume", number)[1] == f"project {number} goes on\n"
    assert CliRunner().invoke(build_app(), ["projects"]).stdout == f"{number}  Shapes\n"


def test_options_are_shown_asked_about_and_merged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    number = world.project_id
    with pytest.raises(BadInput, match="Add --yes"):
        _run("set", number, "retrain_after=7")
    assert _options(world) == {}
    monkeypatch.setattr("sync.console._is_terminal", lambda: True)
    code, text = _run("set", number, "retrain_after=7", answer="n\n")
    assert (code, _options(world)) == (1, {})
    assert "retrain_after: 20 → 7" in text
    assert _run("set", number, "retrain_after=7", answer="y\n")[0] == 0
    assert _run("set", number, "experts=[3]", "--dry-run")[0] == 0
    assert _options(world) == {"retrain_after": 7}
    assert _run("set", number, "experts=[3]", "--yes")[0] == 0
    assert _options(world) == {"retrain_after": 7, "experts": [3]}
    done = json.loads(_run("set", number, "--unset", "experts", "--yes", "--json")[1])
    assert done["changes"] == [
        {"name": "experts", "old": [3], "new": [], "old_is_own": True, "new_is_own": False}
    ]
    assert _options(world) == {"retrain_after": 7}
    assert "nothing changes" in _run("set", number, "retrain_after=7")[1]


def test_a_setting_is_shown_with_the_place_it_comes_from(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text("test_min = 3\n")
    monkeypatch.setenv("GROUNDSWELL_CONFIG", str(tmp_path / "other.toml"))
    monkeypatch.setenv("GROUNDSWELL_QUESTION_BATCH", "99")
    _run("set", world.project_id, "crowd=true", "seed=4", "--yes")
    found = json.loads(_run("show", world.project_id, "--json")[1])["settings"]
    assert set(found) == PROJECT_OPTIONS
    assert found["seed"] == {"value": 4, "from": "project"}
    assert found["review_overlap_max"] == {"value": 5, "from": "crowd"}
    assert found["question_batch"]["from"] == "environment"
    assert found["test_min"]["from"].endswith("other.toml")
    assert found["test_fraction"]["from"] == "default"
    text = _run("show", world.project_id)[1]
    assert "seed = 4  (project)" in text
    assert "test_fraction" not in text
    assert "test_fraction = 0.25  (default)" in _run("show", world.project_id, "--all")[1]


def test_a_project_that_does_not_take_part_is_named(world: World) -> None:
    for arguments in (("show", 99), ("set", 99, "seed=1"), ("pause", 99), ("resume", 99)):
        with pytest.raises(BadInput, match="project 99 does not take part"):
            _run(*arguments)


def test_leaving_needs_a_yes_and_says_when_label_studio_was_away(world: World) -> None:
    with pytest.raises(BadInput, match="Add --yes"):
        _run("remove", world.project_id)

    def away(call: str) -> None:
        raise StudioError("connection refused")

    world.studio.before_call = away
    code, text = _run("remove", world.project_id, "--yes")
    assert code == 3
    assert "takes part no more; its files stay" in text
    assert _run("list")[1] == "no project takes part yet: create one with `groundswell init`\n"


def test_every_option_says_from_when_it_counts() -> None:
    assert set(COUNTS_FROM) == PROJECT_OPTIONS


def test_what_would_become_of_propagated_masks_is_tried_on_a_copy(make_world: MakeWorld) -> None:
    world = make_world(24, policy="original", policy_options={"min_size": 2}, review_form="single")
    world.label(*range(6))
    reviewed = world.review_to_the_end()
    unseen = reviewed.accepted - reviewed.verified
    assert unseen > 0
    with world.store.read() as session:
        asked = session.query(QuestionRecord).count()

    def effects(**options: Any) -> list[str]:
        return effects_of(world.settings, world.store, world.project_id, options)

    lines = effects(policy="certified", policy_options={"purity": 0.99})
    assert any(f"{unseen} of {unseen} propagated masks" in line for line in lines), lines
    assert any("a new certificate" in line for line in lines)
    same = effects(review_form="sheet")
    assert not any("masks" in line for line in same), same
    assert not any("a training starts" in line for line in effects(retrain_after=1))
    world.label(7)
    world.worker().look(world.project_id)
    assert any("a training starts" in line for line in effects(retrain_after=1))
    with world.store.read() as session:  # nothing was written
        assert session.query(QuestionRecord).count() >= asked
        assert session.get_one(ProjectRecord, world.project_id).options == {}


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "status --json",
        "projects",
        "project list",
        "project show 1",
        "project pause 1",
        "project set 1 seed=1",
        "history 1",
        "order 1",
        "export --project 1 --out x.json",
    ],
)
def test_a_folder_without_data_is_named_and_left_alone(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        CliRunner().invoke(build_app(), command.split(), catch_exceptions=False)
    assert f"no Groundswell data in {tmp_path / 'groundswell-data'}" in str(caught.value)
    assert "--data-dir" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
