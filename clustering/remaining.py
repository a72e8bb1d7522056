"""How many pictures with a label are still unlabelled, and whether one may stop looking for more.

Who labels the likeliest pictures first sees the positives run dry, but that may only mean that the model
does not know the rest. So some picks are drawn with known probabilities: with probability ε a pick is
uniform over what is left. If R of the n pictures left are positive and picture i is drawn with probability
q_i, then y_i / q_i has the mean R (Horvitz & Thompson 1952), whatever the model believes. Each pick
therefore gives an estimate of the total, found so far plus y / q, and their weighted mean is the estimate
(the levelled estimators of active testing are such means: Farquhar et al. 2021, arXiv 2101.11665).

The upper bound is a bet against "the total is P or more" (Waudby-Smith & Ramdas 2024, arXiv 2010.09686): a
pick multiplies the wealth by ``1 + λ (R - y / q)``, which is fair when P is true, for any stake known
before the pick that keeps the factor from falling below 0. By Ville's inequality the wealth ever reaches 1
/ α with probability at most α. So the bound holds after every answer at once, and one may stop because of
it.

What it costs: while k uniform picks of n left show no positive, about ``3 n / k`` positives can be left
unseen (at 95 %). Small ε or rare labels need many answers; no method that trusts no model can do with less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from clustering.arrays import Bools, Floats
from clustering.evidence.sequential import BETS

__all__ = ["Picks", "Remaining", "remaining_log_wealth", "remaining_positives"]


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """t pictures in the order in which they were picked to be labelled.

    Attributes
    ----------
    positive : (t,) bool, whether people gave it the label
    answered : (t,) bool; False: nobody has answered (yet), or they skipped it
    probability : (t,) float64 in (0, 1], with which this picture was picked, given all picks before it; NaN:
        it was not drawn by chance (people chose it), so nothing follows from it
    least : (t,) float64, the smallest such probability that any picture left had: ε / n with n pictures left

    Raises ValueError when columns differ in length or probabilities are out of range.
    """

    positive: Bools
    answered: Bools
    probability: Floats
    least: Floats

    def __post_init__(self) -> None:
        if len({len(self.positive), len(self.answered), len(self.probability), len(self.least)}) > 1:
            raise ValueError("columns of the picks have different lengths")
        drawn = self.drawn
        q, least = self.probability[drawn], self.least[drawn]
        if (least <= 0).any() or (q < least * (1 - 1e-9)).any() or (q > 1 + 1e-9).any():
            raise ValueError("probabilities of picks must lie between the least one, above 0, and 1")

    def __len__(self) -> int:
        return len(self.positive)

    @property
    def drawn(self) -> Bools:
        """(t,) whether the pick was by chance."""
        return np.asarray(~np.isnan(self.probability))


@dataclass(frozen=True, slots=True)
class Remaining:
    """Positives among the pictures without an answer.

    Attributes
    ----------
    found : positives among the answers
    left : pictures without an answer
    estimate : about so many positives are left; None where no pick was drawn by chance
    upper : at most so many are left, with probability 1 - alpha
    may_stop : whether that is few enough
    """

    found: int
    left: int
    estimate: float | None
    upper: int
    may_stop: bool


def remaining_positives(picks: Picks, pool: int, *, alpha: float = 0.05, miss: float = 0.05) -> Remaining:
    """Estimate and upper bound of the positives left among ``pool`` pictures, t of which were picked.

    ``miss``: stopping is suggested once at most this share of all positives is left, with probability
    1 - alpha. Raises ValueError when there are more picks than pictures. Time O(t · log pool).
    """
    t = len(picks)
    if t > pool:
        raise ValueError(f"{t} picks from {pool} pictures")
    yes = picks.positive & picks.answered
    found, left = int(yes.sum()), pool - int(picks.answered.sum())
    # the wealth grows with the total: the largest total that is not ruled out is found by bisection
    upper, ruled_out = 0, left + 1
    while ruled_out - upper > 1:
        middle = (upper + ruled_out) // 2
        if _is_ruled_out(picks, found + middle, alpha):
            ruled_out = middle
        else:
            upper = middle
    total = _estimate(picks)
    estimate = None if total is None else float(np.clip(total - found, 0.0, left))
    return Remaining(found, left, estimate, upper, upper <= miss * (found + upper))


def _is_ruled_out(picks: Picks, total: int, alpha: float) -> bool:
    wealth = remaining_log_wealth(picks, total)
    return bool(len(wealth) and wealth.max() >= -np.log(alpha))


def remaining_log_wealth(picks: Picks, total: int) -> Floats:
    """(t,) log wealth after each pick when betting that fewer than ``total`` of all pictures are positive.

    With ``total`` the true number or less, it ever reaches log(1 / alpha) with probability at most alpha. It
    grows with ``total``. Pictures that were picked and not answered count as positive: people may skip just
    those.
    """
    yes = (picks.positive | ~picks.answered).astype(np.float64)
    before = np.concatenate([[0.0], np.cumsum(yes)[:-1]]) if len(picks) else np.zeros(0)
    rest = np.maximum(total - before, 0.0)
    q = np.where(picks.drawn, picks.probability, 1.0)
    least = np.where(picks.drawn, picks.least, 1.0)
    # the factor is lowest, 1 - stake, for a positive of the least probability
    room = np.maximum(1.0 / least - rest, 1e-9)
    gain = np.where(picks.drawn, (rest - yes / q) / room, 0.0)
    factor = np.maximum(1.0 + BETS[None, :] * gain[:, None], 0.0)
    with np.errstate(divide="ignore"):
        paths = np.cumsum(np.log(factor), axis=0)
    wealth: Floats = special.logsumexp(paths, axis=1) - np.log(len(BETS))
    return wealth


def _estimate(picks: Picks) -> float | None:
    """Weighted mean of what each pick says of the total; the variance of a pick is about ∝ 1 / least."""
    use = picks.drawn & picks.answered
    if not use.any():
        return None
    yes = (picks.positive & picks.answered).astype(np.float64)
    before = np.concatenate([[0.0], np.cumsum(yes)[:-1]])[use]
    said = before + yes[use] / picks.probability[use]
    return float(np.average(said, weights=picks.least[use]))
