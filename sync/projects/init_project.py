"""Create a project to label, with everything it needs; for the command line and for admins who script.

>>> from label_studio_sdk import LabelStudio
>>> from sync.projects.init_project import init_project
>>> client = LabelStudio(base_url="http://127.0.0.1:8080", api_key="…")
>>> made = init_project(client, title="Cells", labels=["RBC", "WBC"], images=Path("images"))
>>> made.project_id, made.review_project_id, made.images_added
(1, 2, 120)

Called again with the same title it finds the project and does what is missing: new images are added, the
backend and the webhook are connected when they are not, nothing is doubled.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import ProjectFacts, load_facts, save_facts
from ml_backend.errors import BadImage, BadInput
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import Kind, Output, parse_label_config
from sync.local.up import read_state
from sync.review.review_project import ensure_review_project
from sync.rounds.project import register_project
from sync.settings import Settings, load_settings
from sync.store.database import Store
from sync.studio.client import AnyClient, Studio, as_studio
from sync.studio.protocol import ProjectRow, StudioClient

__all__ = ["BACKEND_TITLE", "InitReport", "find_images", "init_project"]

BACKEND_TITLE = "Groundswell"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
"""what browsers show"""
Serve = Literal["upload", "local"]


@dataclass(frozen=True, slots=True)
class InitReport:
    """What ``init_project`` did.

    ``created`` is False when the project was there already; ``refused`` lists files that are no pictures,
    with the reason.
    """

    project_id: int
    review_project_id: int
    title: str
    url: str
    review_url: str
    created: bool
    images_added: int
    refused: tuple[str, ...]


def init_project(
    client: AnyClient,
    *,
    title: str,
    labels: Sequence[str],
    images: Path | Sequence[Path] | None = None,
    settings: Settings | None = None,
    output: Output = "brush",
    kind: Kind = "instances",
    serve: Serve = "upload",
    files_root: Path | None = None,
    segmenter: str = "",
    options: Mapping[str, Any] | None = None,
    review_client: AnyClient | None = None,
    connect: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> InitReport:
    """Create (or complete) a project in Label Studio and let Groundswell take part in it.

    Parameters
    ----------
    client : a ``label_studio_sdk.LabelStudio`` of an admin, or any ``StudioClient``
    title : at least 3 characters; a project with this title is completed instead of made again
    labels : classes, in the order in which models number them
    images : folder (searched with its subfolders) whose pictures become tasks, or the pictures themselves
    settings : where the data directory, the backend and the secrets are; default: from the environment
    output : tag that masks are drawn with: ``brush``, ``bitmask`` or ``polygon``
    serve : ``upload`` copies the pictures into Label Studio, ``local`` serves them from where they are
    files_root : for ``local``: the LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of the server; default: that of
        the running ``groundswell up``
    segmenter : click segmenter of this project, default that of the settings
    options : further settings of the worker for this project (see ``sync.settings.PROJECT_OPTIONS``)
    review_client : Label Studio for crowd workers, when it is another one; default: that of the settings
    connect : connect backend and webhook (the backend must be running)
    report : called with one line about what happens

    Raises
    ------
    BadInput
        No labels, no such folder, no pictures, or a project of this title with another label config.
    StudioError
        Label Studio refused something; calling again goes on from there.
    """
    studio = as_studio(client)
    settings = settings or load_settings()
    if not 3 <= len(title.strip()) <= 50:
        raise BadInput(
            f"the title {title!r} has {len(title.strip())} characters", field="title", hint="Use 3 to 50"
        )
    config = build_label_config(labels, output=output, kind=kind)
    if options is not None:
        settings.for_project(options)
    found, refused = _pictures(images)
    row, created = _ensure_project(studio, title.strip(), config, labels)
    report(f"project {row.id} {row.title!r} {'created' if created else 'found'}")

    store = Store(settings.database())
    register_project(store, studio, row.id, options=options)
    review = _review_studio(studio, settings, review_client)
    review_id = ensure_review_project(
        review,
        row.id,
        row.title,
        form="single",
        labels=labels,
        maximum_annotations=settings.review_overlap,
    )
    _write_facts(settings, row, review_id, segmenter=segmenter, options=options)

    added = 0
    if images is not None:
        add = _upload if serve == "upload" else _serve_local
        folder = images if isinstance(images, Path) else Path(os.path.commonpath([p.parent for p in found]))
        place = _Place(row.id, parse_label_config(row.label_config).image_key, folder.resolve())
        added = add(studio, place, found, _files_root(settings, files_root), report)
    if connect:
        _connect(studio, row.id, settings)
        report(f"backend connected at {_backend_url(settings)}")
    return InitReport(
        project_id=row.id,
        review_project_id=review_id,
        title=row.title,
        url=f"{settings.studio_url}/projects/{row.id}/data",
        review_url=f"{getattr(review, 'url', settings.studio_url)}/projects/{review_id}/data",
        created=created,
        images_added=added,
        refused=tuple(refused),
    )


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures below ``folder``, sorted, and the files with a picture's name that are none, with the reason.

    Raises BadInput when the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise BadInput(
            f"{folder} is no folder", field="images", hint="Give the folder that holds the pictures"
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return _readable(files, str(folder))


def _pictures(images: Path | Sequence[Path] | None) -> tuple[list[Path], list[str]]:
    if images is None:
        return [], []
    return find_images(images) if isinstance(images, Path) else _readable(images, "the list")


def _readable(files: Sequence[Path], where: str) -> tuple[list[Path], list[str]]:
    from PIL import Image, UnidentifiedImageError

    good: list[Path] = []
    refused: list[str] = []
    for path in files:
        if not path.is_file():
            continue
        try:
            with Image.open(path) as image:
                image.verify()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            refused.append(f"{path}: {error}")
            continue
        good.append(path)
    if not good:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        why = f"; unreadable: {refused[0]}" if refused else ""
        raise BadImage(f"no pictures in {where}{why}", field="images", hint=f"Looked for {known}")
    return good, refused


def _review_studio(studio: StudioClient, settings: Settings, given: AnyClient | None) -> StudioClient:
    if given is not None:
        return as_studio(given)
    if settings.review_url:
        return Studio(settings.review_url, settings.review_token.get_secret_value())
    return studio


def _ensure_project(
    studio: StudioClient, title: str, config: str, labels: Sequence[str]
) -> tuple[ProjectRow, bool]:
    for row in studio.projects():
        if row.title == title:
            known = parse_label_config(row.label_config).labels
            if set(labels) - set(known):
                raise BadInput(
                    f"project {row.id} {title!r} has the labels {', '.join(known)}",
                    field="labels",
                    hint="Add labels in Label Studio's project settings, or choose another title",
                )
            return row, False
    return studio.create_project(title, config), True


def _write_facts(
    settings: Settings, row: ProjectRow, review_id: int, *, segmenter: str, options: Mapping[str, Any] | None
) -> None:
    config = parse_label_config(row.label_config)
    changes: dict[str, Any] = {
        "key": row.key,
        "title": row.title,
        "kind": config.kind,
        "label_config": row.label_config,
        "labels": config.labels,
        "review_project_id": review_id,
    }
    if segmenter:
        changes["segmenter"] = segmenter
    if options is not None:
        changes["options"] = dict(options)
        changes["learner"] = str(options.get("learner", ""))
    if ProjectPaths(settings.data_dir, row.id).facts.exists():
        facts = load_facts(settings.data_dir, row.id).with_changes(**changes)
    else:
        facts = ProjectFacts(project_id=row.id, **changes)
    save_facts(settings.data_dir, facts)


def _files_root(settings: Settings, given: Path | None) -> Path | None:
    if given is not None:
        return given.resolve()
    state = read_state(settings.data_dir)
    return None if state is None else Path(state.files_root).resolve()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where pictures go: the project and the field of its tasks; and the folder they come from."""

    project_id: int
    field: str
    folder: Path


def _upload(
    studio: StudioClient,
    place: _Place,
    found: Sequence[Path],
    files_root: Path | None,
    report: Callable[[str], None],
) -> int:
    """Upload what is missing. Label Studio keeps the name behind a random part, so names are counted."""
    there = Counter(_stored_name(value) for value in studio.task_values(place.project_id, place.field))
    missing: list[Path] = []
    for path in found:
        name = _django_name(path.name)
        if there[name] > 0:
            there[name] -= 1
        else:
            missing.append(path)
    done = 0
    for start in range(0, len(missing), 50):
        done += studio.upload_images(place.project_id, missing[start : start + 50])
        report(f"uploaded {done} of {len(missing)} pictures")
    return done


def _django_name(name: str) -> str:
    """The name under which Django stores an upload."""
    return re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_"))


def _stored_name(value: str) -> str:
    name = value.rsplit("/", 1)[-1]
    return re.sub(r"^[0-9a-f]{8}-", "", name)


def _serve_local(
    studio: StudioClient,
    place: _Place,
    found: Sequence[Path],
    files_root: Path | None,
    report: Callable[[str], None],
) -> int:
    folder = place.folder
    if files_root is None or not folder.is_relative_to(files_root):
        raise BadInput(
            f"{folder} is not below {files_root or 'a folder that Label Studio serves'}",
            field="images",
            hint="Start `groundswell up --files-root` with a folder above it, name that of another server "
            "with --files-root, or use --serve upload",
        )
    studio.ensure_local_files(place.project_id, folder)
    there = studio.task_values(place.project_id, place.field)
    wanted = [f"/data/local-files/?d={path.resolve().relative_to(files_root).as_posix()}" for path in found]
    missing = [value for value in wanted if value not in there]
    if missing and isinstance(studio, Studio):
        studio.check_file(missing[0])
    studio.import_tasks(place.project_id, [{place.field: value} for value in missing])
    report(f"{len(missing)} pictures served from {folder}")
    return len(missing)


def _backend_url(settings: Settings) -> str:
    return (settings.backend_internal_url or settings.backend_url).rstrip("/")


def _connect(studio: StudioClient, project_id: int, settings: Settings) -> None:
    secret = settings.webhook_secret.get_secret_value()
    if not secret:
        raise BadInput(
            "there is no webhook secret",
            field="webhook_secret",
            hint="Set GROUNDSWELL_WEBHOOK_SECRET to the same value for backend and init",
        )
    password = settings.basic_auth_pass.get_secret_value()
    auth = (settings.basic_auth_user, password) if settings.basic_auth_user else None
    url = _backend_url(settings)
    studio.connect_backend(project_id, url, title=BACKEND_TITLE, basic_auth=auth)
    studio.ensure_webhook(project_id, f"{url}/webhook", secret=secret)
