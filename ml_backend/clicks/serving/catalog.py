"""Click segmenters by name: one table, built lazily and once per process and checkpoint."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml_backend.artifacts.files import read_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.versions import is_outdated
from ml_backend.errors import ModelError
from ml_backend.extras import EXTRA_OF, missing_packages
from ml_backend.settings import BackendSettings

__all__ = [
    "SEGMENTERS",
    "SegmenterEntry",
    "SegmenterPool",
    "SegmenterStatus",
    "build_segmenter",
    "list_segmenters",
    "project_segmenter",
]

log = logging.getLogger(__name__)

Factory = Callable[[BackendSettings, ProjectPaths | None], ClickSegmenter]


@dataclass(frozen=True, slots=True)
class SegmenterEntry:
    """One row of the table. ``factory`` is ``module:function(settings, project)``; ``needs`` are import
    names.
    """

    name: str
    summary: str
    factory: str
    needs: tuple[str, ...] = ()
    needs_checkpoint: bool = False
    needs_project: bool = False


SEGMENTERS: dict[str, SegmenterEntry] = {
    entry.name: entry
    for entry in (
        SegmenterEntry(
            "classical",
            "closed outlines and colour models, no weights; the default",
            "ml_backend.clicks.segmenters.classical:from_settings",
        ),
        SegmenterEntry(
            "sam",
            "segment-anything checkpoint (vit_b, vit_l, vit_h) in torch",
            "ml_backend.clicks.segmenters.sam:from_settings",
            needs=("torch", "segment_anything"),
            needs_checkpoint=True,
        ),
        SegmenterEntry(
            "sam-onnx",
            "encoder and decoder of the SAM family in onnxruntime (SAM, MobileSAM, EfficientSAM)",
            "ml_backend.clicks.segmenters.sam_onnx:from_settings",
            needs=("onnxruntime",),
            needs_checkpoint=True,
        ),
        SegmenterEntry(
            "click-onnx",
            "click network exported to ONNX (RITM, FocalClick, SimpleClick)",
            "ml_backend.clicks.segmenters.click_onnx:from_settings",
            needs=("onnxruntime",),
            needs_checkpoint=True,
        ),
        SegmenterEntry(
            "project",
            "click network trained on this project's own finished masks",
            "ml_backend.clicks.serving.catalog:project_segmenter",
            needs=("torch",),
            needs_project=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class SegmenterStatus:
    """Whether a segmenter could be used now: ``ready``, or why not in one line."""

    name: str
    summary: str
    ready: bool
    reason: str


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
    module, _, attribute = entry.factory.partition(":")
    factory: Factory = getattr(importlib.import_module(module), attribute)
    return factory(settings, project)


def project_segmenter(settings: BackendSettings, project: ProjectPaths | None) -> ClickSegmenter:
    """The click model that serves a project. ModelError when none was trained yet."""
    version = None if project is None else _version(project)
    if project is None or version is None:
        raise ModelError(
            "no click model has been trained for this project yet",
            field="segmenter",
            hint="The worker trains one once enough tasks are finished; until then use classical or sam",
        )
    from ml_backend.clicks.project_network.click_net import ProjectSegmenter
    from ml_backend.devices import resolve_device

    segmenter: ClickSegmenter = ProjectSegmenter(
        project.clicks / version, device=resolve_device(settings.device)
    )
    return segmenter


def list_segmenters(settings: BackendSettings, project: ProjectPaths | None = None) -> list[SegmenterStatus]:
    """Every segmenter with whether it can be used, without loading any weights."""
    rows = []
    for entry in SEGMENTERS.values():
        reason = ""
        missing = missing_packages([*entry.needs])
        checkpoint = settings.sam_checkpoint
        if missing:
            reason = f"needs {', '.join(missing)}"
        elif entry.needs_checkpoint and checkpoint is None:
            reason = "GROUNDSWELL_SAM_CHECKPOINT is not set"
        elif entry.needs_checkpoint and checkpoint is not None and not checkpoint.exists():
            reason = f"{checkpoint} does not exist"
        elif entry.needs_project and (project is None or _version(project) is None):
            reason = "no click model has been trained for this project yet"
        rows.append(SegmenterStatus(entry.name, entry.summary, not reason, reason))
    return rows


class SegmenterPool:
    """Loaded segmenters of one process, each built once; a project's click model is swapped when a new one
    serves.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._building: dict[tuple[str, int, str], threading.Lock] = {}
        self._loaded: dict[tuple[str, int, str], ClickSegmenter] = {}
        self._incumbents: dict[tuple[int, str], str] = {}

    def get(self, name: str, project: ProjectPaths | None = None) -> ClickSegmenter:
        """The segmenter to answer with, loaded on first use.

        A project's own click model answers instead of the segmenter it was measured against and found better
        than. ``project`` falls back to the settings' segmenter until there is one.
        """
        version = None if project is None else _version(project)
        if name == "project" and version is None:
            fallback = self.settings.segmenter
            return self.get("classical" if fallback == "project" else fallback)
        if (
            project is not None
            and version is not None
            and (name == "project" or self._beats(project, version, name))
        ):
            key = ("project", project.project_id, version)
        else:
            project = None
            key = (name, 0, "")
        with self._lock:
            loaded = self._loaded.get(key)
            if loaded is not None:
                return loaded
            building = self._building.setdefault(key, threading.Lock())
        with building:
            with self._lock:
                loaded = self._loaded.get(key)
            if loaded is None:
                loaded = build_segmenter(key[0], self.settings, project)
                with self._lock:
                    for old in [k for k in self._loaded if k[:2] == key[:2]]:
                        del self._loaded[old]  # an older version of the same project's model
                    self._loaded[key] = loaded
        return loaded

    def _beats(self, project: ProjectPaths, version: str, name: str) -> bool:
        """Whether this click model was measured against the segmenter ``name`` (what it lost, it does not
        serve).
        """
        key = (project.project_id, version)
        incumbent = self._incumbents.get(key)
        if incumbent is None:
            try:
                report = read_json(project.clicks / version / "report.json")
                incumbent = str(report["incumbent"]["segmenter"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning(
                    "click model %s of project %d has no readable report: %r",
                    version,
                    project.project_id,
                    error,
                )
                incumbent = ""
            self._incumbents[key] = incumbent
        return incumbent == name


def _version(project: ProjectPaths) -> str | None:
    """Version of the project's click model that serves, or None.

    None also for one that an earlier release of Groundswell trained: the configured segmenter answers until
    the worker has a new one.
    """
    pointer: Path = project.clicks / "current"
    try:
        version = pointer.read_text().strip()
    except FileNotFoundError:
        return None
    if not version or _is_outdated(project.clicks / version):
        return None
    return version


@functools.lru_cache(maxsize=256)
def _is_outdated(folder: Path) -> bool:
    """Whether a version, which never changes once published, is another release's; said once."""
    found = is_outdated(folder)
    if found:
        log.warning("click model %s was made by another release of Groundswell: not used", folder)
    return found
