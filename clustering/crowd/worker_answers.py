"""The answers of many workers as columns of arrays, and look-ups that all modules of the room share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.arrays import Bools, Floats, Ints

__all__ = ["Answers", "log_likelihood_ratios", "values_of_items"]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A number a of answers, as columns of equal length, in the order in which they were given.

    Attributes
    ----------
    item : (a,) int64, what was asked about (row of a pool, or any number)
    worker : (a,) int64, who answered
    yes : (a,) float64, 1 yes, 0 no, NaN unsure
    seconds : (a,) float64, time spent, NaN = not known

    Raises
    ------
    ValueError : the columns have different lengths, or an answer is none of the three
    """

    item: Ints
    worker: Ints
    yes: Floats
    seconds: Floats

    def __post_init__(self) -> None:
        lengths = {len(self.item), len(self.worker), len(self.yes), len(self.seconds)}
        if len(lengths) > 1:
            raise ValueError(f"columns of answers have different lengths: {sorted(lengths)}")
        told = self.yes[~np.isnan(self.yes)]
        if not np.isin(told, (0.0, 1.0)).all():
            raise ValueError("an answer must be 1 (yes), 0 (no) or NaN (unsure)")

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: Ints | Bools) -> Answers:
        """The answers of the given rows (indices or mask) only."""
        return Answers(self.item[rows], self.worker[rows], self.yes[rows], self.seconds[rows])


def values_of_items(values: npt.ArrayLike | None, item: Ints, *, name: str, missing: float) -> Floats:
    """The values of some items out of a column that holds one value per item.

    Parameters
    ----------
    values : (items,) numbers, row i is item i; None = no item has one
    item : (u,) int64, sorted
    name : of the column, for the message
    missing : value of every item where ``values`` is None

    Returns
    -------
    (u,) float64

    Raises
    ------
    ValueError : an item has no row in the column
    """
    if values is None:
        return np.full(len(item), missing)
    column = np.asarray(values, np.float64)
    if len(item) and (item[0] < 0 or item[-1] >= len(column)):
        raise ValueError(f"{name} has {len(column)} entries but answers name item {int(item[-1])}")
    return column[item]


def log_likelihood_ratios(
    yes: Floats, by: npt.NDArray[np.intp], sensitivity: Floats, specificity: Floats
) -> Floats:
    """(a,) float64: log of P(answer | good mask) / P(answer | bad mask), for each answer.

    Parameters
    ----------
    yes : (a,) 1 or 0
    by : (a,) row of the worker who gave the answer
    sensitivity, specificity : (w,) P(yes | good) and P(no | bad) of each worker, strictly between 0 and 1
    """
    ratio_yes = np.log(sensitivity) - np.log1p(-specificity)
    ratio_no = np.log1p(-sensitivity) - np.log(specificity)
    return np.where(yes > 0, ratio_yes[by], ratio_no[by])
