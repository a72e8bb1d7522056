"""The tab "Look here" of the Data Manager: the tasks whose annotation is most likely wrong, with the reason.

The reason is a field of the task's data, which the Data Manager shows as a column. The tab filters by it and
sorts by it: a line begins with its score. Changing a task's data moves its ``updated_at`` and nothing else:
its annotations stay as they are, no webhook is sent, and the next pull finds no changed annotation. Only
lines that differ are written, a few per look, the likeliest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ml_backend.artifacts.mistakes import MistakeTable
from ml_backend.errors import StudioError
from sync.mistakes.marks import LINE_FIELD, shown_lines
from sync.rounds.progress import Memo, Progress
from sync.store.project_store import ProjectStore
from sync.studio.protocol import StudioClient

__all__ = ["TITLE", "line_changes", "lines_of", "push_look_here", "write_data"]

TITLE: Final = "Look here"
_MOST: Final = 200
"""tasks on the tab: nobody looks at more before the next round, and each costs three requests"""
_PER_LOOK: Final = 40
_HIDDEN: Final = [
    f"tasks:{name}"
    for name in (
        "inner_id", "completed_at", "total_annotations", "cancelled_annotations", "total_predictions",
        "annotations_results", "annotations_ids", "predictions_score", "predictions_model_versions",
        "predictions_results", "file_upload", "storage_filename", "created_at", "updated_at", "updated_by",
        "avg_lead_time", "draft_exists",
    )
]  # fmt: skip
"""columns that stand before the reason and would push it off the screen"""
_TAB: Final[Mapping[str, Any]] = {
    "title": TITLE,
    "type": "list",
    "target": "tasks",
    "filters": {
        "conjunction": "and",
        "items": [
            {
                "filter": f"filter:tasks:data.{LINE_FIELD}",
                "operator": "empty",
                "type": "String",
                "value": False,
            }
        ],
    },
    "ordering": [f"-tasks:data.{LINE_FIELD}"],
    "hiddenColumns": {"explore": _HIDDEN, "labeling": _HIDDEN},
    "columnsWidth": {f"tasks:data.{LINE_FIELD}": 720},
}
_OURS: Final = ("filters", "ordering")
"""what makes the tab ours; people may choose other columns"""


def lines_of(table: MistakeTable | None) -> dict[int, str]:
    """The line of each task that the tab should show, the likeliest mistake first."""
    lines = {}
    for task, findings in list(table.tasks().items() if table is not None else ())[:_MOST]:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        lines[task] = f"{findings[0].score:.2f} {findings[0].reason}{more}"
    return lines


def line_changes(wanted: Mapping[int, str], shown: Mapping[int, str]) -> dict[int, str]:
    """What is to be written: a line by task, empty where one is to go. Lines to go come first: they are of
    tasks that somebody has mended."""
    gone = {task: "" for task in sorted(shown) if task not in wanted}
    return gone | {task: line for task, line in wanted.items() if shown.get(task) != line}


def push_look_here(
    db: ProjectStore, studio: StudioClient, progress: Progress, memo: Memo, table: MistakeTable | None
) -> bool:
    """Bring the tab and its lines level with ``table`` (None: they are to go); returns whether they are.

    Safe to repeat and to kill. Where many lines differ, later looks go on. Raises StudioError.
    """
    wanted = lines_of(table)
    name = ("look here", db.id)
    stamp = (table is not None, tuple(sorted(wanted.items())))
    if memo.get(name) == stamp:
        return True
    changes = line_changes(wanted, shown_lines(db))
    _ensure_tab(studio, db.id, is_wanted=bool(wanted), may_stay=table is not None)
    for number, (task, line) in enumerate(list(changes.items())[:_PER_LOOK], start=1):
        progress.at("mistakes.line")
        write_data(studio, task, {LINE_FIELD: line})
        progress.report("mistakes", number / len(changes), f"{number} of {len(changes)} lines written")
    if len(changes) > _PER_LOOK:
        return False
    if not changes:  # the next pull has seen what was written
        memo[name] = stamp
    return True


def write_data(studio: StudioClient, task: int, fields: Mapping[str, str]) -> bool:
    """Set fields of a task's data, empty ones are taken out; returns whether the task is still there."""
    try:
        now = studio.task(task).data
        changed = {**now, **fields}
        changed = {name: value for name, value in changed.items() if name not in fields or value != ""}
        if changed != dict(now):
            studio.set_task_data(task, changed)
    except StudioError as error:
        if error.status != 404:
            raise
        return False
    return True


def _ensure_tab(studio: StudioClient, project_id: int, *, is_wanted: bool, may_stay: bool) -> None:
    """One tab of ours, or none. A project without any tab gets the usual one first: Label Studio makes it
    only where there is no other, and people would miss the list of all tasks."""
    views = studio.views(project_id)
    # a tab of this title that does not know the reason is a person's own
    ours = [view for view in views if view.title == TITLE and LINE_FIELD in json.dumps(dict(view.data))]
    for extra in ours[1:] if may_stay else ours:
        studio.delete_view(project_id, extra.id)
    if not may_stay:
        return
    if ours:
        if any(ours[0].data.get(name) != _TAB[name] for name in _OURS):
            studio.change_view(project_id, ours[0].id, {**ours[0].data, **_TAB})
    elif is_wanted:
        if not views:
            studio.create_view(project_id, {"title": "Default", "type": "list", "target": "tasks"})
        studio.create_view(project_id, _TAB)
