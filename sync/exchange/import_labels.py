"""Bring labels that were made elsewhere into a project: as finished work, or as predictions.

The import compares and adds what is missing, so it may be killed anywhere and run again, and a second run
changes nothing. What a person has annotated stays as it is. An annotation that an earlier import made is
brought up to date: labels that the file speaks of are replaced, others stay, so that boxes from one file and
classes from another end up in one annotation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from ml_backend.errors import BadImage, BadInput, BadLabelConfig, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.masks.run_lengths import MAX_PIXELS
from sync.exchange.file_names import TaskPicture
from sync.exchange.import_regions import LabelNames, convert
from sync.exchange.import_report import ImportReport, ProblemFile
from sync.exchange.import_targets import Annotations, ImportPlan, Predictions, Ready, labels_of
from sync.exchange.local_pictures import LocalPictures
from sync.exchange.readers.png import picture_hw
from sync.exchange.readers.rows import PictureRows, Problem, Reader
from sync.exchange.task_names import TaskNames
from sync.studio.protocol import (
    PATH_FIELD,
    StudioClient,
)

__all__ = ["import_labels"]

_BATCH: Final = 200
Progress = Callable[[int, str], None]


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
        TaskPicture(task, str(data.get(PATH_FIELD) or ""), _address(config, data))
        for task, data in studio.task_data(project_id)
    ]
    named = {one.path for one in there}
    fresh = [name for name in coming if name not in named]
    held = TaskNames([*there, *(TaskPicture(-n, name, "") for n, name in enumerate(fresh, start=1))])
    if not len(held):
        raise BadInput("the project has no pictures", field="project", hint="Add them with --images FOLDER")
    rows = _Rows(studio, project_id, config, images, held, names, plan, problems, LocalPictures(pictures))
    target: Predictions | Annotations
    if plan.kind == "predictions":
        target = Predictions(studio, project_id, plan)
    else:
        target = Annotations(studio, project_id, config, plan, _spoken(reader, names), problems, held.name_of)
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
        created=done["created"] - target.gave_way,
        updated=done["updated"],
        there=done["there"],
        untouched=done["untouched"] + target.gave_way,
        held_back=rows.held_back,
        rejected=problems.counts["rejected"],
        left_out=problems.counts["left out"],
        changed=problems.counts["changed"],
        reasons=dict(problems.reasons.most_common()),
        examples=tuple(problems.examples),
        version=plan.version if plan.kind == "predictions" else "",
        shown=shown,
    )


def _spoken(reader: Reader, names: LabelNames) -> frozenset[str]:
    """Labels of the project that the files say all about, also on pictures where they are not."""
    found = set()
    for label in reader.labels:
        try:
            found.add(names.ours(label))
        except BadInput:
            continue  # each row with it is reported
    return frozenset(found - {""})


def _possible(hw: tuple[int, int] | None) -> tuple[int, int] | None:
    if hw is not None and (min(hw) < 1 or hw[0] * hw[1] > MAX_PIXELS):
        raise BadInput("what the file says is not the size of a picture")
    return hw


def _address(config: LabelConfig, data: Mapping[str, Any]) -> str:
    """The address of a task's picture; empty where its data has none."""
    try:
        return config.image_of(data)
    except BadLabelConfig:
        return ""


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

    def ready(self, reader: Reader) -> Iterator[Ready]:
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

    def _one(self, picture: PictureRows) -> Ready | None:
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
            self.labels.update(labels_of(item, self._config))
        return Ready(task, made)

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
            return _possible(true or picture.hw)
        if all(row.shape is None for row in picture.rows):
            return None
        address = self._config.image_of(self._studio.task(task).data)
        return self._images.get(address, task_id=task, project_id=self._project_id).hw
