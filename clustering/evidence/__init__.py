"""Bounds and tests: from verdicts to statements that hold with a stated probability.

One family a file: ``intervals`` (a fixed number of answers), ``sequential`` (valid however often one looks),
``multiple_testing`` (several hypotheses), ``answer_noise`` (verdicts that err).
"""

from __future__ import annotations

from clustering.evidence.answer_noise import Noise, noise_from_gold, rogan_gladen
from clustering.evidence.intervals import bernstein_interval, clopper_pearson, hypergeometric_interval
from clustering.evidence.multiple_testing import conformal_selection, e_bh, fallback, fixed_sequence
from clustering.evidence.sequential import (
    BETS,
    Sprt,
    betting_log_wealth,
    betting_lower_bound,
    binomial_log_e_value,
)

__all__ = [
    "BETS",
    "Noise",
    "Sprt",
    "bernstein_interval",
    "betting_log_wealth",
    "betting_lower_bound",
    "binomial_log_e_value",
    "clopper_pearson",
    "conformal_selection",
    "e_bh",
    "fallback",
    "fixed_sequence",
    "hypergeometric_interval",
    "noise_from_gold",
    "rogan_gladen",
]
