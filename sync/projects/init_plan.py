"""What ``init`` would make, worked out without writing anything, here or in Label Studio."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import load_facts
from ml_backend.label_studio.label_config import parse_label_config
from sync.projects.init_project import Serve, backend_address, served_root
from sync.projects.init_request import InitRequest, project_titled
from sync.projects.option_changes import OptionChange, option_changes
from sync.projects.picture_tasks import PictureProject, missing_pictures, missing_served
from sync.settings import Settings
from sync.store.tables import ProjectRecord
from sync.studio.client import AnyClient, as_studio

__all__ = ["InitPlan", "plan_init"]

_PICTURES_A_SECOND = 20.0
"""Uploads to Label Studio on the same, busy machine: 150 pictures of 15 kB took 5.6 s, 80 of 73 kB 4.1 s."""


@dataclass(frozen=True, slots=True)
class InitPlan:
    """What would be made; JSON-ready.

    Attributes
    ----------
    project_id : the project that would be completed; None: one would be made
    takes_part : whether Groundswell looks after it already
    makes_review : whether a review project would be made
    label_config : XML of the project, as it is or as it would be
    pictures, new_pictures : given, and those of them that the project lacks
    refused : files that only look like pictures, with the reason
    copied_bytes : that an upload would copy into Label Studio; 0 where the folder is served as it is
    free_bytes : left on the disk of the data directory
    upload_minutes : about, for a Label Studio on this machine
    options : settings of the project that would change
    backend : address that Label Studio would call
    problems : what would stop it half way
    """

    title: str
    project_id: int | None
    takes_part: bool
    makes_review: bool
    kind: str
    labels: tuple[str, ...]
    label_config: str
    pictures: int
    new_pictures: int
    refused: tuple[str, ...]
    copied_bytes: int
    free_bytes: int
    upload_minutes: float
    options: tuple[OptionChange, ...]
    backend: str
    problems: tuple[str, ...]


def plan_init(
    client: AnyClient,
    settings: Settings,
    request: InitRequest,
    *,
    images: Path | Sequence[Path] | None,
    known: ProjectRecord | None,
    serve: Serve = "upload",
    files_root: Path | None = None,
) -> InitPlan:
    """Compare a request with what is there.

    ``known`` is the store's row of the project, where it takes part. Raises BadInput when a project of this
    title has other labels or another kind, StudioError when Label Studio does not answer.
    """
    studio = as_studio(client)
    row = project_titled(studio, request)
    config = request.config if row is None else row.label_config
    parsed = parse_label_config(config)
    new: Sequence[Path] = request.pictures
    if row is not None and request.pictures:
        folder = images if isinstance(images, Path) else None
        place = PictureProject(studio, row.id, parsed.image_key, folder, request.groups)
        root = served_root(settings, files_root)
        if serve == "upload":
            new = missing_pictures(place, request.pictures)
        elif not _outside(request.pictures, root):
            new = missing_served(place, request.pictures, files_root=root)
    old = {} if known is None else known.options
    size = sum(path.stat().st_size for path in new) if serve == "upload" else 0
    return InitPlan(
        title=request.title,
        project_id=None if row is None else row.id,
        takes_part=known is not None,
        makes_review=row is None or not _has_review(settings, row.id),
        kind=parsed.kind,
        labels=parsed.labels,
        label_config=config,
        pictures=len(request.pictures),
        new_pictures=len(new),
        refused=tuple(request.refused),
        copied_bytes=size,
        free_bytes=shutil.disk_usage(_existing(settings.data_dir)).free,
        upload_minutes=round(len(new) / _PICTURES_A_SECOND / 60.0, 1) if serve == "upload" else 0.0,
        options=option_changes(settings, old, {**old, **(request.options or {})}),
        backend=backend_address(settings),
        problems=_problems(settings, new, size, serve, files_root),
    )


def _has_review(settings: Settings, project_id: int) -> bool:
    if not ProjectPaths(settings.data_dir, project_id).facts.exists():
        return False
    return load_facts(settings.data_dir, project_id).review_project_id is not None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _outside(pictures: Sequence[Path], root: Path | None) -> list[Path]:
    return [path for path in pictures if root is None or not path.resolve().is_relative_to(root)]


def _problems(
    settings: Settings, new: Sequence[Path], size: int, serve: Serve, files_root: Path | None
) -> tuple[str, ...]:
    found = []
    if not settings.webhook_secret.get_secret_value():
        found.append("no webhook secret (GROUNDSWELL_WEBHOOK_SECRET): the backend could not be connected")
    if serve == "local":
        root = served_root(settings, files_root)
        if outside := _outside(new, root):
            found.append(f"{outside[0]} is not below {root or 'a folder that Label Studio serves'}")
    if size > shutil.disk_usage(_existing(settings.data_dir)).free:
        found.append("the pictures need more room than the disk of the data directory has")
    return tuple(found)
