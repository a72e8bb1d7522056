"""The plan of the certified policy: how many questions, and how the error is shared."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import Noise
from clustering.search._plan import (
    ATTEMPTS,
    CONFIRM_PARTS,
    STAGES,
    Plan,
    calibration_phase,
    error_of_certificate,
    search_phase,
)


def test_questions_grow_slower_than_the_square_root() -> None:
    def most(n: int) -> int:
        plan = Plan.of(n, purity=0.85, noise=Noise(), audit=None)
        return sum(plan.search) + plan.calibrate + plan.audit

    assert most(1_000_000) / most(10_000) < 0.5 * np.sqrt(100)
    for n in (1, 20, 300):
        assert sum(Plan.of(n, purity=0.85, noise=Noise(), audit=None).search) <= n


def test_strict_promises_and_noisy_answers_get_more_questions() -> None:
    usual = Plan.of(3000, purity=0.85, noise=Noise(), audit=None)
    strict = Plan.of(3000, purity=0.95, noise=Noise(), audit=None)
    noisy = Plan.of(3000, purity=0.85, noise=Noise(sensitivity=0.9, specificity=0.8), audit=None)
    assert strict.calibrate > usual.calibrate
    assert noisy.calibrate > usual.calibrate


def test_the_errors_of_all_certificates_add_up_to_the_promised_one() -> None:
    spent = [error_of_certificate(0.05, number) for number in range(1, 100_001)]
    assert sum(spent) <= 0.05
    assert sum(spent) == pytest.approx(0.05, rel=1e-4)
    assert spent[0] > 0.03  # the first, often the only one, keeps most of it
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="the first is 1"):
            error_of_certificate(0.05, wrong)
    for parts in (ATTEMPTS, STAGES, CONFIRM_PARTS):
        assert sum(parts) <= 1.0 + 1e-12


def test_a_phase_has_one_number() -> None:
    attempts = range(len(ATTEMPTS))
    numbers = [search_phase(a, b) for a in attempts for b in range(3)] + [
        calibration_phase(a) for a in attempts
    ]
    assert len(set(numbers)) == len(numbers)
    # an attempt learns before it tests, and after the attempt before it
    for a in attempts:
        assert search_phase(a, 2) < calibration_phase(a) < search_phase(a + 1)
