"""What human work costs, in seconds: one model for policies, simulations and forecasts.

Sources. A single yes/no question takes 1.4 s (Papadopoulos et al., ICCV 2021, on a real crowd of 191,929
answers). A page of tiles takes 69 % less time per picture than single pictures (Schultz 2019, "Increasing
labeling efficiency with a tiled image annotation layout", measured on a crowd): 0.43 s per mask, here 0.4 s
for each and 1.5 s for each page. A mask drawn by hand takes 80 s (COCO: Lin et al. 2014). Nobody measured
sheets of masks; ``bench.economy --costs`` shows what other times would change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clustering.answers import Form, Questions

__all__ = ["DRAWN_MASK_S", "LARGEST_SHEET", "QUESTION_S", "SHEET_MASK_S", "SHEET_S", "Costs"]

QUESTION_S, SHEET_S, SHEET_MASK_S, DRAWN_MASK_S = 1.4, 1.5, 0.4, 80.0
LARGEST_SHEET = 24
"""Masks on a contact sheet at most: six by four still show their outlines on a laptop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Human seconds; see the top of this module for where they come from.

    Attributes
    ----------
    question : s, one question on its own
    sheet, sheet_mask : s, a contact sheet, and each mask on it
    drawn_mask : s, a mask drawn by hand

    Raises
    ------
    ValueError : a time is negative or not finite
    """

    question: float = QUESTION_S
    sheet: float = SHEET_S
    sheet_mask: float = SHEET_MASK_S
    drawn_mask: float = DRAWN_MASK_S

    def __post_init__(self) -> None:
        for name in ("question", "sheet", "sheet_mask", "drawn_mask"):
            if not 0.0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} costs {getattr(self, name)} s: it must be 0 or more, and finite")

    @property
    def smallest_sheet(self) -> int:
        """Fewest masks for which a sheet is quicker than questions; above ``LARGEST_SHEET`` = never."""
        saved = self.question - self.sheet_mask
        return LARGEST_SHEET + 1 if saved <= 0 else max(2, int(np.floor(self.sheet / saved)) + 1)

    @property
    def mask(self) -> float:
        """Seconds per mask where many are asked about in the quicker form."""
        return min(self.question, self.sheet / LARGEST_SHEET + self.sheet_mask)

    def seconds(self, questions: Questions) -> float:
        """Time to answer all of them; masks of one sheet share its fixed part."""
        on_sheet = questions.form == Form.SHEET
        sheets = len(np.unique(questions.sheet[on_sheet]))
        return float(
            (~on_sheet).sum() * self.question + sheets * self.sheet + on_sheet.sum() * self.sheet_mask
        )
