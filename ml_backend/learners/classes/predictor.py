"""A loaded classifier: pictures in, labels of the whole picture out, as instances that cover it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ml_backend.errors import ModelError
from ml_backend.instances import Instances
from ml_backend.learners.classes.network import ClassNetwork
from ml_backend.learners.classes.squares import as_batch, square
from ml_backend.learners.guarded_batches import GuardedBatches
from ml_backend.masks.shapes import whole_rle

__all__ = ["ClassConfig", "ClassPredictor", "doubts_of"]

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ClassConfig:
    """What is stored beside the weights, as ``learner.json``.

    ``positive``: index of the label that the order by largest probability asks for; ``least``: see
    ``ClassifierSettings``; ``features``: see ``build_features``; ``method``: ``linear`` or ``network``.
    """

    labels: tuple[str, ...]
    exclusive: bool
    features: dict[str, Any]
    side: int
    method: str
    positive: int
    least: float

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClassConfig:
        """Raises ModelError where a field is missing or of another kind."""
        try:
            return cls(
                tuple(str(v) for v in value["labels"]),
                bool(value["exclusive"]),
                dict(value["features"]),
                int(value["side"]),
                str(value["method"]),
                int(value["positive"]),
                float(value["least"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the description of the model is damaged: {error!r}", field="learner.json"
            ) from error


def doubts_of(probability: Floats, *, exclusive: bool, positive: int) -> dict[str, float]:
    """Named doubts about one picture from its (k,) probabilities, each in 0..1.

    ``entropy`` over log k (in multiple choice: the mean entropy of the labels over log 2), ``margin``: 1
    minus the gap between the two likeliest labels (the most doubtful label's distance from one half), and
    ``max_probability``: the probability of the label ``positive`` (any label in multiple choice), for
    orders that look for rare labels first.
    """
    p = np.clip(probability, 1e-9, 1.0)
    if exclusive:
        ordered = np.sort(probability)[::-1]
        entropy = float(-(p * np.log(p)).sum() / np.log(len(p))) if len(p) > 1 else 0.0
        gap = float(ordered[0] - ordered[1]) if len(p) > 1 else 1.0
        found = {"entropy": entropy, "margin": 1.0 - gap, "max_probability": float(probability[positive])}
    else:
        q = np.clip(1.0 - probability, 1e-9, 1.0)
        entropy = float(-(p * np.log(p) + q * np.log(q)).mean() / np.log(2.0))
        gap = float(np.abs(2.0 * probability - 1.0).min())
        found = {"entropy": entropy, "margin": 1.0 - gap, "max_probability": float(probability.max())}
    return {name: float(np.clip(value, 0.0, 1.0)) for name, value in found.items()}


class ClassPredictor:
    """Predicts with one model version; safe under threads, see ``GuardedBatches``."""

    def __init__(
        self, network: ClassNetwork, config: ClassConfig, *, device: torch.device, batch: int = 32
    ) -> None:
        self.labels = config.labels
        self.config = config
        self.embedding_dim = network.embedding_dim
        self._network = network.to(memory_format=torch.channels_last).eval()
        self._device = device
        self.nbytes = sum(tensor.nbytes for tensor in network.state_dict().values())
        self._batches = GuardedBatches("classifier", device, batch=batch, run=self._run, move=self._move)
        self.fallback = self._batches.fallback

    def predict(self, images: Sequence[Pixels]) -> Iterator[Instances]:
        """Labels of each (H, W, 3) uint8 RGB picture, in order.

        A single choice gives one row, the likeliest label; multiple choice one for each label whose
        probability is at least ``least``. Masks cover the picture, scores are calibrated probabilities, and
        quality is 1, so that score times quality is the probability that the row is right.
        """
        squares = [square(image, self.config.side) for image in images]
        for image, (p, vector) in zip(images, self._batches(squares), strict=True):
            yield self._instances(p, vector, (image.shape[0], image.shape[1]))

    def probabilities(
        self, images: Sequence[Pixels]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """(n, k) calibrated probabilities and (n, 128) embeddings of length 1."""
        rows = list(self._batches([square(image, self.config.side) for image in images]))
        return np.stack([p for p, _ in rows]), np.stack([vector for _, vector in rows])

    def _move(self, device: torch.device) -> None:
        self._device = device
        self._network.to(device)

    def _run(self, squares: Sequence[Pixels]) -> list[tuple[Floats, npt.NDArray[np.float32]]]:
        p, vectors = self._network(as_batch(squares, self._device))
        probability = p.float().cpu().numpy().astype(np.float64)
        return list(zip(probability, vectors.float().cpu().numpy(), strict=True))

    def _instances(
        self, probability: Floats, embedding: npt.NDArray[np.float32], hw: tuple[int, int]
    ) -> Instances:
        config = self.config
        if config.exclusive:
            chosen = np.array([int(probability.argmax())], np.int64)
        else:
            chosen = np.flatnonzero(probability >= config.least).astype(np.int64)
            chosen = chosen[np.argsort(-probability[chosen], kind="stable")]
        n = len(chosen)
        return Instances(
            label=chosen,
            box_xyxy=np.tile(np.array([0, 0, hw[1], hw[0]], np.float32), (n, 1)),
            rle=[whole_rle(hw) for _ in range(n)],
            score=probability[chosen].astype(np.float32),
            quality=np.ones(n, np.float32),
            embedding=np.tile(embedding, (n, 1)),
            doubts=doubts_of(probability, exclusive=config.exclusive, positive=config.positive),
            feature=embedding,
        )
