"""Calls that connect a project with the backend, its webhook and folders of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sync.studio.prediction_calls import PredictionCalls

__all__ = ["SECRET_HEADER", "ConnectionCalls"]

_EVENTS = [
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
]
SECRET_HEADER = "X-Groundswell-Secret"
_BLOCKED = (
    "Label Studio refuses private addresses by default: start it with ML_BLOCK_LOCAL_IP=false and "
    "SSRF_PROTECTION_ENABLED=false, or give the backend a public address"
)
Json = dict[str, Any]


class ConnectionCalls(PredictionCalls):
    """ML backends, webhooks and storages of a project."""

    def connect_backend(
        self, project_id: int, url: str, *, title: str, basic_auth: tuple[str, str] | None
    ) -> int:
        before = self.project(project_id).model_version
        login: Json = {}
        if basic_auth is not None:
            user, password = basic_auth
            login = {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
        found: int | None = None
        for row in self.backends(project_id):
            if row["url"].rstrip("/") == url.rstrip("/"):
                found = int(row["id"])
            elif row["title"] == title:
                # our backend at an earlier address is replaced, as Label Studio asks only the first backend
                self._http.call("DELETE", f"/api/ml/{row['id']}")
        body = {"project": project_id, "url": url, "title": title, "is_interactive": True, **login}
        if found is None:
            found = int(self._http.call("POST", "/api/ml/", json=body, hint=_BLOCKED)["id"])
        elif login:  # Label Studio does not show the password that it has, so it is sent every time
            self._http.call("PATCH", f"/api/ml/{found}", json=body, hint=_BLOCKED)
        self._drop_own_webhook(project_id, url)
        if self.project(project_id).model_version == title != before:
            # connecting makes the backend the source of predictions: every `next` would wait for its answer
            self.set_model_version(project_id, before)
        return found

    def _drop_own_webhook(self, project_id: int, backend_url: str) -> None:
        """Remove the webhook made by connecting: it has no secret and sends every event of the project."""
        for row in self.webhooks(project_id):
            if (
                row["url"].rstrip("/") == f"{backend_url.rstrip('/')}/webhook"
                and SECRET_HEADER not in row["headers"]
            ):
                self._http.call("DELETE", f"/api/webhooks/{row['id']}/")

    def ensure_webhook(self, project_id: int, url: str, *, secret: str) -> int:
        wanted: Json = {
            "url": url,
            "send_payload": True,
            "send_for_all_actions": False,
            "is_active": True,
            "actions": _EVENTS,
            "headers": {SECRET_HEADER: secret},
        }
        ours = [
            row for row in self.webhooks(project_id) if row["url"] == url or SECRET_HEADER in row["headers"]
        ]
        for extra in ours[1:]:
            self._http.call("DELETE", f"/api/webhooks/{extra['id']}/")
        if not ours:
            answer = self._http.call(
                "POST", "/api/webhooks/", json=wanted | {"project": project_id}, hint=_BLOCKED
            )
            return int(answer["id"])
        row = ours[0]
        if any(row.get(name) != value for name, value in wanted.items() if name != "actions") or set(
            row["actions"]
        ) != set(_EVENTS):
            self._http.call("PATCH", f"/api/webhooks/{row['id']}/", json=wanted, hint=_BLOCKED)
        return int(row["id"])

    def disconnect(self, project_id: int, url: str, *, title: str) -> int:
        shown = self.project(project_id).model_version
        ours = [
            row["id"]
            for row in self.backends(project_id)
            if row["url"].rstrip("/") == url.rstrip("/") or row["title"] == title
        ]
        hooks = [row["id"] for row in self.webhooks(project_id) if SECRET_HEADER in row["headers"]]
        for number in hooks:
            self._http.call("DELETE", f"/api/webhooks/{number}/")
        for number in ours:
            self._http.call("DELETE", f"/api/ml/{number}")
        if ours and shown and self.project(project_id).model_version != shown:
            self.set_model_version(project_id, shown)
        return len(ours) + len(hooks)

    def ensure_local_files(self, project_id: int, folder: Path) -> int:
        path = folder.resolve()
        for row in self._http.get("/api/storages/localfiles/", project=project_id):
            if path.is_relative_to(row["path"]):
                return int(row["id"])
        body = {"project": project_id, "path": str(path), "use_blob_urls": True, "title": path.name}
        answer = self._http.call(
            "POST",
            "/api/storages/localfiles/",
            json=body,
            hint="Start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and a "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT above this folder",
        )
        return int(answer["id"])

    def backends(self, project_id: int) -> list[Json]:
        """Connected ML backends as Label Studio lists them (it asks each for its health first)."""
        rows: list[Json] = self._http.get("/api/ml/", project=project_id)
        return rows

    def webhooks(self, project_id: int) -> list[Json]:
        """Webhooks of the project as Label Studio lists them."""
        rows: list[Json] = self._http.get("/api/webhooks/", project=project_id)
        return rows

    def check_file(self, address: str) -> None:
        """Raise StudioError when Label Studio does not serve this relative address to us."""
        self._http.probe(
            address, hint="Is its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT the given --files-root?"
        )
