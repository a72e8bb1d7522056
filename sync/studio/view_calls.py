"""Calls about the tabs ("views") of a project's Data Manager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sync.studio.http import StudioHttp
from sync.studio.protocol import ViewRow

__all__ = ["ViewCalls"]

Json = dict[str, Any]


class ViewCalls:
    """List, make, change and delete tabs."""

    _http: StudioHttp

    def views(self, project_id: int) -> list[ViewRow]:
        rows: list[Json] = self._http.get("/api/dm/views/", project=project_id)
        return [
            ViewRow(int(row["id"]), str((row.get("data") or {}).get("title", "")), row.get("data") or {})
            for row in rows
        ]

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> ViewRow:
        body = {"project": project_id, "data": dict(data)}
        row: Json = self._http.call("POST", "/api/dm/views/", json=body)
        return ViewRow(int(row["id"]), str(row["data"].get("title", "")), row["data"])

    def change_view(self, project_id: int, view_id: int, data: Mapping[str, Any]) -> None:
        body = {"project": project_id, "data": dict(data)}
        self._http.call("PATCH", f"/api/dm/views/{view_id}/", params={"project": project_id}, json=body)

    def delete_view(self, project_id: int, view_id: int) -> None:
        self._http.call("DELETE", f"/api/dm/views/{view_id}/", params={"project": project_id})
