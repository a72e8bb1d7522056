"""Training of a click network in a process of its own: ``python -m ml_backend.clicks.training.job``.

``ml_backend.learners.child_process`` says how it is started and how it answers. The request holds the
fields of ``ClickJobSpec``, the report those of ``ClickReport``. OUT then holds weights.safetensors,
click.json and report.json. The process runs at low priority, so that it does not slow down clicks.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ml_backend.artifacts.files import Guard, publish_dir, read_json, write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.project_network.versions import is_outdated
from ml_backend.clicks.training.options import click_options
from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.learners.base import Progress
from ml_backend.learners.child_process import run_as_child, run_child

__all__ = ["ClickJobSpec", "job_spec", "publish_click_model", "run_click_job"]

_NICE = 10


class ClickJobSpec(BaseModel):
    """What a click network is trained from. ``incumbent`` is the segmenter in use now, ``start`` the folder
    of an earlier version to continue from, ``look`` the number of this comparison with a segmenter in use.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] = ()
    incumbent: str = "classical"
    options: dict[str, Any] = {}
    start: Path | None = None
    look: int = 1


def job_spec(
    train: Sequence[Example],
    test: Sequence[Example],
    labels: Sequence[str],
    *,
    incumbent: str = "classical",
    options: Mapping[str, Any] | None = None,
    start: Path | None = None,
) -> dict[str, Any]:
    """A ``ClickJobSpec``, ready for JSON."""
    spec = ClickJobSpec(
        train=tuple(train),
        test=tuple(test),
        labels=tuple(labels),
        incumbent=incumbent,
        options=dict(options or {}),
        start=start,
    )
    return spec.model_dump(mode="json")


def run_click_job(
    spec: Mapping[str, Any], out: Path, progress: Progress, *, timeout_s: float | None = None
) -> dict[str, Any]:
    """Train in a child process into the empty folder ``out`` and return the report (fields of
    ``ClickReport``).

    Raises what ``run_child`` raises; the child is killed when this call is interrupted.
    """
    report: dict[str, Any] = run_child(
        "ml_backend.clicks.training.job", spec, out, progress, timeout_s=timeout_s
    )
    return report


def publish_click_model(
    project: ProjectPaths,
    version: str,
    spec: Mapping[str, Any],
    progress: Progress,
    *,
    guard: Guard = nullcontext,
) -> dict[str, Any]:
    """Train ``version`` unless it exists, and publish it by rename. Returns the report.

    If the report says to use the version, its name is written to the file ``current``, by rename too. If not,
    an earlier version that passed its test goes on serving.

    Safe to call again after a kill at any point: a finished version is not trained twice, unless another
    release of Groundswell made it.
    """
    folder = project.clicks / version
    look = _looks(project) + 1
    if is_outdated(folder):
        shutil.rmtree(folder)
    if not folder.exists():
        with publish_dir(folder, guard=guard) as staging:
            run_click_job({**spec, "look": look}, staging, progress)
    report: dict[str, Any] = read_json(folder / "report.json")
    current = project.clicks / "current"
    if report["use"]:
        write_atomic(current, version.encode(), guard=guard)
    elif _serving(current) == version:
        with guard():
            current.unlink(missing_ok=True)
    return report


def _serving(current: Path) -> str:
    try:
        return current.read_text().strip()
    except FileNotFoundError:
        return ""


def _looks(project: ProjectPaths) -> int:
    """How many comparisons the project had, by the reports of its versions.

    A report without a number is of an earlier release, and counts as one.
    """
    numbers = []
    for path in project.clicks.glob("[!.]*/report.json"):
        try:
            numbers.append(int(read_json(path).get("adoption", {}).get("look", 1)))
        except (OSError, ValueError, AttributeError, TypeError):
            numbers.append(1)  # unreadable now, but it was a comparison
    return max(len(numbers), *numbers, 0)


def _train(request: Any, out: Path, progress: Progress) -> dict[str, Any]:
    from ml_backend.clicks.evaluation.report import as_json
    from ml_backend.clicks.serving.catalog import build_segmenter
    from ml_backend.clicks.training.trainer import train_click_model
    from ml_backend.settings import BackendSettings

    try:
        spec = ClickJobSpec.model_validate(request)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"the description of the training is damaged ({first['msg']})", field=where) from error
    report = train_click_model(
        spec.train,
        spec.test,
        out,
        build_segmenter(spec.incumbent, BackendSettings()),
        lambda share, line: progress(round(share, 4), line),
        labels=spec.labels,
        options=click_options(spec.options),
        start=spec.start,
        look=spec.look,
    )
    result: dict[str, Any] = as_json(report)
    return result


if __name__ == "__main__":
    run_as_child(_train, nice=_NICE)
