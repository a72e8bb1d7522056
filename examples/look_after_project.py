"""Look after a project by script: its figures, other options, a round now, an export, an end.

Run it in the folder of `groundswell up` (or with GROUNDSWELL_DATA_DIR set to its data directory)::

    python examples/look_after_project.py --title Cells --out drawn.json --retrain-after 10

The parts stand alone: take those that you need.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio

from sync.exchange.content import Choice
from sync.exchange.export import ExportReport, export_project
from sync.installation import Installation, open_installation
from sync.projects.control import Removed, pause, remove, request_round, resume, set_options
from sync.report.status_figures import status
from sync.rounds.project import open_project
from sync.rounds.pull import pull


def find_project(client: LabelStudio, title: str) -> int:
    """The number of the one project with this title."""
    (number,) = [project.id for project in client.projects.list() if project.title == title]
    return int(number)


def annotated_by(client: LabelStudio, project_id: int) -> Counter[str]:
    """How many annotations each user has made, by the SDK alone: Label Studio holds what people said."""
    counts: Counter[str] = Counter()
    for task in client.tasks.list(project=project_id):
        for annotation in client.annotations.list(id=task.id):
            counts[str(annotation.completed_by)] += 1
    return counts


def change(made: Installation, project_id: int, options: Mapping[str, Any]) -> None:
    """Say what would change, then change it. Options that are not named stay.

    A wrong option raises BadInput, and nothing has changed then.
    """
    for row in set_options(made.settings, made.store, project_id, options, dry_run=True):
        print(f"{row.name}: {row.old} → {row.new}")
    set_options(made.settings, made.store, project_id, options)


def train_now(made: Installation, project_id: int) -> None:
    """End a pause and ask for a round, however few tasks are new. The worker follows at its next look."""
    resume(made.settings, made.store, project_id)
    request_round(made.settings, made.store, project_id)


def figures(made: Installation, project_id: int) -> dict[str, Any]:
    """What `groundswell status --json` says of one project."""
    (row,) = [row for row in status(made.settings, made.store)["projects"] if row["id"] == project_id]
    return dict(row)


def export_drawn(made: Installation, project_id: int, out: Path) -> ExportReport:
    """What people drew, nothing else, as COCO."""
    opened = open_project(made.settings, made.store, made.studio, project_id)
    pull(opened.db, opened.studio, opened.config, opened.settings, opened.progress)
    drawn = Choice(origins=frozenset({"human"}))
    store, config, paths, images = opened.db, opened.config, opened.paths, opened.images
    return export_project(store, config, paths, images, out, format="coco", choice=drawn)


def end(made: Installation, project_id: int) -> Removed:
    """Take Groundswell out of the project. Tasks, annotations and predictions stay in Label Studio."""
    pause(made.settings, made.store, project_id, "all")
    return remove(made.settings, made.store, made.studio, project_id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Look after a project")
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--retrain-after", required=True, type=int)
    given = parser.parse_args()
    here = open_installation(None)
    sdk = LabelStudio(base_url=here.settings.studio_url, api_key=here.settings.current_studio_token())
    number = find_project(sdk, given.title)
    print(dict(annotated_by(sdk, number)))
    change(here, number, {"retrain_after": given.retrain_after})
    train_now(here, number)
    print(figures(here, number)["next_training"]["text"])
    print(f"{given.out}: {dict(export_drawn(here, number, given.out).annotations)}")
