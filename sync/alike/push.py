"""Show offered masks as predictions, under a version of their own that names what they show.

All tasks that were looked at get a prediction, those without an offered mask an empty one: Label Studio
serves tasks with a prediction first, and the order must not depend on what was found. A search that finds the
same gives the same version, so a repetition sends nothing, and after a kill the next one sends what is
missing. The predictions of a round replace these, as they replace older ones of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml_backend.errors import BadInput, StudioError
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_check import validate_result
from ml_backend.task_prediction import make_prediction, table_of
from sync.alike.find import Found, Offer, as_instances
from sync.rounds.progress import Progress
from sync.rounds.round_records import digest_of, version_prefix
from sync.rounds.start_order import start_version
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.studio.protocol import PredictionRow, StudioClient

__all__ = ["Pushed", "alike_prefix", "foreign_predictions", "push_offers"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """``version`` is shown now (empty: there was nothing to show), ``sent`` predictions went out just now."""

    version: str
    sent: int


def alike_prefix(project_id: int) -> str:
    """The beginning of the versions of these predictions; pushes of rounds remove them with older ones."""
    return f"{version_prefix(project_id)}0-alike-"


def foreign_predictions(studio: StudioClient, project_id: int) -> str:
    """A version of predictions that are neither these nor an order alone; empty when there is none."""
    ours = (alike_prefix(project_id), start_version(project_id))
    found = sorted(name for name in studio.prediction_versions(project_id) if not name.startswith(ours))
    return found[0] if found else ""


def push_offers(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    progress: Progress,
    found: Found,
    places: Mapping[int, float],
) -> Pushed:
    """Show the offers, and nothing else of ours; safe to repeat and to kill anywhere.

    ``places``: scores of tasks in the order before the first round, lowest served first; they are kept. Where
    there is none, tasks are served as they were looked at. Raises StudioError when Label Studio keeps fewer
    predictions than were sent, BadInput when it would not read one.
    """
    rows = _rows(db, config, found, places)
    version = rows[0].model_version if rows else ""
    there = studio.predicted_tasks(db.id, version) if version else set()
    missing = [row for row in rows if row.task_id not in there]
    for start in range(0, len(missing), settings.push_rows):
        progress.at("alike.chunk")
        chunk = missing[start : start + settings.push_rows]
        created = studio.import_predictions(db.id, chunk)
        if created != len(chunk):
            raise StudioError(
                f"Label Studio kept {created} of {len(chunk)} predictions",
                field=f"project {db.id}",
                hint="The rest is sent when this is called again; has a task been deleted just now?",
            )
    progress.at("alike.switch")
    if version and studio.project(db.id).model_version != version:
        studio.set_model_version(db.id, version)
    ours = (alike_prefix(db.id), *((start_version(db.id),) if version else ()))
    for name in studio.prediction_versions(db.id):
        if name.startswith(ours) and name != version:
            progress.at("alike.retire")
            studio.delete_predictions(db.id, name)
    return Pushed(version, len(missing))


def _rows(
    db: ProjectStore, config: LabelConfig, found: Found, places: Mapping[int, float]
) -> list[PredictionRow]:
    """One prediction per task; none where nothing is offered and nothing had a place."""
    by_task: dict[int, list[Offer]] = {}
    for offer in found.offers:
        by_task.setdefault(offer.task, []).append(offer)
    looked_at = list(found.looked_at) if by_task else []
    tasks = [*looked_at, *(task for task in places if not by_task or task not in found.looked_at)]
    score = {task: (i + 0.5) / len(tasks) for i, task in enumerate(tasks)}
    rows = []
    for task in tasks:
        mine = by_task.get(task, [])
        place = float(places.get(task, score[task]))
        hw = found.looked_at.get(task, (1, 1))
        made = make_prediction(
            table_of(task, as_instances(mine, config.labels), config.labels, hw),
            config,
            hw,
            {},
            round_number=0,
            min_score=0.0,
            score=place,
        )
        problems = validate_result(made.result, config, made.score)
        if problems:
            raise BadInput(problems[0], field=f"prediction of task {task}", hint="Nothing was sent")
        rows.append((task, made))
    content = [[task, made.result, made.score] for task, made in sorted(rows, key=lambda row: row[0])]
    version = f"{alike_prefix(db.id)}{digest_of([config.digest, content])[:10]}"
    return [PredictionRow(task, made.result, made.score, version) for task, made in rows]
