"""Loaded segmenters of one process, and which of them answers for a project."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.caches import ByteCache
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.versions import incumbent_of, is_outdated, version_stamp
from ml_backend.clicks.serving.auto_choice import AutoChoice, Candidate, build_best, choose, settings_for
from ml_backend.clicks.serving.catalog import build_segmenter, current_version
from ml_backend.clicks.serving.segmenter_note import write_note
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.device_fallback import DeviceFallback, DeviceListener
from ml_backend.settings import BackendSettings

__all__ = ["SegmenterPool"]

log = logging.getLogger(__name__)

_NETWORK_BYTES = 256 * 1024**2
"""Memory limit for the networks of all projects together; one takes a few MB."""

_WITHOUT_LARGE_MODEL = frozenset({"shipped", "classical"})
"""Under ``auto``, a network that beat one of these is not dropped because the other one serves now."""


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
        self._auto: AutoChoice | None = None

    def announce(self) -> None:
        """Decide what ``auto`` stands for, log what answers clicks, and leave a note for ``status``."""
        name = self.settings.segmenter
        if name == AUTO:
            self._choice()
        else:
            log.info("clicks by %s", name)
            write_note(self.settings, name)

    def get(self, name: str, project: ProjectPaths | None = None) -> ClickSegmenter:
        """The segmenter to answer with, loaded on first use.

        A project's own click model replaces the segmenter that it was measured against and that it beat.
        Until there is one, the name ``project`` means the segmenter of the settings.
        """
        serving = None if project is None else self._serving(project)
        if project is None or serving is None:
            return self._shared_segmenter(self._meant(name))
        if name != "project" and not self._was_beaten(name, _incumbent(serving)):
            return self._shared_segmenter(name)  # the network was never measured against this one
        return self._network(project, serving)

    def built_from(self, name: str) -> tuple[str, BackendSettings]:
        """Name in the table and settings of what ``get(name)`` gives where no network of a project serves."""
        name = self._meant(name)
        if name != AUTO:
            return name, settings_for(name, self.settings)
        self._shared_segmenter(name)  # what cannot be built is passed over
        best = self._choice().best
        return best.segmenter, best.settings

    def _meant(self, name: str) -> str:
        """What a name means where no network of a project serves."""
        if name != "project":
            return name
        fallback = self.settings.segmenter
        return AUTO if fallback == "project" else fallback

    def _was_beaten(self, name: str, incumbent: str) -> bool:
        """Whether ``incumbent``, which a project's network beat, is the segmenter ``name``."""
        if name != AUTO:
            return name == incumbent
        chosen = self._choice().best.segmenter
        return incumbent == chosen or {incumbent, chosen} <= _WITHOUT_LARGE_MODEL

    def _shared_segmenter(self, name: str) -> ClickSegmenter:
        with self._one_builder(name):
            loaded = self._shared.get(name)
            if loaded is None:
                built = self._best() if name == AUTO else self._of_name(name)
                loaded = self._shared[name] = self._watched(built)
            return loaded

    def _of_name(self, name: str) -> ClickSegmenter:
        """With the weights that ``auto`` would give it, where no setting names some."""
        return build_segmenter(name, settings_for(name, self.settings))

    def _choice(self) -> AutoChoice:
        with self._one_builder("choice"):
            if self._auto is None:
                self._auto = choose(self.settings)
                _tell(self.settings, self._auto)
            return self._auto

    def _best(self) -> ClickSegmenter:
        """The best segmenter that can be built; from then on ``auto`` stands for it."""
        before = self._choice()
        after, built = build_best(before, self._of_candidate)
        if after is not before:
            with self._one_builder("choice"):
                self._auto = after
            _tell(self.settings, after)
        return built

    def _of_candidate(self, best: Candidate) -> ClickSegmenter:
        """Shared with projects that ask for the same segmenter by its name, if the weights are the same."""
        if best.settings == settings_for(best.segmenter, self.settings):
            return self._shared_segmenter(best.segmenter)
        return build_segmenter(best.segmenter, best.settings)

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


def _tell(settings: BackendSettings, choice: AutoChoice) -> None:
    log.info("clicks by %s", choice.line)
    for line in choice.passed_over:
        log.warning("clicks: %s", line)
    write_note(settings, choice.line, choice.better)


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
    """As ``incumbent_of``, read once per training."""
    return incumbent_of(version.folder)
