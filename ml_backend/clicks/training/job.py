"""Training of a click network in a process of its own: ``python -m ml_backend.clicks.training.job``.

``ml_backend.learners.child_process`` says how it is started and how it answers. The request holds the
fields of ``ClickJobSpec``, the report those of ``ClickReport``. OUT then holds weights.safetensors,
click.json and report.json. The process runs at low priority, so that it does not slow down clicks.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ml_backend.artifacts.files import (
    Guard,
    publish_dir,
    read_json,
    read_name,
    unguarded,
    write_atomic,
    write_json,
)
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.versions import incumbent_of, is_outdated, is_usable
from ml_backend.clicks.ranking.ranker import RANKING_FILE
from ml_backend.clicks.ranking.versions import RANKING_CURRENT
from ml_backend.clicks.training.options import click_options
from ml_backend.errors import BadInput, GroundswellError
from ml_backend.examples import Example
from ml_backend.learners.base import Progress
from ml_backend.learners.child_process import run_as_child, run_child

__all__ = ["ClickJobSpec", "job_spec", "publish_click_model", "run_click_job"]

_NICE = 10
_NETWORK_SHARE = 0.9
"""Share of the work that is the network, for people who watch; the rest is the ranking."""


class ClickJobSpec(BaseModel):
    """What a click network is trained from. ``incumbent`` is the segmenter in use now, ``start`` the folder
    of an earlier version to continue from, ``look`` the number of this comparison with a segmenter in use.

    For the ranking of candidates: ``model`` is the folder of the model version that proposes, ``serving``
    that of the click version that serves now, ``ranking_look`` the number of this comparison of a ranking.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] = ()
    incumbent: str = "classical"
    options: dict[str, Any] = {}
    start: Path | None = None
    look: int = 1
    model: Path | None = None
    serving: Path | None = None
    ranking_look: int = 1


def job_spec(
    train: Sequence[Example],
    test: Sequence[Example],
    labels: Sequence[str],
    *,
    incumbent: str = "classical",
    options: Mapping[str, Any] | None = None,
    start: Path | None = None,
    model: Path | None = None,
) -> dict[str, Any]:
    """A ``ClickJobSpec``, ready for JSON."""
    spec = ClickJobSpec(
        train=tuple(train),
        test=tuple(test),
        labels=tuple(labels),
        incumbent=incumbent,
        options=dict(options or {}),
        start=start,
        model=model,
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
    guard: Guard = unguarded,
) -> dict[str, Any]:
    """Train ``version`` unless it exists, and publish it by rename. Returns the report.

    If the report says to use the version, its name is written to the file ``current``, by rename too. If not,
    an earlier version that passed its test goes on serving, unless it only beat ``classical`` and this one
    did not beat ``shipped``. The ranking of candidates and the file ``ranking`` are treated alike.

    Safe to call again after a kill at any point: a finished version is not trained twice, unless another
    release of Groundswell made it.
    """
    folder = project.clicks / version
    current, ranking = project.clicks / "current", project.clicks / RANKING_CURRENT
    earlier = read_name(current)
    serving = None if earlier is None else project.clicks / earlier
    known = {
        "look": _looks(project, "adoption") + 1,
        "ranking_look": _looks(project, "ranking", "adoption") + 1,
        "serving": str(serving) if serving is not None and is_usable(serving) else None,
    }
    if is_outdated(folder):
        shutil.rmtree(folder)
    if not folder.exists():
        with publish_dir(folder, guard=guard) as staging:
            run_click_job({**spec, **known}, staging, progress)
    report: dict[str, Any] = read_json(folder / "report.json")
    _name_or_not(current, version, guard, use=bool(report["use"]))
    lost_to_shipped = not report["use"] and incumbent_of(folder) == "shipped"
    if lost_to_shipped and serving is not None and incumbent_of(serving) == "classical":
        with guard(current):  # neither beat the network of the package
            current.unlink(missing_ok=True)
    ranks = bool(report.get("ranking", {}).get("use")) and (folder / RANKING_FILE).exists()
    _name_or_not(ranking, version, guard, use=ranks)
    return report


def _name_or_not(path: Path, version: str, guard: Guard, *, use: bool) -> None:
    """Write the version's name into a file if it is to be used; if it is not, take it out again."""
    if use:
        write_atomic(path, version.encode(), guard=guard)
    elif read_name(path) == version:
        with guard(path):
            path.unlink(missing_ok=True)


def _looks(project: ProjectPaths, *where: str) -> int:
    """How many comparisons the project had, by the reports of its versions; ``where`` in a report to look.

    For networks a report without a number is of an earlier release, and counts as one.
    """
    numbers = []
    for path in project.clicks.glob("[!.]*/report.json"):
        try:
            found = read_json(path)
            for name in where:
                found = found.get(name) or {}
            if found or where == ("adoption",):
                numbers.append(int(found.get("look", 1)))
        except (OSError, ValueError, AttributeError, TypeError):
            numbers.append(1)  # unreadable now, but it was a comparison
    return max(len(numbers), *numbers, 0)


def _train(request: Any, out: Path, progress: Progress) -> dict[str, Any]:
    from ml_backend.clicks.evaluation.report import as_json
    from ml_backend.clicks.serving.auto_choice import settings_for
    from ml_backend.clicks.serving.catalog import build_segmenter
    from ml_backend.clicks.training.trainer import train_click_model
    from ml_backend.settings import BackendSettings

    try:
        spec = ClickJobSpec.model_validate(request)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"the description of the training is damaged ({first['msg']})", field=where) from error
    incumbent = build_segmenter(spec.incumbent, settings_for(spec.incumbent, BackendSettings()))
    report = train_click_model(
        spec.train,
        spec.test,
        out,
        incumbent,
        lambda share, line: progress(round(_NETWORK_SHARE * share, 4), line),
        labels=spec.labels,
        options=click_options(spec.options),
        start=spec.start,
        look=spec.look,
    )
    result: dict[str, Any] = as_json(report)
    result["ranking"] = _rank(spec, out, incumbent, progress, network_serves=report.use)
    write_json(out / "report.json", result)
    return result


def _rank(
    spec: ClickJobSpec, out: Path, incumbent: ClickSegmenter, progress: Progress, *, network_serves: bool
) -> dict[str, Any]:
    """Learn and test the ranking of candidates beside the network in ``out``; a failure leaves the network as
    it is.
    """
    from ml_backend.clicks.evaluation.proposal_model import load_proposal_model
    from ml_backend.clicks.evaluation.report import as_json
    from ml_backend.clicks.project_network.click_net import ProjectSegmenter
    from ml_backend.clicks.training.ranking import RankingReport, train_ranking
    from ml_backend.learners.readable_examples import readable_examples

    device = str(spec.options.get("device", "auto"))
    network = ProjectSegmenter(out, device=device)
    base: ClickSegmenter = incumbent
    second: ClickSegmenter | None = network
    if network_serves:  # what is configured is asked beside it, unless that needs an encoder of its own
        base, second = network, None if incumbent.persist else incumbent
    elif spec.serving is not None:
        base = ProjectSegmenter(spec.serving, device=device)
    try:
        report = train_ranking(
            spec.train,
            readable_examples(spec.test).kept,
            spec.labels,
            out,
            base=base,
            second=second,
            model=None if spec.model is None else load_proposal_model(spec.model),
            look=spec.ranking_look,
            progress=lambda share, line: progress(
                round(_NETWORK_SHARE + (1 - _NETWORK_SHARE) * share, 4), line
            ),
        )
    except GroundswellError as error:
        report = RankingReport(False, f"no ranking of candidates: {error}")
    found: dict[str, Any] = as_json(report)
    return found


if __name__ == "__main__":
    run_as_child(_train, nice=_NICE)
