"""The list of likely mistakes as the command line asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.artifacts.mistakes import MistakeTable
from ml_backend.errors import BadInput
from sync.mistakes.dismiss import dismiss
from sync.mistakes.find import find_mistakes
from sync.mistakes.folds import train_folds
from sync.mistakes.step import ask_again
from sync.rounds.project import OpenProject
from sync.rounds.round_records import trained_round

__all__ = ["list_mistakes"]


def list_mistakes(project: OpenProject, *, folds: int = 0, dismissed: Sequence[int] = ()) -> MistakeTable:
    """The likely mistakes now, after ``folds`` models were trained (0: none) and tasks were ``dismissed``.

    The worker shows what changed at its next look. Raises BadInput before the first round, and for tasks or
    folds that cannot be.
    """
    db, config, settings, paths = project.db, project.config, project.settings, project.paths
    record = trained_round(db)
    if record is None:
        raise BadInput(
            f"project {db.id} has no model yet",
            field="project",
            hint="Likely mistakes are found from the first round on; see `groundswell status`",
        )
    if dismissed:
        dismiss(db, project.studio, dismissed)
    if folds:
        train_folds(db, config, settings, paths, project.images, project.progress, record, folds=folds)
    table = find_mistakes(db, config, settings, paths, project.images, project.progress, project.memo, record)
    if dismissed or folds:
        ask_again(paths)
    return table
