"""Masks of a series of clicks. Each click starts from the mask before it, and every mask is kept for a while.

When a mask is not in memory, the series is computed again from its start. So the same picture, prompts and
model give the same mask after an undo, after a restart, or in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_backend.caches import ByteCache
from ml_backend.clicks.base import ClickResult, ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.start_masks import start_mask_from
from ml_backend.instances import Rle
from ml_backend.masks.rle import decode_rle, encode_mask

__all__ = ["ChainStart", "KeptMask", "MaskChains"]

_MASK_BYTES = 96 * 1024**2
"""Logits of 256 × 256 pixels, which SAM starts its next mask from, take 256 KiB a mask."""
_OVERHEAD_BYTES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class KeptMask:
    """A mask as run lengths, with what the next click of its chain starts from."""

    rle: Rle
    iou: float
    logits: npt.NDArray[np.float32] | None
    from_proposal: bool


@dataclass(frozen=True, slots=True, eq=False)
class ChainStart:
    """A proposal that a chain starts from. ``key`` names it: model version, task and row."""

    mask: StartMask
    key: tuple[str, int, int]


class MaskChains:
    """Thread-safe. Two requests for one mask at the same time compute it twice, with the same result."""

    def __init__(self, max_bytes: int = _MASK_BYTES) -> None:
        self._masks: ByteCache[object, KeptMask] = ByteCache(max_bytes, _nbytes)

    def mask(
        self,
        image_sha: str,
        segmenter: ClickSegmenter,
        prompt: Prompt,
        start: ChainStart | None,
        embedding: Callable[[], Embedding],
    ) -> KeptMask:
        """The mask for all clicks of the prompt. The box or the first click gives the first mask of the
        series, and each further click starts from the mask before it.

        ``embedding`` is called only if a mask has to be computed. Raises ValueError for a prompt with neither
        points nor box.
        """
        first = 0 if prompt.box is not None else 1
        if len(prompt.points) < first:
            raise ValueError("a prompt needs a point or a box")
        key = (image_sha, segmenter.encoder, prompt.label, prompt.box, None if start is None else start.key)
        mask: KeptMask | None = None
        known = len(prompt.points)
        while known >= first and (mask := self._masks.get((key, prompt.points[:known]))) is None:
            known -= 1
        if mask is None:
            known = first - 1
        made = embedding() if known < len(prompt.points) else None
        for count in range(known + 1, len(prompt.points) + 1):
            part = Prompt(prompt.points[:count], prompt.box, prompt.label)
            start_mask = None if start is None else start.mask
            if mask is not None:
                start_mask = start_mask_from(decode_rle(mask.rle), logits=mask.logits, from_proposal=False)
            assert made is not None
            mask = _packed(segmenter.segment(made, part, start_mask), from_proposal=start is not None)
            self._masks.put((key, part.points), mask)
        assert mask is not None
        return mask


def _packed(result: ClickResult, *, from_proposal: bool) -> KeptMask:
    logits = None if result.logits is None else result.logits[0]
    return KeptMask(encode_mask(result.masks[0]), float(result.iou[0]), logits, from_proposal)


def _nbytes(mask: KeptMask) -> int:
    return _OVERHEAD_BYTES + len(str(mask.rle["counts"])) + (0 if mask.logits is None else mask.logits.nbytes)
