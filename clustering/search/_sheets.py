"""Contact sheets: which masks stand together on one page."""

from __future__ import annotations

import numpy as np

from clustering.arrays import Floats, Ints
from clustering.costs import LARGEST_SHEET, Costs

__all__ = ["cut_sheets"]


def cut_sheets(p_yes: Floats, costs: Costs, *, first_sheet: int) -> tuple[Ints, Ints]:
    """Arrange questions on sheets, masks of similar expectation together, best first.

    A page on which nearly all masks are alike is read fastest. A remainder that is quicker to ask about mask
    by mask stands alone.

    Parameters
    ----------
    p_yes : (q,) predicted P(yes) of each question
    first_sheet : number of the first sheet

    Returns
    -------
    order : (q,) int64, questions in the order of the sheets, best first
    sheet : (q,) int64, sheet number of each question in that order, -1 = stands alone
    """
    order = np.argsort(-p_yes, kind="stable").astype(np.int64)
    place = np.arange(len(order)) // LARGEST_SHEET
    size = np.bincount(place, minlength=1)[place] if len(place) else place
    return order, np.where(size >= costs.smallest_sheet, first_sheet + place, -1).astype(np.int64)
