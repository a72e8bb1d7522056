"""Which files of a data directory belong into a backup.

What can be made again is left out: copies of pictures, embeddings, crops, logs, weights that were pulled, and
what is on its way. Everything that this module does not know is taken, so a new kind of file is never lost by
being forgotten here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from sync.rounds.wanted_version import wish_in_file
from sync.store.round_state import reviewed_round
from sync.store.tables import ProjectRecord, RoundRecord

__all__ = [
    "LABEL_STUDIO",
    "LOST",
    "SECRETS",
    "Models",
    "Pools",
    "Versions",
    "belongs",
    "files_below",
    "links_below",
    "needed_versions",
]

Models = Literal["all", "needed"]
Pools = Literal["all", "needed"]

LABEL_STUDIO: Final = "label-studio"
"""folder of a Label Studio that ``groundswell up`` started"""
SECRETS: Final = frozenset({"secrets.json", "signing.key"})

LOST: Final = "lost+found"
"""folder of file systems at the root of a disk, which only the system may read or move"""

_LEFT_OUT: Final = frozenset(
    {
        "images",
        "embeddings",
        "checkpoints",
        "exports",
        "logs",
        "up.json",
        "workers",
        "segmenter.json",
        "probes.json",
        LOST,
    }
)
_LEFT_OUT_OF_PROJECTS: Final = frozenset(
    {"crops", "features", "pages", "dirty", "progress.json", "training.json", "upcoming.json"}
)
_ROUNDS_NEEDED: Final = 2
"""the newest round may still train, while the one before it serves"""


Versions = Mapping[int, frozenset[str]]
"""Names of model versions by number of the project."""


def needed_versions(session: Session, data_dir: Path) -> Versions:
    """The versions that serve, that somebody asked for, that the newest rounds use or start from, and the one
    whose accepted masks are exported.

    Versions of click networks are not among them: they are small, and all of them are taken.
    """
    # columns that the store of every release has
    columns = ("project_id", "number", "model_version", "step", "review_done", "figures")
    rounds: dict[int, list[RoundRecord]] = {}
    for row in session.execute(select(*(getattr(RoundRecord, name) for name in columns))):
        record = RoundRecord(**dict(zip(columns, row, strict=True)))
        rounds.setdefault(record.project_id, []).append(record)
    wishes = _wishes(session)
    models: dict[int, set[str]] = {}
    for project in _projects(data_dir):
        paths = ProjectPaths(data_dir, project)
        names = models.setdefault(project, set())
        names |= {ModelRegistry(data_dir).current(project) or "", wish_in_file(paths)}
        names.add(wishes.get(project, ""))
        newest = sorted(rounds.get(project, []), key=lambda record: record.number)[-_ROUNDS_NEEDED:]
        exported = reviewed_round(rounds.get(project, []))
        for record in (*newest, *([exported] if exported else [])):
            start, owner, given = _sources(paths.round(record.number) / "snapshot.json")
            names |= {record.model_version, start}
            models.setdefault(owner or project, set()).add(given)
    return {project: frozenset(names - {""}) for project, names in models.items()}


def _wishes(session: Session) -> dict[int, str]:
    """Versions that somebody asked for, by project. The stores of earlier releases know none."""
    columns = {column["name"] for column in inspect(session.connection()).get_columns("projects")}
    if "version_wanted" not in columns:
        return {}
    rows = session.execute(select(ProjectRecord.id, ProjectRecord.version_wanted))
    return {row.id: row.version_wanted for row in rows}


def _projects(data_dir: Path) -> list[int]:
    folder = data_dir / "projects"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _sources(snapshot: Path) -> tuple[str, int, str]:
    """The version that a round starts from; and project and name of the version that it takes over."""
    try:
        found = json.loads(snapshot.read_text())
    except (FileNotFoundError, ValueError):
        return "", 0, ""
    model = found.get("model") or {}
    return str(found.get("start") or ""), int(model.get("project") or 0), str(model.get("version") or "")


def belongs(name: PurePosixPath, needed: Versions, models: Models, pools: Pools) -> bool:
    """Whether a file or folder of the data directory, named relative to it, is taken."""
    parts = name.parts
    if any(part.startswith(".") for part in parts):
        return False  # a file that is being written, a training under way, our own scratch folder
    if parts[0] in _LEFT_OUT or parts[0].startswith(("groundswell.db", "before-restore-")):
        return False
    if parts[0] != "projects" or len(parts) < 3 or not parts[1].isdigit():
        return True
    project, kind, rest = int(parts[1]), parts[2], parts[3:]
    if kind in _LEFT_OUT_OF_PROJECTS or (kind, *rest[:1]) == ("mistakes", "folds"):
        return False
    if kind == "pools" and rest:
        return pools == "all" or rest[0] in needed.get(project, ())
    if kind == "models" and rest:
        return models == "all" or rest[0] in needed.get(project, ())
    return True


def files_below(
    folder: Path, needed: Versions, models: Models = "all", pools: Pools = "needed"
) -> Iterator[PurePosixPath]:
    """Regular files of a data directory that belong into a backup, in the order of their names.

    Folders that do not belong are not entered. Links, sockets and the folder of Label Studio are passed over.
    """
    found = _walk(folder, PurePosixPath(), needed, models, pools)
    return (name for name, entry in found if entry.is_file(follow_symlinks=False))


def links_below(
    folder: Path, needed: Versions, models: Models = "all", pools: Pools = "needed"
) -> Iterator[PurePosixPath]:
    """Symbolic links that ``files_below`` passes over although their names belong into a backup."""
    found = _walk(folder, PurePosixPath(), needed, models, pools)
    return (name for name, entry in found if entry.is_symlink())


def _walk(
    inside: Path, name: PurePosixPath, needed: Versions, models: Models, pools: Pools
) -> Iterator[tuple[PurePosixPath, os.DirEntry[str]]]:
    """All but folders, of what belongs into a backup."""
    for entry in sorted(os.scandir(inside), key=lambda entry: entry.name):
        inner = name / entry.name
        if inner.parts[0] == LABEL_STUDIO or not belongs(inner, needed, models, pools):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), inner, needed, models, pools)
        else:
            yield inner, entry
