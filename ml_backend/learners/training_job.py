"""Training of a learner in a process of its own: ``python -m ml_backend.learners.training_job``.

``ml_backend.learners.child_process`` says how it is started and what it answers. The request is
``{"learner": name, "target": "", "spec": {…}}`` with the fields of ``TrainSpec``, the report holds those of
``TrainReport``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ml_backend.errors import BadInput
from ml_backend.learners.base import Learner, Progress, TrainReport, TrainSpec
from ml_backend.learners.child_process import run_as_child, run_child
from ml_backend.learners.registry import LEARNERS, get_learner

__all__ = ["dump_report", "dump_spec", "load_report", "load_spec", "run_training"]

_SPEC = TypeAdapter(TrainSpec)
_REPORT = TypeAdapter(TrainReport)


def dump_spec(spec: TrainSpec) -> dict[str, Any]:
    """JSON-ready form of a spec."""
    dumped: dict[str, Any] = _SPEC.dump_python(spec, mode="json")
    return dumped


def load_spec(value: Mapping[str, Any]) -> TrainSpec:
    """The spec back from ``dump_spec``; unknown fields are ignored. Raises BadInput where a field is
    missing or of another kind.
    """
    try:
        return _SPEC.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"the description of the training run is damaged ({where}: {first['msg']})", field="spec"
        ) from error


def dump_report(report: TrainReport) -> dict[str, Any]:
    """JSON-ready form of a report."""
    dumped: dict[str, Any] = _REPORT.dump_python(report, mode="json")
    return dumped


def load_report(value: Mapping[str, Any]) -> TrainReport:
    """The report back from ``dump_report``."""
    return _REPORT.validate_python(value)


def run_training(
    learner: Learner | str, spec: TrainSpec, out: Path, progress: Progress, *, target: str = ""
) -> TrainReport:
    """Train ``spec`` into the folder ``out`` in a child process and relay its progress.

    ``target`` is the ``module:class`` of the learner, where it is not the one of that name in ``LEARNERS``.
    If ``progress`` raises, the child is killed and the exception is passed on. If the training raised a
    GroundswellError (BadInput, ModelError, …), the same error is raised here; any other failure raises
    ModelError, which says how the process ended.
    """
    name = learner if isinstance(learner, str) else learner.name
    request = {"learner": name, "target": target, "spec": dump_spec(spec)}
    return load_report(run_child("ml_backend.learners.training_job", request, out, progress))


def _train(request: Any, out: Path, progress: Progress) -> dict[str, Any]:
    if request["target"]:
        LEARNERS[request["learner"]] = request["target"]
    learner = get_learner(request["learner"])
    return dump_report(learner.train(load_spec(request["spec"]), out, progress))


if __name__ == "__main__":
    run_as_child(_train)
