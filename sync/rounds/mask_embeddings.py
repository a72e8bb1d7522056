"""Which embeddings the masks of a pool have: the learner's own, or those of another model.

All masks of a pool must be described by one model, or their distances mean nothing. So the choice is noted in
the folder of the pool when its first part is written. A changed setting counts from the next version on.
"""

from __future__ import annotations

from typing import Final

from ml_backend.artifacts.files import Guard, read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_parts import part_names
from ml_backend.learners.picture_features import picture_features
from sync.settings import Settings

__all__ = ["OWN", "embeddings_from"]

OWN: Final = "own"
"""The embeddings that the learner gives."""


def embeddings_from(settings: Settings, paths: ProjectPaths, version: str, *, guard: Guard) -> str:
    """What describes the masks of this version's pool: ``OWN``, or a choice of ``MaskFeatures``.

    Raises BadInput when there is no such model (any more), StorageError on a damaged note.
    """
    note = paths.pool(version) / "embeddings.json"
    try:
        choice = str(read_json(note)["from"])
    except FileNotFoundError:
        # a pool that was begun before there was a choice holds the learner's own
        choice = OWN if part_names(paths.pool(version)) else settings.cluster_features
        if choice != OWN:
            picture_features(choice, field="cluster_features")
            write_json(note, {"from": choice}, guard=guard)
    if choice != OWN:
        picture_features(choice, field="cluster_features")
    return choice
