"""Fakes shared by the backend's tests: images, a Label Studio that serves files, a learner of no weights."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.rle import encode_mask, rle_box

STUDIO = "http://studio.test:8080"


def image_bytes(hw: tuple[int, int] = (40, 60), *, seed: int = 0, fmt: str = "PNG", **options: Any) -> bytes:
    """A picture of smooth noise, so that JPEG keeps it recognisable."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (5, 7, 3)).astype(np.uint8))
    file = io.BytesIO()
    small.resize((hw[1], hw[0]), Image.Resampling.BICUBIC).save(file, fmt, **options)
    return file.getvalue()


class FakeStudioServer:
    """Answers what ``routes`` hold: path → bytes, (status, headers, bytes), or a function of the request."""

    def __init__(self, routes: dict[str, Any]) -> None:
        self.routes = routes
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        where = f"{request.url.scheme}://{request.url.netloc.decode()}{request.url.path}"
        found = self.routes.get(where.removeprefix(STUDIO), self.routes.get(where))
        if callable(found):
            found = found(request)
        if found is None:
            return httpx.Response(404, text="not here")
        if "*/*" not in request.headers["accept"]:  # as the real one does
            return httpx.Response(406, text="cannot answer so")
        if isinstance(found, bytes):
            found = (200, {"content-type": "image/png"}, found)
        if isinstance(found, Exception):
            raise found
        status, headers, body = found
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self), follow_redirects=False)


def bright_instances(image: npt.NDArray[np.uint8], labels: Sequence[str]) -> Instances:
    """One instance of the first label: the pixels brighter than the image's mean."""
    mask = image.mean(axis=2) > image.mean()
    rle = encode_mask(mask)
    return Instances(
        np.zeros(1, np.int64),
        np.array([rle_box(rle)], np.float32),
        [rle],
        np.array([0.9], np.float32),
        np.array([0.8], np.float32),
        np.ones((1, 2), np.float32),
    )


class ThresholdPredictor:
    """Finds what is brighter than the mean; counts the images it saw."""

    embedding_dim = 2
    nbytes = 1000

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.seen = 0

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        for image in images:
            self.seen += 1
            yield bright_instances(image, self.labels)


class ThresholdLearner:
    """A learner whose versions hold nothing but their labels; ``hook`` runs at each load."""

    name = "threshold"
    loads = 0
    hook: Callable[[], None] = staticmethod(lambda: None)

    def load(self, folder: Path, *, device: str = "auto") -> ThresholdPredictor:
        type(self).loads += 1
        type(self).hook()
        return ThresholdPredictor(tuple(json.loads((folder / "learner.json").read_text())))


def some_facts(project_id: int = 3, **changes: Any) -> ProjectFacts:
    facts = ProjectFacts(
        project_id=project_id,
        key=f"{project_id}.1795209803",
        title="Cells",
        kind="instances",
        label_config=build_label_config(["cell", "dirt"]),
        labels=("cell", "dirt"),
    )
    return facts.with_changes(**changes)
