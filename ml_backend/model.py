"""One project during one request: ``setup``, ``predict`` and ``fit`` of the ML-backend protocol (2.x).

``GroundswellModel`` is cheap to make. It finds out which model version serves, takes predictions from that
version's pool or from the model itself, and hands clicks to the click service.

A task that cannot be answered gets *no* prediction, written as an empty list: Label Studio stores nothing
then and asks again later. An empty prediction would be stored for good and read as "nothing to see here".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.inbox import mark_dirty
from ml_backend.artifacts.pool_tables import PoolTable, TaskEntry
from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.artifacts.verdicts import NO_VERDICTS, VerdictTable
from ml_backend.errors import BadImage, BadInput, GroundswellError, ModelError, UnknownProject
from ml_backend.images.store import ImageRef
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.label_studio.protocol import ProjectKey, TaskIn
from ml_backend.learners.base import Predictor
from ml_backend.learners.uncertainty import confidence
from ml_backend.services import Services
from ml_backend.task_prediction import TaskPrediction, make_prediction, table_of, usable_instances

__all__ = ["UNTRAINED", "Answers", "GroundswellModel"]

_log = logging.getLogger(__name__)

UNTRAINED: Final = "groundswell-untrained"
"""Version reported before the first training: Label Studio wants one."""

_BATCH: Final = 4


@dataclass(frozen=True, slots=True)
class Answers:
    """What ``/predict`` answers.

    Attributes
    ----------
    results : one entry per task, in order: a prediction, or an empty list when there is none
    errors : why a task has no prediction, by its place in the request
    """

    results: list[dict[str, Any] | list[Any]]
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Decisions:
    """What was decided about the masks of a model version, and in which round."""

    round_number: int
    verdicts: VerdictTable


class GroundswellModel:
    """One project's view of the services.

    Parameters
    ----------
    project : Label Studio's key of the project, its bare id, or None when the request names none
    label_config : XML as the request has it. It is newer than what the worker wrote down, so it counts.

    Raises UnknownProject when Groundswell does not know the project and there is no label config to go by,
    and when it knows another project of the same id, created at another time.
    """

    def __init__(self, services: Services, project: ProjectKey | int | None, label_config: str = "") -> None:
        self._services = services
        key = ProjectKey(project) if isinstance(project, int) else project
        self.project_id = key.id if key is not None else 0
        self.facts: ProjectFacts | None = None
        if key is not None:
            self.facts = self._find_facts(key, required=not label_config)
        self.config: LabelConfig = parse_label_config(label_config or self._known_facts().label_config)

    def setup(self) -> dict[str, Any]:
        """What ``/setup`` answers. Constant time: reads two small files, no model."""
        return {"model_version": self.model_version}

    @property
    def model_version(self) -> str:
        """The version that predictions of now have; ``UNTRAINED`` before the first model."""
        return self._prediction_version(self._serving_version())

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_: Any
    ) -> list[dict[str, Any] | list[Any]]:
        """The contract's form: raw task dicts in, one entry per task out (see ``Answers.results``)."""
        parsed = [TaskIn(t.get("id"), t.get("data") or {}) for t in tasks]
        return [self.click(parsed[0], context)] if context else self.predict_tasks(parsed).results

    def fit(self, event: str, data: Mapping[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        """Leave a note for the worker, which does the training. ``data`` is not read."""
        facts = self._known_facts()
        for project_id in (facts.project_id, facts.label_project_id):
            if project_id:
                mark_dirty(self._services.settings.data_dir, project_id, event)
        return {"status": "noted"}

    # clicks

    def click(self, task: TaskIn, context: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an interactive request. The version of the answer is that of the click segmenter.

        Raises what the click service raises: the person who clicked waits for the answer.
        """
        if task.problem:
            raise BadInput(task.problem, field="tasks[0]")
        facts = self.facts or ProjectFacts(
            self.project_id, str(self.project_id), "", self.config.kind, self.config.xml, self.config.labels
        )
        # the config people see now, and the version whose masks a click may start from
        seen = facts.with_changes(label_config=self.config.xml, model_version=self._serving_version())
        return self._services.clicks.predict({"id": task.id, "data": task.data}, context, seen)

    # batches

    def predict_tasks(self, tasks: Sequence[TaskIn], *, budget_s: float | None = None) -> Answers:
        """Predictions of the version that serves: from its pool, else from the model.

        The model is asked for at most ``budget_s`` seconds. A task without an answer gets an empty list.
        When no task has an answer and the fault is ours (no model, no memory, no Label Studio, no time) its
        error is raised: ModelError, StudioError or StorageError.
        """
        return _Batch(self, self._services, tasks, self._serving_version()).answers(budget_s)

    # what requests share

    def decisions(self, version: str) -> _Decisions:
        """What was decided so far about the masks of a version."""
        try:
            info = self._services.registry.info(self.project_id, version)
            number = int(info.manifest.get("round", 0))  # 0: of no round
            return _Decisions(number, self._services.verdicts.of(self.project_id, number))
        except GroundswellError as error:  # the masks are there and can be shown as undecided
            _log.warning("project %s: no verdicts of %s: %s", self.project_id, version, error)
            return _Decisions(0, NO_VERDICTS)

    @property
    def min_score(self) -> float:
        """Class score from which undecided masks are shown."""
        return self.facts.push_min_score if self.facts is not None else 0.0

    def _find_facts(self, key: ProjectKey, *, required: bool) -> ProjectFacts | None:
        try:
            facts = self._services.facts.get(key.id)
        except BadInput as error:
            if required:
                raise UnknownProject(error.message, field=error.field, hint=error.hint) from None
            return None
        known = facts.key.partition(".")[2]
        if key.created_s is not None and known and known != str(key.created_s):
            raise UnknownProject(
                f"project {key.id} is known to Groundswell as another project, created at another time",
                field="project",
                hint="Was Label Studio set up anew? Run 'groundswell init' for the new project",
            )
        return facts

    def _serving_version(self) -> str:
        """The model version that serves, empty before the first. Of a project nobody registered: none."""
        if self.facts is None:
            return ""
        return self._services.registry.current(self.project_id) or ""

    def _prediction_version(self, version: str) -> str:
        """The version under which predictions of a model version are stored.

        That is what the worker pushed, ``<model version>.<digest>``, while it is of this model version.
        Between a training and the next push the worker's name is still of the older model: then the model
        version itself is the name.
        """
        pushed = self.facts.model_version if self.facts is not None else ""
        if version and (pushed == version or pushed.startswith(f"{version}.")):
            return pushed
        return version or UNTRAINED

    def _known_facts(self) -> ProjectFacts:
        if self.facts is None:
            raise BadInput("is missing", field="project", hint="Send Label Studio's project key")
        return self.facts


class _Batch:
    """The tasks of one request, all answered from one model version."""

    def __init__(
        self, model: GroundswellModel, services: Services, tasks: Sequence[TaskIn], version: str
    ) -> None:
        self._model = model
        self._services = services
        self._tasks = tasks
        self._version = version
        self._name = model._prediction_version(version)
        self._decisions = _Decisions(0, NO_VERDICTS)
        self._found: dict[int, dict[str, Any]] = {}
        self._failed: dict[int, GroundswellError] = {}

    def answers(self, budget_s: float | None) -> Answers:
        wanted = []
        for place, task in enumerate(self._tasks):
            if task.problem:
                self._fail(place, BadInput(task.problem, field=f"tasks[{place}]"))
            else:
                wanted.append(place)
        if self._version and wanted:
            self._decisions = self._model.decisions(self._version)
            self._predict_live(self._answer_stored(wanted), budget_s)
        else:
            self._services.metrics.predicted("none", len(wanted))
        ours = [error for error in self._failed.values() if not isinstance(error, BadInput)]
        if ours and not self._found:
            raise ours[0]
        results: list[dict[str, Any] | list[Any]] = [
            self._found.get(place, []) for place in range(len(self._tasks))
        ]
        return Answers(results, {place: str(error) for place, error in sorted(self._failed.items())})

    def _answer_stored(self, wanted: Sequence[int]) -> list[int]:
        """Answer what the pool holds; returns the places it does not hold."""
        left = []
        stored = self._stored([i for place in wanted if (i := self._tasks[place].id) is not None])
        for place in wanted:
            task_id = self._tasks[place].id
            if task_id not in stored:
                left.append(place)
                continue
            entry, rows = stored[task_id]
            if entry.error:
                self._fail(place, BadImage(entry.error, field="data"))
            else:
                self._answer(place, rows, entry.hw, entry.score, source="store")
        return left

    def _stored(self, task_ids: Sequence[int]) -> Mapping[int | None, tuple[TaskEntry, PoolTable]]:
        pool = self._services.pools.of(self._model.project_id, self._version)
        try:
            tables = pool.read(task_ids)
            entries = {task_id: pool.entry(task_id) for task_id in tables}
        except GroundswellError as error:  # the model can be asked instead
            _log.warning("project %s: pool of %s: %s", self._model.project_id, self._version, error)
            return {}
        return {task_id: (e, tables[task_id]) for task_id, e in entries.items() if e is not None}

    def _predict_live(self, places: Sequence[int], budget_s: float | None) -> None:
        """Ask the model, a few images at a time. The first failure of the model ends the batch."""
        if not places:
            return
        end = None if budget_s is None else time.monotonic() + budget_s
        services = self._services
        error: GroundswellError
        try:
            with services.predictors.use(
                self._model.project_id, self._version, device=services.settings.device
            ) as predictor:
                for start in range(0, len(places), _BATCH):
                    if end is not None and time.monotonic() > end:
                        raise ModelError(
                            f"busy: {len(places) - start} of {len(places)} tasks would not be done in time",
                            hint="The worker predicts all open tasks by itself; ask for fewer at once",
                        )
                    self._predict_few(places[start : start + _BATCH], predictor)
            return
        except GroundswellError as raised:
            error = raised
        except (RuntimeError, MemoryError, ValueError, OSError) as raised:
            _log.exception("project %s: model %s failed", self._model.project_id, self._version)
            error = ModelError(
                f"the model failed ({raised})", hint="See the log of the backend: is there enough memory?"
            )
        for place in places:
            if place not in self._found and place not in self._failed:
                self._fail(place, error)

    def _predict_few(self, places: Sequence[int], predictor: Predictor) -> None:
        loaded: list[tuple[int, ImageRef, npt.NDArray[np.uint8]]] = []
        for place in places:
            try:
                loaded.append((place, *self._load(self._tasks[place])))
            except GroundswellError as error:
                self._fail(place, error)
        with self._services.metrics.phase("predict"):
            found = list(predictor.predict([pixels for _, _, pixels in loaded]))
        for (place, ref, _), instances in zip(loaded, found, strict=True):
            usable = usable_instances(instances)
            rows = table_of(self._tasks[place].id or 0, usable, predictor.labels, ref.hw)
            self._answer(place, rows, ref.hw, confidence(usable), source="model")

    def _load(self, task: TaskIn) -> tuple[ImageRef, npt.NDArray[np.uint8]]:
        address = self._model.config.image_of(task.data)
        metrics = self._services.metrics
        with metrics.phase("fetch"):
            ref = self._services.images.get(
                address, task_id=task.id, project_id=self._model.project_id or None
            )
        with metrics.phase("decode"):
            return ref, self._services.images.pixels(ref)

    def _answer(self, place: int, rows: PoolTable, hw: tuple[int, int], score: float, *, source: str) -> None:
        try:
            with self._services.metrics.phase("serialise"):
                made: TaskPrediction = make_prediction(
                    rows,
                    self._model.config,
                    hw,
                    self._decisions.verdicts,
                    round_number=self._decisions.round_number,
                    min_score=self._model.min_score,
                    score=score,
                )
        except GroundswellError as error:
            self._fail(place, error)
            return
        self._services.metrics.predicted(source)
        self._found[place] = {"result": made.result, "score": made.score, "model_version": self._name}

    def _fail(self, place: int, error: GroundswellError) -> None:
        _log.warning("project %s task %s: %s", self._model.project_id, self._tasks[place].id, error)
        self._services.metrics.failed(type(error).__name__)
        self._failed[place] = error
