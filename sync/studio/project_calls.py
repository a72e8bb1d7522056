"""Calls about projects."""

from __future__ import annotations

from sync.studio.http import StudioHttp
from sync.studio.protocol import ProjectRow
from sync.studio.rows import project_row

__all__ = ["SLOW_CALL_S", "ProjectCalls"]

SLOW_CALL_S = 600.0
"""longest silence of calls in which Label Studio counts or deletes many rows"""
_PAGE = 100
# naming the fields also saves seven counts, most of which go through all annotations or predictions
_PROJECT_FIELDS = (
    "id,title,label_config,model_version,created_at,task_number,description,maximum_annotations,"
    "expert_instruction"
)


class ProjectCalls:
    """Make, read, change and delete projects."""

    _http: StudioHttp

    def project(self, project_id: int) -> ProjectRow:
        return project_row(self._http.get(f"/api/projects/{project_id}/", include=_PROJECT_FIELDS))

    def projects(self) -> list[ProjectRow]:
        rows: list[ProjectRow] = []
        page = 1
        while True:
            answer = self._http.get("/api/projects/", page=page, page_size=_PAGE)
            rows += [project_row(item) for item in answer["results"]]
            if not answer.get("next"):
                return rows
            page += 1

    def create_project(
        self,
        title: str,
        label_config: str,
        *,
        sampling: str = "Uncertainty sampling",
        maximum_annotations: int = 1,
        instruction: str = "",
        description: str = "",
    ) -> ProjectRow:
        body = {
            "title": title,
            "description": description,
            "label_config": label_config,
            "sampling": sampling,
            "maximum_annotations": maximum_annotations,
            "expert_instruction": instruction,
            "show_instruction": bool(instruction),
        }
        return project_row(self._http.call("POST", "/api/projects/", json=body))

    def set_instruction(self, project_id: int, html: str) -> None:
        body = {"expert_instruction": html, "show_instruction": bool(html)}
        self._http.call("PATCH", f"/api/projects/{project_id}/", json=body)

    def set_description(self, project_id: int, text: str) -> None:
        self._http.call("PATCH", f"/api/projects/{project_id}/", json={"description": text})

    def set_maximum_annotations(self, project_id: int, count: int) -> None:
        body = {"maximum_annotations": count}
        self._http.call("PATCH", f"/api/projects/{project_id}/", json=body, read_timeout_s=SLOW_CALL_S)

    def delete_project(self, project_id: int) -> None:
        self._http.call("DELETE", f"/api/projects/{project_id}/", read_timeout_s=SLOW_CALL_S)
