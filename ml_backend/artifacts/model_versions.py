"""Model versions: published whole, by renaming a folder, and never changed afterwards.

A version is a folder that never changes: weights, and ``manifest.json`` with what it was trained on and how
good it is. ``current`` names the version that serves; changing it is one rename. A version that fails to
load or to train leaves ``current`` as it was.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from ml_backend.artifacts.files import (
    Guard,
    format_errors,
    publish_dir,
    read_json,
    read_name,
    unguarded,
    write_atomic,
)
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, ModelError

__all__ = ["ModelRegistry", "VersionInfo"]

Area = Literal["models", "clicks"]
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A published version: its name, its folder, and its manifest with ``version`` and ``created_at``."""

    version: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def learner(self) -> str:
        """Name of the learner that loads it; empty for areas without learners."""
        return str(self.manifest.get("learner", ""))


class _ManifestFields(BaseModel):
    """The fields of a manifest that this package reads; learners and newer versions add others."""

    model_config = ConfigDict(extra="ignore")

    version: str = ""
    created_at: float = 0.0
    learner: str = ""
    round: int = 0
    labels: tuple[str, ...] = ()


class ModelRegistry:
    """Versions of all projects below ``data_dir``.

    ``area`` is ``models`` (detectors) or ``clicks`` (click networks): each has a current version of its own.
    """

    def __init__(self, data_dir: Path, *, area: Area = "models") -> None:
        self._data_dir = data_dir
        self._area = area

    def folder(self, project_id: int, version: str) -> Path:
        """Where a version lives or would live. Raises BadInput when the name could lead elsewhere."""
        if not _NAME.fullmatch(version):
            raise BadInput(f"{version!r} cannot be the name of a model version", field="version")
        return self._root(project_id) / version

    def publish(
        self,
        project_id: int,
        version: str,
        build: Callable[[Path], Mapping[str, Any]],
        *,
        make_current: bool = True,
        guard: Guard = unguarded,
    ) -> VersionInfo:
        """Build a version in a staging folder and publish it by rename.

        ``build`` writes the files and returns the manifest. A version that is there already is kept and
        ``build`` is not called: versions are named by what they were made from. Nothing is published when
        ``build`` raises, or when ``guard`` does (see ``artifacts.files``).
        """
        target = self.folder(project_id, version)
        if not (target / "manifest.json").exists():
            with publish_dir(target, guard=guard) as staging:
                manifest = {"created_at": time.time(), **build(staging), "version": version}
                write_atomic(
                    staging / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode()
                )
        if make_current:
            self.set_current(project_id, version, guard=guard)
        return self.info(project_id, version)

    def current(self, project_id: int) -> str | None:
        """Name of the version that serves, None before the first."""
        return read_name(self._current_file(project_id))

    def set_current(self, project_id: int, version: str, *, guard: Guard = unguarded) -> None:
        """Make a published version the one that serves. Raises ModelError when it is not published."""
        self.info(project_id, version)
        write_atomic(self._current_file(project_id), version.encode(), guard=guard)

    def versions(self, project_id: int) -> list[VersionInfo]:
        """All published versions, oldest first."""
        root = self._root(project_id)
        names = [p.name for p in root.iterdir() if (p / "manifest.json").is_file()] if root.is_dir() else []
        found = [self.info(project_id, name) for name in names if _NAME.fullmatch(name)]
        return sorted(found, key=lambda v: (float(v.manifest.get("created_at", 0.0)), v.version))

    def info(self, project_id: int, version: str) -> VersionInfo:
        """A version and its manifest.

        Raises ModelError when it is not published or its manifest is not JSON, StorageError naming file and
        field when a field of the manifest has a wrong type.
        """
        folder = self.folder(project_id, version)
        try:
            manifest = read_json(folder / "manifest.json")
        except FileNotFoundError:
            raise ModelError(
                f"model version {version!r} of project {project_id} is not there",
                field="version",
                hint=f"Versions: {', '.join(self._names(project_id)) or 'none yet'}",
            ) from None
        except ValueError as error:
            raise ModelError(
                f"the manifest of model version {version!r} is damaged ({error})",
                hint=f"Delete {folder} and train again",
            ) from error
        if not isinstance(manifest, dict):
            raise ModelError(
                f"the manifest of model version {version!r} is not a JSON object", hint=f"Delete {folder}"
            )
        with format_errors(folder / "manifest.json", hint=f"Delete {folder} and train again"):
            _ManifestFields.model_validate(manifest)
        return VersionInfo(version, folder, manifest)

    def _root(self, project_id: int) -> Path:
        paths = ProjectPaths(self._data_dir, project_id)
        return paths.models if self._area == "models" else paths.clicks

    def _current_file(self, project_id: int) -> Path:
        paths = ProjectPaths(self._data_dir, project_id)
        return paths.current if self._area == "models" else paths.clicks / "current"

    def _names(self, project_id: int) -> list[str]:
        root = self._root(project_id)
        return sorted(p.name for p in root.iterdir() if not p.name.startswith(".")) if root.is_dir() else []
