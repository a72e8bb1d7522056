"""Click segmenters by name: built, and looked at without loading their weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ml_backend.artifacts.files import read_name
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.versions import is_outdated
from ml_backend.clicks.segmenters.inspection import Inspection, inspect_file
from ml_backend.clicks.serving.segmenter_table import SEGMENTERS, SegmenterEntry
from ml_backend.errors import ModelError
from ml_backend.extras import EXTRA_OF, missing_packages
from ml_backend.settings import BackendSettings

__all__ = [
    "SEGMENTERS",
    "SegmenterEntry",
    "build_segmenter",
    "current_version",
    "inspect_project",
    "inspect_segmenter",
    "project_segmenter",
]

Factory = Callable[[BackendSettings, ProjectPaths | None], ClickSegmenter]


def build_segmenter(
    name: str, settings: BackendSettings, project: ProjectPaths | None = None
) -> ClickSegmenter:
    """Build one segmenter. ModelError says what is missing and what to do."""
    entry = SEGMENTERS.get(name)
    if entry is None:
        raise ModelError(
            f"unknown click segmenter {name!r}", field="segmenter", hint=f"Known: {', '.join(SEGMENTERS)}"
        )
    missing = missing_packages([*entry.needs])
    if missing:
        extras = ",".join(sorted({EXTRA_OF[module] for module in missing}))
        raise ModelError(
            f"segmenter {name!r} needs {', '.join(missing)}",
            field="segmenter",
            hint=f"Install what is missing: pip install 'groundswell[{extras}]'",
        )
    factory: Factory = _function(entry.factory)
    return factory(settings, project)


def inspect_segmenter(
    name: str, settings: BackendSettings, project: ProjectPaths | None = None
) -> Inspection:
    """What can be told of a segmenter of the table without loading its weights; raises nothing."""
    entry = SEGMENTERS[name]
    missing = missing_packages([*entry.needs])
    if missing:
        extras = ",".join(sorted({EXTRA_OF[module] for module in missing}))
        return Inspection(
            f"needs {', '.join(missing)}", f"pip install 'groundswell[{extras}]'", licence=entry.licence
        )
    if entry.inspect:
        found: Inspection = _function(entry.inspect)(settings, project)
    else:
        found = inspect_file(settings, entry.weights) if entry.weights else Inspection()
    return found if found.licence else replace(found, licence=entry.licence)


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def project_segmenter(settings: BackendSettings, project: ProjectPaths | None) -> ClickSegmenter:
    """The click model that serves a project. ModelError when none was trained yet."""
    version = None if project is None else current_version(project)
    if project is None or version is None or is_outdated(project.clicks / version):
        raise ModelError(
            "no click model has been trained for this project yet",
            field="segmenter",
            hint="The worker trains one once enough tasks are finished; until then use auto",
        )
    from ml_backend.clicks.project_network.click_net import ProjectSegmenter
    from ml_backend.devices import resolve_device

    segmenter: ClickSegmenter = ProjectSegmenter(
        project.clicks / version, device=resolve_device(settings.device)
    )
    return segmenter


def inspect_project(settings: BackendSettings, project: ProjectPaths | None) -> Inspection:
    """Why a project has no click model of its own that could be used, if it has none."""
    version = None if project is None else current_version(project)
    if project is None or version is None:
        return Inspection("no click model has been trained for this project yet")
    folder = project.clicks / version
    if is_outdated(folder):
        return Inspection(
            f"{version} was made by another release of Groundswell; the worker trains a new one"
        )
    return Inspection(files=(folder / "weights.safetensors",))


def current_version(project: ProjectPaths) -> str | None:
    """Name of the click version that a project's ``current`` names, None when there is none."""
    return read_name(project.clicks / "current")
