"""Bring labels that were made elsewhere into a project: as finished work, or as predictions.

The import compares and adds what is missing, so it may be killed anywhere and run again, and a second run
changes nothing. What a person has annotated stays as it is. An annotation that an earlier import made is
brought up to date: labels that the file speaks of are replaced, others stay, so that boxes from one file and
classes from another end up in one annotation.

How an imported annotation is known: Label Studio keeps a number with it (``import_id``), which is a digest of
what was imported. When a person has changed it since, the digest does not fit any more.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.exchange.file_names import TaskPicture
from sync.exchange.import_regions import Converted, LabelNames, convert
from sync.exchange.import_report import ImportReport, ProblemFile
from sync.exchange.local_pictures import LocalPictures
from sync.exchange.readers.png import picture_hw
from sync.exchange.readers.rows import PictureRows, Problem, Reader
from sync.exchange.task_names import TaskNames
from sync.studio.protocol import (
    PATH_FIELD,
    AnnotationRow,
    ImportedAnnotation,
    PredictionRow,
    StudioClient,
)

__all__ = ["As", "ImportPlan", "digest_of_result", "import_labels"]

As = Literal["annotations", "predictions"]
_BATCH: Final = 200
_NAMESPACE: Final = uuid.UUID("6f6d5a0e-5f4e-4f6c-9a53-67726f756e64")
_UNKNOWN_SCORE: Final = 0.5
"""score of a prediction whose file gives none"""
Progress = Callable[[int, str], None]


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
class _Ready:
    """A picture whose rows fit: the task, and what to store."""

    task: int
    made: Converted


def import_labels(
    studio: StudioClient,
    project_id: int,
    config: LabelConfig,
    images: ImageStore,
    reader: Reader,
    names: LabelNames,
    plan: ImportPlan,
    problems: ProblemFile,
    *,
    pictures: Path | None = None,
    coming: Sequence[str] = (),
    progress: Progress = lambda done, line: None,
) -> ImportReport:
    """Read everything and store what is missing in the project.

    ``pictures`` is the folder of the pictures, for their sizes; without it sizes come from the files, and
    where they do not say, from Label Studio's pictures. ``coming`` are names of pictures that a dry run takes
    for tasks of the project, as they would be added before. ``progress`` is called with the number of
    pictures done. Raises BadInput when the files are not of the format, StudioError when Label Studio
    refuses.
    """
    there = [
        TaskPicture(task, str(data.get(PATH_FIELD) or ""), str(data.get(config.image_key) or ""))
        for task, data in studio.task_data(project_id)
    ]
    named = {one.path for one in there}
    fresh = [name for name in coming if name not in named]
    held = TaskNames([*there, *(TaskPicture(-n, name, "") for n, name in enumerate(fresh, start=1))])
    if not len(held):
        raise BadInput("the project has no pictures", field="project", hint="Add them with --images FOLDER")
    rows = _Rows(studio, project_id, config, images, held, names, plan, problems, LocalPictures(pictures))
    target: _Predictions | _Annotations
    if plan.kind == "predictions":
        target = _Predictions(studio, project_id, plan)
    else:
        target = _Annotations(
            studio, project_id, config, plan, _spoken(reader, names), problems, held.name_of
        )
    done: Counter[str] = Counter()
    found = rows.ready(reader)
    while batch := list(islice(found, _BATCH)):
        done += target.store(batch)
        progress(rows.pictures, f"{rows.pictures} pictures")
    shown = target.show()
    return ImportReport(
        format=plan.format,
        kind=plan.kind,
        dry_run=plan.dry_run,
        pictures=rows.pictures,
        labels=dict(sorted(rows.labels.items())),
        created=done["created"],
        updated=done["updated"],
        there=done["there"],
        untouched=done["untouched"],
        held_back=rows.held_back,
        rejected=problems.counts["rejected"],
        left_out=problems.counts["left out"],
        changed=problems.counts["changed"],
        reasons=dict(problems.reasons.most_common()),
        examples=tuple(problems.examples),
        version=plan.version if plan.kind == "predictions" else "",
        shown=shown,
    )


def digest_of_result(result: Sequence[Mapping[str, Any]]) -> int:
    """A number below 2^63 that follows from what a result holds, in whatever order."""
    text = "\n".join(sorted(json.dumps(item, sort_keys=True, separators=(",", ":")) for item in result))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _spoken(reader: Reader, names: LabelNames) -> frozenset[str]:
    """Labels of the project that the files say all about, also on pictures where they are not."""
    found = set()
    for label in reader.labels:
        try:
            found.add(names.ours(label))
        except BadInput:
            continue  # each row with it is reported
    return frozenset(found - {""})


class _Rows:
    """Pictures of the files as results for tasks; what does not fit goes to the problems."""

    def __init__(
        self,
        studio: StudioClient,
        project_id: int,
        config: LabelConfig,
        images: ImageStore,
        held: TaskNames,
        names: LabelNames,
        plan: ImportPlan,
        problems: ProblemFile,
        local: LocalPictures,
    ) -> None:
        self._studio, self._project_id, self._config, self._images = studio, project_id, config, images
        self._held, self._names, self._plan, self._problems, self._local = held, names, plan, problems, local
        self._taken: dict[int, str] = {}
        self.pictures = 0
        self.held_back = 0
        self.labels: Counter[str] = Counter()

    def ready(self, reader: Reader) -> Iterator[_Ready]:
        """What can be stored, picture by picture."""
        for picture in reader.pictures():
            if isinstance(picture, Problem):
                self._problems.add(picture)
                continue
            self.pictures += 1
            found = self._one(picture)
            if found is None:
                self.held_back += 1
            else:
                yield found

    def _one(self, picture: PictureRows) -> _Ready | None:
        for problem in picture.problems:
            self._problems.add(problem)
        try:
            task = self._held.find(picture.name, no_suffix=picture.no_suffix)
            if task in self._taken:
                raise BadInput(f"{self._taken[task]!r} of the same files is this picture already")
            self._taken[task] = picture.name
            hw = self._size(picture, task)
        except (BadInput, StudioError) as error:
            reason = str(error) if isinstance(error, BadImage | StudioError) else error.message
            self._problems.add(Problem("rejected", picture.file, "", "picture", reason, picture.name))
            return None
        made = convert(
            picture.rows,
            hw,
            self._config,
            self._names,
            file=picture.file,
            picture=picture.name,
            with_scores=self._plan.kind == "predictions",
        )
        for problem in made.problems:
            self._problems.add(problem)
        broken = made.rejected or any(problem.kind == "rejected" for problem in picture.problems)
        if broken and self._plan.kind == "annotations" and not self._plan.keep_rest:
            return None
        if broken and not made.result:
            return None
        for item in made.result:
            self.labels.update(_labels_of(item, self._config))
        return _Ready(task, made)

    def _size(self, picture: PictureRows, task: int) -> tuple[int, int] | None:
        """Height and width; None where no row needs them. Raises BadInput when two sources differ."""
        path = self._local.find(picture.name, no_suffix=picture.no_suffix)
        true = None if path is None else picture_hw(path)
        if true is not None and picture.hw is not None and true != picture.hw:
            raise BadInput(
                f"the file speaks of {picture.hw[1]}×{picture.hw[0]} pixels, "
                f"the picture has {true[1]}×{true[0]}"
            )
        if true or picture.hw:
            return true or picture.hw
        if all(row.shape is None for row in picture.rows):
            return None
        address = self._config.image_of(self._studio.task(task).data)
        return self._images.get(address, task_id=task, project_id=self._project_id).hw


def _labels_of(item: Mapping[str, Any], config: LabelConfig) -> list[str]:
    control = config.control(str(item["from_name"]))
    if control is None:
        return []
    found = [str(label) for label in item["value"][control.value_key]]
    if control.type != "choices":
        return found
    target = next(t for t in config.targets if t.tags is not None and t.tags.name == control.name)
    return [target.label_of(label) for label in found]


class _Predictions:
    """Predictions under one model version: tasks that hold one of it are done."""

    def __init__(self, studio: StudioClient, project_id: int, plan: ImportPlan) -> None:
        self._studio, self._project_id, self._plan = studio, project_id, plan
        self._there = studio.predicted_tasks(project_id, plan.version)

    def store(self, batch: Sequence[_Ready]) -> Counter[str]:
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


class _Annotations:
    """Annotations: one per task, made or brought up to date by the import, never one of a person."""

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
        self._held = {
            row.id: found for row in studio.tasks(project_id) if (found := _held(row.annotations)) is not None
        }

    def store(self, batch: Sequence[_Ready]) -> Counter[str]:
        done: Counter[str] = Counter()
        rows = []
        for one in batch:
            what, row = self._compare(one)
            done[what] += 1
            if row is not None:
                rows.append(row)
        if rows and not self._plan.dry_run:
            self._studio.import_annotations(rows)
        return done

    def show(self) -> bool:
        """Annotations need no version to be shown."""
        return True

    def _compare(self, one: _Ready) -> tuple[str, ImportedAnnotation | None]:
        digest = digest_of_result(one.made.result)
        held = self._held.get(one.task)
        key = str(uuid.uuid5(_NAMESPACE, f"{self._key}:{one.task}"))
        if held is None:
            return "created", ImportedAnnotation(one.task, one.made.result, key, digest)
        if held.digest == digest:
            return "there", None
        if held.digest is None:
            name = self._name_of.get(one.task, "")
            reason = f"a person has annotated task {one.task}: it stays as it is"
            self._problems.add(Problem("left out", "", "", "task", reason, name))
            return "untouched", None
        now = _held_result(self._studio.task(one.task).annotations, held.id)
        result = merged(now, one.made, self._spoken, self._config)
        digest = digest_of_result(result)
        if digest == held.digest:
            return "there", None
        return "updated", ImportedAnnotation(one.task, result, key, digest, held.id)


def merged(
    now: Sequence[Mapping[str, Any]], made: Converted, spoken: frozenset[str], config: LabelConfig
) -> list[dict[str, Any]]:
    """What an imported annotation holds after another import.

    Regions of labels that the file speaks of make room for its own; choices of a tag make room where the file
    names one of them.
    """
    replaced = spoken | made.labels
    chosen = {str(item["from_name"]) for item in made.result if item["type"] == "choices"}
    kept = []
    for item in now:
        if item.get("type") == "choices":
            if item["from_name"] not in chosen:
                kept.append(dict(item))
        elif not set(_labels_of(item, config)) & replaced:
            kept.append(dict(item))
    ids = {item.get("id") for item in kept}
    return [*kept, *(dict(item) for item in made.result if item.get("id") not in ids)]


def _held(annotations: Sequence[AnnotationRow]) -> _Held | None:
    """What counts among the annotations of a task, skips left out."""
    found = [row for row in annotations if not row.was_cancelled]
    if not found:
        return None
    if len(found) == 1 and found[0].import_id == digest_of_result(found[0].result):
        return _Held(found[0].id, found[0].import_id)
    return _Held(found[0].id, None)


def _held_result(annotations: Sequence[AnnotationRow], number: int) -> Sequence[Mapping[str, Any]]:
    return next((row.result for row in annotations if row.id == number), ())
