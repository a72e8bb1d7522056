"""The demo: a project on pictures with known truth; simulated people use the real Label Studio API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ml_backend.errors import GroundswellError
from ml_backend.kinds.base import Kind
from ml_backend.kinds.registry import KINDS
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.masks.coco import CocoSet
from sync.lab.demo_report import DemoReport, RoundFigures, measure_round
from sync.lab.ground_truth import Truth
from sync.lab.simulated_people import Annotator, CrowdWorker, play_crowd
from sync.projects.init_project import InitReport, init_project
from sync.review.answers import review_project_of
from sync.review.question import FORMS
from sync.rounds.project import OpenProject, open_project
from sync.rounds.round_records import trained_round
from sync.settings import Settings
from sync.store.database import Store
from sync.studio.client import Studio
from sync.worker.look import LookReport
from sync.worker.loop import Worker

__all__ = ["Demo", "DemoPlan"]

_PASSWORD = "played people need no secret"
_LOOKS_PER_ROUND = 500
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How the demo runs.

    ``start_tasks`` are labelled before the first round, ``tasks_per_round`` before each further one;
    ``answers_error`` is the probability that a crowd worker answers wrongly, ``budget`` the most questions
    per round (None: that of the settings); ``kind`` is what the project wants; ``options`` are further worker
    settings of the project. ``groups`` is a table of pictures that the test split must not part.
    """

    title: str = "Groundswell demo"
    rounds: int = 3
    start_tasks: int = 12
    tasks_per_round: int = 10
    answers_error: float = 0.0
    labels_error: float = 0.0
    workers: int = 1
    budget: int | None = None
    seed: int = 0
    kind: Kind = "instances"
    groups: Path | None = None
    output: Literal["brush", "bitmask", "polygon"] = "brush"
    options: Mapping[str, Any] = field(default_factory=dict)

    def project_options(self) -> dict[str, Any]:
        """Worker settings of the project: the first training waits for all of ``start_tasks``."""
        options: dict[str, Any] = {"min_finished": max(2, self.start_tasks), "seed": self.seed}
        if self.budget is not None:
            options["question_budget"] = self.budget
        return options | dict(self.options)


class Demo:
    """One demo project on a running Label Studio and backend.

    Parameters
    ----------
    settings : with addresses, token and secrets (those of a started ``Stack``)
    coco : pictures and their truth
    say : called with one line about what happens
    """

    def __init__(
        self, settings: Settings, coco: CocoSet, plan: DemoPlan, *, say: Say = lambda line: None
    ) -> None:
        self.settings = settings
        self.plan = plan
        self._coco = coco
        self._say = say
        self._truth = Truth(coco, KINDS[plan.kind])
        self._store = Store(settings.database())
        self.admin = Studio(settings.studio_url, settings.current_studio_token)
        self.project: InitReport | None = None

    def prepare(self) -> InitReport:
        """Create the project and its pictures (or find them again)."""
        self.project = init_project(
            self.admin,
            title=self.plan.title,
            labels=self._coco.categories,
            images=[image.path for image in self._coco.images],
            settings=self.settings,
            output=self.plan.output,
            kind=self.plan.kind,
            multiple=self._truth.has_several,
            options=self.plan.project_options(),
            groups=self.plan.groups,
            report=self._say,
        )
        return self.project

    def label(self, n: int) -> int:
        """Let an annotator label ``n`` tasks as they are served; returns how many were left to label."""
        annotator = Annotator(
            self.admin.as_user("annotator@example.com", _PASSWORD),
            self._truth,
            self._config(),
            seed=self.plan.seed,
            error=self.plan.labels_error,
        )
        while annotator.done < n and annotator.label_next(self._id) is not None:
            pass
        self._say(f"an annotator labelled {annotator.done} tasks")
        return annotator.done

    def labelled(self) -> int:
        """Tasks that somebody has labelled."""
        return sum(row.is_labeled for row in self.admin.tasks(self._id))

    def play(self) -> DemoReport:
        """Run all rounds without a worker process and measure each. Raises what goes wrong in a round."""
        started = time.monotonic()
        self.prepare()
        crowd = self._crowd()
        rounds: list[RoundFigures] = []
        for number in range(self.plan.rounds):
            rounds.append(self._play_round(crowd, first=number == 0))
        setup = {
            "title": self.plan.title,
            "images": len(self._coco.images),
            "instances": self._coco.n_instances,
            "labels": list(self._coco.categories),
            **asdict(self.plan),
            "groups": None if self.plan.groups is None else str(self.plan.groups),
            "label_studio": self.admin.version(),
        }
        return DemoReport(setup, rounds, round(time.monotonic() - started, 1))

    def _play_round(self, crowd: Sequence[CrowdWorker], *, first: bool) -> RoundFigures:
        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        with clock("label"):
            done = self.label(self.plan.start_tasks if first else self.plan.tasks_per_round)
        if not done:
            self._say("no task is left to label")
        worker = Worker(self.settings, self._store, self.admin, only=[self._id], report=self._progress)
        with clock("round"):
            look = _checked(worker.look(self._id, force_round=True))
        with clock("crowd"):
            self._review(worker, look, crowd)
        project = self._open()
        record = trained_round(project.db)
        if record is None:
            raise GroundswellError("no round has a model yet", hint="Label more tasks: --start-tasks")
        figures = measure_round(
            project.db,
            project.paths,
            project.memo,
            record,
            self._truth,
            seconds={k: round(v, 2) for k, v in seconds.items()},
        )
        measured = figures.metrics.get(figures.headline)
        self._say(
            f"round {figures.round}: {figures.headline} {measured}, {figures.answers} answers, "
            f"{figures.accepted} accepted, precision {figures.precision}"
        )
        return figures

    def _review(self, worker: Worker, look: LookReport, crowd: Sequence[CrowdWorker]) -> None:
        """Answer what is asked and look again, until the worker has no question left."""
        for _ in range(_LOOKS_PER_ROUND):
            if look.review is None or look.review.done:
                return
            given = play_crowd(crowd, self._review_projects())
            if not given and not look.review.new and look.review.open:
                raise GroundswellError(
                    f"{look.review.open} questions are open but Label Studio serves none",
                    hint="Somebody else may hold their locks; they end after an hour",
                )
            look = _checked(worker.look(self._id))
        raise GroundswellError(f"the review did not end within {_LOOKS_PER_ROUND} looks")

    def _crowd(self) -> list[CrowdWorker]:
        return [
            CrowdWorker(
                self.admin.as_user(f"worker{i + 1}@example.com", _PASSWORD),
                self.admin,
                self._truth,
                self._config().image_key,
                name=f"worker{i + 1}",
                seed=self.plan.seed,
                error=self.plan.answers_error,
            )
            for i in range(self.plan.workers)
        ]

    def _review_projects(self) -> list[int]:
        project = self._open()
        found = (review_project_of(project.db, form) for form in FORMS)
        return [project_id for project_id in found if project_id is not None]

    def _open(self) -> OpenProject:
        return open_project(self.settings, self._store, self.admin, self._id)

    def _config(self) -> LabelConfig:
        return parse_label_config(self.admin.project(self._id).label_config)

    @property
    def _id(self) -> int:
        assert self.project is not None, "prepare() comes first"
        return self.project.project_id

    def _progress(self, project_id: int, step: str, share: float, text: str) -> None:
        self._say(f"  {step:8s} {share:4.0%}  {text}")


def _checked(look: LookReport | None) -> LookReport:
    if look is None:
        raise GroundswellError(
            "another worker holds the project", hint="Stop it, or wait until its lease has run out"
        )
    if look.error:
        raise GroundswellError(look.error)
    return look


class _Clock:
    """Adds up wall seconds by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._name = ""
        self._started = 0.0

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self._started
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + spent
