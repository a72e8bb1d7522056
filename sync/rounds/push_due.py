"""Whether a push has something to send, without comparing all tasks at every look."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.infer import pool_index
from sync.rounds.progress import Memo
from sync.rounds.push import push_state
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["PushDue", "push_due"]

PushDue = Literal["nothing", "some", "urgent"]
"""``urgent``: tasks lack a prediction, or nothing of this round is shown yet"""

_FILES: Final = ("verdicts.parquet", "pushed.json", "pushed", "pushed.jsonl")
"""files of the round that decide what is to be sent"""


def push_due(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
) -> PushDue:
    """What the comparison of ``push_state`` comes to. Made anew when something that it reads changed.

    That is: tasks, the pool, the order, the verdicts, what was sent, the label config and the settings.
    """
    name = ("push due", db.id)

    def state() -> tuple[object, ...]:
        files = tuple(_stamp(paths.round(record.number) / file) for file in _FILES)
        order = _stamp(paths.order(record.model_version))
        parts = pool_index(paths, memo, record.model_version).parts
        round_now = (record.number, record.model_version, record.pushed, record.review_done)
        return (db.revision().tasks, db.key, *round_now, config.digest, settings, parts, files, order)

    before = state()
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] == before:
        known: PushDue = kept[1]
        return known
    found = push_state(db, config, settings, paths, memo, record)
    due: PushDue = "urgent" if found.is_urgent else "some"
    if found.plan.is_empty and found.plan.version == record.pushed:
        due = "nothing"
    after = state()
    if after[:-1] == before[:-1]:  # the order may have been made just now: it is part of what was compared
        memo[name] = (after, due)
    return due


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced; zeros where there is none."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return now.st_ino, now.st_mtime_ns, now.st_size
