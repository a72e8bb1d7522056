"""Click networks in the RITM / FocalClick / SimpleClick style, exported to ONNX, run by onnxruntime.

Two signatures are supported; the input names tell which one it is (docs/click-networks.md says how to
export them):

maps     ``image`` (1, 3, S, S) float32 RGB 0..1, ``clicks`` (1, C, S, S) 0/1 discs of radius 5 (positive,
         negative and, if C = 3, the filled box), ``previous`` (1, 1, S, S) 0/1. Our own project network
         exports to this with one more input, ``input_maps`` (1, 5, S, S): see the module ``input_maps``.
points   ``image`` (1, 4, S, S) float32 RGB 0..1 and the previous mask, ``points`` (1, 2K, 3) float32 rows of
         (row, column, order): K positive, then K negative, unused rows -1. The forward() of the RITM code
         base, which FocalClick and SimpleClick share; normalisation and distance maps are inside.

Both return ``logits`` (1, 1, S, S), or a first output of any other name: above 0 is object. A network with
C = 2 or with ``points`` has no input for a box. Then the box sets the window, and a positive click is placed
in its middle.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.input_maps import N_INPUT_MAPS, compute_input_maps
from ml_backend.clicks.segmenters.zoom import ZoomSegmenter
from ml_backend.devices import omp_threads
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings

__all__ = ["ClickOnnxSegmenter", "from_settings"]

DEFAULT_SIZE, DEFAULT_FIRST_SIDE = 256, 256.0


class ClickOnnxSegmenter(ZoomSegmenter):
    """Segmenter 'click-onnx'. Safe under threads: onnxruntime sessions are."""

    name = "click-onnx"

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """Load the network; ModelError when the file is missing, not ONNX, or has another signature."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:  # onnxruntime's errors share no public base
            raise ModelError(
                f"cannot load {path}: {error}", hint="Is it a click network in ONNX form?"
            ) from error
        self.encoder = f"click-onnx-{digest[:12]}"
        self.nbytes = path.stat().st_size
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        maps = {"image", "clicks", "previous"}
        if set(inputs) not in (maps, maps | {"input_maps"}, {"image", "points"}):
            raise ModelError(
                f"{path} has inputs {sorted(inputs)}",
                hint="Expected image, clicks, previous or image, points: see docs/click-networks.md",
            )
        self._points = "points" in inputs
        self._wants_input_maps = "input_maps" in inputs
        if self._wants_input_maps and inputs["input_maps"][1] != N_INPUT_MAPS:
            raise ModelError(
                f"{path} was exported by another version of Groundswell", hint="Export the network again"
            )
        channels = inputs["clicks"][1] if not self._points else 2
        if channels not in (2, 3):
            raise ModelError(
                f"{path} wants {channels} click maps", hint="2 (positive, negative) or 3 (and box)"
            )
        self._maps: int = channels
        rows = inputs["points"][1] if self._points else 0
        self._rows: int | None = rows if isinstance(rows, int) else None
        facts = self._session.get_modelmeta().custom_metadata_map
        side = inputs["image"][-1]
        self.size = side if isinstance(side, int) else int(facts.get("size", DEFAULT_SIZE))
        self.first_side = float(facts.get("first_side", DEFAULT_FIRST_SIDE))

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """As ZoomSegmenter; a network without a box map is given a click in the middle of the box."""
        if self._maps == 2 and prompt.box is not None and start_mask is None and not prompt.points:
            x0, y0, x1, y1 = prompt.box
            prompt = replace(prompt, points=(((x0 + x1) / 2, (y0 + y1) / 2, True),))
        return super().segment(embedding, prompt, start_mask)

    def _logits(
        self,
        image: npt.NDArray[np.uint8],
        clicks: npt.NDArray[np.float32],
        previous: npt.NDArray[np.float32],
        points: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255.0
        before = previous[None, None]
        if self._points:
            feed = {"image": np.concatenate([pixels, before], 1), "points": _point_rows(points, self._rows)}
        else:
            feed = {"image": pixels, "clicks": clicks[None, : self._maps], "previous": before}
            if self._wants_input_maps:
                feed["input_maps"] = compute_input_maps(image, clicks, previous > 0, points)[None]
        logits: npt.NDArray[np.float32] = self._session.run(None, feed)[0][0, 0]
        return logits


def _point_rows(points: npt.NDArray[np.float32], rows: int | None) -> npt.NDArray[np.float32]:
    """(n, 3) clicks (x, y, positive) of the window in click order -> (1, 2K, 3) rows of (row, column, order).

    With a fixed K the latest clicks of each sign are kept.
    """
    half = max(1, len(points)) if rows is None else rows // 2
    out = np.full((1, 2 * half, 3), -1.0, np.float32)
    for offset, sign in ((0, True), (half, False)):
        chosen = [(y, x, order) for order, (x, y, positive) in enumerate(points) if bool(positive) == sign]
        for at, row in enumerate(chosen[-half:]):
            out[0, offset + at] = row
    return out


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> ClickOnnxSegmenter:
    """``click-onnx`` from GROUNDSWELL_CLICK_ONNX, else GROUNDSWELL_SAM_CHECKPOINT: the ONNX file."""
    path = settings.click_onnx or settings.sam_checkpoint
    if path is None or not path.is_file():
        raise ModelError(
            "no click network is configured" if path is None else f"{path} is no file",
            field="click_onnx",
            hint="Point GROUNDSWELL_CLICK_ONNX to the .onnx file of a click network",
        )
    return ClickOnnxSegmenter(path, threads=omp_threads())
