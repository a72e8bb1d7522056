"""Find the masks that look most like those that people drew.

Each proposal of an unfinished picture gets the label whose drawn masks it looks most like, the best of
overlapping ones stays, and of each label the best are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from clustering.alike import alikeness, apart, best_rows, rank_score, scaling_of
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

_SAME_BOX: Final = 0.5
_EXAMPLE_PICTURES: Final = 50
"""finished pictures that are looked at where no task is named; more examples tell no more"""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Offer:
    """A mask that is offered.

    ``score`` in 0..1 sorts and is no probability. It comes from ``similarity`` with what was drawn and
    ``prior``, how much the mask looks like a whole object of any kind, both in 0..1.
    """

    task: int
    label: str
    rle: Rle
    score: float
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
    looker = Looker(settings, paths, images, ask.source, guard=db.guard)
    unreadable: dict[int, str] = {}
    lessons = _Lessons(config, labels)
    for one in examples if ask.tasks else _newest(examples, labels):
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


def _newest(examples: Sequence[Drawn], labels: Sequence[str]) -> list[Drawn]:
    """The newest tasks, in turn of each of the labels: one drawn long ago alone has its examples, too."""
    newer = dict.fromkeys(labels, 0)
    turn: dict[int, int] = {}
    for row in reversed(range(len(examples))):
        here = {name for name, _ in examples[row].masks} & newer.keys()
        turn[row] = min((newer[name] for name in here), default=len(examples))
        for name in here:
            newer[name] += 1
    rows = sorted(turn, key=lambda row: (turn[row], -row))[:_EXAMPLE_PICTURES]
    return [examples[row] for row in sorted(rows)]


def _concepts(settings: Settings, ask: Ask) -> Sam3Concepts | None:
    if not ask.concepts:
        return None
    from ml_backend.learners.alike.sam3_concepts import Sam3Concepts

    return Sam3Concepts(Path(ask.concepts), device=resolve_device(settings.device))


class _Lessons:
    """Numbers of what was drawn, by label, also of labels of which nothing is ``wanted``."""

    def __init__(self, config: LabelConfig, wanted: Sequence[str]) -> None:
        self._config, self.wanted = config, wanted
        self.count = dict.fromkeys(wanted, 0)
        self.drawn: dict[str, list[Floats]] = {}

    @property
    def is_usable(self) -> bool:
        """Whether there is an example of any label that is wanted."""
        return any(self.count.values())

    def add(self, one: Drawn, looker: Looker) -> None:
        looks = looker.proposals(one.task, one.image)
        masks = [(label, rle) for label, rle in one.masks if rle_hw(rle) == looks.hw]
        if not masks:
            return  # the picture was replaced by one of another size
        feature = looker.drawn(one.task, one.image, [rle for _, rle in masks])
        for label in dict.fromkeys(label for label, _ in masks):
            rows = [i for i, (name, _) in enumerate(masks) if name == label]
            mine = feature[rows]
            if self._config.kind_of(label).unit == "box" and looks.rle:
                # a box says nothing of the outline: what lies in it does
                boxes = [_shape(rle, True) for rle in looks.rle]
                overlap = rle_iou(boxes, [masks[i][1] for i in rows])
                fits = overlap.max(axis=0) >= _SAME_BOX
                mine = np.where(fits[:, None], looks.feature[overlap.argmax(axis=0)], mine)
            self.drawn.setdefault(label, []).append(mine)
            if label in self.count:
                self.count[label] += len(rows)


def _offers(config: LabelConfig, lessons: _Lessons, seen: Mapping[int, Looks], ask: Ask) -> list[Offer]:
    """The best of each label that is wanted."""
    pictures = [task for task, looks in seen.items() if looks.rle]
    if not pictures:
        return []
    every = np.concatenate([seen[task].feature for task in pictures])
    scale = scaling_of(every)
    points = scale(every)
    labels = list(lessons.drawn)
    alike = np.stack([alikeness(points, scale(np.concatenate(lessons.drawn[label]))) for label in labels])
    of, similarity = alike.argmax(axis=0), alike.max(axis=0)
    score = rank_score(similarity, np.concatenate([seen[task].prior for task in pictures]))
    offers: dict[str, list[Offer]] = {label: [] for label in lessons.wanted}
    start = 0
    for task in pictures:
        looks = seen[task]
        here = slice(start, start + len(looks.rle))
        start += len(looks.rle)
        named = [labels[int(at)] for at in of[here]]
        shapes = [
            _shape(rle, config.kind_of(label).unit == "box")
            for rle, label in zip(looks.rle, named, strict=True)
        ]
        # two masks beside each other may have the same box
        same = rle_iou(shapes, shapes) > [config.kind_of(label).same_iou for label in named]
        for row in apart(score[here], clash(looks.rle) | same).tolist():
            label = named[row]
            if label in offers:
                numbers = (score[here][row], similarity[here][row], looks.prior[row])
                offers[label].append(
                    Offer(task, label, shapes[row], *(round(float(number), 4) for number in numbers))
                )
    kept: list[Offer] = []
    for mine in offers.values():
        scores = np.array([offer.score for offer in mine], np.float64)
        tasks = [offer.task for offer in mine]
        rows = best_rows(scores, tasks, most=ask.most, per_picture=ask.share)
        kept += [mine[int(row)] for row in rows]
    return sorted(kept, key=lambda offer: -offer.score)


def _shape(rle: Rle, is_box: bool) -> Rle:
    """The mask, or the filled box around it."""
    if not is_box:
        return rle
    return box_rle(rle_box(rle), rle_hw(rle))


def as_instances(offers: Sequence[Offer], labels: Sequence[str]) -> Instances:
    """Offers of one picture as instances: the score is what they are sorted by."""
    return Instances(
        np.array([labels.index(offer.label) for offer in offers], np.int64),
        np.array([rle_box(offer.rle) for offer in offers], np.float32).reshape(-1, 4),
        [offer.rle for offer in offers],
        np.array([offer.score for offer in offers], np.float32),
        np.array([offer.prior for offer in offers], np.float32),
        np.zeros((len(offers), 0), np.float32),
    )
