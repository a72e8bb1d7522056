"""The real Label Studio client: every SDK and REST call of Groundswell is in this module and its helpers."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

from ml_backend.errors import StudioError
from sync.studio.checks import check_predictions, data_fields
from sync.studio.http import StudioHttp
from sync.studio.protocol import AnnotationRow, PredictionRow, ProjectRow, StudioClient, TaskRow
from sync.studio.rows import (
    annotation_row,
    prediction_chunks,
    project_row,
    task_filter,
    task_row,
    time_filter_value,
)
from sync.studio.tokens import request_headers, sdk_client, token_of
from sync.studio.users import user_token

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

__all__ = ["SECRET_HEADER", "AnyClient", "Studio", "as_studio"]

AnyClient: TypeAlias = "LabelStudio | StudioClient"
"""what functions for admins accept: the SDK's client, or one of ours"""

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
# `include` also cuts the fields of nested annotations, so it names both; predictions (heavy) stay out
_TASK_FIELDS = (
    "id,project,data,updated_at,is_labeled,annotations,"
    "result,was_cancelled,ground_truth,completed_by,created_at,lead_time,task"
)
_PLAIN_IN_PATHS = "/~!*()'"
"""characters that Django leaves as they are in the address of a file"""
_PAGE = 100
_ID_PAGE = 1000
_FILES_PER_CALL = 50
_TASKS_PER_CALL = 1000
_SLOW_CALL_S = 600.0
Json = dict[str, Any]


class Studio:
    """A Label Studio server as one user.

    Parameters
    ----------
    url : address of the server, for example ``http://127.0.0.1:8080``
    token : legacy token or personal access token of the user, or a function that reads it; never logged. The
        function is asked again when Label Studio refuses the token, so that a token may change meanwhile
    """

    def __init__(self, url: str, token: str | Callable[[], str], *, attempts: int = 5) -> None:
        read = token if callable(token) else lambda: token
        self._bind(url, read, sdk_client(url, read()), attempts)

    @classmethod
    def wrap(cls, client: LabelStudio, *, attempts: int = 5) -> Studio:
        """The same for an existing ``label_studio_sdk.LabelStudio`` client."""
        studio = cls.__new__(cls)
        url = str(client._client_wrapper.get_base_url())
        studio._bind(url, lambda: token_of(client), client, attempts)
        return studio

    def _bind(self, url: str, read_token: Callable[[], str], client: LabelStudio, attempts: int) -> None:
        self.sdk = client
        self._read_token = read_token
        self._attempts = attempts
        self._http = StudioHttp(
            url, lambda: request_headers(self.sdk), renew=self._take_new_token, attempts=attempts
        )

    def _take_new_token(self) -> bool:
        """Read the token again; True when it has changed and Label Studio may be asked with it."""
        token = self._read_token()
        if not token or token == token_of(self.sdk):
            return False
        self.sdk = sdk_client(self.url, token)
        return True

    def __repr__(self) -> str:
        return f"Studio({self.url!r})"

    @property
    def url(self) -> str:
        return self._http.base_url

    def whoami(self) -> str:
        """E-mail of the user this client acts as; the cheapest call that needs a valid token."""
        return str(self._http.get("/api/current-user/whoami")["email"])

    def version(self) -> str:
        """Version of the Label Studio server."""
        return str(self._http.get("/api/version")["release"])

    # ---- projects -------------------------------------------------------------------------------------

    def project(self, project_id: int) -> ProjectRow:
        return project_row(self._http.get(f"/api/projects/{project_id}/"))

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
    ) -> ProjectRow:
        body = {
            "title": title,
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

    def delete_project(self, project_id: int) -> None:
        self._http.call("DELETE", f"/api/projects/{project_id}/", read_timeout_s=_SLOW_CALL_S)

    # ---- tasks ----------------------------------------------------------------------------------------

    def tasks(self, project_id: int, *, changed_since: datetime | None = None) -> Iterator[TaskRow]:
        # The listing goes on from the last change seen instead of counting pages: a task that changes while
        # we read moves to the end, and page numbers would then step over one that did not.
        since = changed_since
        inclusive = False
        seen: set[int] = set()
        page = 1
        while True:
            items = []
            if since is not None:
                operator = "greater_or_equal" if inclusive else "greater"
                items.append(task_filter("updated_at", operator, "Datetime", time_filter_value(since)))
            answer = self._page(project_id, "all", _TASK_FIELDS, items, "tasks:updated_at", page, _PAGE)
            rows = [task_row(item) for item in answer]
            fresh = [row for row in rows if row.id not in seen]
            seen.update(row.id for row in fresh)
            yield from fresh
            if len(rows) < _PAGE:
                return
            if fresh and rows[-1].updated_at != since:
                since, inclusive, page = rows[-1].updated_at, True, 1
            else:  # a whole page changed at the same microsecond
                page += 1

    def task(self, task_id: int) -> TaskRow:
        return task_row(self._http.get(f"/api/tasks/{task_id}/", resolve_uri="false"))

    def task_ids(self, project_id: int) -> set[int]:
        return {int(item["id"]) for item in self._by_id(project_id, "id", [])}

    def task_values(self, project_id: int, field: str) -> dict[str, int]:
        rows = self._by_id(project_id, "id,data", [])
        return {str(row["data"][field]): int(row["id"]) for row in rows if field in row["data"]}

    def task_data(self, project_id: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for row in self._by_id(project_id, "id,data", []):
            yield int(row["id"]), row["data"]

    def upload_images(
        self, project_id: int, paths: Sequence[Path], *, data: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        field = data_fields(self.project(project_id).label_config)[0]
        ids: list[int] = []
        for start in range(0, len(paths), _FILES_PER_CALL):
            part = slice(start, start + _FILES_PER_CALL)
            addresses = self._upload(project_id, paths[part])
            further = data[part] or [{}] * len(addresses)
            rows = [{**more, field: at} for at, more in zip(addresses, further, strict=True)]
            ids += self.import_tasks(project_id, rows)
        return ids

    def _upload(self, project_id: int, paths: Sequence[Path]) -> list[str]:
        """Send files without making tasks of them; their addresses in order.

        Label Studio makes tasks of files without any field but the image, so the tasks are made afterwards. A
        crash in between leaves files that no task shows, never a task that lacks its fields.
        """
        with ExitStack() as stack:
            files = [
                (f"file{n}", (path.name, stack.enter_context(path.open("rb")), _mime(path)))
                for n, path in enumerate(paths)
            ]
            answer = self._http.call(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"commit_to_project": "false"},
                files=files,
                read_timeout_s=_SLOW_CALL_S,
            )
        ids = [int(one) for one in answer["file_upload_ids"]]
        rows = self._http.get(f"/api/projects/{project_id}/file-uploads", ids=json.dumps(ids))
        names = {int(row["id"]): str(row["file"]) for row in rows}
        # the address that Label Studio itself gives to uploads, below the path it is served from
        below = urlsplit(self.url).path.rstrip("/")
        return [f"{below}/data/" + quote(names[one], safe=_PLAIN_IN_PATHS) for one in ids]

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        ids: list[int] = []
        for start in range(0, len(data), _TASKS_PER_CALL):
            answer = self._http.call(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"return_task_ids": "true", "commit_to_project": "true"},
                json=[{"data": dict(item)} for item in data[start : start + _TASKS_PER_CALL]],
                read_timeout_s=_SLOW_CALL_S,
            )
            ids += [int(task) for task in answer["task_ids"]]
        return ids

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        for start in range(0, len(task_ids), _TASKS_PER_CALL):
            self._http.call(
                "POST",
                "/api/dm/actions",
                params={"id": "delete_tasks", "project": project_id},
                json={
                    "selectedItems": {
                        "all": False,
                        "included": list(task_ids[start : start + _TASKS_PER_CALL]),
                    }
                },
                repeatable=True,
                read_timeout_s=_SLOW_CALL_S,
            )

    # ---- predictions ----------------------------------------------------------------------------------

    def import_predictions(self, project_id: int, rows: Sequence[PredictionRow]) -> int:
        check_predictions(self.project(project_id).label_config, rows)
        created = 0
        for body in prediction_chunks(rows):
            answer = self._http.call(
                "POST",
                f"/api/projects/{project_id}/import/predictions",
                json=body,
                read_timeout_s=_SLOW_CALL_S,
                hint="A task may have been deleted meanwhile: pull again",
            )
            kept = int(answer["created"])
            created += kept
            if kept != len(body):
                raise StudioError(
                    f"Label Studio kept {kept} of {len(body)} predictions",
                    hint="It drops rows that do not fit the label config: has the config just changed?",
                    field="predictions",
                    status=201,
                )
        return created

    def predicted_tasks(self, project_id: int, model_version: str) -> set[int]:
        # the filter matches substrings (v1 finds v10), so the versions come back and are compared
        items = [task_filter("predictions_model_versions", "contains", "List", [model_version])]
        rows = self._by_id(project_id, "id,predictions_model_versions", items)
        return {
            int(row["id"])
            for row in rows
            if model_version in str(row["predictions_model_versions"]).split(",")
        }

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        answer = self._http.get(f"/api/projects/{project_id}/model-versions/")
        # the active version is listed with 0 rows even when nothing is there
        return {str(name): int(count) for name, count in answer.items() if count}

    def set_model_version(self, project_id: int, model_version: str) -> None:
        self._http.call(
            "PATCH",
            f"/api/projects/{project_id}/",
            json={"model_version": model_version},
            hint="Push predictions of this version first",
        )

    def delete_predictions(self, project_id: int, model_version: str) -> int:
        if model_version not in self.prediction_versions(project_id):
            return 0
        answer = self._http.call(
            "DELETE",
            f"/api/projects/{project_id}/model-versions/",
            json={"model_version": model_version},
            read_timeout_s=_SLOW_CALL_S,
        )
        return int(answer["deleted_predictions"])

    def predictions(self, task_id: int) -> list[PredictionRow]:
        """All predictions of a task, in id order."""
        rows = sorted(self._http.get("/api/predictions/", task=task_id), key=lambda row: row["id"])
        return [
            PredictionRow(task_id, r["result"], float(r["score"] or 0.0), r["model_version"] or "")
            for r in rows
        ]

    # ---- annotations ----------------------------------------------------------------------------------

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

    # ---- connections and users ------------------------------------------------------------------------

    def connect_backend(
        self, project_id: int, url: str, *, title: str, basic_auth: tuple[str, str] | None
    ) -> int:
        before = self.project(project_id).model_version
        found: int | None = None
        for row in self.backends(project_id):
            if row["url"].rstrip("/") == url.rstrip("/"):
                found = int(row["id"])
            elif (
                row["title"] == title
            ):  # ours at an earlier address: Label Studio would go on asking the first
                self._http.call("DELETE", f"/api/ml/{row['id']}")
        if found is None:
            body: Json = {"project": project_id, "url": url, "title": title, "is_interactive": True}
            if basic_auth is not None:
                user, password = basic_auth
                body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
            found = int(self._http.call("POST", "/api/ml/", json=body, hint=_BLOCKED)["id"])
        self._drop_own_webhook(project_id, url)
        if self.project(project_id).model_version == title != before:
            self.set_model_version(project_id, before)  # with the title there, every `next` would wait for us
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

    def as_user(self, email: str, password: str) -> StudioClient:
        invite = str(self._http.get("/api/invite")["invite_url"])
        token = user_token(self.url, email, password, invite_path=invite)
        return Studio(self.url, token, attempts=self._attempts)

    # ---- listing --------------------------------------------------------------------------------------

    def _page(
        self, project_id: int, fields: str, include: str, items: list[Json], order: str, page: int, size: int
    ) -> list[Json]:
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": [order]}
        try:
            answer = self._http.get(
                "/api/tasks/",
                project=project_id,
                fields=fields,
                include=include,
                resolve_uri="false",
                page=page,
                page_size=size,
                query=json.dumps(query),
            )
        except StudioError as error:
            if error.status == 404 and page > 1:
                return []
            raise
        rows: list[Json] = answer["tasks"]
        return rows

    def _by_id(self, project_id: int, include: str, items: list[Json]) -> Iterator[Json]:
        """Light rows of all tasks that pass the filters, in id order."""
        last = 0
        while True:
            after = task_filter("id", "greater", "Number", last)
            rows = self._page(project_id, "task_only", include, [*items, after], "tasks:id", 1, _ID_PAGE)
            yield from rows
            if len(rows) < _ID_PAGE:
                return
            last = int(rows[-1]["id"])


def _mime(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def as_studio(client: AnyClient) -> StudioClient:
    """A client of ours for either kind."""
    from label_studio_sdk import LabelStudio

    return Studio.wrap(client) if isinstance(client, LabelStudio) else client
