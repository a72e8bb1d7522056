"""What can be chosen: click segmenters, learners and checkpoints, and what each still needs."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.segmenters.sam_checkpoints import CHECKPOINTS
from ml_backend.clicks.serving.segmenter_list import Probing, list_segmenters
from ml_backend.learners.registry import LEARNERS
from sync.settings import Settings

__all__ = ["list_models"]


def list_models(
    settings: Settings, project: int | None = None, *, probing: Probing = "small"
) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``segmenters``, ``learners`` and ``checkpoints``; ``probing`` says which segmenters are tried.

    Each row has name, summary, ready, reason (what is missing, "" when nothing is) and in_use; those with
    weights of others also their licence. ``project``: the click network of this project is looked for too.
    """
    paths = None if project is None else ProjectPaths(settings.data_dir, project)
    segmenters = [
        {**asdict(row), "in_use": row.name == settings.segmenter}
        for row in list_segmenters(settings, paths, probing=probing)
    ]
    learners = []
    for name, target in LEARNERS.items():
        needed = "detectron2" if name == "detectron2" else "torchvision"
        here = find_spec(needed) is not None
        learners.append(
            {
                "name": name,
                "summary": target.partition(":")[0],
                "ready": here,
                "reason": "" if here else f"needs {needed}",
                "in_use": name == settings.learner,
            }
        )
    checkpoints = []
    for checkpoint in CHECKPOINTS.values():
        path = settings.data_dir / "checkpoints" / checkpoint.file
        here = path.exists() and path.stat().st_size == checkpoint.size
        checkpoints.append(
            {
                "name": checkpoint.name,
                "summary": f"{checkpoint.file}, {checkpoint.size / 1e6:.0f} MB",
                "ready": here,
                "reason": "" if here else f"groundswell models pull {checkpoint.name}",
                "licence": "Apache-2.0",
                "in_use": settings.sam_checkpoint == path,
            }
        )
    return {"segmenters": segmenters, "learners": learners, "checkpoints": checkpoints}
