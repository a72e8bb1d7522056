"""An in-memory Label Studio for tests: the same ``StudioClient`` as ``sync.studio.client.Studio``, no server.

It passes the same contract tests as the real client (tests/studio/test_contract.py) and follows the
server's less obvious rules: uncertainty order by ``project.model_version`` and lowest score (random without
a match), a task served through ``next_task`` stays locked for that user, a skip sends the task to others,
invalid predictions are refused, connecting a backend names it as the model version of a fresh project.

One difference: there is no web server, so ``upload_images`` stores the absolute path of the file as the value
of the image, which Groundswell reads when its folder is among ``allow_image_dirs``.

With ``path`` the whole server is kept in a JSON file that is replaced after every change, so that the
successor of a killed process finds the server as the dead one left it.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ml_backend.errors import StudioError
from sync.studio.checks import data_fields
from sync.studio.prepared import PreparedPredictions
from sync.studio.protocol import (
    AnnotationRow,
    ImportedAnnotation,
    PersonsAnnotation,
    PredictionRow,
    ProjectRow,
    StudioClient,
    TaskRow,
    UserRow,
    ViewRow,
)

__all__ = ["FakeStudio"]

_SAMPLINGS = ("Sequential sampling", "Uniform sampling", "Uncertainty sampling")
_TABLES = (
    "users",
    "projects",
    "tasks",
    "annotations",
    "predictions",
    "webhooks",
    "backends",
    "storages",
    "views",
)
_ADMIN = "admin@example.com"
Row = dict[str, Any]


class FakeStudio:
    """Label Studio in memory.

    Parameters
    ----------
    path : keep the server in this JSON file (read when it exists)
    before_call : called with the name of every method before it does anything; raise in it to play a
        refusal (StudioError with a status) or a crash
    seed : of the random orders that Label Studio leaves to chance
    """

    def __init__(
        self, path: Path | None = None, *, before_call: Callable[[str], None] | None = None, seed: int = 0
    ) -> None:
        self._path = path
        self.before_call = before_call
        self.bucket_objects: list[str] = []
        """addresses of the objects in all buckets of the world"""
        self._random = random.Random(seed)
        self._db: dict[str, dict[str, Row]] = {name: {} for name in _TABLES}
        self._shared: dict[str, Any] = {"next_id": 1, "last": datetime(2000, 1, 1, tzinfo=UTC)}
        if path is not None and path.exists():
            self._load(path)
        else:
            self._add("users", {"email": _ADMIN})
        self._user = self._user_id(_ADMIN)
        self._one_at_a_time = threading.RLock()
        """the queue of answers calls from several threads"""

    def server_time(self) -> datetime | None:
        return datetime.now(UTC)

    # ---- projects -------------------------------------------------------------------------------------

    def project(self, project_id: int) -> ProjectRow:
        self._call("project")
        return self._project_row(self._get("projects", project_id))

    def projects(self) -> list[ProjectRow]:
        self._call("projects")
        return [self._project_row(row) for row in self._db["projects"].values()]

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
        self._call("create_project")
        if not 3 <= len(title) <= 50:
            raise _refused(
                400, f"project title {title!r} has {len(title)} characters", "Use 3 to 50", "title"
            )
        if sampling not in _SAMPLINGS:
            raise _refused(
                400, f"{sampling!r} is no sampling", f"Use one of {', '.join(_SAMPLINGS)}", "sampling"
            )
        data_fields(label_config)
        row = self._add(
            "projects",
            {
                "title": title,
                "label_config": label_config,
                "sampling": sampling,
                "maximum_annotations": maximum_annotations,
                "instruction": instruction,
                "description": description,
                "model_version": "",
                "created_at": self._now(),
            },
        )
        self._save()
        return self._project_row(row)

    def set_instruction(self, project_id: int, html: str) -> None:
        self._call("set_instruction")
        self._get("projects", project_id)["instruction"] = html
        self._save()

    def set_description(self, project_id: int, text: str) -> None:
        self._call("set_description")
        self._get("projects", project_id)["description"] = text
        self._save()

    def set_maximum_annotations(self, project_id: int, count: int) -> None:
        self._call("set_maximum_annotations")
        self._get("projects", project_id)["maximum_annotations"] = count
        for task in self._of("tasks", project=project_id):
            task["closed"] = False  # the server counts annotations anew
        self._save()

    def delete_project(self, project_id: int) -> None:
        self._call("delete_project")
        self._get("projects", project_id)
        self._delete_tasks([row["id"] for row in self._of("tasks", project=project_id)])
        for table in ("webhooks", "backends", "storages", "views"):
            for row in self._of(table, project=project_id):
                del self._db[table][str(row["id"])]
        del self._db["projects"][str(project_id)]
        self._save()

    # ---- tasks ----------------------------------------------------------------------------------------

    def tasks(self, project_id: int, *, changed_since: datetime | None = None) -> Iterator[TaskRow]:
        self._call("tasks")
        self._get("projects", project_id)
        rows = self._of("tasks", project=project_id)
        if changed_since is not None:
            rows = [row for row in rows if _time(row["updated_at"]) > changed_since]
        for row in sorted(rows, key=lambda row: (row["updated_at"], row["id"])):
            yield self._task_row(row)

    def task(self, task_id: int) -> TaskRow:
        self._call("task")
        return self._task_row(self._get("tasks", task_id))

    def task_ids(self, project_id: int) -> set[int]:
        self._call("task_ids")
        self._get("projects", project_id)
        return {row["id"] for row in self._of("tasks", project=project_id)}

    def task_times(self, project_id: int, *, after: int = 0, limit: int | None = None) -> dict[int, datetime]:
        self._call("task_times")
        self._get("projects", project_id)
        rows = sorted(self._of("tasks", project=project_id), key=lambda row: int(row["id"]))
        found = [(row["id"], _time(row["updated_at"])) for row in rows if row["id"] > after]
        return dict(found[:limit])

    def task_values(self, project_id: int, field: str) -> dict[str, int]:
        self._call("task_values")
        rows = self._of("tasks", project=project_id)
        return {str(row["data"][field]): row["id"] for row in rows if field in row["data"]}

    def task_data(self, project_id: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        self._call("task_data")
        self._get("projects", project_id)
        for row in sorted(self._of("tasks", project=project_id), key=lambda row: int(row["id"])):
            yield row["id"], copy.deepcopy(row["data"])

    def upload_images(
        self, project_id: int, paths: Sequence[Path], *, data: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        self._call("upload_images")
        field = data_fields(self._get("projects", project_id)["label_config"])[0]
        for path in paths:
            if not path.is_file():
                raise _refused(400, f"{path} is no file", "Check the folder of images", "images")
        further = data or [{}] * len(paths)
        rows = [{**more, field: str(path.resolve())} for path, more in zip(paths, further, strict=True)]
        return self._import(project_id, rows)

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        self._call("import_tasks")
        fields = data_fields(self._get("projects", project_id)["label_config"])
        for number, item in enumerate(data):
            for field in fields:
                if field not in item:
                    hint = "The label config shows it"
                    raise _refused(400, f"task {number} has no {field!r}", hint, f"data.{field}")
        return self._import(project_id, data)

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        self._call("delete_tasks")
        mine = {row["id"] for row in self._of("tasks", project=project_id)}
        self._delete_tasks([task for task in task_ids if task in mine])
        self._save()

    def set_task_data(self, task_id: int, data: Mapping[str, Any]) -> TaskRow:
        self._call("set_task_data")
        task = self._get("tasks", task_id)
        task["data"] = copy.deepcopy(dict(data))
        self._touch(task)
        return self._task_row(task)

    def close_task(self, task_id: int) -> TaskRow:
        self._call("close_task")
        task = self._get("tasks", task_id)
        task["closed"] = True
        self._touch(task)
        return self._task_row(task)

    # ---- predictions ----------------------------------------------------------------------------------

    def import_predictions(self, project_id: int, rows: Sequence[PredictionRow]) -> int:
        self._call("import_predictions")
        project = self._get("projects", project_id)
        PreparedPredictions(project["label_config"], rows).check()
        mine = {row["id"] for row in self._of("tasks", project=project_id)}
        unknown = sorted({row.task_id for row in rows} - mine)
        if unknown:
            raise _refused(400, f"tasks {unknown[:5]} are not in project {project_id}", "Pull again", "task")
        for row in rows:
            self._add(
                "predictions",
                {
                    "project": project_id,
                    "task": row.task_id,
                    "result": [dict(item) for item in row.result],
                    "score": float(row.score),
                    "model_version": row.model_version,
                },
            )
        self._save()
        return len(rows)

    def predicted_tasks(self, project_id: int, model_version: str) -> set[int]:
        self._call("predicted_tasks")
        rows = self._of("predictions", project=project_id)
        return {row["task"] for row in rows if row["model_version"] == model_version}

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        self._call("prediction_versions")
        counts: dict[str, int] = {}
        for row in self._of("predictions", project=project_id):
            counts[row["model_version"]] = counts.get(row["model_version"], 0) + 1
        return counts

    def set_model_version(self, project_id: int, model_version: str) -> None:
        self._call("set_model_version")
        project = self._get("projects", project_id)
        known = {row["model_version"] for row in self._of("predictions", project=project_id)}
        known |= {row["title"] for row in self._of("backends", project=project_id)}
        if model_version and model_version not in known:
            raise _refused(
                400,
                f"model version {model_version!r} has no predictions",
                "Push its rows first",
                "model_version",
            )
        project["model_version"] = model_version
        self._save()

    def replace_prediction(self, project_id: int, row: PredictionRow) -> None:
        self._call("replace_prediction")
        PreparedPredictions(self._get("projects", project_id)["label_config"], [row]).check()
        found = [
            one
            for one in self._of("predictions", task=row.task_id)
            if one["model_version"] == row.model_version
        ]
        if not found:
            self.import_predictions(project_id, [row])
            return
        found[0]["result"], found[0]["score"] = [dict(item) for item in row.result], float(row.score)
        for double in found[1:]:
            del self._db["predictions"][str(double["id"])]
        self._save()

    def delete_predictions(self, project_id: int, model_version: str) -> int:
        self._call("delete_predictions")
        project = self._get("projects", project_id)
        rows = [r for r in self._of("predictions", project=project_id) if r["model_version"] == model_version]
        for row in rows:
            del self._db["predictions"][str(row["id"])]
        backends = {row["title"] for row in self._of("backends", project=project_id)}
        if project["model_version"] == model_version or project["model_version"] in backends:
            project["model_version"] = ""
        self._save()
        return len(rows)

    def predictions(self, task_id: int) -> list[PredictionRow]:
        """All predictions of a task, in id order (for tests)."""
        rows = self._of("predictions", task=task_id)
        return [PredictionRow(r["task"], r["result"], r["score"], r["model_version"]) for r in rows]

    # ---- annotations ----------------------------------------------------------------------------------

    def create_annotation(
        self,
        task_id: int,
        result: Sequence[Mapping[str, Any]],
        *,
        lead_time_s: float | None = None,
        was_cancelled: bool = False,
    ) -> AnnotationRow:
        self._call("create_annotation")
        return self._new_annotation(task_id, result, lead_time=lead_time_s, was_cancelled=was_cancelled)

    def _new_annotation(
        self, task_id: int, result: Sequence[Mapping[str, Any]], **fields: Any
    ) -> AnnotationRow:
        task = self._get("tasks", task_id)
        now = self._now()
        row = self._add(
            "annotations",
            {
                "project": task["project"],
                "task": task_id,
                "result": copy.deepcopy([dict(item) for item in result]),
                "ground_truth": False,
                "completed_by": self._user,
                "created_at": now,
                "updated_at": now,
                "was_cancelled": False,
                "lead_time": None,
                **fields,
            },
        )
        task["locks"] = [user for user in task["locks"] if user != self._user]
        task["closed"] = False  # the server counts annotations anew
        self._touch(task)
        return self._annotation_row(row)

    def update_annotation(self, annotation_id: int, result: Sequence[Mapping[str, Any]]) -> AnnotationRow:
        self._call("update_annotation")
        row = self._get("annotations", annotation_id)
        row["result"] = copy.deepcopy([dict(item) for item in result])
        row["updated_at"] = self._now()
        self._touch(self._get("tasks", row["task"]))
        return self._annotation_row(row)

    def import_annotations(self, rows: Sequence[ImportedAnnotation]) -> int:
        return sum(self._import_annotation(row) for row in rows)

    def _import_annotation(self, row: ImportedAnnotation) -> int:
        self._call("import_annotation")
        if row.annotation_id is not None:
            self._get("annotations", row.annotation_id)["import_id"] = row.import_id
            self.update_annotation(row.annotation_id, row.result)
            return 1
        if any(one.get("unique_id") == row.key for one in self._db["annotations"].values()):
            return 0
        self._new_annotation(row.task_id, row.result, import_id=row.import_id, unique_id=row.key)
        return 1

    def create_persons_annotation(self, row: PersonsAnnotation) -> int:
        self._call("create_persons_annotation")
        with self._one_at_a_time:
            return self._create_persons_annotation(row)

    def _create_persons_annotation(self, row: PersonsAnnotation) -> int:
        if str(row.completed_by) not in self._db["users"]:
            raise _refused(400, f"user {row.completed_by} does not exist", "Sign them up", "completed_by")
        held = [one for one in self._db["annotations"].values() if one.get("unique_id") == row.key]
        if held:
            if (held[0]["task"], held[0]["completed_by"]) != (row.task_id, row.completed_by):
                raise _refused(409, "the key is another annotation's", "Use another", "unique_id")
            self.replace_persons_annotation(held[0]["id"], row)
            return int(held[0]["id"])
        return self._new_annotation(
            row.task_id,
            row.result,
            lead_time=row.lead_time_s,
            was_cancelled=row.was_cancelled,
            completed_by=row.completed_by,
            unique_id=row.key,
        ).id

    def replace_persons_annotation(self, annotation_id: int, row: PersonsAnnotation) -> None:
        self._call("replace_persons_annotation")
        held = self._get("annotations", annotation_id)
        held["lead_time"], held["was_cancelled"] = row.lead_time_s, row.was_cancelled
        held["result"] = copy.deepcopy([dict(item) for item in row.result])
        held["updated_at"] = self._now()
        self._touch(self._get("tasks", held["task"]))

    def annotation_of(self, task_id: int, user: int) -> int | None:
        self._call("annotation_of")
        self._get("tasks", task_id)
        rows = [row for row in self._of("annotations", task=task_id) if row["completed_by"] == user]
        return max((int(row["id"]) for row in rows), default=None)

    def delete_annotation(self, annotation_id: int) -> None:
        self._call("delete_annotation")
        row = self._get("annotations", annotation_id)
        del self._db["annotations"][str(annotation_id)]
        self._touch(self._get("tasks", row["task"]))

    def next_task(self, project_id: int) -> TaskRow | None:
        self._call("next_task")
        project = self._get("projects", project_id)
        annotations = self._of("annotations", project=project_id)
        mine = {row["task"] for row in annotations if row["completed_by"] == self._user}
        open_tasks = [
            row
            for row in self._of("tasks", project=project_id)
            if row["id"] not in mine and not self._is_labeled(row)
        ]
        chosen = self._choose(project, open_tasks)
        if chosen is None:
            return None
        if self._user not in chosen["locks"]:
            chosen["locks"].append(self._user)
        self._save()
        return self._task_row(chosen)

    # ---- connections and users ------------------------------------------------------------------------

    def connect_backend(
        self, project_id: int, url: str, *, title: str, basic_auth: tuple[str, str] | None
    ) -> int:
        self._call("connect_backend")
        project = self._get("projects", project_id)
        for row in self._of("backends", project=project_id):
            if row["url"] == url:
                row["basic_auth"] = basic_auth
                return int(row["id"])
        new = self._add(
            "backends", {"project": project_id, "url": url, "title": title, "basic_auth": basic_auth}
        )
        if not project["model_version"]:
            project["model_version"] = title
        self._save()
        return int(new["id"])

    def ensure_webhook(self, project_id: int, url: str, *, secret: str) -> int:
        self._call("ensure_webhook")
        self._get("projects", project_id)
        for row in self._of("webhooks", project=project_id):
            if row["url"] == url:
                row["secret"] = secret
                self._save()
                return int(row["id"])
        new = self._add("webhooks", {"project": project_id, "url": url, "secret": secret})
        self._save()
        return int(new["id"])

    def disconnect(self, project_id: int, url: str, *, title: str) -> int:
        self._call("disconnect")
        self._get("projects", project_id)
        ours = [
            (table, str(row["id"]))
            for table in ("backends", "webhooks")
            for row in self._of(table, project=project_id)
            if table == "webhooks" or row["url"] == url or row["title"] == title
        ]
        for table, number in ours:
            del self._db[table][number]
        self._save()
        return len(ours)

    def ensure_local_files(self, project_id: int, folder: Path) -> int:
        self._call("ensure_local_files")
        self._get("projects", project_id)
        for row in self._of("storages", project=project_id):
            if folder.resolve().is_relative_to(row["path"]):
                return int(row["id"])
        new = self._add("storages", {"project": project_id, "path": str(folder.resolve())})
        self._save()
        return int(new["id"])

    def ensure_storage(self, project_id: int, kind: str, fields: Mapping[str, Any]) -> int:
        self._call("ensure_storage")
        self.check_storage(project_id, kind, fields)
        place = _place(kind, fields)
        for row in self._of("storages", project=project_id):
            if row.get("place") == place:
                if row["fields"].get("title", "") == fields.get("title", ""):
                    row["fields"] = dict(fields)
                return int(row["id"])
        row = self._add(
            "storages", {"project": project_id, "kind": kind, "place": place, "fields": dict(fields)}
        )
        self._save()
        return int(row["id"])

    def check_storage(self, project_id: int, kind: str, fields: Mapping[str, Any]) -> None:
        self._call("check_storage")
        self._get("projects", project_id)
        if not any(address.startswith(_place(kind, fields)) for address in self.bucket_objects):
            raise _refused(400, f"{_place(kind, fields)} not found", "Is there such a bucket?", "bucket")

    def sync_storage(self, kind: str, storage_id: int) -> int:
        self._call("sync_storage")
        row = self._get("storages", storage_id)
        field = data_fields(self._get("projects", row["project"])["label_config"])[0]
        held = {task["data"].get(field) for task in self._of("tasks", project=row["project"])}
        found = [
            address
            for address in self.bucket_objects
            if address.startswith(row["place"]) and re.match(row["fields"]["regex_filter"], address)
        ]
        fresh = [{field: address} for address in found if address not in held]
        self._import(row["project"], fresh)
        return len(fresh)

    def add_person(self, email: str, name: str) -> int:
        self._call("add_person")
        if any(row["email"] == email for row in self._db["users"].values()):
            raise _refused(409, f"there is a user {email}", "Use another e-mail", "email")
        row = self._add("users", {"email": email, "first_name": name})
        self._save()
        return int(row["id"])

    def users(self) -> list[UserRow]:
        self._call("users")
        rows = self._db["users"].values()
        return [UserRow(int(row["id"]), str(row.get("first_name", "")), str(row["email"])) for row in rows]

    def user_names(self) -> dict[int, str]:
        """Names of users by number (for tests)."""
        return {row["id"]: str(row.get("first_name", "")) for row in self._db["users"].values()}

    def views(self, project_id: int) -> list[ViewRow]:
        self._call("views")
        self._get("projects", project_id)
        rows = self._of("views", project=project_id)
        return [ViewRow(row["id"], row["data"].get("title", ""), copy.deepcopy(row["data"])) for row in rows]

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> ViewRow:
        self._call("create_view")
        self._get("projects", project_id)
        row = self._add("views", {"project": project_id, "data": copy.deepcopy(dict(data))})
        self._save()
        return ViewRow(row["id"], row["data"].get("title", ""), copy.deepcopy(row["data"]))

    def change_view(self, project_id: int, view_id: int, data: Mapping[str, Any]) -> None:
        self._call("change_view")
        self._get("views", view_id)["data"] = copy.deepcopy(dict(data))
        self._save()

    def delete_view(self, project_id: int, view_id: int) -> None:
        self._call("delete_view")
        self._get("views", view_id)
        del self._db["views"][str(view_id)]
        self._save()

    def as_user(self, email: str, password: str) -> StudioClient:
        self._call("as_user")
        if not any(row["email"] == email for row in self._db["users"].values()):
            self._add("users", {"email": email})
            self._save()
        other = copy.copy(self)  # the same tables, another name at the door
        other._user = self._user_id(email)
        return other

    # ---- the rules ------------------------------------------------------------------------------------

    def _choose(self, project: Row, tasks: list[Row]) -> Row | None:
        for row in tasks:
            if self._user in row["locks"]:
                return row
        overlap = project["maximum_annotations"]
        free = [row for row in tasks if len(row["locks"]) + self._done(row) < overlap]
        if overlap > 1:
            most = max((self._done(row) for row in tasks), default=0)
            started = [row for row in free if most and self._done(row) == most]
            if started:
                return self._random.choice(started)
        if not free:
            return None
        if project["sampling"] == "Sequential sampling":
            return free[0]
        if project["sampling"] == "Uncertainty sampling":
            version = project["model_version"]
            scores = [
                (row["score"], row["id"], row["task"])
                for row in self._of("predictions", project=project["id"])
                if row["model_version"] == version
            ]
            candidates = {row["id"] for row in tasks}
            if any(task in candidates for _, _, task in scores):
                by_id = {row["id"]: row for row in free}
                ordered = [by_id[task] for _, _, task in sorted(scores) if task in by_id]
                return ordered[0] if ordered else None
        return self._random.choice(free)

    def _done(self, task: Row) -> int:
        return sum(not row["was_cancelled"] for row in self._of("annotations", task=task["id"]))

    def _is_labeled(self, task: Row) -> bool:
        return bool(task.get("closed")) or self._done(task) >= int(
            self._get("projects", task["project"])["maximum_annotations"]
        )

    def _import(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        ids = []
        for item in data:
            now = self._now()
            row = self._add(
                "tasks",
                {"project": project_id, "data": copy.deepcopy(dict(item)), "updated_at": now, "locks": []},
            )
            ids.append(int(row["id"]))
        self._save()
        return ids

    def _delete_tasks(self, ids: Sequence[int]) -> None:
        gone = set(ids)
        for table in ("annotations", "predictions"):
            self._db[table] = {k: row for k, row in self._db[table].items() if row["task"] not in gone}
        for task in gone:
            del self._db["tasks"][str(task)]

    # ---- tables ---------------------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        if self.before_call is not None:
            self.before_call(name)

    def _now(self) -> str:
        self._shared["last"] = max(datetime.now(UTC), self._shared["last"] + timedelta(microseconds=1))
        return str(self._shared["last"].isoformat(timespec="microseconds"))

    def _add(self, table: str, row: Row) -> Row:
        row["id"] = self._shared["next_id"]
        self._shared["next_id"] += 1
        self._db[table][str(row["id"])] = row
        return row

    def _get(self, table: str, row_id: int) -> Row:
        row = self._db[table].get(str(row_id))
        if row is None:
            raise _refused(404, f"there is no {table[:-1]} {row_id}", "It may have been deleted", table[:-1])
        return row

    def _of(self, table: str, **where: int) -> list[Row]:
        ((column, value),) = where.items()
        return [row for row in self._db[table].values() if row[column] == value]

    def _user_id(self, email: str) -> int:
        return next(int(row["id"]) for row in self._db["users"].values() if row["email"] == email)

    def _touch(self, task: Row) -> None:
        task["updated_at"] = self._now()
        self._save()

    def _project_row(self, row: Row) -> ProjectRow:
        created = int(_time(row["created_at"]).timestamp())
        return ProjectRow(
            id=row["id"],
            title=row["title"],
            label_config=row["label_config"],
            model_version=row["model_version"],
            key=f"{row['id']}.{created}",
            task_number=len(self._of("tasks", project=row["id"])),
            description=row["description"],
            maximum_annotations=row["maximum_annotations"],
            instruction=row["instruction"],
        )

    def _task_row(self, row: Row) -> TaskRow:
        return TaskRow(
            id=row["id"],
            project_id=row["project"],
            data=copy.deepcopy(row["data"]),
            updated_at=_time(row["updated_at"]),
            is_labeled=self._is_labeled(row),
            annotations=tuple(self._annotation_row(a) for a in self._of("annotations", task=row["id"])),
        )

    def _annotation_row(self, row: Row) -> AnnotationRow:
        return AnnotationRow(
            id=row["id"],
            task_id=row["task"],
            result=tuple(copy.deepcopy(row["result"])),
            was_cancelled=row["was_cancelled"],
            ground_truth=row["ground_truth"],
            completed_by=row["completed_by"],
            created_at=_time(row["created_at"]),
            updated_at=_time(row["updated_at"]),
            lead_time_s=row["lead_time"],
            import_id=row.get("import_id"),
        )

    def _save(self) -> None:
        if self._path is None:
            return
        state = {
            "db": self._db,
            "next_id": self._shared["next_id"],
            "last": self._shared["last"].isoformat(timespec="microseconds"),
        }
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, self._path)

    def _load(self, path: Path) -> None:
        state = json.loads(path.read_text())
        self._db.update(state["db"])  # an older file lacks tables that came later
        self._shared["next_id"] = state["next_id"]
        self._shared["last"] = _time(state["last"])


def _place(kind: str, fields: Mapping[str, Any]) -> str:
    scheme = {"s3": "s3", "gcs": "gs", "azure": "azure-blob"}[kind]
    return f"{scheme}://{fields.get('bucket') or fields.get('container')}/{fields.get('prefix', '')}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _refused(status: int, message: str, hint: str, field: str) -> StudioError:
    return StudioError(message, hint=hint, field=field, status=status)
