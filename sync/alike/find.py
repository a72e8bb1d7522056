"""Find the masks that look most like those that people drew.

A finished task says two things: what was drawn is wanted, and the other proposals of its picture are not.
Each proposal of an unfinished picture gets the label whose drawn masks it looks most like, the best of
overlapping ones stays, and of each label the most alike are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from clustering.alike import alikeness, apart, best_rows, scaling_of
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.devices import resolve_device
from ml_backend.errors import BadImage, BadInput
from ml_backend.images.store import ImageStore
from ml_backend.instances import Instances, Rle
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.learners.alike.looks import Looks, clash
from ml_backend.masks.rle import rle_box, rle_hw, rle_iou
from ml_backend.masks.shapes import box_rle
from sync.alike.ask import Ask
from sync.alike.concepts import with_concepts
from sync.alike.examples import Drawn, drawn_pictures
from sync.alike.looks import Looker
from sync.rounds.progress import Progress
from sync.rounds.task_queries import open_task_ids, task_images
from sync.settings import Settings
from sync.store.project_store import ProjectStore

if TYPE_CHECKING:
    from ml_backend.learners.alike.sam3_concepts import Sam3Concepts

__all__ = ["Found", "Offer", "chosen_tasks", "find_alike"]

_NOT_DRAWN: Final = 0.3
"""A proposal whose IoU with all that was drawn is below this is something else."""
_SAME_BOX: Final = 0.5
_EXAMPLE_PICTURES: Final = 50
"""finished pictures that are looked at, the newest tasks; more examples tell no more"""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Offer:
    """A mask that is offered.

    ``similarity`` in 0..1 sorts and is no probability; ``prior``: how much it looks like any whole object.
    """

    task: int
    label: str
    rle: Rle
    similarity: float
    prior: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    ``offers``: of all labels, the most alike first; ``looked_at``: unfinished tasks that were looked at, in
    the order in which they are served, with (height, width); ``examples``: drawn masks by label;
    ``proposals``: how many were compared; ``unreadable``: why a picture could not be read, by task.
    """

    offers: tuple[Offer, ...]
    looked_at: Mapping[int, tuple[int, int]]
    examples: Mapping[str, int]
    proposals: int
    unreadable: Mapping[int, str] = field(default_factory=dict)


def chosen_tasks(db: ProjectStore, settings: Settings, served: Sequence[int], most: int) -> list[int]:
    """Unfinished tasks to look at: the next of ``served``, then others in an order that no picture decides.

    Tasks with predictions are served first. The order is drawn by lot and stays while tasks come and go, so
    that the first finished tasks, and the test split, are no choice of the search.
    """
    open_ids = open_task_ids(db)
    place = {task: i for i, task in enumerate(served)}

    def lot(task: int) -> str:
        return hashlib.blake2b(f"{settings.seed} {db.id} {task}".encode(), digest_size=8).hexdigest()

    return sorted(open_ids, key=lambda task: (place.get(task, len(place)), lot(task)))[:most]


def find_alike(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    ask: Ask,
    tasks: Sequence[int],
) -> Found:
    """Search the pictures of ``tasks``; ``ask`` was checked.

    Raises BadInput when nothing was drawn that could be an example, or as ``Looker`` does. Pictures that
    cannot be read are left out.
    """
    examples = drawn_pictures(db, config, ask.tasks)
    drawn = {name for one in examples for name, _ in one.masks}
    labels = [label for label in ask.labels if label in drawn]
    if not labels:
        named = f"of {', '.join(ask.labels)} " if len(ask.labels) < len(config.labels) else ""
        raise BadInput(
            f"nobody has drawn a mask {named}yet" if not ask.tasks else f"the tasks show no mask {named}",
            field="label" if named else "project",
            hint="Draw the objects of one picture and submit it; what looks like them is offered then",
        )
    model = _concepts(settings, ask)
    looker = Looker(settings, paths, images, ask.source, guard=db.write)
    unreadable: dict[int, str] = {}
    lessons = _Lessons(config, labels)
    for one in examples[-_EXAMPLE_PICTURES:]:
        progress.at("alike.example")
        try:
            lessons.add(one, looker)
        except BadImage as error:
            unreadable[one.task] = str(error)
    if not lessons.is_usable:
        raise BadInput(
            "no picture with drawn masks can be read",
            field="task",
            hint=next(iter(unreadable.values()), "Was the picture replaced after it was drawn on?"),
        )
    address = task_images(db)
    seen: dict[int, Looks] = {}
    for number, task in enumerate(tasks, 1):
        progress.at("alike.picture")
        try:
            seen[task] = looker.proposals(task, address[task])
        except BadImage as error:
            unreadable[task] = str(error)
        if number % 10 == 0 or number == len(tasks):
            progress.report("alike", number / len(tasks), f"{number} of {len(tasks)} pictures looked at")
    offers = _offers(config, lessons, seen, ask)
    if model is not None:
        seen = with_concepts(
            model, looker, address, seen, [(o.task, o.label, o.rle) for o in offers], labels, progress
        )
        offers = _offers(config, lessons, seen, ask)
    return Found(
        tuple(offers),
        {task: looks.hw for task, looks in seen.items()},
        {label: lessons.count[label] for label in labels},
        sum(len(looks.rle) for looks in seen.values()),
        unreadable,
    )


def _concepts(settings: Settings, ask: Ask) -> Sam3Concepts | None:
    if not ask.concepts:
        return None
    from ml_backend.learners.alike.sam3_concepts import Sam3Concepts

    return Sam3Concepts(Path(ask.concepts), device=resolve_device(settings.device))


class _Lessons:
    """Numbers of what was drawn, by label, and of what is nothing of it."""

    def __init__(self, config: LabelConfig, labels: Sequence[str]) -> None:
        self._config, self.labels = config, labels
        self.count = dict.fromkeys(labels, 0)
        self.wanted: dict[str, list[Floats]] = {label: [] for label in labels}
        self.others: dict[str, list[Floats]] = {}
        self.background: list[Floats] = []

    @property
    def is_usable(self) -> bool:
        """Whether there is an example of any label."""
        return any(self.wanted.values())

    def add(self, one: Drawn, looker: Looker) -> None:
        looks = looker.proposals(one.task, one.image)
        masks = [(label, rle) for label, rle in one.masks if rle_hw(rle) == looks.hw]
        if not masks:
            return  # the picture was replaced by one of another size
        feature = looker.drawn(one.task, one.image, [rle for _, rle in masks])
        away = np.ones(len(looks.rle), np.bool_)
        for label in dict.fromkeys(label for label, _ in masks):
            rows = [i for i, (name, _) in enumerate(masks) if name == label]
            drawn = [masks[i][1] for i in rows]
            is_box = self._config.kind_of(label).unit == "box"
            overlap = rle_iou([_shape(rle, is_box) for rle in looks.rle], drawn)
            away &= (overlap < _NOT_DRAWN).all(axis=1)
            mine = feature[rows]
            if is_box and len(looks.rle):  # a box says nothing of the outline: what lies in it does
                fits = overlap.max(axis=0) >= _SAME_BOX
                mine = np.where(fits[:, None], looks.feature[overlap.argmax(axis=0)], mine)
            if label in self.count:
                self.count[label] += len(rows)
                self.wanted[label].append(mine)
            else:
                self.others.setdefault(label, []).append(mine)
        self.background.append(looks.feature[away])

    def other_than(self, label: str) -> list[Floats]:
        """Parts of what is not of that label."""
        every = {**self.wanted, **self.others}
        return [*self.background, *(part for name, parts in every.items() if name != label for part in parts)]


def _offers(config: LabelConfig, lessons: _Lessons, seen: Mapping[int, Looks], ask: Ask) -> list[Offer]:
    """The most alike of each label."""
    pictures = [task for task, looks in seen.items() if len(looks.rle)]
    if not pictures:
        return []
    every = np.concatenate([seen[task].feature for task in pictures])
    scale = scaling_of(np.concatenate([every, *lessons.background]))
    points = scale(every)
    labels = [label for label in lessons.labels if lessons.wanted[label]]
    score = np.stack(
        [
            alikeness(
                points,
                scale(np.concatenate(lessons.wanted[label])),
                scale(np.concatenate(lessons.other_than(label))),
            )
            for label in labels
        ]
    )
    of = score.argmax(axis=0)
    top = score.max(axis=0)
    offers: list[list[Offer]] = [[] for _ in labels]
    start = 0
    for task in pictures:
        looks = seen[task]
        here = slice(start, start + len(looks.rle))
        start += len(looks.rle)
        for row in apart(top[here], clash(looks.rle)).tolist():
            label = labels[int(of[here][row])]
            rle = _shape(looks.rle[row], config.kind_of(label).unit == "box")
            offers[int(of[here][row])].append(
                Offer(task, label, rle, round(float(top[here][row]), 4), round(float(looks.prior[row]), 4))
            )
    kept: list[Offer] = []
    for mine in offers:
        rows = best_rows(
            np.array([offer.similarity for offer in mine], np.float64),
            [offer.task for offer in mine],
            most=ask.most,
            per_picture=ask.share,
        )
        kept += [mine[int(row)] for row in rows]
    return sorted(kept, key=lambda offer: -offer.similarity)


def _shape(rle: Rle, is_box: bool) -> Rle:
    """The mask, or the filled box around it."""
    if not is_box:
        return rle
    return box_rle(rle_box(rle), rle_hw(rle))


def as_instances(offers: Sequence[Offer], labels: Sequence[str]) -> Instances:
    """Offers of one picture as instances: the score is the similarity."""
    return Instances(
        np.array([labels.index(offer.label) for offer in offers], np.int64),
        np.array([rle_box(offer.rle) for offer in offers], np.float32).reshape(-1, 4),
        [offer.rle for offer in offers],
        np.array([offer.similarity for offer in offers], np.float32),
        np.array([offer.prior for offer in offers], np.float32),
        np.zeros((len(offers), 0), np.float32),
    )
