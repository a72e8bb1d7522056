"""Perceptual hash of a picture: 256 bits that hardly change when it is compressed, resized or brightened.

The signs of the 16 × 16 lowest frequencies of the picture at 64 × 64 grey pixels, each against their median
(pHash; Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["WORDS", "fingerprint"]

_SIDE: Final = 64
_LOW: Final = 16
WORDS: Final = _LOW * _LOW // 16
"""numbers of 16 bits in a fingerprint"""
_EVEN: Final = 2.0
"""spread of grey values (of 255) below which a picture is even: its hash would be noise"""


def fingerprint(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16] | None:
    """(16,) uint16 of an (H, W, 3) RGB picture; None for an even one, which is like any other even one."""
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if float(grey.std()) < _EVEN:
        return None
    low = cv2.dct(grey)[:_LOW, :_LOW].ravel()
    low[0] = 0.0  # the mean brightness
    bits = low > np.median(low[1:])
    return np.packbits(bits).view(">u2").astype(np.uint16)
