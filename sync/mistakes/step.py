"""The step of a look that keeps the list of likely mistakes and its tab level with the annotations."""

from __future__ import annotations

import time

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.mistakes.find import find_mistakes
from sync.mistakes.look_here import push_look_here
from sync.rounds.progress import Memo, Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord
from sync.studio.protocol import StudioClient

__all__ = ["ask_again", "keep_mistakes"]


def keep_mistakes(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
    *,
    is_changed: bool,
) -> None:
    """Find likely mistakes and show them, if something they follow from has changed.

    ``is_changed``: the look found changed annotations. A look at an unchanged project asks the time of one
    file and nothing else. While people work, annotations are judged no more often than ``push_interval_s``.
    """
    name = ("mistakes", db.id)
    if settings.mistakes == "off":
        if memo.get(name) != "off" and push_look_here(db, studio, progress, memo, None):
            memo[name] = "off"
        return
    stamp = (record.model_version, record.split, config.digest, settings.mistakes, _asked_at(paths))
    kept = memo.get(name)
    done, at, waits = kept if isinstance(kept, tuple) else (None, 0.0, True)
    waits = waits or is_changed
    if done == stamp and not waits:
        return
    now = time.monotonic()
    memo[name] = (done, at, True)  # an error below must not make the next look forget it
    if done == stamp and now - at < settings.push_interval_s:
        return
    table = find_mistakes(db, config, settings, paths, images, progress, memo, record)
    shown = table if settings.mistakes == "tab" else None
    is_level = push_look_here(db, studio, progress, memo, shown)
    memo[name] = (stamp, now, not is_level)


def ask_again(paths: ProjectPaths) -> None:
    """Let the worker look for mistakes again, after a command has changed what they follow from."""
    write_atomic(paths.mistakes_folder / "again", b"")


def _asked_at(paths: ProjectPaths) -> int:
    try:
        return (paths.mistakes_folder / "again").stat().st_mtime_ns
    except FileNotFoundError:
        return 0
