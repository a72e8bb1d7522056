"""From decisions to a label for every instance, with its provenance.

Labels are derived from the log alone: withdrawing an answer means calling the policy with the log without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Decisions, PolicyStep, verified_labels

__all__ = ["Propagation", "propagate"]


@dataclass(frozen=True, slots=True, eq=False)
class Propagation:
    """Labels of a whole pool, with what is needed to explain each of them.

    Attributes
    ----------
    label : (n,) int8, +1 accepted, -1 rejected, 0 undecided
    verified : (n,) bool, people were asked about this very instance
    decision : (n,) int64, row of ``decisions`` behind a propagated label, -1 otherwise
    purity : (n,) float64, lower bound of the purity behind a propagated label, NaN otherwise
    decisions : all decisions
    """

    label: npt.NDArray[np.int8]
    verified: npt.NDArray[np.bool_]
    decision: npt.NDArray[np.int64]
    purity: npt.NDArray[np.float64]
    decisions: Decisions

    @property
    def accepted(self) -> npt.NDArray[np.int64]:
        """Rows of the pool that are accepted."""
        return np.flatnonzero(self.label > 0)


def propagate(step: PolicyStep, log: AnswerLog) -> Propagation:
    """Labels and provenance of everything a policy decided. Time and memory O(n + m).

    Parameters
    ----------
    step : what the policy returned for ``log``
    log : the verdicts it was called with
    """
    n = len(step.label)
    verified = verified_labels(log, n) != 0
    # whoever looked at an instance overrules a decision about its cluster
    decision = np.where(verified, -1, step.decision)
    purity = np.full(n, np.nan)
    by_decision = decision >= 0
    purity[by_decision] = step.decisions.lower[decision[by_decision]]
    return Propagation(
        label=step.label, verified=verified, decision=decision, purity=purity, decisions=step.decisions
    )
