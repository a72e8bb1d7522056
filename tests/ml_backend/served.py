"""A served app on a folder of its own, and the requests tests send to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from pydantic import SecretStr

from ml_backend.app import create_app
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.project_facts import save_facts
from ml_backend.images.fetch import Fetcher
from ml_backend.images.store import ImageStore
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.rle import encode_mask
from ml_backend.services import Services
from ml_backend.settings import BackendSettings
from tests.ml_backend.helpers import STUDIO, FakeStudioServer, image_bytes, some_facts

KEY = "3.1795209803"
CONFIG = build_label_config(["cell", "dirt"])
LABELS = ("cell", "dirt")


class Backend:
    """An app on a folder of its own, with a Label Studio that serves two pictures."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        options: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "studio_url": STUDIO,
            "studio_token": SecretStr("tok"),
            "open_backend": True,
        }
        self.settings = BackendSettings(**(options | changes))
        self.studio = FakeStudioServer(
            {f"/data/upload/1/{i}.png": image_bytes(seed=i) for i in range(1, 40)}
            | {"/data/upload/1/text.png": (200, {"content-type": "image/png"}, b"I am text")}
        )
        self.services = Services.from_settings(self.settings)
        self.services.images = ImageStore(
            self.settings, fetcher=Fetcher(self.settings, client=self.studio.client)
        )
        self.services.crops = type(self.services.crops)(self.settings.data_dir, self.services.images)
        self.app = create_app(services=self.services)
        self.client: FlaskClient = self.app.test_client()
        save_facts(self.settings.data_dir, some_facts())

    def publish(self, version: str = "r1-aaaa", **facts: object) -> None:
        def build(folder: Path) -> dict[str, object]:
            (folder / "learner.json").write_text(json.dumps(LABELS))
            return {"learner": "threshold", **facts}

        ModelRegistry(self.settings.data_dir).publish(3, version, build)

    def fill_pool(self, task_ids: list[int], version: str = "r1-aaaa", **facts: Any) -> Instances:
        mask = np.zeros((40, 60), bool)
        mask[5:20, 10:30] = True
        instances = Instances(
            np.array([0, 1]),
            np.array([[10, 5, 30, 20]] * 2, np.float32),
            [encode_mask(mask), encode_mask(~mask)],
            np.array([0.9, 0.1], np.float32),
            np.array([0.9, 0.9], np.float32),
            np.zeros((2, 3), np.float32),
        )
        folder = ProjectPaths(self.settings.data_dir, 3).pool(version)
        with PoolWriter(folder, LABELS, embedding_dim=3) as writer:
            for task_id in task_ids:
                writer.add(task_id, instances, hw=(40, 60), score=0.25, **facts)
        return instances

    def post(self, *tasks: Any, **changes: Any) -> Any:
        """The reply of ``/predict`` to these tasks."""
        body = {
            "tasks": list(tasks),
            "project": KEY,
            "label_config": CONFIG,
            "params": {"context": None},
        } | changes
        return self.client.post("/predict", json=body)

    def predict(self, *tasks: Any, **changes: Any) -> list[dict[str, Any]]:
        reply = self.post(*tasks, **changes)
        assert reply.status_code == 200, reply.json
        results = reply.json["results"]
        assert len(results) == len(tasks)
        return list(results)


def task(number: int, **data: Any) -> dict[str, Any]:
    return {
        "id": number,
        "data": data or {"image": f"/data/upload/1/{number}.png"},
        "annotations": [],
        "drafts": [],
    }


class FakeClicks:
    def __init__(self, answer: Callable[[], dict[str, Any]]) -> None:
        self.answer = answer
        self.calls: list[tuple[Mapping[str, Any], Any, Any]] = []

    def predict(self, task: Mapping[str, Any], context: Any, project: Any) -> dict[str, Any]:
        self.calls.append((task, context, project))
        return self.answer()


CONTEXT = {
    "result": [
        {"type": "keypointlabels", "value": {"x": 1, "y": 2, "keypointlabels": ["cell"]}, "is_positive": True}
    ]
}


def click(backend: Backend, **changes: Any) -> Any:
    private = {
        "annotations": [{"result": [{"value": {"rle": [1, 2, 3], "text": "PRIVATE"}}]}],
        "drafts": ["PRIVATE"],
    }
    body = {
        "tasks": [task(1) | private],
        "project": KEY,
        "label_config": CONFIG,
        "params": {"context": CONTEXT},
    }
    return backend.client.post("/predict", json=body | changes)


def hook(backend: Backend, headers: Mapping[str, str] | None = None, **changes: Any) -> Any:
    body = {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": 1, "result": []},
        "project": {"id": 3},
    } | changes
    return backend.client.post("/webhook", json=body, headers=dict(headers or {}))


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
