"""The attempts of the certified policy: learn, draw a fresh sample, test the candidate sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clustering.answers import Stream
from clustering.arrays import Ints
from clustering.search._plan import BATCHES, Attempt, Plan
from clustering.search._sets import NestedSets, SetTest, evaluate_sets
from clustering.search._step import StepInput, smallest

__all__ = ["Accepted", "certify"]

_WORTH_AN_ATTEMPT = 1.5
"""A further attempt must promise this many times the masks that are certified already."""
_UNIFORM = 0.3
"""Least relative chance of an instance to be drawn in a search batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """A certified set.

    Attributes
    ----------
    members : (k,) int64 instances
    phase : the calibration that certified it
    test : outcome of the test
    withheld : int64 instances drawn for the test and not answered yet. The test counts them as wrong, so they
        are not delivered.
    """

    members: Ints
    phase: int
    test: SetTest
    withheld: Ints


def certify(at: StepInput) -> tuple[Accepted | None, bool]:
    """Walk through the attempts as far as the answers reach; add the next questions to ``at.questions``.

    Returns
    -------
    accepted : the set certified so far
    done : no attempt needs further answers
    """
    accepted: Accepted | None = None
    for number, attempt in enumerate(at.plan.attempts):
        if accepted:
            sets, _ = at.sets(attempt, Plan.phase(number, 0))
            if sets is None or sets.likely < _WORTH_AN_ATTEMPT * len(accepted.members):
                break
        if not _search(at, number, attempt):
            return accepted, False
        phase = Plan.phase(number, BATCHES)
        sets, p_yes = at.sets(attempt, phase)
        if sets is None or not sets.planned:
            continue
        test, unanswered = _calibrate(at, sets, p_yes, attempt, phase)
        if test.certified > (len(accepted.members) if accepted else 0):
            accepted = Accepted(sets.order[: test.certified], phase, test, unanswered)
        if not test.closed:
            return accepted, False
    return accepted, True


def _search(at: StepInput, number: int, attempt: Attempt) -> bool:
    """Ask what is missing of the search batches of an attempt; True when all of them are answered.

    An answer carried over from an earlier pool teaches as much as a new one, so it takes the place of one.
    """
    spare = len(np.unique(at.log.item[Plan.phases_of(at.log) < 0]))
    for earlier in at.plan.attempts[:number]:
        spare = max(0, spare - sum(earlier.search))
    for batch, whole in enumerate(attempt.search):
        quota, spare = max(0, whole - spare), max(0, spare - whole)
        phase = Plan.phase(number, batch)
        answered = at.log.item[(at.log.cluster == Plan.tag(phase)) & (at.log.stream == Stream.SEARCH)]
        if len(np.unique(answered)) >= quota:
            continue
        p_yes, known = at.verifier(phase)
        # partly uniform, the rest where the verifier knows least
        weight = _UNIFORM + (1.0 - _UNIFORM) * 4.0 * p_yes * (1.0 - p_yes)
        key = -np.log1p(-at.random(phase)) / weight
        key[known] = np.inf
        quota = min(quota, int(len(known) - known.sum()))
        draw = smallest(key, quota)
        missing = quota - len(np.unique(answered))
        wanted = draw[~np.isin(draw, answered)][: max(0, missing)]
        if not len(wanted):
            continue
        # order sampling (Rosén 1997) with exponential keys: an instance is drawn if and only if its key is
        # below the first key that was left out
        bar = np.partition(key, quota)[quota] if quota < len(key) else np.inf
        inclusion = np.maximum(-np.expm1(-weight[wanted] * min(bar, 1e6)), 1e-12)
        at.questions.add(wanted, cluster=Plan.tag(phase), stream=Stream.SEARCH, inclusion=inclusion)
        return False
    return True


def _calibrate(
    at: StepInput, sets: NestedSets, p_yes: npt.NDArray[np.float32], attempt: Attempt, phase: int
) -> tuple[SetTest, Ints]:
    """Test the sets with the answers there are, and ask on where that is worth it.

    Returns
    -------
    test : the outcome so far
    unanswered : int64 members of the draw without an answer
    """
    planned = sets.planned
    rank = smallest(at.random(phase)[sets.order], planned)
    draw = sets.order[rank]
    verdict = at.verdicts(phase, Stream.CALIBRATION)[draw]
    # Easy questions may be answered sooner than hard ones. So answers behind a gap count only with the
    # missing ones taken for no, and whether to stop asking is decided without them.
    gaps = np.flatnonzero(np.isnan(verdict))
    prefix = int(gaps[0]) if len(gaps) else planned
    last = planned - int(np.argmax(~np.isnan(verdict[::-1]))) if prefix < planned else planned

    def test_first(t: int) -> SetTest:
        yes = np.nan_to_num(verdict[:t]).astype(np.float64)
        return evaluate_sets(sets, rank[:t], yes, noise=at.noise, alpha=attempt.alpha)

    test = test_first(prefix)
    if prefix < last and not np.isnan(verdict).all():
        beyond = test_first(last)
        if beyond.certified > test.certified:
            everything = beyond.certified == len(sets.order)
            test = replace(beyond, closed=test.closed or everything)
    if not test.closed:
        share = planned / len(sets.order)
        at.ask_draw(draw, verdict, p_yes, phase=phase, stream=Stream.CALIBRATION, inclusion=share)
    return test, draw[np.isnan(verdict)]
