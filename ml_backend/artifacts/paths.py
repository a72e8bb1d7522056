"""Where Groundswell's files live. How they are written: ``ml_backend.artifacts.files``.

Layout below ``data_dir``::

    groundswell.db                     the worker's store
    images/                            image cache, by content hash
    embeddings/<encoder>/              click embeddings, <hash>.safetensors
    projects/<id>/project.json         what the backend must know of a project (written by the worker)
    projects/<id>/models/<version>/    one immutable model version: weights, manifest.json
    projects/<id>/models/.training-<version>/  checkpoints of a training that is under way
    projects/<id>/current              name of the version that serves
    projects/<id>/clicks/<version>/    one immutable click model with its ranking of candidates
    projects/<id>/clicks/current       name of the click model that serves; clicks/ranking: of the ranking
    projects/<id>/pools/<version>/     pool.parquet (instances), tasks.parquet, index.parquet (tasks)
    projects/<id>/orders/              order in which the tasks are served, by model version
    projects/<id>/mistakes/            likely label mistakes, by model version
    projects/<id>/features/<model>/    feature vectors of whole pictures
    projects/<id>/alike/               proposals of pictures before the first round ("more like this")
    projects/<id>/rounds/<n>/          trees and plots of a round
    projects/<id>/crops/               rendered review crops
    projects/<id>/dirty                touched by a webhook: "look again"
    projects/<id>/progress.json        how far the worker's look is, for people
    projects/<id>/training.json        how far the training is that goes on beside looks, for people
    projects/<id>/wanted_version.json  version that somebody asked to serve again, until the worker did it
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ProjectPaths"]


class ProjectPaths:
    """Paths of one Label Studio project below ``data_dir``."""

    def __init__(self, data_dir: Path, project_id: int) -> None:
        self.project_id = project_id
        self.root = data_dir / "projects" / str(project_id)
        self.facts = self.root / "project.json"
        self.models = self.root / "models"
        self.current = self.root / "current"
        self.clicks = self.root / "clicks"
        self.pools = self.root / "pools"
        self.features = self.root / "features"
        self.alike = self.root / "alike"
        self.orders = self.root / "orders"
        self.mistakes_folder = self.root / "mistakes"
        self.rounds = self.root / "rounds"
        self.crops = self.root / "crops"
        self.dirty = self.root / "dirty"
        self.progress = self.root / "progress.json"
        self.training_progress = self.root / "training.json"
        self.wanted_version = self.root / "wanted_version.json"

    def model(self, version: str) -> Path:
        return self.models / version

    def pool(self, version: str) -> Path:
        return self.pools / version

    def order(self, version: str) -> Path:
        return self.orders / f"{version}.parquet"

    def mistakes(self, version: str) -> Path:
        return self.mistakes_folder / f"{version}.parquet"

    def round(self, number: int) -> Path:
        return self.rounds / str(number)
