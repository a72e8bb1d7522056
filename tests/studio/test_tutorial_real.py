"""The commands of a tutorial, run one after the other as the page has them, on a real Label Studio."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ml_backend.kinds.registry import KINDS
from ml_backend.label_studio.label_config import parse_label_config
from sync.cli import build_app
from sync.lab.class_table import load_class_table
from sync.lab.ground_truth import Truth
from sync.lab.simulated_people import Annotator, CrowdWorker, play_crowd
from sync.review.answers import review_project_of
from sync.review.question import FORMS
from sync.rounds.project import open_project
from sync.store.database import Store
from tests.docs.pages import ROOT, command_lines
from tests.studio.conftest import Site

pytestmark = pytest.mark.studio

PAGE = (ROOT / "docs/tutorials/classes.md").read_text()
PICTURES, LABELLED, SIDE = 16, 10, 48


@pytest.fixture
def folder(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the tutorial starts from: pictures in tiles/ and new/, groups.csv. A defect is a bright spot."""
    there = tmp_path / "work"
    rows = []
    for i in range(PICTURES):
        rng = np.random.default_rng([11, i])
        pixels = rng.integers(40, 70, (SIDE, SIDE, 3)).astype(np.uint8)
        if i % 2:
            pixels[10:30, 10:30] = 230
        for name in ("tiles", *(["new"] if i < 2 else [])):
            (there / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(there / name / f"exp0_num_{i:03d}.png")
        rows.append((f"exp0_num_{i:03d}.png", "defect" if i % 2 else "ok", f"{i // 2}"))
    for table, columns in (("truth.csv", (0, 1)), ("groups.csv", (0, 2))):
        with (there / table).open("w", newline="") as file:
            names = ("file", "label", "group")
            csv.writer(file).writerows([names[c] for c in columns] for _ in range(1))
            csv.writer(file).writerows([row[c] for c in columns] for row in rows)
    monkeypatch.chdir(there)
    for name in site.settings.model_fields_set:
        value = getattr(site.settings, name)
        secret = getattr(value, "get_secret_value", None)
        monkeypatch.setenv(f"GROUNDSWELL_{name.upper()}", str(secret() if secret else value))
    return there


def sections() -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Each heading of the page with the commands in its shell blocks."""
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        lines = command_lines(section, "groundswell")
        yield section.splitlines()[0], [line.words for line in lines if line.in_block]


def run(words: tuple[str, ...], project: int) -> str:
    own = [str(project) if word == "1" else word for word in words]
    done = CliRunner().invoke(build_app(), own, catch_exceptions=False)
    assert done.exit_code == 0, f"groundswell {' '.join(own)}: {done.output}"
    return done.output


@pytest.mark.slow
def test_the_commands_of_the_tutorial_on_classes(site: Site, folder: Path) -> None:
    truth = Truth(load_class_table(folder / "tiles", folder / "truth.csv"), KINDS["classes"])
    store = Store(site.settings.database())
    project, ran = 1, 0
    for title, commands in sections():
        if title.startswith("Label"):
            annotator = Annotator(
                site.studio, truth, parse_label_config(site.studio.project(project).label_config)
            )
            while annotator.done < LABELLED:
                assert annotator.label_next(project) is not None
            run(("worker", "--once", "--project", "1"), project)
        for words in commands:
            if words == ("up",):
                continue  # it runs: the fixture
            said = run(words, project)
            ran += 1
            if words[0] == "init":
                (project,) = (row.id for row in site.studio.projects() if row.title == "Tiles")
                assert f"project {project} 'Tiles' created" in said
        if title.startswith("Answer"):
            opened = open_project(site.settings, store, site.studio, project)
            worker = CrowdWorker(site.studio, site.studio, truth, opened.config.image_key)
            for _ in range(20):
                run(("worker", "--once", "--project", "1"), project)
                forms = [review_project_of(opened.db, form) for form in FORMS]
                if not play_crowd([worker], [number for number in forms if number is not None]):
                    break
    assert ran >= 6, "the page has lost its commands"
    with (folder / "tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} >= {"human"}
    assert all(truth.tags(row["file"]) == [row["label"]] for row in rows)  # people were right
    assert len((folder / "new.csv").read_text().splitlines()) == 3
    assert (folder / "tiles-model" / "predict.py").exists()
    store.close()
    for row in site.studio.projects():
        if row.title.startswith("Tiles"):
            site.studio.delete_project(row.id)
