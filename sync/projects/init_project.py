"""Create a project to label, with everything it needs; for the command line and for admins who script.

>>> from pathlib import Path
>>> from label_studio_sdk import LabelStudio
>>> from sync.projects.init_project import init_project
>>> client = LabelStudio(base_url="http://127.0.0.1:8080", api_key="…")
>>> made = init_project(client, title="Cells", labels=["RBC", "WBC"], images=Path("images"))
>>> made.project_id, made.review_project_id, made.images_added
(1, 2, 120)

Run it where ``groundswell up`` keeps its data directory, or set GROUNDSWELL_DATA_DIR to it: the addresses and
the secret that backend and Label Studio share are there. ``examples/label_by_script.py`` goes on from here.

Called again with the same title it finds the project and does what is missing: it adds new pictures, and
connects backend and webhook when they are not connected. Nothing is made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import ProjectFacts, load_facts, save_facts
from ml_backend.errors import BadInput
from ml_backend.kinds.base import Kind
from ml_backend.label_studio.label_config import Output, parse_label_config
from sync.local.effective_settings import effective_settings
from sync.local.up import read_state
from sync.projects.init_request import check_request, project_titled
from sync.projects.option_changes import OptionChange, set_options
from sync.projects.option_effects import effects_of
from sync.projects.picture_tasks import Added, PictureProject, serve_pictures, upload_pictures
from sync.review.labelling_instructions import labelling_instructions, note_sent
from sync.review.review_project import ReviewOwner, ensure_review_project, installation_id
from sync.rounds.due import training_wait, wait_text
from sync.rounds.project import registered
from sync.rounds.registration import register_project
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from sync.studio.client import AnyClient, Studio, as_studio
from sync.studio.protocol import ProjectRow, StudioClient

__all__ = ["BACKEND_TITLE", "InitReport", "Serve", "backend_address", "init_project", "served_root"]

BACKEND_TITLE = "Groundswell"
Serve = Literal["upload", "local"]


@dataclass(frozen=True, slots=True)
class InitReport:
    """What ``init_project`` did.

    ``created`` is False when the project was there already; ``refused`` lists files that are no pictures,
    with the reason; ``renamed`` lists pictures whose name another picture of the project has, with the name
    they got; ``training`` says how many finished tasks the next training waits for.
    """

    project_id: int
    review_project_id: int
    title: str
    url: str
    review_url: str
    created: bool
    images_added: int
    refused: tuple[str, ...]
    renamed: tuple[str, ...] = ()
    training: str = ""


def init_project(
    client: AnyClient,
    *,
    title: str,
    labels: Sequence[str],
    images: Path | Sequence[Path] | None = None,
    settings: Settings | None = None,
    output: Output = "brush",
    kind: Kind = "instances",
    multiple: bool = False,
    label_config: str = "",
    serve: Serve = "upload",
    files_root: Path | None = None,
    segmenter: str = "",
    options: Mapping[str, Any] | None = None,
    groups: Path | None = None,
    review_client: AnyClient | None = None,
    connect: bool = True,
    on_change: Callable[[Sequence[OptionChange], Sequence[str]], None] = lambda changes, effects: None,
    report: Callable[[str], None] = lambda line: None,
) -> InitReport:
    """Create (or complete) a project in Label Studio and let Groundswell take part in it.

    Parameters
    ----------
    client : a ``label_studio_sdk.LabelStudio`` of an admin, or any ``StudioClient``
    title : at least 3 characters; a project with this title is completed instead of made again
    labels : classes, in the order in which models number them
    images : folder (searched with its subfolders) whose pictures become tasks, or the pictures themselves
    settings : where the data directory, the backend and the secrets are; default: the environment, the
        settings file, and what ``groundswell up`` keeps in the data directory
    output : tag that masks are drawn with: ``brush``, ``bitmask`` or ``polygon``
    kind : what is wanted: ``instances``, ``boxes``, ``segmentation``, ``classes`` or ``weak``
    multiple : of kind ``classes``: people may pick several classes of a picture
    label_config : XML to use as it is, instead of one made from labels, output and kind
    serve : ``upload`` copies the pictures into Label Studio, ``local`` serves them from where they are
    files_root : for ``local``: the LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of the server; default: that of
        the running ``groundswell up``
    segmenter : click segmenter of this project, default that of the settings; the same as the option
    options : further settings of the worker for this project (see ``sync.settings.PROJECT_OPTIONS``);
        options that a project has already and that are not named here stay
    groups : table with columns file,group: which pictures belong together; the test split takes all or none
        of a group (the option ``split_by`` becomes "group" unless it is given)
    review_client : Label Studio for crowd workers, when it is another one; default: that of the settings
    connect : connect backend and webhook (the backend must be running)
    on_change : called before options of a project that exists change, with the changes and what follows from
        them; what it raises stops everything
    report : called with one line about what happens

    Raises
    ------
    BadInput
        No labels, no such folder, no pictures, no webhook secret, or a project of this title with another
        label config. Nothing was made then.
    StudioError
        Label Studio refused something; calling again goes on from there.
    """
    studio = as_studio(client)
    if segmenter:
        options = {**(options or {}), "segmenter": segmenter}
    settings = settings or effective_settings(None)
    if connect:
        _webhook_secret(settings)
    request = check_request(
        settings,
        title=title,
        labels=labels,
        images=images,
        output=output,
        kind=kind,
        multiple=multiple,
        label_config=label_config,
        options=options,
        groups=groups,
    )
    options, found = request.options, request.pictures
    there = project_titled(studio, request)
    guide = labelling_instructions(request.parsed)
    row = there or studio.create_project(request.title, request.config, instruction=guide)
    if there is None:
        note_sent(ProjectPaths(settings.data_dir, row.id), guide)
    report(f"project {row.id} {row.title!r} {'created' if there is None else 'found'}")

    store = Store(settings.database())
    register_project(settings, store, studio, row.id, options=options if there is None else None)
    if options is not None and there is not None:
        _change_options(settings, store, row.id, options, on_change, report)
    review = _review_studio(studio, settings, review_client)
    review_id = ensure_review_project(
        review,
        ReviewOwner(row.key, installation_id(settings.data_dir)),
        row.title,
        form="single",
        wanted=parse_label_config(row.label_config).wanted,
        maximum_annotations=settings.review_overlap,
    )
    _write_facts(settings, store, row, review_id)

    added = Added(0)
    if images is not None:
        field = parse_label_config(row.label_config).image_key
        folder = images if isinstance(images, Path) else None
        place = PictureProject(studio, row.id, field, folder, request.groups)
        if serve == "upload":
            added = upload_pictures(place, found, report=report)
        else:
            added = serve_pictures(place, found, files_root=served_root(settings, files_root), report=report)
    if connect:
        _connect(studio, row.id, settings)
        report(f"backend connected at {backend_address(settings)}")
    review_server = settings.review_url or settings.studio_url
    if review is not studio:
        review_server = getattr(review, "url", review_server)
    return InitReport(
        project_id=row.id,
        review_project_id=review_id,
        title=row.title,
        url=f"{settings.shown_studio_url}/projects/{row.id}/data",
        review_url=f"{settings.shown_address(review_server)}/projects/{review_id}/data",
        created=there is None,
        images_added=added.count,
        refused=tuple(request.refused),
        renamed=added.renamed,
        training=_training(settings, store, row),
    )


def _change_options(
    settings: Settings,
    store: Store,
    project_id: int,
    options: Mapping[str, Any],
    on_change: Callable[[Sequence[OptionChange], Sequence[str]], None],
    report: Callable[[str], None],
) -> None:
    """Merge options into those that a project has, after telling what changes."""
    changes = set_options(settings, store, project_id, options, dry_run=True)
    if not changes:
        return
    on_change(changes, effects_of(settings, store, project_id, options, report=report))
    for change in set_options(settings, store, project_id, options):
        report(f"{change.name}: {change.old!r} → {change.new!r}")


def _training(settings: Settings, store: Store, row: ProjectRow) -> str:
    db, own = registered(settings, store, row.id)
    config = parse_label_config(row.label_config)
    return wait_text(training_wait(db, config, own, ProjectPaths(settings.data_dir, row.id), {}))


def _review_studio(studio: StudioClient, settings: Settings, given: AnyClient | None) -> StudioClient:
    if given is not None:
        return as_studio(given)
    if settings.review_url:
        return Studio(settings.review_url, settings.review_token.get_secret_value())
    return studio


def _write_facts(settings: Settings, store: Store, row: ProjectRow, review_id: int) -> None:
    config = parse_label_config(row.label_config)
    with store.read() as session:
        options = session.get_one(ProjectRecord, row.id).options
    changes: dict[str, Any] = {
        "key": row.key,
        "title": row.title,
        "kind": config.kind,
        "label_config": row.label_config,
        "labels": config.labels,
        "review_project_id": review_id,
        "options": dict(options),
        "learner": str(options.get("learner", "")),
    }
    if "segmenter" in options:
        changes["segmenter"] = str(options["segmenter"])
    if ProjectPaths(settings.data_dir, row.id).facts.exists():
        facts = load_facts(settings.data_dir, row.id).with_changes(**changes)
    else:
        facts = ProjectFacts(project_id=row.id, **changes)
    save_facts(settings.data_dir, facts)


def served_root(settings: Settings, given: Path | None) -> Path | None:
    """Folder that Label Studio serves files from, as far as it is known."""
    if given is not None:
        return given.resolve()
    state = read_state(settings.data_dir)
    return None if state is None else Path(state.files_root).resolve()


def backend_address(settings: Settings) -> str:
    return settings.inner_backend_url


def _webhook_secret(settings: Settings) -> str:
    """The secret that Label Studio shows the backend. Raises BadInput when there is none."""
    secret = settings.webhook_secret.get_secret_value()
    if not secret:
        raise BadInput(
            "there is no webhook secret",
            field="webhook_secret",
            hint=f"`groundswell up` keeps one in its data directory ({settings.data_dir} has none): set "
            "GROUNDSWELL_DATA_DIR to that directory, or GROUNDSWELL_WEBHOOK_SECRET to the same value for the "
            "backend and here. Nothing was made",
        )
    return secret


def _connect(studio: StudioClient, project_id: int, settings: Settings) -> None:
    password = settings.basic_auth_pass.get_secret_value()
    auth = (settings.basic_auth_user, password) if settings.basic_auth_user else None
    url = backend_address(settings)
    studio.connect_backend(project_id, url, title=BACKEND_TITLE, basic_auth=auth)
    studio.ensure_webhook(project_id, f"{url}/webhook", secret=_webhook_secret(settings))
