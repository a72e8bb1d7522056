"""The promise over many small plays, and that these plays would show a broken one.

The whole table, with 200 plays of each cell, is made by ``python -m bench.coverage``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.coverage import CELLS, PURITY, Cell, Outcome, play_cell
from clustering.answers import verified_labels
from clustering.search import Certified
from clustering.search._step import StepInput
from tests.clustering.evidence.trials import most_failures

_WEAK = replace(CELLS["known .90/.80: usual 100"], n=60)
"""Small pools, half of the masks good, and people who pass a bad mask once in five times."""
_TAINTED = replace(CELLS["known .95/.90: usual 100"], hoped=0.95)
"""Verdicts that a hopeful detector had a part in: a bad mask is called good even after a no."""


def _plays(cell: Cell, plays: int) -> list[Outcome]:
    return [play_cell(cell, seed) for seed in range(plays)]


def _broken(plays: list[Outcome]) -> tuple[int, int]:
    """Plays in which, at some step, the unseen masks and all delivered masks broke the promise."""
    unseen = sum(play.unseen < PURITY - 1e-9 for play in plays)
    return unseen, sum(play.every < PURITY - 1e-9 for play in plays)


@pytest.mark.parametrize(
    ("cell", "plays"),
    [
        (CELLS["exact, delta .3: lying lessons .85 300"], 20),
        (replace(CELLS["exact, 3 rounds: strong 300"], n=120), 8),
        (replace(CELLS["exact, options changed twice: strong 300"], n=150), 10),
        (replace(CELLS["exact, withdraw every no of the search: strong 300"], n=150), 10),
        (_WEAK, 20),
        (_TAINTED, 10),
        (replace(CELLS["gold lenient, near misses: usual 300"], n=80), 10),
        (replace(CELLS["exact: 20 labels, Zipf 1000"], n=200), 6),
    ],
    ids=["hopeful", "rounds", "options", "withdrawn", "weak-crowd", "tainted", "near-miss-gold", "labels"],
)
def test_few_plays_break_the_promise(cell: Cell, plays: int) -> None:
    assert max(_broken(_plays(cell, plays))) <= most_failures(cell.delta, plays)


def test_one_untested_yes_of_people_who_err_would_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_yes(policy: Certified, at: StepInput, rows: Any) -> tuple[Any, None]:
        return verified_labels(at.log, len(at.project)), None

    monkeypatch.setattr(Certified, "_single_labels", every_yes)
    _, broken = _broken(_plays(_WEAK, 50))
    assert broken >= 20


def test_a_detector_that_testifies_for_itself_would_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts with a prior in them instead of raw answers, and every such yes delivered."""

    def every_verdict(policy: Certified, at: StepInput, rows: Any) -> tuple[Any, None]:
        return verified_labels(at.log, len(at.project)), None

    monkeypatch.setattr(Certified, "_single_labels", every_verdict)
    _, broken = _broken(_plays(_TAINTED, 15))
    assert broken >= 8


def test_gold_that_is_easier_than_the_masks_would_break_it() -> None:
    """An assumption that no test of the answers can replace: so gold must be near misses."""
    lenient = replace(CELLS["gold lenient, easy: usual 300"], n=120, gold_answers=(3000, 3000))
    assert _broken(_plays(lenient, 20))[1] >= 5
