"""Which Label Studio projects take part, and whether a project is still the one that was registered.

Label Studio numbers its projects from 1. A server that was set up anew gives old numbers to new projects. So
a project is identified by its key, ``<number>.<seconds of its creation>``. When the key under a number
changes, the rows of the old project are dropped and its folder is renamed to ``projects/<old key>``. No mask,
round or model of the old project is used for the new one. Nothing a person did is lost, since answers live in
Label Studio.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ml_backend.artifacts.files import read_json, storage_errors
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import load_facts
from ml_backend.clicks.serving.everything_options import label_for
from ml_backend.clicks.training.options import click_options
from ml_backend.errors import BadInput, ModelError
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.learners.registry import check_options
from sync.artifacts.held import Held
from sync.artifacts.manifest import first_mark, forget_files
from sync.artifacts.opening import shared_files
from sync.rounds.learner_choice import choose_learner
from sync.rounds.order_quotas import check_balance
from sync.rounds.policies import build_policy
from sync.rounds.wishes import PAUSES
from sync.settings import Settings
from sync.store.database import Store, utc_now
from sync.store.lease import lease_name, training_lease_name
from sync.store.project_store import ProjectStore
from sync.store.schedule import call_look, forget_jobs
from sync.store.tables import AnnotationRecord, Base, LeaseRecord, ProjectRecord
from sync.studio.protocol import ProjectRow, StudioClient

__all__ = [
    "ProjectChanges",
    "check_project_settings",
    "compare_project",
    "mark_gone",
    "project_ids",
    "refresh_project",
    "register_project",
    "unregister_project",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProjectChanges:
    """How a project in Label Studio differs from the one in the store and on disk."""

    old_key: str = ""
    """key of the project that had this number before; empty when it is the same project"""
    is_stored: bool = True
    """title, label config and key in the store are those of now"""
    has_new_config: bool = False
    is_on_disk: bool = False
    """the folder says that it is the project's of now"""


def compare_project(row: ProjectRow, record: ProjectRecord | None, key_on_disk: str) -> ProjectChanges:
    """What changed since ``record`` was written. ``key_on_disk`` is empty when the folder names none."""
    known = [key for key in (key_on_disk, record.key if record is not None else "") if key]
    is_on_disk = key_on_disk == row.key
    old = next((key for key in known if key != row.key), "")
    if record is None:
        return ProjectChanges(old, is_stored=False, has_new_config=True, is_on_disk=is_on_disk)
    return ProjectChanges(
        old,
        is_stored=(record.title, record.label_config, record.key) == (row.title, row.label_config, row.key),
        has_new_config=record.label_config != row.label_config,
        is_on_disk=is_on_disk,
    )


def check_project_settings(settings: Settings, wanted: Sequence[Wanted]) -> None:
    """Raise BadInput, naming what is wrong, unless rounds could run with these settings.

    ``wanted`` are the kinds of labels that the project wants.
    """
    chosen = choose_learner(wanted, settings)
    try:
        check_options(chosen.name, settings.preset, chosen.options)
    except ModelError as error:
        _log.warning("options of the learner are not checked: %s", error)  # the worker may have the package
    if settings.cold_start:
        try:
            check_options(settings.cold_start, settings.preset, settings.cold_start_options)
            if settings.cold_start == "everything":
                _check_everything(settings, wanted)
        except ModelError as error:
            _log.warning("options of the cold start are not checked: %s", error)
        except BadInput as error:
            raise BadInput(error.message, field=f"cold_start.{error.field}", hint=error.hint) from error
    click_options(settings.click_options)
    build_policy(settings, section="options")


def _check_everything(settings: Settings, wanted: Sequence[Wanted]) -> None:
    """Raise BadInput unless masks of everything can be predictions of such a project."""
    objects = [target for target in wanted if target.is_of.name in ("instances", "boxes")]
    if not objects:
        raise BadInput("everything is for projects of masks or boxes", field="learner")
    label_for(settings.cold_start_options, [label for target in objects for label in target.labels])


def register_project(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    project_id: int,
    *,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Let a Label Studio project take part; ``options`` replace its own options when given (idempotent).

    A project that took part before, and that the store does not know any more, gets back its options and its
    pause from its files.

    Raises BadLabelConfig when the project's label config cannot be used, BadInput on a wrong option,
    StudioError when the project is not there. Nothing is stored then.
    """
    row = studio.project(project_id)
    config = parse_label_config(row.label_config)
    if options is not None:
        check_project_settings(settings.for_project(options), config.wanted)
        check_balance(settings.for_project(options), config.labels)
    paths = ProjectPaths(settings.data_dir, project_id)
    _leave_old_copy(settings, store, paths, row.key)
    with store.write() as session:
        record = session.get(ProjectRecord, project_id)
        changes = compare_project(row, record, _key_on_disk(paths))
        if changes.old_key:
            _make_way(session, paths, changes)
            record = None
            _take_from_worker(session, lease_name(project_id), training_lease_name(project_id))
        if record is None:
            record = ProjectRecord(id=project_id, **_kept_on_disk(settings, paths, row.key))
            record.artifacts_revision = first_mark(session, project_id)
            session.add(record)
        record.key, record.title, record.label_config = row.key, row.title, row.label_config
        record.gone_at, record.error = None, ""
        call_look(session, project_id)  # one that Label Studio had no more is looked at once an hour
        if options is not None:
            record.options = dict(options)


def refresh_project(
    db: ProjectStore, studio: StudioClient, paths: ProjectPaths
) -> tuple[ProjectRow, LabelConfig]:
    """Read the project from Label Studio, and its label config; a new config makes the next pull a full one.

    Raises BadLabelConfig when the edited config cannot be used; the store keeps the old one. Raises BadInput
    when the number belongs to a new project now; the next look starts with the new project.
    """
    row = studio.project(db.id)
    with db.read() as session:
        changes = compare_project(row, session.get(ProjectRecord, db.id), _key_on_disk(paths))
    if changes.old_key:
        with db.write() as session:
            kept = _make_way(session, paths, changes)
            # a training of the old project must not leave its model in the new one's folder
            _take_from_worker(session, training_lease_name(db.id))
            session.add(
                ProjectRecord(
                    id=db.id,
                    key=row.key,
                    title=row.title,
                    label_config=row.label_config,
                    options={},
                    artifacts_revision=first_mark(session, db.id),
                )
            )
        raise BadInput(
            f"project {db.id} is a new one ({row.title!r}); the one that had this number before is gone",
            field="project",
            hint=("" if changes.is_on_disk else f"Its rounds and models lie in {kept}; ")
            + "the next look starts with the new project",
        )
    fresh = parse_label_config(row.label_config)
    if not changes.is_stored:
        with db.write() as session:
            record = session.get_one(ProjectRecord, db.id)
            record.title, record.label_config, record.key = row.title, row.label_config, row.key
            if changes.has_new_config:
                record.watermark = None
                # a new config may make unreadable regions readable, and readable ones unreadable
                session.execute(
                    update(AnnotationRecord).where(AnnotationRecord.project_id == db.id).values(digest="")
                )
    return row, fresh


def unregister_project(store: Store, project_id: int) -> None:
    """Forget a project; nothing is deleted in Label Studio or on disk.

    A worker that is at it stops at its next write.
    """
    with store.write() as session:
        record = session.get(ProjectRecord, project_id)
        if record is not None:
            session.delete(record)
            forget_jobs(session, project_id)
            _take_from_worker(session, lease_name(project_id), training_lease_name(project_id))


def _take_from_worker(session: Session, *names: str) -> None:
    """End these leases: a worker that holds one stops at its next write."""
    session.execute(
        update(LeaseRecord).where(LeaseRecord.name.in_(names)).values(fence=LeaseRecord.fence + 1, holder="")
    )


def project_ids(store: Store, *, gone: bool = False) -> list[int]:
    """Projects that take part, in order; with ``gone``, those among them that Label Studio no longer has."""
    here = ProjectRecord.gone_at.is_not(None) if gone else ProjectRecord.gone_at.is_(None)
    with store.read() as session:
        return list(session.scalars(select(ProjectRecord.id).where(here).order_by(ProjectRecord.id)))


def mark_gone(store: Store, studio: StudioClient, project_id: int) -> bool:
    """Check whether Label Studio still has a project, and note it when it has not; True when it is gone.

    Called after a 404. A wrong address gives a 404 too, so the project counts as gone only when it is missing
    in the list of all projects. Raises StudioError when that list cannot be read.
    """
    if any(row.id == project_id for row in studio.projects()):
        return False
    with store.write() as session:
        record = session.get(ProjectRecord, project_id)
        if record is not None:
            record.gone_at = record.gone_at or utc_now()
            record.error = (
                f"Label Studio has no project {project_id} any more; it is not looked at. "
                f"`groundswell project remove {project_id}` forgets it"
            )
    return True


def _kept_on_disk(settings: Settings, paths: ProjectPaths, key: str) -> dict[str, Any]:
    """Options and pause of a project that took part before; none when its files are another project's.

    Options that a newer release refuses are left out, so that the project can take part again at all.
    """
    kept: dict[str, Any] = {"options": {}, "paused": ""}
    if _key_on_disk(paths) != key:
        return kept
    facts = load_facts(settings.data_dir, paths.project_id)
    if facts.paused in PAUSES:
        kept["paused"] = facts.paused
    try:
        settings.for_project(facts.options)
        kept["options"] = dict(facts.options)
    except BadInput as error:
        _log.warning("project %s: its options of before are not used: %s", paths.project_id, error)
    return kept


def _key_on_disk(paths: ProjectPaths) -> str:
    """Key of the project that the files belong to; empty when they do not say."""
    try:
        return str(read_json(paths.facts).get("key", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _leave_old_copy(settings: Settings, store: Store, paths: ProjectPaths, key: str) -> None:
    """Fetch the files of a project that the store knows to be a new one, where those here are of the old one.

    An old copy of one machine must not be taken for a sign that the store is old. Raises StorageError.
    """
    if _key_on_disk(paths) in ("", key):
        return
    with store.read() as session:
        record = session.get(ProjectRecord, paths.project_id)
    shared = shared_files(settings, store, paths.project_id)
    if shared is not None and record is not None and record.key == key:
        shared.fetch()


def _make_way(session: Session, paths: ProjectPaths, changes: ProjectChanges) -> Path:
    """Drop the rows of the project that had this number, and rename its folder; returns the new name.

    The folder is renamed first. After a kill in between, the next call finds no folder and drops the rows. A
    folder that already belongs to the new project stays, for instance when the store came from a backup.
    """
    kept = paths.root.with_name(changes.old_key)
    number = 1
    while kept.exists():
        number += 1
        kept = paths.root.with_name(f"{changes.old_key}.{number}")
    if paths.root.exists() and not changes.is_on_disk:
        with storage_errors(kept):
            os.replace(paths.root, kept)
        _log.warning("project %s is a new one; files of the old one are in %s", paths.project_id, kept)
    forget_files(session, paths.project_id)
    if changes.is_on_disk:
        Held(paths.root).forget()  # the manifest was the old project's; the files here are the new one's
    for table in Base.metadata.sorted_tables[::-1]:
        if "project_id" in table.columns:
            session.execute(delete(table).where(table.c.project_id == paths.project_id))
    record = session.get(ProjectRecord, paths.project_id)
    if record is not None:
        session.delete(record)
    session.flush()
    return kept
