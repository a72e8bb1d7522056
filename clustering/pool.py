"""The pool of one label, as columns of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Pool"]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """All n instances of one label that the current model found on unfinished tasks.

    Attributes
    ----------
    embedding : (n, d) float32
    score : (n,) float32 in 0..1, class confidence
    quality : (n,) float32 in 0..1, predicted mask IoU
    extras : (n, k) float32, further features of the mask (area share, border contact, …); k may be 0

    Raises
    ------
    ValueError : the columns have different lengths, or a value is not finite
    """

    embedding: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    extras: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.score)
        for name in ("embedding", "quality", "extras"):
            column = getattr(self, name)
            if len(column) != n:
                raise ValueError(f"{name} has {len(column)} rows, score has {n}: all columns need the same")
        for name in ("embedding", "score", "quality", "extras"):
            column = getattr(self, name)
            if not np.isfinite(column).all():
                bad = int(np.flatnonzero(~np.isfinite(column.reshape(n, -1)).all(axis=1))[0])
                raise ValueError(
                    f"{name} is not finite in row {bad} (and maybe others): drop those instances"
                )

    def __len__(self) -> int:
        return len(self.score)

    @property
    def prior(self) -> npt.NDArray[np.float32]:
        """(n,) float32: s = score × quality, the prior of a mask (Papadopoulos et al. 2021)."""
        return self.score * self.quality
