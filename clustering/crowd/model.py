"""What the answers of many workers say about the masks and about the workers (Dawid & Skene 1979).

Worker w says yes to a good mask with probability se_w (sensitivity) and no to a bad one with probability
sp_w (specificity), independently of the others. Masks and workers are estimated in turn, by expectation
maximisation (EM). Gold items keep their known truth; the detector's own probability is each item's prior.
Every worker is credited beforehand with a few answers, most of them right. Where workers have few answers,
each has one accuracy for good and bad masks alike (the one-coin model).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Floats, Ints
from clustering.crowd.worker_answers import Answers, log_likelihood_ratios, values_of_items

__all__ = ["CrowdModel", "fit_crowd", "verdicts"]


@dataclass(frozen=True, slots=True, eq=False)
class CrowdModel:
    """What the answers say about items and workers.

    Attributes
    ----------
    item : (u,) int64, items with an answer, sorted
    p_yes : (u,) float64, probability that the mask is good
    worker : (w,) int64, sorted
    sensitivity, specificity : (w,) float64, P(yes | good) and P(no | bad) of each worker
    iterations : EM steps taken
    converged : the last step changed no probability by more than the tolerance
    one_coin : sensitivity and specificity of a worker are the same number
    """

    item: Ints
    p_yes: Floats
    worker: Ints
    sensitivity: Floats
    specificity: Floats
    iterations: int
    converged: bool
    one_coin: bool

    @property
    def log_odds(self) -> Floats:
        """(u,) float64 log-odds of yes."""
        result: Floats = special.logit(np.clip(self.p_yes, 1e-12, 1 - 1e-12))
        return result


def fit_crowd(
    answers: Answers,
    *,
    prior: npt.ArrayLike | None = None,
    gold: npt.ArrayLike | None = None,
    one_coin: bool | None = None,
    pseudo: tuple[float, float] = (8.0, 2.0),
    iterations: int = 200,
    tolerance: float = 1e-6,
) -> CrowdModel:
    """Fit Dawid and Skene's model by EM.

    Parameters
    ----------
    answers : unsure answers are ignored
    prior : (items,) probability in (0, 1) that each item is good, from the detector; row i is item i. None =
        one share of good items for all, which is estimated too, starting from majority votes
    gold : (items,) float, 1 good, 0 bad, NaN not known; fixes the truth of those items
    one_coin : one accuracy per worker; None = where workers have fewer than 10 answers in the median
    pseudo : right and wrong answers per class that every worker is credited with, so that few answers do not
        make a worker perfect or useless
    iterations, tolerance : EM stops after so many steps, or when no probability moved by more

    Returns
    -------
    CrowdModel. Time O(iterations · a) for a answers.

    Raises
    ------
    ValueError : a prior is not within (0, 1), or prior or gold do not cover all items
    """
    told = ~np.isnan(answers.yes)
    item, at = np.unique(answers.item, return_inverse=True)
    worker, by = np.unique(answers.worker, return_inverse=True)
    at, by, yes = at[told], by[told], answers.yes[told]
    u, w = len(item), len(worker)
    truth = values_of_items(gold, item, name="gold", missing=np.nan)
    fixed = ~np.isnan(truth)
    shared_prior = prior is None
    start = np.full(u, 0.5) if shared_prior else values_of_items(prior, item, name="prior", missing=0.5)
    if u and not ((start > 0) & (start < 1)).all():
        raise ValueError("a prior is not strictly between 0 and 1: clip it to what is believed possible")
    if one_coin is None:
        one_coin = bool(w) and float(np.median(np.bincount(by, minlength=w))) < 10
    log_prior = special.logit(start)
    # to begin with: majority votes beside the prior, as if the average worker were better than chance
    votes = np.bincount(at, weights=2 * yes - 1, minlength=u)
    p = special.expit(log_prior + 1.5 * votes)
    p[fixed] = truth[fixed]
    sensitivity = specificity = np.full(w, pseudo[0] / (pseudo[0] + pseudo[1]))
    step, converged = 0, not u
    while step < iterations and not converged:
        step += 1
        good = p[at]
        hits = np.bincount(by, weights=good * yes, minlength=w)
        hits_bad = np.bincount(by, weights=(1 - good) * (1 - yes), minlength=w)
        seen = np.bincount(by, weights=good, minlength=w)
        seen_bad = np.bincount(by, weights=1 - good, minlength=w)
        if one_coin:
            both = (hits + hits_bad + pseudo[0]) / (seen + seen_bad + sum(pseudo))
            sensitivity = specificity = both
        else:
            sensitivity = (hits + pseudo[0]) / (seen + sum(pseudo))
            specificity = (hits_bad + pseudo[0]) / (seen_bad + sum(pseudo))
        if shared_prior:
            log_prior = np.full(u, special.logit((p.sum() + 1.0) / (u + 2.0)))
        ratio = log_likelihood_ratios(yes, by, sensitivity, specificity)
        # a bincount of nothing is a column of integers
        new = special.expit(log_prior + np.bincount(at, weights=ratio, minlength=u).astype(np.float64))
        new[fixed] = truth[fixed]
        converged = bool(np.abs(new - p).max(initial=0.0) <= tolerance)
        p = new
    return CrowdModel(item, p, worker, sensitivity, specificity, step, converged, one_coin)


def verdicts(
    answers: Answers, *, prior: npt.ArrayLike | None = None, gold: npt.ArrayLike | None = None
) -> tuple[Ints, Floats]:
    """Items with an answer, sorted, and the probability of yes for each: what goes into an ``AnswerLog``."""
    model = fit_crowd(answers, prior=prior, gold=gold)
    return model.item, model.p_yes
