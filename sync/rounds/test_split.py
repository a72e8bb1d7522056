"""Test splits: tasks that are never trained on, drawn at random and numbered.

The first split is drawn with the first training. It stays until somebody asks for another one
(``groundswell repartition``). A new split holds for the rounds that begin after it; a round keeps the split
that it began with, since its version may have been trained on tasks of the new one. A training never starts
from a version of another split, for the same reason. Figures of different splits cannot be compared, so every
round says which split it was measured on.

Where tasks name a series (``split_by``), a split takes whole series; see ``sync.rounds.series``.

Splits are kept in the store and in ``split.json`` beside the project's files, for rebuilds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, select

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput
from sync.rounds.series import draw_series, in_series_of, series_of
from sync.rounds.start_order import drawn_uniformly
from sync.rounds.task_queries import test_split
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import SplitRecord

__all__ = ["TestSplit", "frozen_test_split", "newest_split", "repartition", "restore_test_splits"]


@dataclass(frozen=True, slots=True)
class TestSplit:
    """A split: its number (from 1 on) and its tasks."""

    number: int
    tasks: frozenset[int]


def newest_split(db: ProjectStore) -> TestSplit | None:
    """The split that the next round is trained and tested with; None before the first training."""
    query = select(func.max(SplitRecord.number)).where(SplitRecord.project_id == db.id)
    with db.read() as session:
        number = session.scalar(query)
    return None if number is None else TestSplit(number, frozenset(test_split(db, number)))


def frozen_test_split(
    db: ProjectStore, settings: Settings, paths: ProjectPaths, finished: Sequence[int]
) -> TestSplit:
    """The newest split; the first one is drawn now, from ``finished``.

    Tasks that are finished later are served by uncertainty, so they are no random sample of the project. That
    is why none of them is added to a split. Where typical pictures came first, the split is drawn from those
    that were served at random among them (see ``start_order``).
    """
    restore_test_splits(db, paths)  # also what a killed repartition wrote to the file only
    drawn = newest_split(db)
    return drawn or _draw(db, settings, paths, finished, settings.test_fraction, number=1)


def repartition(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    finished: Sequence[int],
    *,
    fraction: float | None = None,
) -> TestSplit:
    """Draw a new split from all finished tasks, for the rounds that begin from now on.

    ``fraction`` is its share of them, default that of the settings. Raises BadInput when fewer than two tasks
    are finished, or when the share is none.
    """
    share = settings.test_fraction if fraction is None else fraction
    if not 0 < share < 1:
        raise BadInput(f"{share:g} is no share of the tasks", field="fraction", hint="Between 0 and 1")
    if len(finished) < 2:
        raise BadInput(
            f"project {db.id} has {len(finished)} finished tasks that can be used",
            field="project",
            hint="A split needs two: one to test on and one to train on",
        )
    restore_test_splits(db, paths)
    before = newest_split(db)
    return _draw(db, settings, paths, finished, share, number=1 if before is None else before.number + 1)


def restore_test_splits(db: ProjectStore, paths: ProjectPaths) -> int:
    """Bring the store level with the file (after a rebuild or a kill); returns how many splits there are."""
    splits = _on_disk(paths)
    query = select(SplitRecord.number).where(SplitRecord.project_id == db.id).distinct()
    with db.read() as session:
        known = set(session.scalars(query))
    missing = [split for split in splits if split["number"] not in known]
    if missing:
        with db.write() as session:
            for split in missing:
                for task in split["test"]:
                    session.merge(SplitRecord(project_id=db.id, number=split["number"], task_id=int(task)))
    return len(splits)


def _draw(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    finished: Sequence[int],
    fraction: float,
    *,
    number: int,
) -> TestSplit:
    wanted = max(settings.test_min, math.ceil(fraction * len(finished)))
    seed = [settings.seed, db.id] if number == 1 else [settings.seed, db.id, number]
    size = min(wanted, len(finished) // 2)
    among = sorted(finished)
    if number == 1:  # typical pictures may have come first; of those served at random enough are finished
        uniform = sorted(drawn_uniformly(paths) & set(finished))
        among = uniform if len(uniform) >= min(size, settings.test_min) else among
    rng = np.random.default_rng(seed)
    series = series_of(db, settings.split_by)
    if series:
        # in an order of typical pictures, others of a series may be finished too: they belong to it
        whole = sorted({*among, *(in_series_of(series, among) & set(finished))})
        tasks = draw_series(whole, series, size, rng) or draw_series(sorted(finished), series, size, rng)
        if not tasks:
            raise BadInput(
                f"the {len(finished)} finished tasks are too few series to test on some and train on others",
                field="split_by",
                hint=f"Finish tasks with another value of {settings.split_by!r} in their data",
            )
    else:
        tasks = rng.choice(np.array(among, np.int64), min(size, len(among)), replace=False).tolist()
    fresh = {
        "number": number,
        "test": sorted(tasks),
        "finished": len(finished),
        "drawn_at": utc_now().isoformat(),
    }
    write_json(paths.root / "split.json", {"splits": [*_on_disk(paths), fresh]}, guard=db.guard)
    restore_test_splits(db, paths)
    return TestSplit(number, frozenset(tasks))


def _on_disk(paths: ProjectPaths) -> list[dict[str, Any]]:
    """The splits of ``split.json``, oldest first; older releases knew one."""
    path = paths.root / "split.json"
    if not path.exists():
        return []
    stored = read_json(path)
    if "splits" not in stored:
        return [{"number": 1, "test": stored["test"]}]
    found: list[dict[str, Any]] = stored["splits"]
    return found
