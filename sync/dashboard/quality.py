"""How good the model versions are: the learning curve, and the list of versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.kinds.registry import Wanted
from sync.dashboard.figures import CurvePoint, Range, VersionRow
from sync.rounds.few_pictures import FEW_PICTURES
from sync.rounds.history import FigureRow, history
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["headlines", "history_of", "learning_curve", "versions"]


def headlines(rows: Iterable[FigureRow], wanted: Sequence[Wanted]) -> dict[str, FigureRow]:
    """The figure that stands for each version: the metric that its kind names, over all labels.

    Where a learner did not measure that one, the first it did.
    """
    names = [target.is_of.headline for target in wanted]
    found: dict[str, FigureRow] = {}
    for row in rows:
        if row.label:
            continue
        best = found.get(row.version)
        if best is None or _rank(row.metric, names) < _rank(best.metric, names):
            found[row.version] = row
    return found


def _rank(metric: str, names: Sequence[str]) -> int:
    return names.index(metric) if metric in names else len(names)


def learning_curve(
    of_version: Mapping[str, FigureRow], rounds: Mapping[int, RoundRecord]
) -> tuple[CurvePoint, ...]:
    """One point per measured version, oldest first."""
    points = []
    for row in of_version.values():
        record = rounds.get(row.round)
        points.append(
            CurvePoint(
                round=row.round,
                version=row.version,
                finished=row.train_tasks + row.test_pictures if record is None else record.finished_tasks,
                split=row.split,
                test_pictures=row.test_pictures,
                metric=row.metric,
                quality=_quality(row),
                early=record is not None and bool(record.figures.get("train", {}).get("early")),
            )
        )
    return tuple(points)


def _quality(row: FigureRow) -> Range | None:
    if row.test_pictures < FEW_PICTURES:
        return None
    return Range(row.value, row.low, row.high, row.test_pictures)


def versions(
    db: ProjectStore, settings: Settings, of_version: Mapping[str, FigureRow]
) -> tuple[VersionRow, ...]:
    """Every published version, newest first. Raises ModelError, StorageError when a manifest is damaged."""
    registry = ModelRegistry(settings.data_dir)
    serving = registry.current(db.id)
    found = []
    for info in reversed(registry.versions(db.id)):
        manifest = info.manifest
        source = str(manifest.get("adopted", {}).get("version", ""))
        row = of_version.get(info.version) or of_version.get(_first(source, registry, db.id))
        found.append(
            VersionRow(
                version=info.version,
                round=int(manifest.get("round", 0)),
                origin=str(manifest.get("origin", "trained")),
                learner=info.learner,
                created_at=float(manifest.get("created_at", 0.0)),
                train_tasks=int(manifest.get("n_train", 0)),
                test_pictures=0 if row is None else row.test_pictures,
                split=0 if row is None else row.split,
                metric="" if row is None else row.metric,
                quality=None if row is None else _quality(row),
                seconds=float(manifest.get("seconds", 0.0)),
                serving=info.version == serving,
                early=bool(manifest.get("early")),
                of=source,
            )
        )
    return tuple(found)


def _first(version: str, registry: ModelRegistry, project_id: int) -> str:
    """The version that was trained, where ``version`` is a copy of a copy."""
    manifests = {info.version: info.manifest for info in registry.versions(project_id)} if version else {}
    seen: set[str] = set()
    while version not in seen:
        seen.add(version)
        version = str(manifests.get(version, {}).get("adopted", {}).get("version", version))
    return version


def history_of(db: ProjectStore, settings: Settings, wanted: Sequence[Wanted]) -> dict[str, FigureRow]:
    """``headlines`` of the whole project."""
    return headlines(history(db, settings), wanted)
