"""Offer what looks like the drawn masks: for the command, and for a look before the first round."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.task_orders import read_order
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.alike.ask import Ask, checked
from sync.alike.examples import drawn_pictures
from sync.alike.find import Found, Offer, chosen_tasks, find_alike
from sync.alike.push import alike_prefix, foreign_predictions, push_offers
from sync.rounds.progress import Memo, Progress, remembered
from sync.rounds.round_records import digest_of, trained_round
from sync.rounds.start_order import START
from sync.rounds.task_queries import finished_digests, open_task_ids
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.studio.protocol import StudioClient

__all__ = ["Offered", "forget_looks", "keep_offers", "offer_alike"]

_PICTURES: Final = 50
"""pictures that the worker looks at: those that are served next. A look must not take long."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What was offered.

    ``masks``, ``examples``: by label; ``tasks`` show at least one; ``looked_at`` tasks and ``proposals`` were
    compared; ``version`` and ``sent``: see ``Pushed``; ``cpu_s``: seconds of this process.
    """

    version: str
    sent: int
    masks: Mapping[str, int]
    examples: Mapping[str, int]
    tasks: int
    looked_at: int
    proposals: int
    cpu_s: float
    unreadable: Mapping[int, str] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All but the outlines, JSON-ready."""
        told: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("version", "sent", "tasks", "looked_at", "proposals", "cpu_s")
        }
        told |= {name: dict(getattr(self, name)) for name in ("masks", "examples", "unreadable")}
        told["offers"] = [
            {
                "task": one.task,
                "label": one.label,
                "score": one.score,
                "similarity": one.similarity,
                "objectness": one.prior,
            }
            for one in self.offers
        ]
        return told


def offer_alike(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    ask: Ask,
    *,
    dry_run: bool = False,
) -> Offered:
    """Find the masks most like those drawn and show them as predictions of tasks that nobody has finished.

    With ``dry_run`` nothing is sent. Raises BadInput naming what is wrong with ``ask``, or ``project`` when
    the project has a model or other predictions, or nothing that was drawn.
    """
    begun = time.process_time()
    ask = checked(ask, config, settings)
    record = trained_round(db)
    if record is not None:
        raise BadInput(
            f"project {db.id} has a model since round {record.number}: its predictions show such masks",
            field="project",
            hint="More like this is for projects before their first round",
        )
    foreign = foreign_predictions(studio, db.id)
    if foreign:
        raise BadInput(
            f"project {db.id} shows predictions of {foreign!r}",
            field="project",
            hint="Only one set of predictions can be shown: delete those in Label Studio to see others",
        )
    places = _places(db, paths)
    tasks = chosen_tasks(db, settings, sorted(places, key=places.__getitem__), ask.pictures)
    found = find_alike(db, config, settings, paths, images, progress, ask, tasks)
    version, sent = "", 0
    if not dry_run:
        pushed = push_offers(db, studio, config, settings, progress, found, places)
        version, sent = pushed.version, pushed.sent
    cpu_s = round(time.process_time() - begun, 2)
    offered = _told(found, version, sent, cpu_s)
    progress.report("alike", 1.0, _line(offered, dry_run=dry_run))
    return offered


def _told(found: Found, version: str, sent: int, cpu_s: float) -> Offered:
    masks = dict.fromkeys(found.examples, 0)
    for offer in found.offers:
        masks[offer.label] += 1
    return Offered(
        version,
        sent,
        masks,
        found.examples,
        len({offer.task for offer in found.offers}),
        len(found.looked_at),
        found.proposals,
        cpu_s,
        found.unreadable,
        found.offers,
    )


def _line(offered: Offered, *, dry_run: bool) -> str:
    masks = sum(offered.masks.values())
    would = "would be offered" if dry_run else "are offered"
    return (
        f"{masks} masks like those drawn {would} on {offered.tasks} of {offered.looked_at} pictures looked at"
    )


def keep_offers(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
) -> None:
    """The step of a look before the first round: offer again when annotations or tasks changed.

    Nothing happens unless the option ``more_like_this`` says how many masks of each label. A reason why
    nothing can be offered is told, and is no error of the look.
    """
    if not settings.more_like_this:
        return
    name = ("alike", db.id)
    # of the store and not of this look's pull: a look that failed before it came here has pulled already
    state = (config.digest, settings.more_like_this, settings.cluster_features, _drawn(db, memo))
    if memo.get(name) == state:
        return
    memo.pop(name, None)  # what an error below leaves half done must not pass for this or an earlier state
    ask = Ask(most=settings.more_like_this, pictures=_PICTURES)
    try:
        offer_alike(db, studio, config, settings, paths, images, progress, ask)
    except BadInput as error:
        progress.report("alike", 1.0, f"nothing is offered: {error}")
        if not drawn_pictures(db, config):
            _withdraw(db, studio, config, settings, paths, progress)
    memo[name] = state


def _drawn(db: ProjectStore, memo: Memo) -> str:
    """Digest of what people drew and of the tasks that wait; worked out again when a task has changed."""

    def make() -> str:
        return digest_of([sorted(finished_digests(db).items()), open_task_ids(db)])

    return remembered(memo, ("drawn", db.id), (db.key, db.revision().tasks), make)


def _withdraw(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
) -> None:
    """What was offered like masks that nobody has drawn any more is shown no longer."""
    shown = studio.prediction_versions(db.id)
    if any(name.startswith(alike_prefix(db.id)) for name in shown) and not foreign_predictions(studio, db.id):
        push_offers(db, studio, config, settings, progress, Found((), {}, {}, 0), _places(db, paths))


def _places(db: ProjectStore, paths: ProjectPaths) -> dict[int, float]:
    """Scores of unfinished tasks in the order before the first round, the lowest served first."""
    order = read_order(paths.order(START))
    if order is None:
        return {}
    there = set(open_task_ids(db))
    scores = zip(order.task_id.tolist(), order.score.tolist(), strict=True)
    return {task: score for task, score in scores if task in there}


def forget_looks(paths: ProjectPaths) -> None:
    """Delete the kept proposals: a project with a model does not need them any more."""
    if paths.alike.exists():
        shutil.rmtree(paths.alike, ignore_errors=True)
