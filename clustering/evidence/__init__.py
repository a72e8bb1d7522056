"""Bounds and tests: from verdicts to statements that hold with a stated probability.

One family a file: ``intervals`` (a fixed number of answers), ``sequential`` (valid however often one looks),
``purity`` (a finite set, from a random sample of it), ``multiple_testing`` (several hypotheses),
``answer_noise`` (verdicts that err).
"""

from __future__ import annotations

from clustering.evidence.answer_noise import Noise, noise_from_gold, rogan_gladen
from clustering.evidence.intervals import clopper_pearson, hypergeometric_interval
from clustering.evidence.multiple_testing import fallback
from clustering.evidence.purity import rest_p_value, whole_p_value
from clustering.evidence.sequential import (
    BETS,
    betting_log_wealth,
    betting_lower_bound,
    binomial_log_e_value,
)

__all__ = [
    "BETS",
    "Noise",
    "betting_log_wealth",
    "betting_lower_bound",
    "binomial_log_e_value",
    "clopper_pearson",
    "fallback",
    "hypergeometric_interval",
    "noise_from_gold",
    "rest_p_value",
    "rogan_gladen",
    "whole_p_value",
]
