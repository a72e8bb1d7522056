"""Rankings of candidate masks that projects adopted, loaded when their first click comes.

A ranking only serves with the segmenter that it was measured with. Where it cannot be used the log says why,
once, and clicks are answered by the segmenter alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.caches import ByteCache
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.versions import is_usable
from ml_backend.clicks.ranking.joint import JointSegmenter, Pixels
from ml_backend.clicks.ranking.ranker import RANKING_FILE, Ranker, load_ranker
from ml_backend.clicks.ranking.versions import current_ranking, name_of
from ml_backend.clicks.start_masks import Proposals
from ml_backend.devices import resolve_device
from ml_backend.errors import GroundswellError, ModelError
from ml_backend.settings import BackendSettings

__all__ = ["Rankings"]

log = logging.getLogger(__name__)

_BYTES: Final = 128 * 1024**2
_OVERHEAD: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A ranking's file as it is now."""

    folder: Path
    inode: int
    changed: int


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """``ranker`` None: it cannot be used, and that was said."""

    stamp: _Stamp
    ranker: Ranker | None
    network: ClickSegmenter | None
    digest: str

    @property
    def nbytes(self) -> int:
        return _OVERHEAD + (0 if self.network is None else self.network.nbytes)


class Rankings:
    """Thread-safe; one per process. The memory of the projects' networks is bounded."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: ByteCache[int, _Loaded] = ByteCache(_BYTES, lambda loaded: loaded.nbytes)
        self._said: set[tuple[object, ...]] = set()
        self._threads = ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="candidates")

    def joint(
        self,
        project: ProjectPaths,
        base: ClickSegmenter,
        configured: Callable[[], ClickSegmenter],
        proposals: Proposals | None,
        task_id: int,
        pixels: Pixels,
    ) -> ClickSegmenter:
        """The segmenter that ranks candidates for clicks on one task, or ``base`` itself if the project
        adopted no ranking that can be used with it. ``configured`` gives the segmenter of the settings, which
        is asked where ``base`` is the project's network.
        """
        loaded = self._find(project)
        if loaded is None or loaded.ranker is None:
            return base
        second = loaded.network
        if second is not None and second.encoder == base.encoder:
            second = self._beside(loaded, configured) if loaded.ranker.second else None
        answering = name_of(base), name_of(second)
        if (loaded.ranker.base, loaded.ranker.second) != answering:
            self._say(
                (loaded.stamp, answering),
                "ranking %s was measured with %s and %s, but %s and %s answer clicks now: not used",
                loaded.stamp.folder, loaded.ranker.base, loaded.ranker.second, *answering,
            )  # fmt: skip
            return base
        known = "" if proposals is None else f"+{proposals.version}/{task_id}"
        return JointSegmenter(
            base,
            loaded.ranker,
            second=second,
            proposals=proposals,
            pixels=pixels,
            key=f"{loaded.digest}{known}",
            threads=self._threads,
        )

    def _beside(self, loaded: _Loaded, configured: Callable[[], ClickSegmenter]) -> ClickSegmenter | None:
        """The segmenter of the settings; None when it cannot be built: the network answers without it. It is
        not tried again for this ranking, because that can take seconds of each click.
        """
        failed = loaded.stamp, "configured"
        if failed in self._said:
            return None
        try:
            return configured()
        except GroundswellError as error:
            folder = loaded.stamp.folder
            self._say(failed, "what ranking %s asks beside the network cannot be used: %s", folder, error)
            return None

    def _find(self, project: ProjectPaths) -> _Loaded | None:
        try:
            name = current_ranking(project)
        except (OSError, UnicodeDecodeError) as error:
            self._say((project.root, "name"), "%s cannot be read: %s", project.clicks / "ranking", error)
            return None
        if name is None:
            return None
        folder = project.clicks / name
        try:
            stat = (folder / RANKING_FILE).stat()
        except OSError as error:
            self._say((folder, "missing"), "ranking %s is not used: %s", folder / RANKING_FILE, error)
            return None
        stamp = _Stamp(folder, stat.st_ino, stat.st_mtime_ns)
        loaded = self._loaded.get(project.project_id)
        if loaded is None or loaded.stamp != stamp:
            with self._lock:  # one load at a time: it takes milliseconds, and happens once per version
                loaded = self._loaded.get(project.project_id)
                if loaded is None or loaded.stamp != stamp:
                    loaded = self._load(stamp)
                    self._loaded.put(project.project_id, loaded)
        return loaded

    def _load(self, stamp: _Stamp) -> _Loaded:
        try:
            ranker = load_ranker(stamp.folder)
            network = _network(stamp.folder, self._settings.device)
            digest = hashlib.sha256((stamp.folder / RANKING_FILE).read_bytes()).hexdigest()[:12]
        except (ModelError, OSError, RuntimeError, MemoryError) as error:  # torch's are RuntimeErrors
            log.warning("the ranking of candidates in %s is not used: %s", stamp.folder, error)
            return _Loaded(stamp, None, None, "")
        return _Loaded(stamp, ranker, network, f"ranked-{digest}")

    def _say(self, once: tuple[object, ...], text: str, *values: object) -> None:
        if once not in self._said:
            self._said.add(once)
            log.warning(text, *values)


def _network(folder: Path, device: str) -> ClickSegmenter:
    """The click network of the ranking's version, with its weights loaded. ModelError when it is damaged."""
    from ml_backend.clicks.project_network.click_net import ProjectSegmenter

    if not is_usable(folder):
        raise ModelError(f"{folder} holds no click network of this release")
    network = ProjectSegmenter(folder, device=resolve_device(device))
    network.load()
    return network
