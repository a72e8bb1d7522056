"""Calls about annotations, and about the task that Label Studio serves next to this user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ml_backend.errors import StudioError
from sync.studio.project_calls import ProjectCalls
from sync.studio.protocol import AnnotationRow, ImportedAnnotation, PersonsAnnotation, TaskRow
from sync.studio.rows import annotation_row, task_row

__all__ = ["PERSONS_CALL_S", "AnnotationCalls"]

_IMPORTS_AT_ONCE: Final = 4
"""There is no call for many annotations, and Label Studio answers several calls faster than one by one."""


PERSONS_CALL_S: Final = 30.0
"""Seconds that writing one person's answer may take; the queue of answers waits a multiple of it."""


class AnnotationCalls(ProjectCalls):
    """Make, change and delete annotations as this user."""

    def create_annotation(
        self,
        task_id: int,
        result: Sequence[Mapping[str, Any]],
        *,
        lead_time_s: float | None = None,
        was_cancelled: bool = False,
    ) -> AnnotationRow:
        body = {
            "result": [dict(item) for item in result],
            "lead_time": lead_time_s,
            "was_cancelled": was_cancelled,
        }
        return annotation_row(
            self._http.call("POST", f"/api/tasks/{task_id}/annotations/", json=body), task_id
        )

    def update_annotation(self, annotation_id: int, result: Sequence[Mapping[str, Any]]) -> AnnotationRow:
        body = {"result": [dict(item) for item in result]}
        answer = self._http.call("PATCH", f"/api/annotations/{annotation_id}/", json=body)
        return annotation_row(answer, int(answer["task"]))

    def import_annotations(self, rows: Sequence[ImportedAnnotation]) -> int:
        with ThreadPoolExecutor(min(_IMPORTS_AT_ONCE, max(1, len(rows)))) as threads:
            return sum(threads.map(self._import_one, rows))

    def _import_one(self, row: ImportedAnnotation) -> int:
        body = {
            "result": [dict(item) for item in row.result],
            "import_id": row.import_id,
            "was_cancelled": False,
        }
        if row.annotation_id is not None:
            self._http.call("PATCH", f"/api/annotations/{row.annotation_id}/", json=body)
            return 1
        try:
            # the key makes it safe to send it again: Label Studio refuses a second one
            self._http.call(
                "POST",
                f"/api/tasks/{row.task_id}/annotations/",
                json=body | {"unique_id": row.key},
                repeatable=True,
            )
        except StudioError as error:
            if error.status != 409:
                raise
            return 0
        return 1

    def create_persons_annotation(self, row: PersonsAnnotation) -> int:
        body = _persons_body(row) | {"unique_id": row.key, "completed_by": row.completed_by}
        try:
            answer = self._http.call(
                "POST",
                f"/api/tasks/{row.task_id}/annotations/",
                json=body,
                repeatable=True,
                read_timeout_s=PERSONS_CALL_S,
            )
        except StudioError as error:
            if error.status != 409:
                raise
        else:
            return int(answer["id"])
        number = self.annotation_of(row.task_id, row.completed_by)
        if number is None:
            raise StudioError(
                f"annotation {row.key} is not on task {row.task_id}",
                hint="Is this the Label Studio that the answer was meant for?",
                field="unique_id",
                status=409,
            )
        self.replace_persons_annotation(number, row)
        return number

    def replace_persons_annotation(self, annotation_id: int, row: PersonsAnnotation) -> None:
        path = f"/api/annotations/{annotation_id}/"
        self._http.call("PATCH", path, json=_persons_body(row), read_timeout_s=PERSONS_CALL_S)

    def annotation_of(self, task_id: int, user: int) -> int | None:
        answer = self._http.get(f"/api/tasks/{task_id}/", resolve_uri="false")
        mine = [row.id for row in task_row(answer).annotations if row.completed_by == user]
        return max(mine, default=None)

    def delete_annotation(self, annotation_id: int) -> None:
        self._http.call("DELETE", f"/api/annotations/{annotation_id}/")

    def next_task(self, project_id: int) -> TaskRow | None:
        try:
            return task_row(self._http.get(f"/api/projects/{project_id}/next/"))
        except StudioError as error:
            if error.status != 404:
                raise
        self.project(project_id)  # 404 also means "no such project": this tells the two apart
        return None


def _persons_body(row: PersonsAnnotation) -> dict[str, Any]:
    return {
        "result": [dict(item) for item in row.result],
        "lead_time": row.lead_time_s,
        "was_cancelled": row.was_cancelled,
    }
