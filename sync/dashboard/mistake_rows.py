"""The likeliest label mistakes, as the worker found them after the newest round that has any."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.artifacts.mistakes import MistakeTable, read_mistakes
from ml_backend.artifacts.paths import ProjectPaths
from sync.dashboard.figures import MistakeRow
from sync.settings import Settings
from sync.store.tables import RoundRecord

__all__ = ["mistake_rows", "newest_mistakes"]

_SHOWN = 10


def newest_mistakes(paths: ProjectPaths, rounds: Sequence[RoundRecord]) -> MistakeTable | None:
    """The findings of the newest round that was looked through. Raises StorageError when damaged."""
    for record in reversed(rounds):
        table = read_mistakes(paths.mistakes(record.model_version))
        if table is not None:
            return table
    return None


def mistake_rows(settings: Settings, project_id: int, table: MistakeTable) -> tuple[MistakeRow, ...]:
    """The first findings, each with the address of its task."""
    studio = settings.shown_studio_url
    return tuple(
        MistakeRow(
            task=one.task_id,
            kind=one.kind,
            score=one.score,
            reason=one.reason,
            url=f"{studio}/projects/{project_id}/data?task={one.task_id}",
        )
        for one in table.findings[:_SHOWN]
    )
