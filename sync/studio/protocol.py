"""The calls to Label Studio that the worker needs, as one protocol and its types.

Two implementations pass the same contract tests: ``Studio`` (SDK and REST calls to a real server) and the
tests' ``FakeStudio`` (in memory).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "DIGEST_FIELD",
    "PATH_FIELD",
    "AnnotationRow",
    "ImportedAnnotation",
    "PersonsAnnotation",
    "PredictionRow",
    "ProjectRow",
    "StudioClient",
    "TaskRow",
    "UserRow",
    "ViewRow",
]

PATH_FIELD = "groundswell_path"
"""field of a task's data: path of its picture relative to the folder that was given, unique in the project"""
DIGEST_FIELD = "groundswell_digest"
"""field of a task's data: digest of an uploaded picture"""


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A Label Studio project. ``key`` is ``<id>.<created unix seconds>``, its stable name in the backend.

    ``maximum_annotations`` is how many people are served each task; ``instruction`` the HTML that they read
    before the first one.
    """

    id: int
    title: str
    label_config: str
    model_version: str
    key: str
    task_number: int
    description: str = ""
    maximum_annotations: int = 1
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """One person's result on a task. ``was_cancelled`` is a skip; times are aware UTC.

    ``import_id`` is the number that an import gave it, None for annotations that were made here.
    """

    id: int
    task_id: int
    result: tuple[Mapping[str, Any], ...]
    was_cancelled: bool
    ground_truth: bool
    completed_by: int | None
    created_at: datetime
    updated_at: datetime
    lead_time_s: float | None
    import_id: int | None = None


@dataclass(frozen=True, slots=True)
class ImportedAnnotation:
    """An annotation that was made elsewhere.

    Label Studio holds one annotation of a ``key`` (a UUID) and keeps ``import_id`` with it. ``annotation_id``
    is the annotation to replace, None to make one.
    """

    task_id: int
    result: Sequence[Mapping[str, Any]]
    key: str
    import_id: int
    annotation_id: int | None = None


@dataclass(frozen=True, slots=True)
class PersonsAnnotation:
    """What a person answered elsewhere than in Label Studio, to be stored as theirs.

    Label Studio holds one annotation of a ``key`` (a UUID). ``completed_by`` is the number of their user.
    """

    task_id: int
    result: Sequence[Mapping[str, Any]]
    key: str
    completed_by: int
    lead_time_s: float
    was_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task with all its annotations (drafts and predictions left out)."""

    id: int
    project_id: int
    data: Mapping[str, Any]
    updated_at: datetime
    is_labeled: bool
    annotations: tuple[AnnotationRow, ...]


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """A prediction to import; ``score`` in 0..1, low = served first under uncertainty sampling."""

    task_id: int
    result: Sequence[Mapping[str, Any]]
    score: float
    model_version: str


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user of Label Studio; ``name`` is empty where they gave none."""

    id: int
    name: str
    email: str


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A tab of the Data Manager; ``data`` is what Label Studio keeps of it (title, filters, order, …)."""

    id: int
    title: str
    data: Mapping[str, Any]


class StudioClient(Protocol):
    """All calls raise StudioError (with the HTTP status) when Label Studio refuses or cannot be reached."""

    def server_time(self) -> datetime | None:
        """What the server's clock said in its last answer to this client, at most; None before the first.

        Sends nothing. A request made after this call is answered later than the time that it returns.
        """
        ...

    def project(self, project_id: int) -> ProjectRow: ...

    def projects(self) -> list[ProjectRow]: ...

    def create_project(
        self,
        title: str,
        label_config: str,
        *,
        sampling: str = "Uncertainty sampling",
        maximum_annotations: int = 1,
        instruction: str = "",
        description: str = "",
    ) -> ProjectRow: ...

    def set_instruction(self, project_id: int, html: str) -> None: ...

    def set_description(self, project_id: int, text: str) -> None: ...

    def set_maximum_annotations(self, project_id: int, count: int) -> None:
        """How many people are served each task, also for the tasks that are there.

        Label Studio then counts anew which tasks are finished: closed tasks may be served again.
        """
        ...

    def delete_project(self, project_id: int) -> None: ...

    def tasks(self, project_id: int, *, changed_since: datetime | None = None) -> Iterator[TaskRow]:
        """Tasks with annotations, oldest change first; all of them when ``changed_since`` is None.

        May yield tasks whose annotations did not change (compare per annotation). Deleted tasks do not
        appear: compare with ``task_ids``.
        """
        ...

    def task(self, task_id: int) -> TaskRow: ...

    def task_ids(self, project_id: int) -> set[int]:
        """Ids of all tasks of the project, cheaply."""
        ...

    def task_times(self, project_id: int, *, after: int = 0, limit: int | None = None) -> dict[int, datetime]:
        """For the tasks of the project the time of their last change, without data or annotations.

        In the order of ids: those above ``after``, at most ``limit``.
        """
        ...

    def task_values(self, project_id: int, field: str) -> dict[str, int]:
        """For every task whose data has ``field``: value (str) → task id. Used to find keyed review tasks."""
        ...

    def task_data(self, project_id: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Id and data of every task, in the order of ids, without annotations."""
        ...

    def upload_images(
        self, project_id: int, paths: Sequence[Path], *, data: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Upload image files, each as one task; returns the ids of the tasks in order.

        ``data``: further fields of each task's data, one mapping per path; empty: none.
        """
        ...

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Create tasks from data objects; returns their ids in order."""
        ...

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None: ...

    def set_task_data(self, task_id: int, data: Mapping[str, Any]) -> TaskRow:
        """Replace the data of a task; its annotations stay. Returns the task as it is then."""
        ...

    def close_task(self, task_id: int) -> TaskRow:
        """Serve a task to nobody any more; its annotations stay. Returns the task as it is then.

        A person who has it open already may still submit. A skip of it opens it again.
        """
        ...

    def import_predictions(self, project_id: int, rows: Sequence[PredictionRow]) -> int:
        """Bulk import; raises StudioError when Label Studio kept fewer rows than were sent."""
        ...

    def predicted_tasks(self, project_id: int, model_version: str) -> set[int]:
        """Ids of tasks that hold a prediction of exactly this version."""
        ...

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        """Model versions that have predictions in the project, with their number of rows."""
        ...

    def set_model_version(self, project_id: int, model_version: str) -> None:
        """Make this version the one that is shown and sampled by (it must have predictions)."""
        ...

    def replace_prediction(self, project_id: int, row: PredictionRow) -> None:
        """Make ``row`` the one prediction of its task under its version; adds it when there is none.

        An existing one is changed in place, so nobody sees the task without it or with two.
        """
        ...

    def delete_predictions(self, project_id: int, model_version: str) -> int: ...

    def create_annotation(
        self,
        task_id: int,
        result: Sequence[Mapping[str, Any]],
        *,
        lead_time_s: float | None = None,
        was_cancelled: bool = False,
    ) -> AnnotationRow: ...

    def import_annotations(self, rows: Sequence[ImportedAnnotation]) -> int:
        """Store annotations that were made elsewhere; returns how many were written.

        One whose key Label Studio holds already is not made again.
        """
        ...

    def create_persons_annotation(self, row: PersonsAnnotation) -> int:
        """Store an annotation as that of the user it names; returns its number.

        When Label Studio holds the key already, that annotation gets this content. So a call that may or may
        not have arrived can be made again.
        """
        ...

    def replace_persons_annotation(self, annotation_id: int, row: PersonsAnnotation) -> None:
        """Give an annotation this content; the user whose it is stays. StudioError 404 when it is gone."""
        ...

    def annotation_of(self, task_id: int, user: int) -> int | None:
        """Number of the newest annotation (or skip) of a user on a task, None when there is none."""
        ...

    def delete_annotation(self, annotation_id: int) -> None: ...

    def next_task(self, project_id: int) -> TaskRow | None:
        """The task Label Studio would serve to this user next (takes a lock), None when nothing is left."""
        ...

    def views(self, project_id: int) -> list[ViewRow]:
        """The tabs of the project's Data Manager, in order."""
        ...

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> ViewRow:
        """Add a tab; ``data`` holds ``title``, ``filters``, ``ordering``, … as Label Studio keeps them."""
        ...

    def change_view(self, project_id: int, view_id: int, data: Mapping[str, Any]) -> None:
        """Replace what a tab shows."""
        ...

    def delete_view(self, project_id: int, view_id: int) -> None: ...

    def connect_backend(
        self, project_id: int, url: str, *, title: str, basic_auth: tuple[str, str] | None
    ) -> int:
        """Connect the ML backend once (idempotent); removes the webhook Label Studio adds by itself."""
        ...

    def ensure_webhook(self, project_id: int, url: str, *, secret: str) -> int:
        """One webhook with the header X-Groundswell-Secret for annotation and task events (idempotent)."""
        ...

    def disconnect(self, project_id: int, url: str, *, title: str) -> int:
        """Remove our ML backend (by ``url`` or ``title``) and our webhooks; returns how many were removed.

        Nothing else of the project changes: tasks, annotations and predictions stay.
        """
        ...

    def ensure_local_files(self, project_id: int, folder: Path) -> int:
        """A local-files storage row that covers ``folder`` (idempotent)."""
        ...

    def ensure_storage(self, project_id: int, kind: str, fields: Mapping[str, Any]) -> int:
        """A storage of kind ``s3``, ``gcs`` or ``azure`` for this bucket and prefix (idempotent).

        One of the same title gets the new fields; one of another title is a person's, and stays as it is.
        Label Studio tries the bucket first.
        """
        ...

    def check_storage(self, project_id: int, kind: str, fields: Mapping[str, Any]) -> None:
        """Let Label Studio try a bucket, without storing anything."""
        ...

    def sync_storage(self, kind: str, storage_id: int) -> int:
        """Make tasks of the objects that have none; how many objects Label Studio took."""
        ...

    def users(self) -> list[UserRow]:
        """All users whom this user may see."""
        ...

    def add_person(self, email: str, name: str) -> int:
        """Number of a new user of this name, who can never log in: nobody keeps the password.

        Raises StudioError when there is a user with this e-mail already.
        """
        ...

    def as_user(self, email: str, password: str) -> StudioClient:
        """A client for another user, created through the invite link when not there yet."""
        ...
