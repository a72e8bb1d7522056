"""A project, images and a segmenter whose masks give away which image they were made from."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.serving.segmenter_pool import SegmenterPool
from ml_backend.clicks.serving.service import ClickService
from ml_backend.clicks.start_masks import Proposals, box_of_mask
from ml_backend.instances import Instances
from ml_backend.label_studio.codecs.brush import decode_brush
from ml_backend.masks.rle import encode_mask
from ml_backend.settings import BackendSettings

Build = Callable[..., ClickService]
CONFIG = """<View>
<KeyPointLabels name="kp" toName="image" smart="true" smartOnly="true"><Label value="Cat"/><Label
value="Dog"/> </KeyPointLabels> <RectangleLabels name="rect" toName="image" smart="true"
smartOnly="true"><Label value="Cat"/><Label value="Dog"/> </RectangleLabels> <BrushLabels name="brush"
toName="image" smart="false"><Label value="Cat"/><Label value="Dog"/></BrushLabels> <Image name="image"
value="$image"/></View>"""


def facts(project_id: int = 1, config: str = CONFIG, **changes: Any) -> ProjectFacts:
    return ProjectFacts(
        project_id=project_id,
        key=f"{project_id}.1700000000",
        title="test",
        kind="instances",
        label_config=config,
        labels=("Cat", "Dog"),
        **changes,
    )


def click(x: float, y: float, positive: bool = True, label: str = "Cat") -> dict[str, Any]:
    return {
        "value": {"x": x, "y": y, "width": 0.3, "keypointlabels": [label]},
        "is_positive": positive,
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
    }


def rectangle(x: float, y: float, w: float, h: float, label: str = "Cat") -> dict[str, Any]:
    return {
        "value": {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]},
        "from_name": "rect",
        "to_name": "image",
        "type": "rectanglelabels",
    }


def task(task_id: int, image: Path) -> dict[str, Any]:
    return {"id": task_id, "data": {"image": str(image)}}


def save_picture(path: Path, value: int, hw: tuple[int, int] = (60, 80)) -> Path:
    """A PNG whose pixels all have the value: its identity can be read off any pixel."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*hw, 3), value, np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


class TellTale:
    """Draws a disc at the last click whose radius is the grey value of the image; counts its calls."""

    name = "telltale"
    device = "cpu"
    nbytes = 0
    persist = True

    def __init__(self, encoder: str = "telltale-1") -> None:
        self.encoder = encoder
        self.embeds = 0
        self.segments = 0
        self.start_masks: list[StartMask | None] = []
        self._lock = threading.Lock()

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        with self._lock:
            self.embeds += 1
        return Embedding(
            self.encoder, (image.shape[0], image.shape[1]), {"v": np.array([image[0, 0, 0]], np.float32)}
        )

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        with self._lock:
            self.segments += 1
            self.start_masks.append(start_mask)
        value = float(embedding.arrays["v"][0])
        if prompt.points:
            x, y, _ = prompt.points[-1]
        elif prompt.box is not None:
            x, y = (prompt.box[0] + prompt.box[2]) / 2, (prompt.box[1] + prompt.box[3]) / 2
        else:
            assert start_mask is not None
            return ClickResult(start_mask.mask[None], np.ones(1, np.float32), None)
        mask = disc(embedding.hw, x, y, value)
        if start_mask is not None:
            mask |= start_mask.mask
        return ClickResult(mask[None], np.array([0.75], np.float32), np.full((1, 4, 4), value, np.float32))


def disc(hw: tuple[int, int], x: float, y: float, radius: float) -> npt.NDArray[np.bool_]:
    ys, xs = np.mgrid[: hw[0], : hw[1]]
    inside: npt.NDArray[np.bool_] = (xs - x) ** 2 + (ys - y) ** 2 <= radius**2
    return inside


class FixedPool(SegmenterPool):
    """Always gives one segmenter."""

    def __init__(self, settings: BackendSettings, segmenter: Any) -> None:
        super().__init__(settings)
        self.segmenter = segmenter

    def get(self, name: str, project: Any = None) -> Any:
        return self.segmenter


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mask_of(reply: dict[str, Any], hw: tuple[int, int] = (60, 80)) -> np.ndarray[Any, np.dtype[np.bool_]]:
    (region,) = reply["result"]
    assert (region["original_height"], region["original_width"]) == hw
    return decode_brush(region["value"]["rle"], hw)


class OneProposal:
    def __init__(
        self,
        masks: list[np.ndarray[Any, np.dtype[np.bool_]]],
        *,
        score: float = 0.9,
        whole: frozenset[str] = frozenset(),
    ) -> None:
        boxes = np.array([box_of_mask(mask) for mask in masks], np.float32)
        worth = np.full(len(masks), score, np.float32)
        self.found = Proposals(
            "v1",
            ("Cat", "Dog"),
            Instances(
                np.zeros(len(masks), np.int64),
                boxes,
                [encode_mask(m) for m in masks],
                worth,
                worth,
                np.zeros((len(masks), 0), np.float32),
            ),
            whole,
        )

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals | None:
        return self.found if task_id == 7 else None
