"""Review projects: the Label Studio projects in which people answer questions.

Each form of question (single or sheet) has a project of its own, since a Label Studio project has only one
label config. Its description says which label project and which installation it belongs to. Titles and
numbers cannot say that: a review server may serve several installations, and numbers begin anew when a server
is reset.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_backend.artifacts.files import storage_errors
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.config_builder import build_review_config, build_sheet_config
from sync.review.instruction_text import instructions
from sync.review.question import FORMS
from sync.studio.protocol import ProjectRow, StudioClient

__all__ = [
    "FoundReviewProject",
    "ReviewOwner",
    "belongs_to_another",
    "describe",
    "ensure_review_project",
    "find_review_projects",
    "installation_id",
]

_log = logging.getLogger(__name__)
_IDENTITY = re.compile(r"groundswell-review project=(\S+) form=(\S+) installation=(\S+)")
_CLOCKS_APART_S = 3600


@dataclass(frozen=True, slots=True)
class ReviewOwner:
    """A label project, by its key ``<id>.<created unix seconds>``, of one installation."""

    project_key: str
    installation: str

    @property
    def project_id(self) -> int:
        """Number of the label project."""
        return int(self.project_key.split(".")[0])


@dataclass(frozen=True, slots=True)
class FoundReviewProject:
    """A review project that is there; ``is_marked`` when its description says whose it is."""

    id: int
    is_marked: bool


def installation_id(data_dir: Path) -> str:
    """The id of this installation, made once and kept in ``data_dir/installation``. Raises StorageError."""
    path = data_dir / "installation"
    with storage_errors(path):
        if not path.exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            staging = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            staging.write_text(secrets.token_hex(8))
            try:
                os.link(
                    staging, path
                )  # unlike a rename it fails, and so keeps the other's, when there is one
            except FileExistsError:
                _log.debug("another process made %s first", path)
            finally:
                staging.unlink()
        return path.read_text().strip()


def find_review_projects(rows: Sequence[ProjectRow], owner: ReviewOwner) -> dict[str, FoundReviewProject]:
    """The owner's review projects by form, among all projects of the review server.

    Older releases wrote no owner into the description and named the project by the number of the label
    project. Such a project is taken when no other has its name and it is not older than the label project.
    """
    found = {}
    for form in FORMS:
        marked = [row.id for row in rows if _identity(row) == (owner.project_key, form, owner.installation)]
        if marked:
            found[form] = FoundReviewProject(min(marked), is_marked=True)
            continue
        old = [row.id for row in rows if _is_of_old_form(row, owner, form)]
        if len(old) == 1:
            found[form] = FoundReviewProject(old[0], is_marked=False)
        elif old:
            _log.warning(
                "review projects %s could each belong to project %s: none is used. To keep one, put %r into "
                "its description",
                ", ".join(map(str, old)),
                owner.project_id,
                describe(owner, form),
            )
    return found


def belongs_to_another(row: ProjectRow, owner: ReviewOwner) -> bool:
    """Whether the description names another label project or installation than the owner."""
    identity = _identity(row)
    return identity is not None and (identity[0], identity[2]) != (owner.project_key, owner.installation)


def ensure_review_project(
    studio: StudioClient,
    owner: ReviewOwner,
    title: str,
    *,
    form: str,
    wanted: Sequence[Wanted] = (),
    maximum_annotations: int = 1,
) -> int:
    """Id of the owner's review project of this form, made if there is none yet.

    A new one gets plain instructions; the review step adds examples.
    """
    found = find_review_projects(studio.projects(), owner).get(form)
    if found is not None:
        if not found.is_marked:
            studio.set_description(found.id, describe(owner, form))
        return found.id
    ending = _title_ending(owner, form)
    row = studio.create_project(
        f"{title[: 49 - len(ending)]} {ending}",  # Label Studio keeps 50 characters
        build_review_config() if form == "single" else build_sheet_config(),
        sampling="Sequential sampling",
        maximum_annotations=maximum_annotations,
        instruction=instructions(wanted, form=form),
        description=describe(owner, form),
    )
    return row.id


def describe(owner: ReviewOwner, form: str, outlook: str = "") -> str:
    """The description of a review project: what is left to answer, and whose it is."""
    about = f"Questions of Groundswell. {outlook} ".replace("  ", " ")
    return (
        f"{about}groundswell-review project={owner.project_key} form={form} installation={owner.installation}"
    )


def _identity(row: ProjectRow) -> tuple[str, str, str] | None:
    """Key of the label project, form and installation that a description names."""
    match = _IDENTITY.search(row.description)
    return None if match is None else (match[1], match[2], match[3])


def _title_ending(owner: ReviewOwner, form: str) -> str:
    return f"· review {owner.project_id} ({form})"


def _is_of_old_form(row: ProjectRow, owner: ReviewOwner, form: str) -> bool:
    if _identity(row) is not None or not row.title.endswith(_title_ending(owner, form)):
        return False
    return _created(row.key) >= _created(owner.project_key) - _CLOCKS_APART_S


def _created(key: str) -> int:
    """Unix seconds in a project's key; 0 in keys without."""
    return int(key.partition(".")[2] or 0)
