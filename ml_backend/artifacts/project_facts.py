"""What the backend must know of a project: written by the worker, read here, one JSON file per project.

The backend never asks Label Studio about a project: it reads ``projects/<id>/project.json``. Readers see
the old file or the new one; ``load_facts`` reads it again only when it changed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, StorageError
from ml_backend.label_studio.label_config import Kind, LabelConfig, parse_label_config

__all__ = ["FactsCache", "ProjectFacts", "Role", "load_facts", "save_facts"]

Role = Literal["label", "review"]


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
    options : further settings of the worker for this project
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
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> LabelConfig:
        """The parsed label config (parsed once per text)."""
        return parse_label_config(self.label_config)

    def with_changes(self, **changes: Any) -> ProjectFacts:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def save_facts(data_dir: Path, facts: ProjectFacts) -> None:
    """Write the facts of a project, atomically."""
    write_json(ProjectPaths(data_dir, facts.project_id).facts, asdict(facts))


def load_facts(data_dir: Path, project_id: int) -> ProjectFacts:
    """Read the facts of a project.

    Raises BadInput when the project is unknown, StorageError when the file cannot be understood.
    """
    path = ProjectPaths(data_dir, project_id).facts
    try:
        raw = read_json(path)
    except FileNotFoundError:
        raise BadInput(
            f"project {project_id} is not known to Groundswell",
            field="project",
            hint="Create projects with 'groundswell init', or adopt an existing one with it",
        ) from None
    except ValueError as error:
        raise StorageError(
            f"{path} is not JSON ({error})", hint="Delete it: the worker writes it again"
        ) from error
    return _from_raw(raw, path)


def _from_raw(raw: Any, path: Path) -> ProjectFacts:
    known = {f.name for f in fields(ProjectFacts)}
    try:
        values = {name: value for name, value in raw.items() if name in known}
        values["labels"] = tuple(str(x) for x in values["labels"])
        facts = ProjectFacts(**values)
        if facts.kind not in get_args(Kind) or facts.role not in get_args(Role):
            raise ValueError(f"kind {facts.kind!r}, role {facts.role!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} does not hold the facts of a project ({error})",
            hint="Delete it: the worker writes it again",
        ) from error
    return facts


class FactsCache:
    """Facts of all projects, read again when their file changes. Safe under threads."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._known: dict[int, tuple[tuple[int, int, int], ProjectFacts]] = {}

    def get(self, project_id: int) -> ProjectFacts:
        """As ``load_facts``, at the cost of one stat call."""
        path = ProjectPaths(self._data_dir, project_id).facts
        try:
            stat = path.stat()
        except OSError:
            with self._lock:
                self._known.pop(project_id, None)
            return load_facts(self._data_dir, project_id)
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        with self._lock:
            found = self._known.get(project_id)
        if found is not None and found[0] == stamp:
            return found[1]
        facts = load_facts(self._data_dir, project_id)
        with self._lock:
            self._known[project_id] = (stamp, facts)
        return facts
