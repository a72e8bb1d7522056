"""Every segmenter with whether it can be used: what ``groundswell models`` shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.segmenters.inspection import Inspection
from ml_backend.clicks.serving.auto_choice import choose, settings_for
from ml_backend.clicks.serving.catalog import inspect_segmenter
from ml_backend.clicks.serving.probe import Probe, known_probe, probe
from ml_backend.clicks.serving.segmenter_table import AUTO, SEGMENTERS
from ml_backend.settings import BackendSettings

__all__ = ["SMALL_BYTES", "Probing", "SegmenterStatus", "list_segmenters"]

SMALL_BYTES = 200 * 10**6
"""Weights up to this size are tried without being asked for: that takes seconds."""

_SMALL_S, _LONGEST_S = 120.0, 600.0

Probing = Literal["never", "small", "all"]
"""What is tried: nothing, small weights that nobody tried yet, or all that did not work or was not tried."""


@dataclass(frozen=True, slots=True)
class SegmenterStatus:
    """Whether a segmenter can be used now.

    ``ready`` is true only after a click gave a mask (or where there are no weights to try). ``here`` is true
    when nothing that it needs is seen to be missing. ``reason`` says in one line what is missing or wrong, or
    that nobody tried it yet; for ``auto`` it says what was chosen. ``licence`` is that of its weights, empty
    where it has none that others trained. ``better`` says of ``auto`` what a better choice would be, a line
    each.
    """

    name: str
    summary: str
    ready: bool
    here: bool
    reason: str
    licence: str = ""
    better: tuple[str, ...] = ()


def list_segmenters(
    settings: BackendSettings, project: ProjectPaths | None = None, *, probing: Probing = "never"
) -> list[SegmenterStatus]:
    """A row for each segmenter of the table. With ``probing`` "never" this loads no weights."""
    return [_status(name, settings, project, probing) for name in SEGMENTERS]


def _status(
    name: str, settings: BackendSettings, project: ProjectPaths | None, probing: Probing
) -> SegmenterStatus:
    if name == AUTO:
        return _auto_status(settings, probing)
    settings = settings_for(name, settings)  # a project that names it is served with these weights
    report = inspect_segmenter(name, settings, project)
    found = None if report.problem else _probe(name, settings, report, project, probing)
    return _row(name, report, found)


def _auto_status(settings: BackendSettings, probing: Probing) -> SegmenterStatus:
    """The best of the candidates, or with ``probing`` the best that passes."""
    choice = choose(settings, again=probing == "all")
    while True:
        best = choice.best
        report = inspect_segmenter(best.segmenter, best.settings)
        found = _probe(best.segmenter, best.settings, report, None, probing)
        if found is None or not found.problem or len(choice.ranked) == 1:
            return replace(_row(AUTO, report, found, f"now {choice.line}"), better=choice.better)
        choice = choice.without_best(found.problem)


def _row(name: str, report: Inspection, found: Probe | None, said: str = "") -> SegmenterStatus:
    summary = SEGMENTERS[name].summary
    problem, hint = report.problem, report.hint
    if found is not None and found.problem:
        problem, hint = found.problem, found.hint
    reason = problem
    if hint and (name == AUTO or problem != report.problem):
        reason = f"{problem}. {hint}"
    if not problem and found is None:
        reason = "weights are there, not tried: groundswell models --probe"
    ready = not problem and found is not None
    return SegmenterStatus(
        name, summary, ready, not problem, "; ".join(part for part in (said, reason) if part), report.licence
    )


def _probe(
    name: str, settings: BackendSettings, report: Inspection, project: ProjectPaths | None, probing: Probing
) -> Probe | None:
    if not report.files:
        return Probe()  # nothing that could fail
    known = known_probe(name, settings, report)
    if probing == "all" and (known is None or known.problem):
        return probe(name, settings, report, project, timeout_s=_LONGEST_S)
    if probing == "small" and known is None and report.nbytes <= SMALL_BYTES:
        return probe(name, settings, report, project, timeout_s=_SMALL_S)
    return known
