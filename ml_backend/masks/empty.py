"""Empty masks: a network may find a box and set no pixel in it; such an instance is nothing to show."""

from __future__ import annotations

import numpy as np

from ml_backend.instances import Instances
from ml_backend.masks.rle import rle_area

__all__ = ["without_empty_masks"]


def without_empty_masks(instances: Instances) -> Instances:
    """The instances whose mask has a pixel, in their order.

    A box narrower than a pixel between two pixel centres and a mask that is nowhere above the threshold both
    end as a mask without pixels. Label Studio has no region for these.
    """
    filled = np.array([rle_area(rle) > 0 for rle in instances.rle], bool)
    return instances if filled.all() else instances.take(filled)
