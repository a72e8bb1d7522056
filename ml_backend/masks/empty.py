"""Remove empty masks. A network may find a box but no pixel in it; such an instance cannot be shown."""

from __future__ import annotations

import numpy as np

from ml_backend.instances import Instances
from ml_backend.masks.rle import rle_area

__all__ = ["without_empty_masks"]


def without_empty_masks(instances: Instances) -> Instances:
    """The instances whose mask has at least one pixel, in their order.

    A mask is empty if it is nowhere above the threshold, or if its box is so narrow that it lies between two
    pixel centres. Label Studio has no regions for empty masks.
    """
    filled = np.array([rle_area(rle) > 0 for rle in instances.rle], bool)
    return instances if filled.all() else instances.take(filled)
