"""Settings of masks of everything, apart from what finds them: checking options loads no picture library."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EverythingSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EverythingSettings:
    """What is asked and what counts.

    Attributes
    ----------
    side : points along the longer side of the picture
    candidates : boxes that are asked where there is no grid
    work_side : longest side in pixels at which the picture is looked at
    min_score, min_stability : masks of a grid below do not count. Between the values of SAM's authors (0.88,
        0.95) and those of SAM 2's (0.8, 0.95) the lower ones
    min_trust : masks below do not count, however they were found; trust is score times stability
    nms : mask IoU above which the weaker of two masks is a double
    overlap : share of the smaller of two masks that may lie in the other; 1 = parts and wholes both stay
    min_px, max_share : size of a mask in pixels of the worked picture, and as a share of it
    most : masks of a picture
    """

    side: int = 32
    candidates: int = 120
    work_side: int = 1024
    min_score: float = 0.8
    min_stability: float = 0.95
    min_trust: float = 0.5
    nms: float = 0.7
    overlap: float = 0.5
    min_px: int = 20
    max_share: float = 0.4
    most: int = 100
