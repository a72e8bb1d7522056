"""Where imported labels go: predictions under a version, or annotations that an import may bring up to date.

How an imported annotation is known: Label Studio keeps a number with it (``import_id``), which is a digest of
what was imported. When a person has changed it since, the digest does not fit any more.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from ml_backend.label_studio.label_config import LabelConfig
from sync.exchange.import_regions import Converted
from sync.exchange.import_report import ProblemFile
from sync.exchange.readers.rows import Problem
from sync.studio.protocol import (
    AnnotationRow,
    ImportedAnnotation,
    PredictionRow,
    StudioClient,
    TaskRow,
)

__all__ = [
    "Annotations",
    "As",
    "ImportPlan",
    "Predictions",
    "Ready",
    "digest_of_result",
    "labels_of",
    "merged",
]

As = Literal["annotations", "predictions"]
_NAMESPACE: Final = uuid.UUID("6f6d5a0e-5f4e-4f6c-9a53-67726f756e64")
_UNKNOWN_SCORE: Final = 0.5
"""score of a prediction whose file gives none"""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """How labels are brought in.

    Attributes
    ----------
    format : name of the format, for the report
    kind : ``annotations`` (finished work) or ``predictions``
    version : model version of predictions
    keep_rest : bring in the good rows of a picture of which another row was rejected. For annotations the
        picture is held back otherwise: a finished picture without one of its objects teaches a model that
        the object is background.
    dry_run : change nothing
    """

    format: str
    kind: As = "annotations"
    version: str = ""
    keep_rest: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """A picture whose rows fit: the task, and what to store."""

    task: int
    made: Converted


def digest_of_result(result: Sequence[Mapping[str, Any]]) -> int:
    """A number below 2^63 that follows from what a result holds, in whatever order."""
    text = "\n".join(sorted(json.dumps(item, sort_keys=True, separators=(",", ":")) for item in result))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def labels_of(item: Mapping[str, Any], config: LabelConfig) -> list[str]:
    """The project's labels that a result holds."""
    control = config.control(str(item["from_name"]))
    if control is None or control.label_tag:  # the result of its Labels tag says it
        return []
    found = [str(label) for label in item["value"][control.value_key]]
    if control.type != "choices":
        return found
    target = next(t for t in config.targets if t.tags is not None and t.tags.name == control.name)
    return [target.label_of(label) for label in found]


class Predictions:
    """Predictions under one model version: tasks that hold one of it are done."""

    gave_way: int = 0
    """predictions stand beside what people did"""

    def __init__(self, studio: StudioClient, project_id: int, plan: ImportPlan) -> None:
        self._studio, self._project_id, self._plan = studio, project_id, plan
        self._there = studio.predicted_tasks(project_id, plan.version)

    def store(self, batch: Sequence[Ready]) -> Counter[str]:
        fresh = [one for one in batch if one.task not in self._there]
        rows = [
            PredictionRow(
                one.task,
                one.made.result,
                _UNKNOWN_SCORE if one.made.score is None else round(one.made.score, 4),
                self._plan.version,
            )
            for one in fresh
        ]
        if rows and not self._plan.dry_run:
            self._studio.import_predictions(self._project_id, rows)
        return Counter(created=len(fresh), there=len(batch) - len(fresh))

    def show(self) -> bool:
        """Show them where nothing else is shown; whether they are shown."""
        shown = self._studio.project(self._project_id).model_version
        if not shown and not self._plan.dry_run:
            if self._plan.version in self._studio.prediction_versions(self._project_id):
                self._studio.set_model_version(self._project_id, self._plan.version)
                return True
            return False
        return shown == self._plan.version


@dataclass(frozen=True, slots=True)
class _Held:
    """The annotation of a task: its number, and the digest it was imported with; None: a person's."""

    id: int
    digest: int | None


class Annotations:
    """Annotations: one per task, made or brought up to date by the import, never one of a person.

    People go on while an import runs. Label Studio has no call that stores something only where nothing is,
    so an annotation that was made beside one that a person submitted in the same seconds is taken back.
    ``gave_way`` counts these.
    """

    def __init__(
        self,
        studio: StudioClient,
        project_id: int,
        config: LabelConfig,
        plan: ImportPlan,
        spoken: frozenset[str],
        problems: ProblemFile,
        name_of: Mapping[int, str],
    ) -> None:
        self._studio, self._config, self._plan, self._spoken = studio, config, plan, spoken
        self._problems, self._name_of = problems, name_of
        self._key = studio.project(project_id).key
        self._project_id = project_id
        self._held: dict[int, _Held] = {}
        self._seen: datetime | None = None
        self._fresh: dict[int, int] = {}
        self.gave_way = 0

    def store(self, batch: Sequence[Ready]) -> Counter[str]:
        self._look()
        done: Counter[str] = Counter()
        rows = []
        for one in batch:
            what, row = self._compare(one)
            done[what] += 1
            if row is None or self._plan.dry_run:
                continue
            if row.annotation_id is None:
                rows.append(row)
                self._fresh[row.task_id] = row.import_id
            else:  # at once: whatever a person changes between the comparison and this would be lost
                self._studio.import_annotations([row])
        if rows:
            self._studio.import_annotations(rows)
        return done

    def show(self) -> bool:
        """Annotations need no version to be shown. Called at the end."""
        if self._fresh:
            self._look()
        return True

    def _look(self) -> None:
        """What tasks hold now, as far as it changed since: people go on while an import runs."""
        fresh, self._fresh = self._fresh, {}
        for row in self._studio.tasks(self._project_id, changed_since=self._seen):
            self._seen = row.updated_at if self._seen is None else max(self._seen, row.updated_at)
            if row.id in fresh:
                self._give_way(row, fresh[row.id])
            found = _held(row.annotations)
            if found is None:
                self._held.pop(row.id, None)
            else:
                self._held[row.id] = found

    def _give_way(self, task: TaskRow, digest: int) -> None:
        """Take back what was just made on a task that a person finished in the same seconds."""
        mine = [row for row in task.annotations if _is_unchanged(row) and row.import_id == digest]
        persons = [row for row in task.annotations if row.import_id is None and not row.was_cancelled]
        if mine and persons:
            self._studio.delete_annotation(mine[0].id)
            self.gave_way += 1
            self._say_untouched(task.id)

    def _compare(self, one: Ready) -> tuple[str, ImportedAnnotation | None]:
        digest = digest_of_result(one.made.result)
        held = self._held.get(one.task)
        key = str(uuid.uuid5(_NAMESPACE, f"{self._key}:{one.task}"))
        if held is None:
            return "created", ImportedAnnotation(one.task, one.made.result, key, digest)
        if held.digest == digest:
            return "there", None
        if held.digest is None:
            return self._untouched(one)
        there = self._studio.task(one.task).annotations
        if _held(there) != held:  # changed a moment ago
            return self._untouched(one)
        result = merged(_held_result(there, held.id), one.made, self._spoken, self._config)
        digest = digest_of_result(result)
        if digest == held.digest:
            return "there", None
        return "updated", ImportedAnnotation(one.task, result, key, digest, held.id)

    def _untouched(self, one: Ready) -> tuple[str, None]:
        self._say_untouched(one.task)
        return "untouched", None

    def _say_untouched(self, task: int) -> None:
        reason = f"a person has annotated task {task}: it stays as it is"
        self._problems.add(Problem("left out", "", "", "task", reason, self._name_of.get(task, "")))


def merged(
    now: Sequence[Mapping[str, Any]], made: Converted, spoken: frozenset[str], config: LabelConfig
) -> list[dict[str, Any]]:
    """What an imported annotation holds after another import.

    Regions of labels that the file speaks of make room for its own; choices of a tag make room where the file
    names one of them.
    """
    replaced = spoken | made.labels
    chosen = {str(item["from_name"]) for item in made.result if item["type"] == "choices"}
    gone = {
        str(item["id"])
        for item in now
        if item.get("id") and item.get("type") != "choices" and set(labels_of(item, config)) & replaced
    }  # a shape and its label may be two results of one id
    kept = []
    for item in now:
        if item.get("type") == "choices":
            if item["from_name"] not in chosen:
                kept.append(dict(item))
        elif str(item.get("id", "")) not in gone and not set(labels_of(item, config)) & replaced:
            kept.append(dict(item))
    ids = {item.get("id") for item in kept}
    return [*kept, *(dict(item) for item in made.result if item.get("id") not in ids)]


def _held(annotations: Sequence[AnnotationRow]) -> _Held | None:
    """What counts among the annotations of a task: skips do not, but for one of an imported annotation."""
    found = [row for row in annotations if not row.was_cancelled or row.import_id is not None]
    if not found:
        return None
    if len(found) == 1 and _is_unchanged(found[0]):
        return _Held(found[0].id, found[0].import_id)
    return _Held(found[0].id, None)


def _is_unchanged(row: AnnotationRow) -> bool:
    """Whether an import made it and nobody has changed or skipped it since."""
    return row.import_id == digest_of_result(row.result) and not row.was_cancelled


def _held_result(annotations: Sequence[AnnotationRow], number: int) -> Sequence[Mapping[str, Any]]:
    return next((row.result for row in annotations if row.id == number), ())
