"""Click segmenters by name. Each is built when first used, once per process."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_backend.artifacts.files import read_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.caches import ByteCache
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.versions import is_outdated, version_stamp
from ml_backend.device_fallback import DeviceFallback, DeviceListener
from ml_backend.errors import ModelError
from ml_backend.extras import EXTRA_OF, missing_packages
from ml_backend.settings import BackendSettings

__all__ = [
    "SEGMENTERS",
    "SegmenterEntry",
    "SegmenterPool",
    "SegmenterStatus",
    "build_segmenter",
    "current_version",
    "list_segmenters",
    "project_segmenter",
]

log = logging.getLogger(__name__)

_NETWORK_BYTES = 256 * 1024**2
"""Memory limit for the networks of all projects together; one takes a few MB."""

Factory = Callable[[BackendSettings, ProjectPaths | None], ClickSegmenter]


@dataclass(frozen=True, slots=True)
class SegmenterEntry:
    """One row of the table.

    ``factory`` is ``module:function``, called with (settings, project). ``needs`` lists the modules it
    imports, ``weights`` the settings that name its weights; the first that is set counts. ``licence`` is that
    of the weights which their authors published, empty where there are none.
    """

    name: str
    summary: str
    factory: str
    needs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    needs_project: bool = False
    licence: str = ""

    @property
    def needs_checkpoint(self) -> bool:
        """Whether it needs weights that somebody else trained."""
        return bool(self.weights)


SEGMENTERS: dict[str, SegmenterEntry] = {
    entry.name: entry
    for entry in (
        SegmenterEntry(
            "classical",
            "closed outlines and colour models, no weights; the default",
            "ml_backend.clicks.segmenters.classical:from_settings",
        ),
        SegmenterEntry(
            "shipped",
            "the click network that comes with the package, trained on pictures of other people",
            "ml_backend.clicks.segmenters.shipped:from_settings",
            needs=("onnxruntime",),
        ),
        SegmenterEntry(
            "sam",
            "segment-anything checkpoint (vit_b, vit_l, vit_h) in torch",
            "ml_backend.clicks.segmenters.sam:from_settings",
            needs=("torch", "segment_anything"),
            weights=("sam_checkpoint",),
            licence="SAM: Apache-2.0; others: see the model's card",
        ),
        SegmenterEntry(
            "sam-onnx",
            "encoder and decoder of the SAM family in onnxruntime (SAM, MobileSAM, EfficientSAM)",
            "ml_backend.clicks.segmenters.sam_onnx:from_settings",
            needs=("onnxruntime",),
            weights=("sam_onnx", "sam_checkpoint"),
            licence="SAM, MobileSAM, EfficientSAM: Apache-2.0; others: see the model's card",
        ),
        SegmenterEntry(
            "click-onnx",
            "click network exported to ONNX (RITM, FocalClick, SimpleClick)",
            "ml_backend.clicks.segmenters.click_onnx:from_settings",
            needs=("onnxruntime",),
            weights=("click_onnx", "sam_checkpoint"),
            licence="unknown, see where the network comes from",
        ),
        SegmenterEntry(
            "hf",
            "SAM, HQ-SAM, SAM 2, EdgeTAM or SAM 3 through transformers, from a folder or a name on the hub",
            "ml_backend.clicks.segmenters.hf:from_settings",
            needs=("torch", "transformers"),
            weights=("hf_model",),
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
    """Whether a segmenter can be used now; if not ``ready``, ``reason`` says why in one line.

    ``licence`` is that of its weights, empty where it has none that others trained.
    """

    name: str
    summary: str
    ready: bool
    reason: str
    licence: str = ""


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
    version = None if project is None else current_version(project)
    if project is None or version is None or is_outdated(project.clicks / version):
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
        missing = missing_packages([*entry.needs])
        licence = entry.licence
        if missing:
            reason = f"needs {', '.join(missing)}"
        elif entry.name == "hf":
            from ml_backend.clicks.segmenters.hf_models import folder_problem, licence_of

            reason, licence = folder_problem(settings), licence_of(settings)
        elif entry.weights:
            reason = _weights_reason(entry, settings)
        else:
            reason = _project_reason(project) if entry.needs_project else ""
        rows.append(SegmenterStatus(entry.name, entry.summary, not reason, reason, licence))
    return rows


def _weights_reason(entry: SegmenterEntry, settings: BackendSettings) -> str:
    """Why the weights of a segmenter are not there; empty when they are."""
    path: Path | None = next((found for name in entry.weights if (found := getattr(settings, name))), None)
    if path is None:
        return f"{' or '.join(f'GROUNDSWELL_{name.upper()}' for name in entry.weights)} is not set"
    return "" if path.exists() else f"{path} does not exist"


def _project_reason(project: ProjectPaths | None) -> str:
    """Why a project has no click model of its own that could be used; empty when it has."""
    version = None if project is None else current_version(project)
    if project is None or version is None:
        return "no click model has been trained for this project yet"
    if is_outdated(project.clicks / version):
        return f"{version} was made by another release of Groundswell; the worker trains a new one"
    return ""


class SegmenterPool:
    """Loaded segmenters of one process, each built once.

    The memory for projects' own networks is limited; the other segmenters are at most as many as the table
    has. A network that was trained again, under a new name or the old one, replaces the one loaded before.
    """

    def __init__(self, settings: BackendSettings, *, device_changed: DeviceListener | None = None) -> None:
        self.settings = settings
        self._device_changed = device_changed
        self._lock = threading.Lock()
        self._building: dict[object, threading.Lock] = {}
        self._shared: dict[str, ClickSegmenter] = {}
        self._networks: ByteCache[int, _Network] = ByteCache(
            _NETWORK_BYTES, lambda network: network.segmenter.nbytes
        )
        self._outdated: set[_Version] = set()

    def get(self, name: str, project: ProjectPaths | None = None) -> ClickSegmenter:
        """The segmenter to answer with, loaded on first use.

        A project's own click model replaces the segmenter that it was measured against and that it beat.
        Until there is one, the name ``project`` means the segmenter of the settings.
        """
        serving = None if project is None else self._serving(project)
        if project is None or serving is None:
            if name == "project":
                fallback = self.settings.segmenter
                name = "classical" if fallback == "project" else fallback
            return self._shared_segmenter(name)
        if name != "project" and _incumbent(serving) != name:
            return self._shared_segmenter(name)  # it was never measured against this one
        return self._network(project, serving)

    def _shared_segmenter(self, name: str) -> ClickSegmenter:
        with self._one_builder(name):
            loaded = self._shared.get(name)
            if loaded is None:
                loaded = self._shared[name] = self._watched(build_segmenter(name, self.settings))
            return loaded

    def _network(self, project: ProjectPaths, version: _Version) -> ClickSegmenter:
        with self._one_builder(project.project_id):
            loaded = self._networks.get(project.project_id)
            if loaded is None or loaded.version != version:
                loaded = _Network(version, build_segmenter("project", self.settings, project))
                self._networks.put(project.project_id, loaded)
            return loaded.segmenter

    @contextmanager
    def _one_builder(self, key: object) -> Iterator[None]:
        """Of two requests for a segmenter that is not loaded, one builds it and the other waits. Requests for
        other segmenters do not wait.
        """
        with self._lock:
            building = self._building.setdefault(key, threading.Lock())
        with building:
            yield

    def _watched(self, segmenter: ClickSegmenter) -> ClickSegmenter:
        fallback = getattr(segmenter, "fallback", None)
        if isinstance(fallback, DeviceFallback) and self._device_changed is not None:
            fallback.watch(self._device_changed)
        return segmenter

    def _serving(self, project: ProjectPaths) -> _Version | None:
        """The click version that serves a project, None when there is none that this release can run."""
        name = current_version(project)
        if name is None:
            return None
        version = _Version(project.clicks / name, version_stamp(project.clicks / name))
        if is_outdated(version.folder):
            if version not in self._outdated:  # warn only once
                self._outdated.add(version)
                log.warning(
                    "click model %s was made by another release of Groundswell: not used", version.folder
                )
            return None
        return version


@dataclass(frozen=True, slots=True)
class _Version:
    """A click version as it is now; another training of the same name has another stamp."""

    folder: Path
    stamp: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    version: _Version
    segmenter: ClickSegmenter


@functools.lru_cache(maxsize=1024)
def _incumbent(version: _Version) -> str:
    """The segmenter that a click version was measured against; empty when its report cannot be read."""
    try:
        return str(read_json(version.folder / "report.json")["incumbent"]["segmenter"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("click model %s has no readable report: %r", version.folder, error)
        return ""


def current_version(project: ProjectPaths) -> str | None:
    """Name of the click version that a project's ``current`` names, None when there is none."""
    try:
        return (project.clicks / "current").read_text().strip() or None
    except FileNotFoundError:
        return None
