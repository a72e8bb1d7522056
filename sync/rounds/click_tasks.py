"""Click embeddings of pictures, as a function that runs on any machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ml_backend.clicks.base import Embedding
from ml_backend.clicks.serving.encoder_source import EncoderSource, build_encoder
from ml_backend.errors import BadImage
from sync.executor.base import Node
from sync.rounds.loaded_pictures import Picture, pixels_of

__all__ = ["WEIGHTS", "Embedded", "Encoding", "embed"]

WEIGHTS: Final = "weights"
"""name of the folder, or file, that the function reads"""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What ``embed`` needs for all pictures; ``device`` as torch names it."""

    source: EncoderSource
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The embedding of one picture, or the ``error`` why the picture cannot be read."""

    error: str
    embedding: Embedding | None = None


def embed(encoding: Encoding, picture: Picture, node: Node) -> Embedded:
    """Encode one picture for clicks. Raises ModelError when the encoder cannot be built."""
    segmenter = node.keep(
        "segmenter", lambda: build_encoder(encoding.source, node.folder(WEIGHTS), device=encoding.device)
    )
    try:
        pixels = pixels_of(picture)
    except BadImage as error:
        return Embedded(str(error))
    return Embedded("", segmenter.embed(pixels))
