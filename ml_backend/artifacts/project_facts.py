"""What the backend must know about a project: one JSON file per project, written by the worker.

The backend never asks Label Studio about a project: it reads ``projects/<id>/project.json``. Readers see
the old file or the new one; ``load_facts`` reads it again only when it changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from ml_backend.artifacts.files import Guard, format_errors, unguarded, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.caches import ByteCache
from ml_backend.errors import BadInput, StorageError
from ml_backend.kinds.base import Kind
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config

__all__ = ["FactsCache", "ProjectFacts", "Role", "load_facts", "save_facts"]

Role = Literal["label", "review"]
_CACHE_BYTES: Final = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """A project as the backend sees it.

    Attributes
    ----------
    project_id, key, title : Label Studio's id, ``<id>.<created unix seconds>``, and title
    kind : what the project wants (see ``LabelConfig.kind``)
    label_config : XML
    labels : classes, in the order in which models number them
    role : ``label`` (annotators draw) or ``review`` (crowd workers answer)
    review_project_id : companion project of a ``label`` project, None if there is none
    label_project_id : the other way round, for a ``review`` project
    model_version : version whose predictions are shown; empty before the first round
    segmenter : click segmenter of this project; empty = the one of the settings
    learner : learner that trains this project's models
    push_min_score : class score from which undecided masks are shown
    max_tags_per_pixel : how many boxes may lie on one pixel; None: as usual for the kind
    options : further settings of the worker for this project
    paused : what an admin stopped: nothing, ``asking`` or ``all``
    """

    project_id: int
    key: str
    title: str
    kind: Kind
    label_config: str
    labels: tuple[str, ...]
    role: Role = "label"
    review_project_id: int | None = None
    label_project_id: int | None = None
    model_version: str = ""
    segmenter: str = ""
    learner: str = ""
    push_min_score: float = 0.3
    max_tags_per_pixel: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    paused: str = ""

    @property
    def config(self) -> LabelConfig:
        """The parsed label config (parsed once per text)."""
        return parse_label_config(self.label_config)

    def with_changes(self, **changes: Any) -> ProjectFacts:
        """A copy with some fields replaced."""
        return replace(self, **changes)


_FORMAT: Final = TypeAdapter(ProjectFacts)


def save_facts(data_dir: Path, facts: ProjectFacts, *, guard: Guard = unguarded) -> None:
    """Write the facts of a project, atomically."""
    write_json(ProjectPaths(data_dir, facts.project_id).facts, asdict(facts), guard=guard)


def load_facts(data_dir: Path, project_id: int) -> ProjectFacts:
    """Read the facts of a project. Fields that a newer version added are ignored.

    Raises BadInput when the project is unknown, StorageError naming file and field when it cannot be
    understood.
    """
    path = ProjectPaths(data_dir, project_id).facts
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"project {project_id} is not known to Groundswell",
            field="project",
            hint="Create projects with 'groundswell init', or adopt an existing one with it",
        ) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error})", hint="Check who owns it") from error
    with format_errors(path, hint="Delete it: the worker writes it again"):
        return _FORMAT.validate_json(data)


class FactsCache:
    """Facts of all projects, read again when their file changes. Safe under threads."""

    def __init__(self, data_dir: Path, *, max_bytes: int = _CACHE_BYTES) -> None:
        self._data_dir = data_dir
        self._known: ByteCache[int, _Known] = ByteCache(max_bytes, lambda known: known.nbytes)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held now."""
        return self._known.nbytes

    def get(self, project_id: int) -> ProjectFacts:
        """As ``load_facts``, at the cost of one stat call when nothing changed."""
        path = ProjectPaths(self._data_dir, project_id).facts
        try:
            stat = path.stat()
        except OSError:
            self._known.drop(project_id)
            return load_facts(self._data_dir, project_id)
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        found = self._known.get(project_id)
        if found is not None and found.stamp == stamp:
            return found.facts
        facts = load_facts(self._data_dir, project_id)
        self._known.put(project_id, _Known(stamp, facts, 4 * stat.st_size + 1000))
        return facts


@dataclass(frozen=True, slots=True)
class _Known:
    """Facts as read when the file had this ``stamp``; ``nbytes`` is roughly their memory."""

    stamp: tuple[int, int, int]
    facts: ProjectFacts
    nbytes: int
