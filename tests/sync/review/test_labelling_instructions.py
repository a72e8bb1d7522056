"""Instructions of labelled projects: keys and examples, and never in place of an admin's own text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from sync.review.instruction_text import Example
from sync.review.labelling_instructions import (
    labelling_instructions,
    note_sent,
    refresh_labelling_instructions,
)
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def test_the_text_names_the_keys_of_the_project() -> None:
    row = labelling_instructions(parse_label_config(build_label_config(["a<b", "c"], one_row=True)))
    assert "<b>Ctrl+Alt</b>+click" in row
    assert "<b>a&lt;b</b>, <b>c</b>: good is" in row
    assert "row of your tool" not in row
    assert "<img" not in row
    tools = labelling_instructions(parse_label_config(build_label_config(["a"])))
    assert "row of your tool: Click, Box or Draw" in tools
    by_hand = labelling_instructions(
        parse_label_config(build_label_config(["a"], clicks=False, one_row=True))
    )
    assert "Auto-Annotation" not in by_hand
    assert "Ctrl+Alt" not in by_hand
    named = labelling_instructions(parse_label_config(build_label_config(["a"], kind="classes")))
    assert "press the number of its label" in named
    assert "draw" not in named


def test_what_is_drawn_has_its_name() -> None:
    for clicks in (True, False):
        config = parse_label_config(build_label_config(["a"], kind="boxes", clicks=clicks, one_row=True))
        text = labelling_instructions(config)
        assert "Boxes that the model found" in text
        assert "no box there" in text
        assert "mask" not in text.lower()
    drawn = labelling_instructions(parse_label_config(build_label_config(["a"], one_row=True)))
    assert "less of a mask" in drawn
    assert "{" not in drawn


def test_good_and_bad_masks_are_shown() -> None:
    config = parse_label_config(build_label_config(["a"], one_row=True))
    examples = [
        Example("a", "k1", "http://x/1.jpg?a=1&b=2", True, "good"),
        Example("a", "k2", "http://x/2.jpg", False, "a part"),
    ]
    text = labelling_instructions(config, examples)
    assert 'src="http://x/1.jpg?a=1&amp;b=2"' in text
    assert "good</td>" in text
    assert "not good · a part</td>" in text


@pytest.mark.parametrize("made", ["by an older release", "now"])
def test_pictures_come_with_the_first_round_and_nothing_is_sent_twice(
    make_world: MakeWorld, made: str
) -> None:
    world = make_world(1)
    project = world.open()
    assert world.studio.project(world.project_id).instruction == ""
    if made == "now":
        text = labelling_instructions(project.config)
        world.studio.set_instruction(world.project_id, text)
        note_sent(project.paths, text)
        assert not step(refresh_labelling_instructions, project)
    else:
        assert step(refresh_labelling_instructions, project)
    assert not step(refresh_labelling_instructions, project)
    pictures = [[project.config.labels[0], "example-1", True, "good"]]
    write_json(project.paths.root / "instructions.json", {"pictures": pictures})
    assert step(refresh_labelling_instructions, project)
    assert "/example-1" in world.studio.project(world.project_id).instruction
    assert not step(refresh_labelling_instructions, project)


def test_an_admins_text_stays(make_world: MakeWorld) -> None:
    world = make_world(1)
    project = world.open()
    world.studio.set_instruction(world.project_id, "<b>Ask Ann</b>")
    assert not step(refresh_labelling_instructions, project)
    assert world.studio.project(world.project_id).instruction == "<b>Ask Ann</b>"
    # ours was there, and somebody wrote another one, or removed it
    note_sent(project.paths, "an older text of ours")
    assert not step(refresh_labelling_instructions, project)
    world.studio.set_instruction(world.project_id, "")
    assert not step(refresh_labelling_instructions, project)
    assert world.studio.project(world.project_id).instruction == ""
    world.studio.set_instruction(world.project_id, "an older text of ours")
    assert step(refresh_labelling_instructions, world.open())


def test_a_text_that_stays_is_asked_for_once(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(1)
    project = world.open()
    world.studio.set_instruction(world.project_id, "<b>Ask Ann</b>")
    asked: list[int] = []
    there = world.studio.project
    monkeypatch.setattr(world.studio, "project", lambda number: asked.append(number) or there(number))
    for _ in range(3):
        assert not step(refresh_labelling_instructions, project)
    assert len(asked) == 1
    write_json(
        project.paths.root / "instructions.json",
        {"pictures": [[project.config.labels[0], "example-1", True, "good"]]},
    )
    assert not step(refresh_labelling_instructions, project)  # our text is another one by now
    assert len(asked) == 2


def test_a_kill_after_sending_sends_nothing_else(make_world: MakeWorld) -> None:
    world = make_world(1)
    project = world.open()
    world.studio.set_instruction(world.project_id, labelling_instructions(project.config))
    assert step(refresh_labelling_instructions, project)  # only notes that it is ours
    assert (ProjectPaths(project.settings.data_dir, world.project_id).root).exists()
    assert not step(refresh_labelling_instructions, project)
