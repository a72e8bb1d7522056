"""When the next training is due, and how many finished tasks it still waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.early import given_up, is_early
from sync.rounds.progress import Memo, remembered
from sync.rounds.round_records import last_trained_for, load_snapshot
from sync.rounds.task_queries import finished_digests
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import RoundRecord

__all__ = ["WANTED_FORMAT", "TrainingWait", "training_due", "training_wait", "wait_text", "wanted_of"]

WANTED_FORMAT: Final = TypeAdapter(tuple[Wanted, ...])
"""What a project wants, as snapshots hold it."""


@dataclass(frozen=True, slots=True)
class TrainingWait:
    """How far the next training is away.

    Attributes
    ----------
    is_first : no training was begun yet
    have : finished tasks that count: all of them before the first training, later those that were finished
        or changed since the last one
    need : how many it takes
    then : how many further ones each later training takes
    reason : why a training is due now; empty when it is not
    """

    is_first: bool
    have: int
    need: int
    then: int
    reason: str


@dataclass(frozen=True, slots=True)
class _TrainedOn:
    """What decides whether another round should follow: the labels of each kind, and every task's digest."""

    wanted: tuple[Wanted, ...]
    digests: Mapping[int, str]


def training_due(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths, memo: Memo
) -> str:
    """Why a new round should start now; empty when it should not. Loads no regions."""
    return training_wait(db, config, settings, paths, memo).reason


def training_wait(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths, memo: Memo
) -> TrainingWait:
    """How far the next training is away. Loads no regions, and nothing at all while no task changed."""
    last = last_trained_for(db)
    finished, changed = _counts(db, paths, memo, last)
    then = settings.retrain_after
    if last is None:
        have, need = finished, settings.min_finished
        reason = f"{have} tasks finished, first training" if have >= need else ""
        return TrainingWait(True, have, need, then, reason)
    before = _trained_on(paths, memo, last)
    if finished and before.wanted != config.wanted:
        reason = "the labels of the project changed"
    elif is_early(last) and (has_finished(last, "push") or given_up(last)):
        reason = f"the whole training after the early round {last.number}"
    elif changed >= then:
        reason = f"{changed} tasks finished or changed since round {last.number}"
    else:
        reason = ""
    return TrainingWait(False, changed, then, then, reason)


def _counts(db: ProjectStore, paths: ProjectPaths, memo: Memo, last: RoundRecord | None) -> tuple[int, int]:
    """Finished tasks, and those of them that ``last`` was not trained on as they are now."""

    def count() -> tuple[int, int]:
        finished = finished_digests(db)
        before: Mapping[int, str] = {} if last is None else _trained_on(paths, memo, last).digests
        return len(finished), sum(before.get(task) != digest for task, digest in finished.items())

    state = (db.key, db.revision().tasks, None if last is None else (last.number, last.digest))
    return remembered(memo, ("finished tasks", db.id), state, count)


def wait_text(wait: TrainingWait) -> str:
    """The same as a sentence."""
    if wait.reason:
        return f"a training is due: {wait.reason}"
    if wait.is_first:
        return (
            f"{wait.have} of {wait.need} finished tasks until the first training, "
            f"then one for every {wait.then} more"
        )
    return f"{wait.have} of {wait.need} newly finished or changed tasks until the next training"


def wanted_of(snapshot: Mapping[str, Any]) -> tuple[Wanted, ...]:
    """The kinds of labels that a round learns; older releases knew instances only."""
    if "wanted" not in snapshot:
        return (Wanted("instances", tuple(str(label) for label in snapshot["labels"])),)
    return WANTED_FORMAT.validate_python(snapshot["wanted"])


def _trained_on(paths: ProjectPaths, memo: Memo, record: RoundRecord) -> _TrainedOn:
    """What a round trained on, from its snapshot. The snapshot is large, so it is read only once."""
    name = ("trained on", record.project_id)
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] == (record.number, record.digest):
        found: _TrainedOn = kept[1]
        return found
    snapshot = load_snapshot(paths, record.number)
    rows = (*snapshot["train"], *snapshot["test"])
    fresh = _TrainedOn(wanted_of(snapshot), {row["task"]: row["digest"] for row in rows})
    memo[name] = ((record.number, record.digest), fresh)
    return fresh
