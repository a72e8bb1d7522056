"""History: how good every model version of a project was on the test split it was measured on.

``projects/<id>/history.csv`` is written anew after every training. It follows from the manifests of the
published versions and, where somebody deleted the folder of one, from what its round noted. So a rebuild
loses nothing. Figures of different test splits must not be compared: every row names its split.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["FigureRow", "history", "history_csv", "write_history"]


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure of one model version; its fields are the columns of the CSV file.

    Attributes
    ----------
    trained_at : when the version was published, UTC
    split : number of the test split
    train_tasks, test_pictures : how many
    metric, label : ``AP50`` and "" for all labels, ``AP50`` and ``cat`` for one
    value, low, high : 0..1, with the 95 % interval over the pictures of the split
    seconds : how long the training took
    """

    round: int
    version: str
    learner: str
    trained_at: str
    split: int
    train_tasks: int
    test_pictures: int
    metric: str
    label: str
    value: float
    low: float
    high: float
    seconds: float


def history(db: ProjectStore, settings: Settings) -> list[FigureRow]:
    """Every figure of every version, oldest version first; versions without a test split have none."""
    found: dict[str, tuple[int, str, list[FigureRow]]] = {}
    for info in ModelRegistry(settings.data_dir).versions(db.id):
        manifest = info.manifest
        if "evaluation" not in manifest:
            continue
        created = datetime.fromtimestamp(float(manifest.get("created_at", 0.0)), UTC)
        rows = _rows(
            info.version,
            {**manifest, "n_test": manifest["evaluation"]["n_images"]},
            manifest["evaluation"]["metrics"],
            created,
        )
        found[info.version] = (int(manifest.get("round", 0)), created.isoformat(), rows)
    query = select(RoundRecord).where(RoundRecord.project_id == db.id)
    with db.read() as session:
        records = list(session.scalars(query))
    for record in records:
        figures = record.figures.get("train", {})
        version = figures.get("version")
        if version is not None and version not in found:
            values = {"learner": "", "split": record.split, **figures, "round": record.number}
            rows = _rows(version, values, figures["metrics"], record.started_at)
            found[version] = (record.number, record.started_at.isoformat(), rows)
    return [row for _, _, rows in sorted(found.values(), key=lambda entry: entry[:2]) for row in rows]


def history_csv(rows: Sequence[FigureRow]) -> str:
    """The rows as CSV with a line of names."""
    text = io.StringIO()
    names = [field.name for field in fields(FigureRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def write_history(db: ProjectStore, settings: Settings, paths: ProjectPaths) -> None:
    """Write ``history.csv`` of a project."""
    text = history_csv(history(db, settings))
    write_atomic(paths.root / "history.csv", text.encode(), guard=db.guard)


def _rows(
    version: str, values: Mapping[str, Any], metrics: Mapping[str, Sequence[float]], at: datetime
) -> list[FigureRow]:
    rows = []
    for name, (value, low, high) in sorted(metrics.items()):
        if not all(math.isfinite(number) for number in (value, low, high)):
            continue
        metric, _, label = name.partition("/")
        rows.append(
            FigureRow(
                round=int(values.get("round", 0)),
                version=version,
                learner=str(values.get("learner", "")),
                trained_at=at.isoformat(timespec="seconds"),
                split=int(values.get("split", 1)),
                train_tasks=int(values.get("n_train", 0)),
                test_pictures=int(values.get("n_test", 0)),
                metric=metric,
                label=label,
                value=round(float(value), 6),
                low=round(float(low), 6),
                high=round(float(high), 6),
                seconds=round(float(values.get("seconds", 0.0)), 3),
            )
        )
    return rows
