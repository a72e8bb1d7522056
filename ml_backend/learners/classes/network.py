"""The whole classifier as one torch module: pixels in, calibrated probabilities and embeddings out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.learners.classes.feature_model import FeatureModel
from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix

__all__ = ["ClassNetwork"]

_DROPOUT = 0.2
_LEAST_SPREAD = 1e-3
Floats = npt.NDArray[np.float64]


class ClassNetwork(nn.Module):
    """Features, a linear head, calibration.

    Input: (n, 3, side, side) float pixels in 0..255. Output: probabilities (n, k) and embeddings (n, 128) of
    length 1, both float32. Features are standardised before the embedding, so that each counts.

    ``unseen``: (k,) probability given to labels that have no example, 0 for the others (single choice).
    """

    def __init__(self, features: FeatureModel, labels: int, *, exclusive: bool) -> None:
        super().__init__()
        self.centre: Tensor
        self.spread: Tensor
        self.projection: Tensor
        self.scale: Tensor
        self.shift: Tensor
        self.unseen: Tensor
        self.features = features
        self.exclusive = exclusive
        self.dim = features.dim
        self.side = features.side
        self._mean, self._std = features.mean, features.std
        self.head = nn.Linear(features.dim, labels)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("centre", torch.zeros(features.dim))
        self.register_buffer("spread", torch.ones(features.dim))
        self.register_buffer("projection", projection_matrix(features.dim))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("shift", torch.zeros(labels))
        self.register_buffer("unseen", torch.zeros(labels))

    @property
    def embedding_dim(self) -> int:
        return EMBEDDING_DIM

    def described(self, pixels: Tensor) -> Tensor:
        """(n, dim) features of pixels in 0..255."""
        x = pixels / 255.0
        if self._mean is None or self._std is None:
            centre = x.mean(dim=(1, 2, 3), keepdim=True)
            x = (x - centre) / x.std(dim=(1, 2, 3), keepdim=True).clamp(min=0.02)
        else:
            x = (x - _per_channel(self._mean, x)) / _per_channel(self._std, x)
        found: Tensor = self.features(x)
        return found

    def logits(self, described: Tensor) -> Tensor:
        """(n, k) before calibration; in training some features are dropped."""
        found: Tensor = self.head(functional.dropout(described, _DROPOUT, self.training))
        return found

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        described = self.described(pixels)
        calibrated = self.logits(described) * self.scale + self.shift
        if self.exclusive:
            known = torch.where(self.unseen > 0, torch.full_like(calibrated, -1e9), calibrated)
            probability = known.softmax(dim=1) * (1.0 - self.unseen.sum()) + self.unseen
        else:
            probability = calibrated.sigmoid()
        embedding = ((described - self.centre) / self.spread) @ self.projection
        length = embedding.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return probability, embedding / length

    def set_scale(self, described: Floats) -> None:
        """Centre and spread of the features, from (n, dim) of the training pictures."""
        self.centre.copy_(torch.from_numpy(described.mean(axis=0)))
        self.spread.copy_(torch.from_numpy(np.maximum(described.std(axis=0), _LEAST_SPREAD)))

    def standardised(self, described: Floats) -> Floats:
        """(n, dim) features as the linear head is fitted to them; divided by sqrt(dim), so that a
        penalty means the same for any number of features."""
        centre, spread = self.centre.double().cpu().numpy(), self.spread.double().cpu().numpy()
        return np.asarray((described - centre) / spread / np.sqrt(self.dim), np.float64)

    def set_head(self, weight: Floats, bias: Floats) -> None:
        """A linear head on ``standardised`` features: weight (dim, k), bias (k,)."""
        spread = self.spread.double().cpu().numpy() * np.sqrt(self.dim)
        plain = weight / spread[:, None]
        shifted = bias - self.centre.double().cpu().numpy() @ plain
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(plain.T))
            self.head.bias.copy_(torch.from_numpy(shifted))

    def set_calibration(self, scale: float, shift: Floats, unseen: Floats) -> None:
        self.scale.fill_(scale)
        self.shift.copy_(torch.from_numpy(shift))
        self.unseen.copy_(torch.from_numpy(unseen))


def _per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
