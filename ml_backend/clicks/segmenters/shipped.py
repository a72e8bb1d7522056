"""Segmenter 'shipped': the click network that comes with the package, run by onnxruntime.

It knows no class and was trained on no data of the user; docs/shipped-network.md is its model card. The same
weights, as torch loads them, are what the training of a project's own network starts from.
"""

from __future__ import annotations

from pathlib import Path

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.click_onnx import ClickOnnxSegmenter
from ml_backend.clicks.segmenters.inspection import Inspection
from ml_backend.devices import omp_threads
from ml_backend.settings import BackendSettings

__all__ = ["SHIPPED_NETWORK", "ShippedSegmenter", "from_settings", "inspect"]

SHIPPED_NETWORK = Path(__file__).parent / "shipped_network"
"""Folder with network.onnx and, as a click version, weights.safetensors (half precision) and click.json."""


class ShippedSegmenter(ClickOnnxSegmenter):
    """Safe under threads: onnxruntime sessions are."""

    name = "shipped"
    more_first_sides = (64.0, 400.0)

    def __init__(self, *, threads: int = 0) -> None:
        """Load the network. ModelError when the package was damaged."""
        super().__init__(SHIPPED_NETWORK / "network.onnx", threads=threads)
        self.encoder = self.encoder.replace("click-onnx", self.name)
        self._classical = ClassicalSegmenter()

    def _other_opinion(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        """The answer of ``classical``: it follows edges of the whole picture, and knows no window."""
        return self._classical.segment(embedding, prompt, None)


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> ShippedSegmenter:
    """The segmenter needs no settings."""
    return ShippedSegmenter(threads=omp_threads())


def inspect(settings: BackendSettings, project: ProjectPaths | None) -> Inspection:
    """The network's file."""
    network = SHIPPED_NETWORK / "network.onnx"
    if network.is_file():
        return Inspection(files=(network,))
    return Inspection(f"{network} is not there", "Install Groundswell again: its files are not whole")
