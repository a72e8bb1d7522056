"""What webhooks left in the inbox of a project."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from ml_backend.artifacts.paths import ProjectPaths

__all__ = ["noted_actions"]


def noted_actions(data_dir: Path, project_id: int) -> list[str]:
    """Actions of the inbox, oldest first; each line has a time and one action."""
    path = ProjectPaths(data_dir, project_id).dirty
    lines = path.read_text().splitlines() if path.exists() else []
    parts = [line.split(" ") for line in lines]
    for stamp, _ in parts:
        datetime.fromisoformat(stamp)
    return [action for _, action in parts]
