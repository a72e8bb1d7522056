"""What the training samples of all networks for crops share: order of pictures, placement, pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2

from ml_backend.examples import Example
from ml_backend.learners.pixels import normalise
from ml_backend.learners.training.kept import HasBytes, Kept

__all__ = ["HasSide", "LoadedPicture", "RandomCrops", "about", "mirrored", "turn_angle", "warped"]

Bitmap = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]


class LoadedPicture(HasBytes, Protocol):
    """One picture held ready: ``pixels`` (h, w, 3) uint8 at network scale; ``mean_std`` of the file, 0..1."""

    @property
    def pixels(self) -> Bitmap: ...

    @property
    def mean_std(self) -> tuple[float, float]: ...


class HasSide(Protocol):
    """Settings of crops: side in network pixels, and ``how`` of ``pixels.normalise``."""

    @property
    def side(self) -> int: ...

    @property
    def normalise(self) -> str: ...


C = TypeVar("C", bound=HasSide)
L = TypeVar("L", bound=LoadedPicture)
S = TypeVar("S")


class RandomCrops(ABC, Generic[C, L, S]):
    """Draws crops by index, like a torch Dataset. The same index and seed give the same crop.

    Decoded pictures are kept up to ``cache_bytes`` in each process that draws.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        settings: C,
        seed: int,
        length: int,
        cache_bytes: int = 1024**3,
    ) -> None:
        self.examples = examples
        self.settings = settings
        self.seed = seed
        self.length = length
        self._kept: Kept[L] = Kept(cache_bytes)
        self._colour = v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.03)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> S:
        rng = np.random.default_rng((self.seed, index))
        # every image once per pass, in a new order each pass
        turn, place = divmod(index, len(self.examples))
        order = np.random.default_rng((self.seed, 1 << 30, turn)).permutation(len(self.examples))
        return self._crop(self._load(int(order[place])), rng)

    @abstractmethod
    def _read(self, example: Example) -> L:
        """Decode and scale a picture. Raises BadImage."""

    @abstractmethod
    def _crop(self, loaded: L, rng: np.random.Generator) -> S:
        """One sample of a picture."""

    def _load(self, index: int) -> L:
        return self._kept.get(index, lambda i: self._read(self.examples[i]))

    def _pixels(self, loaded: L, move: Matrix, rng: np.random.Generator) -> Tensor:
        """(3, side, side) float32 network input: the pixels moved by ``move``, with other colours."""
        # outside the image is its mean grey, which is normalised to 0, like the network's own padding
        moved = warped(loaded.pixels, move, self.settings.side, (loaded.mean_std[0] * 255,) * 3)
        image = torch.from_numpy(moved).permute(2, 0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 31)))
            image = self._colour(image)
        return normalise(image.float() / 255, self.settings.normalise, loaded.mean_std)


def warped(
    bitmap: Bitmap, move: Matrix, side: int, outside: tuple[float, float, float] = (0, 0, 0)
) -> Bitmap:
    """The square (side, side) of a bitmap after ``move``, (2, 3) from its pixels to those of the square."""
    found = cv2.warpAffine(
        bitmap,
        move,
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=outside,
    )
    return np.asarray(found, np.uint8)


def turn_angle(turn: str, rng: np.random.Generator) -> float:
    """Radians: 0 for ``none``; quarter turns for ``quarter``, and every second time for ``any``."""
    angle = 0.0 if turn == "none" else float(rng.uniform(0, 2 * np.pi))
    if turn != "any" or rng.random() < 0.5:
        angle = round(angle / (np.pi / 2)) * np.pi / 2  # half of the turns keep pixels sharp
    return angle


def mirrored(cos: float, sin: float, rng: np.random.Generator) -> Matrix:
    """(2, 2) matrix of a turn and zoom, mirrored left to right every second time."""
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    return np.array([[cos * mirror, -sin], [sin * mirror, cos]])


def about(linear: Matrix, centre: Matrix, zoom: float, side: int, image_hw: tuple[int, int]) -> Matrix:
    """(2, 3) matrix, image pixels -> crop pixels: ``linear`` about a ``centre`` (x, y), moved so that
    the crop lies on the image where the image is larger than it."""
    half = side / 2 / zoom
    height, width = image_hw
    placed = centre.copy()
    for axis, extent in enumerate((width, height)):
        low, high = min(half, extent / 2), max(extent - half, extent / 2)
        placed[axis] = np.clip(centre[axis], low, high)
    shift = np.array([side / 2, side / 2]) - linear @ placed
    return np.concatenate([linear, shift[:, None]], axis=1)
