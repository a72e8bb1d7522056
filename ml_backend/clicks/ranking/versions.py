"""Which ranking serves a project: the file ``clicks/ranking`` names the click version that holds it."""

from __future__ import annotations

from ml_backend.artifacts.files import read_name
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter

__all__ = ["RANKING_CURRENT", "current_ranking", "name_of"]

RANKING_CURRENT = "ranking"


def current_ranking(project: ProjectPaths) -> str | None:
    """Name of the click version whose ranking serves, None when none was adopted."""
    return read_name(project.clicks / RANKING_CURRENT)


def name_of(segmenter: ClickSegmenter | None) -> str:
    """What a ranking calls a segmenter it was measured with; other weights have another name. Empty: none."""
    return "" if segmenter is None else f"{segmenter.name}:{segmenter.encoder}"
