"""Training of the whole network, and its logits for pictures it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.learners.base import Progress
from ml_backend.learners.classes.network import ClassNetwork
from ml_backend.learners.classes.settings import ClassifierSettings
from ml_backend.learners.classes.squares import Pixels, Squares, as_batch
from ml_backend.learners.training.loop import FitResult, fit
from ml_backend.learners.training.settings import LoopSettings

__all__ = ["Truth", "describe_all", "logits_of", "train_network"]

Floats = npt.NDArray[np.float64]
_BATCH = 32
_SHIFT = 0.08


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """``tags``: (n, k) of 0 and 1, ``weights``: (n, k), for the pictures of ``Squares``."""

    tags: Floats
    weights: Floats
    exclusive: bool

    def take(self, rows: npt.NDArray[np.int64]) -> Truth:
        """Some of the pictures."""
        return Truth(self.tags[rows], self.weights[rows], self.exclusive)


def train_network(
    network: ClassNetwork,
    squares: Squares,
    rows: npt.NDArray[np.int64],
    truth: Truth,
    settings: ClassifierSettings,
    *,
    continues: bool,
    device: torch.device,
    seed: int,
    progress: Progress,
    folder: Path | None = None,
) -> FitResult:
    """Train in place on the pictures ``rows``; ``truth`` is of all pictures. See ``fit``."""
    loop = LoopSettings(
        iterations=settings.continue_iterations if continues else settings.iterations,
        lr=settings.continue_lr if continues else settings.lr,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        ema=settings.ema,
    )
    tags = torch.from_numpy(truth.tags).float()
    weights = torch.from_numpy(truth.weights).float()
    size = min(settings.batch, max(2, len(rows)))  # batch normalisation needs two

    def next_batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((seed, step))
        chosen = rows[rng.permutation(np.resize(rng.permutation(len(rows)), size))]
        drawn = [_changed(squares[int(i)], settings.augment, rng) for i in chosen]
        return as_batch(drawn, torch.device("cpu")), tags[chosen], weights[chosen]

    def loss_of(model: ClassNetwork, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, wanted, weight = batch
        logits = model.logits(model.described(pixels))
        if truth.exclusive:
            each = -(weight * wanted * functional.log_softmax(logits, dim=1)).sum(dim=1)
        else:
            each = functional.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none").sum(
                1
            )
        return {"classes": each.mean()}

    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fit(network, next_batch, loss_of, loop, device=device, seed=seed, progress=progress, folder=folder)


def describe_all(network: ClassNetwork, squares: Squares, *, device: torch.device) -> Floats:
    """(n, dim) features of all pictures."""
    network.to(device).eval()
    with torch.inference_mode():
        found = [network.described(batch).cpu() for batch in squares.batches(_BATCH, device)]
    return np.asarray(torch.cat(found).double().numpy(), np.float64)


def logits_of(network: ClassNetwork, described: Floats) -> Floats:
    """(n, k) logits before calibration, from (n, dim) features."""
    device = network.head.weight.device
    with torch.inference_mode():
        found = network.eval().logits(torch.from_numpy(described).float().to(device))
    return np.asarray(found.cpu().double().numpy(), np.float64)


def _changed(pixels: Pixels, augment: str, rng: np.random.Generator) -> Pixels:
    """One random change of a square picture: mirrored, turned, shifted, brighter or darker, more contrast."""
    if augment == "none":
        return pixels
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if augment == "any":
        pixels = np.rot90(pixels, int(rng.integers(4)))
    side = pixels.shape[0]
    reach = int(_SHIFT * side)
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    y, x = (int(v) for v in rng.integers(0, 2 * reach + 1, 2))
    gain, lift = rng.uniform(0.8, 1.25), rng.uniform(-20, 20)
    table = np.clip((np.arange(256) - 127.5) * gain + 127.5 + lift, 0, 255).astype(np.uint8)
    return np.asarray(table[padded[y : y + side, x : x + side]], np.uint8)
