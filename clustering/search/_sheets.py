"""Contact sheets: how many masks to show on one, from the expected share of good ones.

A yes or no about a group of items says most when both answers are equally likely (Marchesoni-Acland et al.
2023, arXiv 2307.01578).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_SHEET", "cut_sheets", "sheet_size"]

LARGEST_SHEET = 36
_SMALLEST_SHEET = 2


def sheet_size(p_yes: float, *, largest: int = LARGEST_SHEET) -> int:
    """Number of masks such that all of them are good with probability one half, each with ``p_yes``."""
    if p_yes >= 1.0:
        return largest
    return int(np.clip(round(np.log(2.0) / -np.log(max(p_yes, 0.5))), 1, largest))


def cut_sheets(
    p_yes: npt.NDArray[np.floating], *, first_sheet: int, largest: int = LARGEST_SHEET
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Arrange questions on sheets of similar expectation, best first.

    A sheet is full when the probability that all its masks are good has fallen to one half. Masks that are
    more likely bad than good stand alone.

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
    sheet = np.full(len(order), -1, np.int64)
    number, begin, doubt = first_sheet, 0, 0.0
    costs = -np.log(np.clip(p_yes[order].astype(np.float64), 0.5, 1 - 1e-9))
    for i, cost in enumerate(costs.tolist()):
        if i > begin and (doubt + cost > np.log(2.0) + 1e-12 or i - begin >= largest):
            number, begin, doubt = number + 1, i, 0.0
        doubt += cost
        sheet[i] = number
    _, back, count = np.unique(sheet, return_inverse=True, return_counts=True)
    sheet[count[back] < _SMALLEST_SHEET] = -1
    return order, sheet
