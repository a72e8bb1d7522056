"""Verdicts that err: how often, estimated from gold questions, and rates corrected for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from clustering.arrays import Floats
from clustering.evidence.sequential import binomial_log_e_value

__all__ = ["Noise", "noise_from_gold", "rogan_gladen"]

_TINY = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How verdicts err: P(yes | good) = ``sensitivity``, P(no | bad) = ``specificity``.

    Raises
    ------
    ValueError : a value is not in (0, 1], or the verdicts are no better than chance
    """

    sensitivity: float = 1.0
    specificity: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 < self.sensitivity <= 1.0 and 0.0 < self.specificity <= 1.0):
            raise ValueError(
                f"sensitivity {self.sensitivity} and specificity {self.specificity} must lie in (0, 1]"
            )
        if self.sensitivity + self.specificity <= 1.0:
            raise ValueError(
                f"sensitivity {self.sensitivity} + specificity {self.specificity} is 1 or less: "
                "such verdicts say nothing about the masks"
            )

    @property
    def exact(self) -> bool:
        """Whether verdicts never err."""
        return self.sensitivity == 1.0 and self.specificity == 1.0

    def observed(self, share: npt.ArrayLike) -> Floats:
        """Share of yes to expect where ``share`` of the masks is good."""
        q = np.asarray(share, np.float64)
        return q * self.sensitivity + (1.0 - q) * (1.0 - self.specificity)


def rogan_gladen(observed: npt.ArrayLike, noise: Noise) -> Floats:
    """Share of good masks behind an observed share of yes, clipped to 0..1 (Rogan & Gladen 1978)."""
    o = np.asarray(observed, np.float64)
    return np.clip((o + noise.specificity - 1.0) / (noise.sensitivity + noise.specificity - 1.0), 0.0, 1.0)


def noise_from_gold(
    good_yes: int, good: int, bad_no: int, bad: int, *, alpha: float = 0.05
) -> tuple[Noise, Noise]:
    """How verdicts err, estimated from items of known truth: the estimate, and the cautious end.

    Acceptance tests must use the cautious end: the sensitivity at its upper and the specificity at its lower
    bound, each wrong with probability alpha/2. Under that noise an observed share of yes promises least. The
    bounds hold at all numbers of gold answers at once (Robbins 1970), so gold may be counted again after
    every answer.

    Assumes that a bad gold mask is called good at least as often as a bad mask of the tested sets, a good one
    no more often, and that answers err independently. Gold that is easier than the masks breaks this.

    Parameters
    ----------
    good_yes, good : yes among the good gold items, and their number
    bad_no, bad : no among the bad gold items, and their number

    Returns
    -------
    estimate, cautious

    Raises
    ------
    ValueError : there is too little gold, or the verdicts are too bad, to say anything
    """
    upper = 1.0 - _lowest_share(good - good_yes, good, alpha / 2.0)
    lower = _lowest_share(bad_no, bad, alpha / 2.0)
    sensitivity, specificity = (good_yes + 0.5) / (good + 1.0), (bad_no + 0.5) / (bad + 1.0)
    if lower <= 0.0 or sensitivity + specificity <= 1.0 or upper + lower <= 1.0:
        raise ValueError(
            f"{good_yes} of {good} good and {bad_no} of {bad} bad gold items were recognised: "
            "too little to accept anything on; add gold items or workers"
        )
    estimate = Noise(sensitivity=sensitivity, specificity=specificity)
    return estimate, Noise(sensitivity=upper, specificity=lower)


def _lowest_share(hits: int, of: int, alpha: float) -> float:
    """The smallest share that the hits have not ruled out at any number of answers; 0 without any."""
    if not hits:
        return 0.0

    def excess(share: float) -> float:
        return float(binomial_log_e_value(hits, of, share=share)) + float(np.log(alpha))

    # the evidence falls with the share it speaks against, and at the observed share there is none
    low, high = _TINY, min(hits / of, 1.0 - _TINY)
    if excess(low) <= 0.0:
        return 0.0
    root = float(optimize.brentq(excess, low, high, xtol=_TINY))
    return max(root - _TINY, 0.0)
