"""Proposals that an accepted click replaced, and clicks that nobody accepted, in a finished annotation.

The editor replaces a proposal when its correction is accepted (both have one id). Two cases are left: a
correction that keeps less than half of the proposal is added beside it, and so are masks of clicks on a task
that shows an older version's proposals. The person saw one object there and submitted two masks of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_reader import ParsedAnnotation
from ml_backend.label_studio.regions import Region
from ml_backend.masks.rle import rle_area, rle_iou

__all__ = ["clicks_left", "is_proposal", "replaced_proposals"]

_log = logging.getLogger(__name__)
_LEAST_HELD: Final = 0.25
"""share of a proposal that a correction of it holds"""


def replaced_proposals(regions: Sequence[Region], config: LabelConfig) -> Mapping[str, list[str]]:
    """Ids of proposals to leave out, by the id of the accepted click that stands in their place.

    A proposal is left out if nobody changed it (``origin`` is ``prediction``), and an accepted click of the
    same label started from it and holds a part of it, or covers the same object: an IoU above ``same_iou`` of
    the kind. A click that holds less than a quarter of the proposal it started from is of a small object on a
    large one: both stay. What a person drew or changed by hand always stays. So do polygons: when their
    points are moved, added or removed, the editor (1.23.2) leaves their ``origin`` as it is.
    """
    clicks = [r for r in regions if r.origin == "manual" and (r.started_from or r.score is not None)]
    proposals = [r for r in regions if is_proposal(r)]
    found: dict[str, list[str]] = {}
    if not clicks or not proposals:
        return found
    overlap = rle_iou([r.rle for r in proposals], [r.rle for r in clicks])
    for i, proposal in enumerate(proposals):
        same = config.kind_of(proposal.label).same_iou
        for j, click in enumerate(clicks):
            if click.label != proposal.label or overlap[i, j] <= 0:
                continue
            is_of_it = (
                click.started_from == proposal.id and _held(proposal, click, overlap[i, j]) >= _LEAST_HELD
            )
            if is_of_it or overlap[i, j] > same:
                found.setdefault(click.id, []).append(proposal.id)
                break
    for click_id, gone in found.items():
        _log.info("accepted click %s replaced the proposals %s", click_id, ", ".join(gone))
    return found


def _held(proposal: Region, click: Region, iou: float) -> float:
    """The share of a proposal that the mask of a click holds."""
    area = rle_area(proposal.rle)
    return float(iou * (area + rle_area(click.rle)) / (1 + iou) / area)


def is_proposal(region: Region) -> bool:
    """Whether a region is a proposal that certainly nobody changed."""
    return region.origin == "prediction" and region.kind != "polygon"


def clicks_left(parsed: ParsedAnnotation) -> int:
    """Points and boxes of smart tools whose mask was never accepted."""
    accepted = {region.id for region in parsed.regions}
    return len({dropped.id for dropped in parsed.dropped if dropped.is_prompt} - accepted)
