"""From a folder of pictures to an export, by script: for admins who automate what the commands do.

Start Groundswell first, in another terminal::

    groundswell up

Then, in the same folder (or with GROUNDSWELL_DATA_DIR set to the data directory of `groundswell up`)::

    python examples/label_by_script.py --title Cells --labels RBC,WBC --images ./cells --out cells.json

The script makes the project and waits while people label in the browser and the worker trains. When the
first predictions are shown it stops asking questions and writes what there is: what people drew, and what
the review accepted. Run it again and it goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio

from sync.exchange.export import ExportReport, export_project
from sync.local.effective_settings import effective_settings
from sync.projects.control import pause
from sync.projects.init_project import init_project
from sync.report.status_figures import status
from sync.rounds.project import open_project
from sync.rounds.pull import pull
from sync.store.database import Store
from sync.studio.client import as_studio


def label_and_export(
    title: str,
    labels: Sequence[str],
    images: Path,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    look_every_s: float = 5.0,
) -> ExportReport:
    """Make the project, wait for the first model, export. ``options`` as for `groundswell init --option`."""
    settings = effective_settings(None)  # the environment, groundswell.toml, and what `groundswell up` keeps
    client = LabelStudio(base_url=settings.studio_url, api_key=settings.current_studio_token())

    made = init_project(client, title=title, labels=labels, images=images, options=options, report=print)
    print(f"label here: {made.url}")

    store = Store(settings.database())
    said = ""
    while True:
        (project,) = [row for row in status(settings, store)["projects"] if row["id"] == made.project_id]
        if project["error"]:
            raise RuntimeError(project["error"])
        if any(row["pushed"] for row in project["rounds"]):
            break  # the predictions of a model are shown
        if project["next_training"]["text"] != said:
            said = project["next_training"]["text"]
            print(said)
        time.sleep(look_every_s)

    pause(settings, store, made.project_id)  # no new questions; `resume` goes on
    opened = open_project(settings, store, as_studio(client), made.project_id)
    pull(opened.db, opened.studio, opened.config, opened.settings, opened.progress)  # what was drawn just now
    done = export_project(opened.db, opened.config, opened.paths, opened.images, out)
    print(f"{out}: {done.images} pictures, {dict(done.annotations)}")
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="From a folder of pictures to an export")
    parser.add_argument("--title", required=True)
    parser.add_argument("--labels", required=True, help="comma-separated")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    label_and_export(given.title, given.labels.split(","), given.images, given.out)
