"""What the encoder of a click segmenter is built from, so that another process or machine can build the same.

Only segmenters whose embeddings are kept (``ClickSegmenter.persist``) have an encoder worth that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings

__all__ = ["EncoderSource", "build_encoder", "weights_of"]


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """An encoder without its weights.

    Attributes
    ----------
    segmenter : its name in the table of segmenters
    encoder : ``ClickSegmenter.encoder``, which names the weights by their digest
    precision : setting ``hf_precision``
    """

    segmenter: str
    encoder: str
    precision: str


def weights_of(segmenter: str, settings: BackendSettings) -> Path | None:
    """File or folder of the weights that a segmenter of these settings reads; None when it cannot travel.

    Raises ModelError when there are none.
    """
    if segmenter == "sam":
        return settings.sam_checkpoint
    if segmenter == "sam-onnx":
        from ml_backend.clicks.segmenters.sam_onnx import pair_folder

        return pair_folder(settings)
    if segmenter == "hf":
        from ml_backend.clicks.segmenters.hf_models import find_folder

        return find_folder(settings)
    return None


def build_encoder(source: EncoderSource, weights: Path, *, device: str) -> ClickSegmenter:
    """The segmenter with weights that lie at ``weights``: a file, a folder, or a folder with that file alone.

    Reads no setting of this machine. Raises ModelError when it cannot be built or has another encoder.
    """
    if source.segmenter == "sam" and weights.is_dir():
        (weights,) = weights.iterdir()
    by_segmenter: dict[str, dict[str, Any]] = {
        "sam": {"sam_checkpoint": weights},
        "sam-onnx": {"sam_onnx": weights},
        "hf": {"hf_model": str(weights), "hf_precision": source.precision},
    }
    settings = BackendSettings.model_construct(device=device, **by_segmenter[source.segmenter])
    built = build_segmenter(source.segmenter, settings)
    if built.encoder != source.encoder:
        raise ModelError(
            f"the encoder {built.encoder} was built in the place of {source.encoder}",
            field="segmenter",
            hint="Were its files replaced? The next look reads them anew",
        )
    return built
