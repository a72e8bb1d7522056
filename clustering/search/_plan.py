"""What the certified policy may spend on what: all of its constants, and the phases of its questions.

The constants were chosen on generated pools of seeds 1000 and up, and looked at on all pictures of a nuclei
and a mushroom pool. ``python -m bench.tuning`` shows what other values would change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clustering.costs import Costs
from clustering.evidence import Noise

__all__ = [
    "ATTEMPTS",
    "CONFIRM_PARTS",
    "HARVEST_PHASE",
    "Plan",
    "Terms",
    "calibration_phase",
    "error_of_certificate",
    "search_phase",
]

ATTEMPTS = (0.5, 0.3, 0.2)
"""Parts of the error that the attempts to certify a set may spend."""
STAGES = (0.6, 0.25, 0.15)
"""Parts of an attempt's error that its stages may spend; each stage doubles the answers of the one before."""
SEARCH_BATCHES = 3
"""Batches of the search; the verifier is refitted between them."""
UNIFORM = 0.3
"""Least relative chance of an instance to be drawn in a search batch."""
MARGINS = np.concatenate([np.arange(0.9, 0.5, -0.1), np.arange(0.5, 0.04, -0.025), [0.04, 0.02]])
"""Predicted purity of the candidate sets, as a share of the way from the promise to 1 (0 = the promise)."""
EASE = 3.0
"""A set that should pass with ease: one that is expected to bring this many times the evidence needed."""
FIRST_START = 0.65
"""Part of the error of the first start of the fallback procedure; the second has the rest."""
OVERHEAD = 0.5
"""Evidence to plan for beyond what is needed, in nats: a set then passes in about four of five cases."""
EFFORTS = (0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Numbers of calibration answers to choose from, as shares of the most that the plan allows."""
DOUBT = 0.3
"""How far off the predictions may be, in log-odds. A plan is the best on average over three cases: the
predictions as they are, lower by this much, and higher by this much."""
ANSWER_WORTH = 0.75
"""Unseen masks that a calibration answer must bring. Its mask would be accepted unseen later, if it were not
drawn; or it would be asked about anyway, if no certificate came."""
PATIENCE = 0.4
"""All attempts but the last wait until they may certify this share of the masks that seem pure enough."""
BELIEF = 40.0
"""Answers that the prediction for a set counts for, where the next stage is decided."""
WORTH_AN_ATTEMPT = 1.15
"""A further attempt must promise this many times the masks that are certified already."""
MIN_SET = 20
"""Least number of members of a set that is worth certifying."""
CHUNK = 72
"""Questions of one draw that are asked together: three sheets."""
REFIT = 1.15
"""While masks are harvested, the verifier is refitted when the answers have grown by this factor."""
CONFIRM_PARTS = (0.5, 0.3, 0.2)
"""Parts of the error of single masks that one, two, three yes in a row may spend, where people err."""
SINGLE_PART = 0.4
"""Part of the error for masks that people said yes to, where people err."""
GOLD_PART = 0.2
"""Part of the error spent on the chance that gold misjudges the answers."""
REJECT = 0.1
"""Masks that nobody saw are rejected where at most this share of them is good."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool of a given size gets, fixed before the first answer.

    Attributes
    ----------
    search : questions of each search batch
    learn : questions that are harvested before each further attempt
    calibrate : most questions of the first stage of an acceptance test
    audit : questions of the final audit
    """

    search: tuple[int, ...]
    learn: int
    calibrate: int
    audit: int

    @classmethod
    def of(cls, n: int, *, purity: float, noise: Noise, audit: int | None) -> Plan:
        """Plan for a pool of ``n`` instances.

        The search and a test take at most about ``40 · n^(1/4)`` questions. A test needs a fixed number of
        answers for a given margin above the promise, whatever the pool's size; a larger pool gets somewhat
        more, because a narrower margin gains more masks there. Strict promises and noisy answers need more,
        in proportion to the variance of one answer divided by the squared margin that it has to resolve.
        """
        base = min(52.0 * max(n, 1) ** 0.25, 13.0 * max(n, 1) ** 0.5)
        observed = float(noise.observed(purity))
        margin = (1.0 - purity) * (noise.sensitivity + noise.specificity - 1.0)
        strict = observed * (1.0 - observed) / margin**2 / (0.85 / 0.15)
        search = max(24, round(0.04 * n), round(0.15 * base * np.clip(strict, 1.0, 4.0) ** 0.5))
        search = min(search, 600, max(n // 3, 1))
        later = search // 4
        return cls(
            search=(search - later * (SEARCH_BATCHES - 1), *(later,) * (SEARCH_BATCHES - 1)),
            learn=min(max(48, round(0.05 * n)), 1500),
            calibrate=max(40, round(max(0.6 * base, min(0.08 * n, 600.0)) * np.clip(strict, 0.5, 6.0))),
            audit=min(48, n // 50) if audit is None else audit,
        )


def search_phase(attempt: int, batch: int = 0) -> int:
    """Phase of the questions an attempt learns from."""
    return 10 * attempt + batch


def calibration_phase(attempt: int) -> int:
    """Phase of the random sample that an attempt tests on."""
    return 10 * attempt + 9


HARVEST_PHASE = 90
"""Phase of the questions about masks one by one, after the last attempt."""


def error_of_certificate(delta: float, number: int) -> float:
    """The part of the error ``delta`` of a project that its certificate ``number`` (1, 2, …) may spend.

    ``6 / (π² number²)``: the parts of all certificates that a project may ever have add up to ``delta``.
    """
    if number < 1:
        raise ValueError(f"certificate number {number}: the first is 1")
    return delta * 6.0 / (np.pi**2 * number**2)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is promised, and what it may cost.

    Attributes
    ----------
    purity : promised share of good masks
    alpha : probability that the promise of this certificate may be broken
    plan_noise : how answers are expected to err; plans use it, so that they do not change with the gold
    noise : how answers err at worst, for the tests; None = not known well enough yet
    costs : human seconds
    sheets : put questions on contact sheets
    """

    purity: float
    alpha: float
    plan_noise: Noise
    noise: Noise | None
    costs: Costs
    sheets: bool

    @property
    def exact(self) -> bool:
        """Whether answers are taken as true."""
        return self.noise is not None and self.noise.exact
