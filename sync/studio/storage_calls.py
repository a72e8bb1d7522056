"""Calls about cloud storages: buckets whose pictures become tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from ml_backend.errors import StudioError
from sync.studio.project_calls import SLOW_CALL_S, ProjectCalls

__all__ = ["StorageCalls"]

_POLL_S: Final = 1.0
_HINT: Final = (
    "Is there such a bucket, is anything below this prefix, may these credentials list it? Label Studio's "
    "log says more"
)
_IDENTITY: Final = ("bucket", "container", "prefix")
"""fields that say which place a storage is about"""


class StorageCalls(ProjectCalls):
    """Storages of kind ``s3``, ``gcs`` or ``azure`` that tasks are imported from."""

    def ensure_storage(self, project_id: int, kind: str, fields: Mapping[str, Any]) -> int:
        same = [
            row
            for row in self._http.get(f"/api/storages/{kind}/", project=project_id)
            if all((row.get(name) or "") == (fields.get(name) or "") for name in _IDENTITY)
        ]
        body = {**fields, "project": project_id}
        if same and (same[0].get("title") or "") != fields.get("title", ""):
            return int(same[0]["id"])  # a person's, with a filter and keys of its own
        if same:
            self._http.call("PATCH", f"/api/storages/{kind}/{same[0]['id']}", json=body, hint=_HINT)
            return int(same[0]["id"])
        return int(self._http.call("POST", f"/api/storages/{kind}/", json=body, hint=_HINT)["id"])

    def check_storage(self, project_id: int, kind: str, fields: Mapping[str, Any]) -> None:
        body = {**fields, "project": project_id}
        self._http.call("POST", f"/api/storages/{kind}/validate", json=body, hint=_HINT, repeatable=True)

    def sync_storage(self, kind: str, storage_id: int) -> int:
        # a storage that is synchronised twice has no task twice: Label Studio links each object to its task
        row = self._http.call(
            "POST", f"/api/storages/{kind}/{storage_id}/sync", repeatable=True, read_timeout_s=SLOW_CALL_S
        )
        while row.get("status") in ("queued", "in_progress"):
            time.sleep(_POLL_S)
            row = self._http.get(f"/api/storages/{kind}/{storage_id}")
        if row.get("status") == "failed":
            text = str(row.get("traceback") or "no reason given").strip().splitlines()[-1]
            raise StudioError(f"Label Studio could not read the bucket: {text}", field="bucket")
        return int(row.get("last_sync_count") or 0)
