"""One project during one request: ``setup``, ``predict`` and ``fit`` of the ML-backend protocol (2.x).

``GroundswellModel`` is cheap to make. It finds out which model version serves, takes predictions from that
version's pool or from the model itself, and hands clicks to the click service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ml_backend.artifacts.inbox import mark_dirty
from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.errors import BadInput, UnknownProject
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.label_studio.protocol import ProjectKey, TaskIn, parse_task
from ml_backend.log_fields import set_log_fields
from ml_backend.services import Services
from ml_backend.task_answers import Answers, ModelSource, answer_tasks

__all__ = ["UNTRAINED", "GroundswellModel"]

UNTRAINED: Final = "groundswell-untrained"
"""Version reported before the first training: Label Studio wants one."""


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
        set_log_fields(project=self.project_id or None)
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
    ) -> Sequence[dict[str, Any] | list[Any]]:
        """The contract's form: raw task dicts in, one entry per task out (see ``Answers.results``)."""
        parsed = [parse_task(t) for t in tasks]
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
        """Predictions of the version that serves, as ``answer_tasks``; none before the first model."""
        version = self._serving_version()
        if self.facts is None or not version:
            self._services.metrics.predicted("none", len(tasks))
            return Answers([[] for _ in tasks])
        source = ModelSource(
            project_id=self.project_id,
            version=version,
            stored_as=self._prediction_version(version),
            config=self.config.only(self.facts.labels),
            min_score=self.facts.push_min_score,
            max_tags_per_pixel=self.facts.max_tags_per_pixel,
        )
        return answer_tasks(self._services, source, tasks, budget_s)

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
