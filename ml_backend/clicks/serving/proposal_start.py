"""Which proposal a click starts from, and whether its mask takes that proposal's place on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.serving.mask_chain import ChainStart
from ml_backend.clicks.start_masks import Proposals, keeps_shape, label_under, proposal_beside, proposal_for
from ml_backend.errors import BadPrompt
from ml_backend.instances import Rle
from ml_backend.masks.rle import decode_rle

__all__ = ["ProposalStart", "find_start", "meant_label"]

FirstMask = Callable[[Prompt, ChainStart], Rle]
"""The mask of a prompt that starts from a proposal."""


@dataclass(frozen=True, slots=True, eq=False)
class ProposalStart:
    """A proposal to start from; ``region_id`` is the id of its region on the screen, empty when none is
    shown.
    """

    chain: ChainStart
    region_id: str

    def is_replaced_by(self, rle: Rle) -> bool:
        """Whether a mask that started here takes the proposal's place: it holds more than half of it.

        Of two objects that one proposal covered, only one does: the second does not replace the first.
        """
        proposal = self.chain.mask.mask
        kept = int(np.count_nonzero(proposal & decode_rle(rle).astype(np.bool_)))
        return bool(self.region_id) and 2 * kept > int(np.count_nonzero(proposal))


def find_start(
    proposals: Proposals | None, task_id: int, prompt: Prompt, hw: tuple[int, int], first_mask: FirstMask
) -> ProposalStart | None:
    """The proposal that a prompt is about: the one under its first click, or one that the click extends.

    A click just beside a proposal extends it if the mask keeps its shape; otherwise it is on another object.
    The first click alone decides, so that the clicks after it stay with the same start.
    """
    if proposals is None:
        return None

    def start(found: tuple[int, StartMask]) -> ProposalStart:
        row, mask = found
        shown = proposals.region_ids[row] if proposals.region_ids else ""
        return ProposalStart(ChainStart(mask, (proposals.version, task_id, row)), shown)

    if (found := proposal_for(proposals, prompt, hw)) is not None:
        return start(found)
    if (beside := proposal_beside(proposals, prompt, hw)) is None:
        return None
    tried = start(beside)
    extended = decode_rle(first_mask(replace(prompt, points=prompt.points[:1]), tried.chain))
    return tried if keeps_shape(tried.chain.mask.mask, extended.astype(np.bool_)) else None


def meant_label(
    labels: Sequence[str], proposals: Proposals | None, prompt: Prompt, hw: tuple[int, int]
) -> str:
    """The label of a prompt for which none was chosen: the only one there is, or that of the proposal under
    it. BadPrompt when that says nothing.
    """
    label = labels[0] if len(labels) == 1 else label_under(proposals, prompt, hw)
    if not label:
        raise BadPrompt(
            "no label is chosen",
            field="context.result",
            hint="Press the number of a label, take the click back (Ctrl+Z), and click again",
        )
    return label
