"""What the baselines share: the detector's score on the scale of probabilities, and asking best first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.answers import AnswerLog, Stream
from clustering.arrays import Bools, Floats, Ints
from clustering.costs import Costs
from clustering.search._parts import QuestionRows
from clustering.search._plan import HARVEST_PHASE
from clustering.search._sheets import cut_sheets
from clustering.search._worth import least_worth, worth_asking
from clustering.verifier import fit_logistic

__all__ = ["answered", "ask_best_first", "ask_on_sheets", "costs_of", "platt_scaled", "usual_sample"]

_SHEETS_PER_PHASE = 10_000_000


def costs_of(seconds: dict[str, float]) -> Costs:
    """Costs from options named as those of the certified policy: ``question_s``, ``sheet_s``, …

    Raises TypeError for an option of another name, ValueError for a negative time.
    """
    known = ("question_s", "sheet_s", "sheet_mask_s", "drawn_mask_s")
    for option in seconds:
        if option not in known:
            raise TypeError(f"unexpected keyword argument {option!r}")
    return Costs(**{option.removesuffix("_s"): value for option, value in seconds.items()})


def usual_sample(n: int) -> int:
    """Answers of a random sample, as many as the certified policy's search and test take on such a pool."""
    size = float(max(n, 1))
    return min(n, int(np.round(0.75 * min(52.0 * size**0.25, 13.0 * size**0.5))))


def answered(log: AnswerLog, n: int) -> Bools:
    """(n,) bool: masks with an answer of their own; one about nearly the same mask of earlier is none."""
    found = np.zeros(n, bool)
    found[log.item[log.stream != Stream.CARRIED]] = True
    return found


def platt_scaled(prior: npt.NDArray[np.floating], item: Ints, yes: npt.NDArray[np.floating]) -> Floats:
    """P(good) of each mask from its prior, by a line in log-odds fitted to answers (Platt 1999).

    The line starts at "the prior is right" and keeps to it while there are few answers; targets are smoothed
    as Platt proposed.

    Parameters
    ----------
    prior : (n,) score × quality
    item : (m,) answered instances; yes : (m,) 1 yes or 0 no

    Returns
    -------
    (n,) float64. Time O(n + m).
    """
    odds = special.logit(np.clip(np.asarray(prior, np.float64), 0.01, 0.99))
    good = float((yes > 0.5).sum())
    bad = len(yes) - good
    target = np.where(yes > 0.5, (good + 1.0) / (good + 2.0), 1.0 / (bad + 2.0))
    x = odds[item]
    columns = np.stack([np.ones(len(x)), x], axis=1)
    shift, slope = fit_logistic(columns, target, np.array([0.1, 1.0]), offset=x)
    # a better score never means a worse mask
    return np.asarray(special.expit(shift + max(1.0 + slope, 0.0) * odds), np.float64)


def ask_on_sheets(
    items: Ints,
    p_good: Floats,
    questions: QuestionRows,
    *,
    costs: Costs,
    sheets: bool,
    phase: int,
    stream: Stream,
    inclusion: Floats | float,
) -> None:
    """Ask about ``items`` in the order of sheets, as many as there is room for.

    Parameters
    ----------
    p_good : (n,) of all instances
    inclusion : of each of ``items``, or one number
    """
    kept = items[: questions.room]
    order: Ints = np.arange(len(kept))
    sheet: Ints = np.full(len(kept), -1, np.int64)
    if sheets:
        order, sheet = cut_sheets(p_good[kept], costs, first_sheet=phase * _SHEETS_PER_PHASE)
    drawn = np.broadcast_to(np.asarray(inclusion, np.float64), items.shape)[: len(kept)]
    questions.add(kept[order], phase=phase, stream=stream, inclusion=drawn[order], sheet=sheet)


def ask_best_first(
    log: AnswerLog, p_good: Floats, candidates: Bools, questions: QuestionRows, *, costs: Costs, sheets: bool
) -> bool:
    """Ask about the best candidates while that pays; True when nothing is left that pays."""
    said = log.yes[(log.phase == HARVEST_PHASE) & (log.stream == Stream.HARVEST)] > 0.5
    left = worth_asking(p_good, candidates, said.astype(np.float64), bar=least_worth(costs))
    ask_on_sheets(
        left,
        p_good,
        questions,
        costs=costs,
        sheets=sheets,
        phase=HARVEST_PHASE,
        stream=Stream.HARVEST,
        inclusion=1.0,
    )
    return not len(left)
