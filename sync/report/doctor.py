"""What is broken, and what to do about it: every connection Groundswell needs, tried one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import false, update

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.serving.catalog import inspect_segmenter
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.error_lines import shortened
from ml_backend.errors import GroundswellError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from sync.artifacts.figures import shared_figures
from sync.artifacts.opening import objects_of
from sync.local.up import read_state
from sync.projects.init_project import BACKEND_TITLE
from sync.rounds.registration import project_ids
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from sync.studio.client import SECRET_HEADER, Studio
from sync.worker.signs import worker_health

__all__ = ["Finding", "examine"]

TESTED_STUDIO = "1.23"
_LOW_SPACE = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. ``level`` is ok, warn or bad; ``hint`` says what to do when it is not ok."""

    name: str
    level: str
    detail: str
    hint: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Try everything. Each check depends on those before it, so mend the first fault first."""
    found = list(_try("data directory", lambda: _data_dir(settings)))
    yield from found
    if any(finding.level == "bad" for finding in found):
        return  # everything else lies in it
    state = read_state(settings.data_dir)
    if state is not None:
        yield Finding(
            "groundswell up",
            "ok" if state.running else "warn",
            f"process {state.pid}" if state.running else "was killed",
            "" if state.running else "Start it again: it cleans up what was left",
        )
    yield from _try("worker", lambda: _worker(settings))
    yield from _try("clicks", lambda: _clicks(settings))
    store = None
    try:
        store = Store(settings.database())
        with store.write() as session:  # opening it writes nothing: a read-only one would pass
            session.execute(update(ProjectRecord).where(false()).values(error=""))
    except GroundswellError as error:
        store = None
        yield Finding("store", "bad", error.message, error.hint or "Check GROUNDSWELL_DATABASE_URL")
    if store is not None:
        yield from _shared_files(settings, store)
    yield from _try("backend", lambda: _backend(settings), at=settings.inner_backend_url)
    found = list(_try("label studio", lambda: _studio(settings), at=settings.studio_url))
    yield from found
    if any(finding.level == "bad" for finding in found):
        return
    studio = Studio(settings.studio_url, settings.current_studio_token, attempts=2)
    found = list(_try("token", lambda: Finding("token", "ok", f"acts as {studio.whoami()}")))
    yield from found
    if any(finding.level == "bad" for finding in found):
        return
    if store is None:
        return
    ids = project_ids(store)
    yield Finding(
        "projects", "ok" if ids else "warn", f"{len(ids)} take part", "" if ids else "Run groundswell init"
    )
    for project_id in ids:
        yield from _project(settings, store, studio, project_id)


def _try(name: str, check: Callable[[], Finding], *, at: str = "") -> Iterator[Finding]:
    """The finding of a check, or the error it ended with; ``at`` is the address that it asks."""
    try:
        yield check()
    except GroundswellError as error:
        yield Finding(name, "bad", error.message, error.hint)
    except httpx.HTTPError as error:
        what = f"{type(error).__name__}: {error}"
        yield Finding(name, "bad", f"{at}: {what}" if at else what, "Is it running at this address?")


def _data_dir(settings: Settings) -> Finding:
    probe = settings.data_dir / ".doctor"
    write_atomic(probe, b"ok")
    probe.unlink()
    free = shutil.disk_usage(settings.data_dir).free
    detail = f"{settings.data_dir.absolute()}, {free / 1e9:.1f} GB free"
    if free < _LOW_SPACE:
        return Finding("data directory", "warn", detail, "Models, pools and images need room")
    return Finding("data directory", "ok", detail)


def _worker(settings: Settings) -> Finding:
    found = worker_health(settings.data_dir, stuck_s=settings.stuck_s, anywhere=True)
    if found.ok:
        return Finding("worker", "ok", found.line)
    hint = "Start it again: groundswell worker, or groundswell up. It goes on where it was"
    if settings.artifacts_url:  # its signs of life lie on its own machine
        return Finding("worker", "warn", found.line, f"{hint}. Or ask on the machine where workers run")
    return Finding("worker", "bad", found.line, hint)


def _shared_files(settings: Settings, store: Store) -> Iterator[Finding]:
    """Whether the object store can be written and read, and how much of it is here; nothing where none is."""

    def check() -> Finding:
        objects, figures = objects_of(settings), shared_figures(settings, store)
        if objects is None or figures is None:
            raise AssertionError("asked for where machines share no files")
        objects.check()
        return Finding("shared files", "ok", figures.line)

    if settings.artifacts_url:
        yield from _try("shared files", check)


def _clicks(settings: Settings) -> Finding:
    """Whether the weights that the settings name are there and can be read."""
    if settings.segmenter == AUTO:
        return Finding("clicks", "ok", "auto: the best segmenter that can serve")
    found = inspect_segmenter(settings.segmenter, settings, None)
    if found.problem:
        hint = found.hint or "Give other weights"
        return Finding(
            "clicks",
            "bad",
            f"segmenter {settings.segmenter}: {found.problem}",
            f"{hint}; `groundswell models` says what each needs",
        )
    return Finding("clicks", "ok", settings.segmenter)


def _model(name: str, settings: Settings, project_id: int) -> Iterator[Finding]:
    """Whether the version that serves is there, with weights of full length."""
    registry = ModelRegistry(settings.data_dir)
    version = registry.current(project_id)
    if version is None:
        return
    folder = registry.info(project_id, version).folder
    cut = [path.name for path in sorted(folder.rglob("*.safetensors")) if not is_whole(path)]
    weights = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    if cut or not weights:
        what = f"{', '.join(cut)} is damaged" if cut else "its weights are missing"
        yield Finding(
            f"{name} model",
            "bad",
            f"version {version}: {what}",
            f"Restore {folder} from a backup, or train again: groundswell round --project {project_id}",
        )
    else:
        yield Finding(f"{name} model", "ok", version)


def is_whole(path: Path) -> bool:
    """Whether a file of safetensors has the length that its header says; the weights are not read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                return False
            header = json.loads(file.read(length))
        ends = [row["data_offsets"][1] for key, row in header.items() if key != "__metadata__"]
        return bool(path.stat().st_size == 8 + length + max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False


def _without_password(url: str, reply: str) -> tuple[str, str]:
    """What is wrong and what to do when a password is missing, at the backend or here."""
    both = "Set GROUNDSWELL_BASIC_AUTH_USER and GROUNDSWELL_BASIC_AUTH_PASS"
    if "no password yet" in reply:
        return (
            f"{url} has no password, so it answers nobody",
            f"{both} for the backend, for the worker and here, start both again, then run groundswell init",
        )
    return f"{url} asks for a password, and none is set here", f"{both} as for the backend"


def _backend(settings: Settings) -> Finding:
    """The backend as Label Studio reaches it, and as browsers do.

    Where the two differ and browsers use ``localhost``, that is the machine of the browser: another one
    than this, such as this container, which cannot judge it.
    """
    inside, outside = settings.inner_backend_url, settings.backend_url
    found, detail = _backend_at(settings, inside), outside
    if found is None and outside != inside:
        if _is_loopback(outside) and not _is_loopback(inside):
            detail = f"{inside}; browsers: {outside}"
        else:
            found = _backend_of_browsers(settings, inside, outside)
    if found is not None:
        return found
    open_to_others = [url for url in (outside, inside) if not _is_loopback(url)]
    if open_to_others and not settings.basic_auth_user:
        return Finding(
            "backend",
            "warn",
            f"{open_to_others[0]} asks nobody for a password",
            "Set GROUNDSWELL_BASIC_AUTH_USER and GROUNDSWELL_BASIC_AUTH_PASS, then run groundswell init",
        )
    return Finding("backend", "ok", detail)


def _is_loopback(url: str) -> bool:
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


def _backend_of_browsers(settings: Settings, inside: str, outside: str) -> Finding | None:
    try:
        return _backend_at(settings, outside)
    except httpx.TransportError as error:
        return Finding(
            "backend",
            "warn",
            f"{inside} answers; {outside} does not, from here ({type(error).__name__})",
            "Browsers must reach it: check GROUNDSWELL_BACKEND_URL",
        )


def _backend_at(settings: Settings, url: str) -> Finding | None:
    """What is wrong with the backend at one of its addresses."""
    user, password = settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()
    auth = (user, password) if user else None
    answer = httpx.get(f"{url.rstrip('/')}/health", timeout=5.0)
    if answer.status_code != 200:
        return Finding("backend", "bad", f"{url} answers {answer.status_code}", "Is another program there?")
    answer = httpx.get(f"{url.rstrip('/')}/versions", auth=auth, timeout=5.0)
    if answer.status_code == 401:
        if not user or "no password yet" in answer.text:
            return Finding("backend", "bad", *_without_password(url, answer.text))
        return Finding(
            "backend",
            "bad",
            f"{url} refuses our user name and password",
            "Set GROUNDSWELL_BASIC_AUTH_USER and GROUNDSWELL_BASIC_AUTH_PASS as for the backend",
        )
    if answer.status_code == 429:
        return Finding(
            "backend",
            "bad",
            f"{url} got too many wrong passwords from this machine",
            "Wait a minute; then see which program here asks with a wrong one (the backend's log)",
        )
    if answer.status_code >= 400:
        return Finding("backend", "bad", f"{url} answers {answer.status_code}", "See the backend's log")
    return None


def _studio(settings: Settings) -> Finding:
    answer = httpx.get(f"{settings.studio_url}/api/version", timeout=10.0)
    try:
        version = str(answer.json()["release"])
    except (ValueError, KeyError, TypeError):
        return Finding(
            "label studio", "bad", f"{settings.studio_url} is no Label Studio", "Check the address"
        )
    detail = f"{version} at {settings.studio_url}"
    if not version.startswith(TESTED_STUDIO):
        return Finding("label studio", "warn", detail, f"Groundswell is tested with {TESTED_STUDIO}.x")
    return Finding("label studio", "ok", detail)


def _project(settings: Settings, store: Store, studio: Studio, project_id: int) -> Iterator[Finding]:
    name = f"project {project_id}"
    try:
        row = studio.project(project_id)
        config = parse_label_config(row.label_config)
        backends, hooks = studio.backends(project_id), studio.webhooks(project_id)
    except GroundswellError as error:
        yield Finding(name, "bad", error.message, error.hint)
        return
    again = f"Run groundswell init --title {row.title!r} again"
    yield Finding(name, "ok", f"{row.title!r}, {row.task_number} tasks, kind {config.kind}")
    with store.read() as session:
        error_text = session.get_one(ProjectRecord, project_id).error
    if error_text:
        yield Finding(f"{name} worker", "bad", f"last look failed: {error_text}", "See the worker's log")
    if not ProjectPaths(settings.data_dir, project_id).facts.exists():
        yield Finding(f"{name} facts", "bad", "the backend does not know the project", again)
    try:
        yield from _model(name, settings, project_id)
    except GroundswellError as error:
        yield Finding(f"{name} model", "bad", error.message, error.hint)
    yield _backend_of(name, backends, settings, again)
    yield _webhook_of(name, hooks, settings, again)
    yield from _try(f"{name} images", lambda: _image(name, settings, studio, project_id, config))


def _backend_of(name: str, rows: list[dict[str, object]], settings: Settings, again: str) -> Finding:
    url = settings.inner_backend_url
    ours = [row for row in rows if str(row["url"]).rstrip("/") == url]
    if not ours:
        others = ", ".join(str(row["url"]) for row in rows) or "none"
        return Finding(f"{name} backend", "bad", f"{url} is not connected (connected: {others})", again)
    if ours[0]["state"] != "CO":
        why = shortened(str(ours[0].get("error_message") or ours[0]["state"]), 300)
        return Finding(
            f"{name} backend", "bad", f"Label Studio cannot use it: {why}", "Can it reach the address?"
        )
    if rows[0] is not ours[0]:
        return Finding(
            f"{name} backend",
            "warn",
            "another backend comes first",
            f"Only the first is asked; keep {BACKEND_TITLE}",
        )
    return Finding(f"{name} backend", "ok", "connected")


def _webhook_of(name: str, rows: list[dict[str, object]], settings: Settings, again: str) -> Finding:
    url = f"{settings.inner_backend_url}/webhook"
    ours = [row for row in rows if row["url"] == url]
    secret = settings.webhook_secret.get_secret_value()
    right = [row for row in ours if row["is_active"] and dict(row["headers"]).get(SECRET_HEADER) == secret]  # type: ignore[call-overload]
    late = "without it changes are noticed at the next poll"
    if not ours:
        return Finding(f"{name} webhook", "warn", f"none to {url}; {late}", again)
    if not right:
        return Finding(f"{name} webhook", "warn", f"switched off or with another secret; {late}", again)
    return Finding(f"{name} webhook", "ok", "connected")


def _image(name: str, settings: Settings, studio: Studio, project_id: int, config: LabelConfig) -> Finding:
    ids = studio.task_ids(project_id)
    if not ids:
        return Finding(f"{name} images", "warn", "no tasks", "Add pictures: groundswell init --images")
    task = studio.task(min(ids))
    ref = ImageStore(settings).get(config.image_of(task.data), task_id=task.id)
    return Finding(f"{name} images", "ok", f"task {task.id}: {ref.hw[1]}×{ref.hw[0]} pixels")
