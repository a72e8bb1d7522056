"""Candidates for a first click, and what is said of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ml_backend.clicks.base import ClickResult, Embedding, Prompt
from ml_backend.clicks.ranking.candidates import Candidate, candidates_of, honours, is_first
from ml_backend.clicks.ranking.features import FEATURES, UsualSize, features_of
from ml_backend.clicks.start_masks import start_mask_from
from tests.ml_backend.clicks.click_helpers import disc
from tests.ml_backend.clicks.ranking.ranking_helpers import HW, Small, proposals

PIXELS = np.random.default_rng(0).integers(0, 255, (*HW, 3), dtype=np.uint8)
CLICK = Prompt(((20.0, 20.0, True),), None, "Cat")
BIG, BESIDE = disc(HW, 20, 20, 9), disc(HW, 60, 40, 9)


class Many(Small):
    """Knows two more masks, one of them hopeless."""

    def segment_all(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        first = self.segment(embedding, prompt, None).masks[0]
        return ClickResult(np.stack([first, BIG, BESIDE | BIG]), np.array([0.9, 0.4, 0.01], np.float32), None)


def test_candidates_come_from_all_that_a_project_has_and_the_usual_one_is_first() -> None:
    base = Many()
    network = Small(6)
    embedding = base.embed(PIXELS)
    known = proposals([BESIDE, BIG, disc(HW, 22, 20, 8)], [0.9, 0.5, 0.05])
    found = candidates_of(
        base, embedding, CLICK, None, known, lambda prompt: network.segment(embedding, prompt, None)
    )
    assert [(c.source, c.usual) for c in found] == [
        ("segmenter", True),
        ("more", False),
        ("network", False),
        ("proposal", False),  # the second covers another place, the third is hardly worth anything
    ]
    np.testing.assert_array_equal(found[3].mask, BIG)
    assert [round(c.score, 3) for c in found] == [0.9, 0.4, 0.9, 0.5]
    start = start_mask_from(BIG, from_proposal=True)
    started = candidates_of(base, embedding, CLICK, start, known, None)
    assert [(c.source, c.usual) for c in started[:2]] == [("start", True), ("segmenter", False)]
    assert base.starts[-2] is start


def test_a_box_takes_the_proposal_it_was_drawn_around() -> None:
    base = Small()
    prompt = Prompt((), (10.0, 12.0, 30.0, 30.0), "Cat")
    found = candidates_of(base, base.embed(PIXELS), prompt, None, proposals([BESIDE, BIG]), None)
    assert [c.source for c in found] == ["segmenter", "proposal"]
    np.testing.assert_array_equal(found[1].mask, BIG)


@pytest.mark.parametrize(
    ("prompt", "size"),
    [
        (CLICK, (30, 30)),  # of an earlier picture of the task
        (Prompt(CLICK.points, None, "Dog"), HW),
        (Prompt(CLICK.points, None, "Bird"), HW),
    ],
)
def test_proposals_of_another_label_or_picture_are_none(prompt: Prompt, size: tuple[int, int]) -> None:
    base = Small()
    known = proposals([disc(size, 20, 20, 9)])
    assert len(candidates_of(base, base.embed(PIXELS), prompt, None, known, None)) == 1


def test_what_disagrees_with_the_click_is_no_candidate_but_the_usual_one_stays() -> None:
    base, embedding = Small(), Small().embed(PIXELS)
    elsewhere = ClickResult(BESIDE[None], np.array([1.0], np.float32), None)
    base.radius = float("nan")  # an empty mask
    (only,) = candidates_of(base, embedding, CLICK, None, None, lambda prompt: elsewhere)
    assert only.usual
    assert not only.mask.any()


def test_clicks_are_honoured_or_not() -> None:
    outside = ((70.0, 60.0, False),)
    assert honours(BIG, Prompt(CLICK.points + outside, None, ""))
    assert not honours(BIG, Prompt(((20.0, 20.0, True), (21.0, 20.0, False)), None, ""))
    assert not honours(BIG, Prompt(((70.0, 60.0, True),), None, ""))
    assert honours(BIG, Prompt(((20.0, 20.0, False), (20.0, 20.0, True)), None, ""))  # the later one counts
    assert not honours(np.zeros(HW, bool), Prompt((), None, ""))
    assert is_first(CLICK)
    assert is_first(Prompt((), (0, 0, 5, 5), ""))
    assert not is_first(Prompt(outside, None, ""))
    assert not is_first(Prompt(CLICK.points + outside, None, ""))
    assert not is_first(Prompt(CLICK.points, (0, 0, 5, 5), ""))


def some() -> list[Candidate]:
    return [
        Candidate(disc(HW, 20, 20, 4), 0.9, "segmenter", usual=True),
        Candidate(BIG, float("nan"), "network"),
        Candidate(BIG | BESIDE, float("inf"), "more"),
        Candidate(disc(HW, 22, 20, 9), 0.0, "proposal"),
    ]


def test_features_are_finite_and_follow_the_candidates_in_any_order() -> None:
    size = UsualSize(5.0, 0.3)
    rows = features_of(some(), CLICK, PIXELS, size)
    assert rows.shape == (4, len(FEATURES))
    assert np.isfinite(rows).all()
    for order in itertools.permutations(range(4)):
        shuffled = [some()[i] for i in order]
        np.testing.assert_allclose(features_of(shuffled, CLICK, PIXELS, size), rows[list(order)], atol=1e-9)
    column = {name: rows[:, i] for i, name in enumerate(FEATURES)}
    assert column["from network"].tolist() == [0, 1, 0, 0]
    assert column["pieces"][2] > 0.3 > column["pieces"][1]  # two pieces of equal area
    assert column["nearest"][1] == pytest.approx(column["nearest"][3])
    assert column["nearest"][0] < column["nearest"][1]
    assert column["click depth"][1] > 0.9 > column["click depth"][3]
    assert abs(column["size"][1]) < abs(column["size"][0])  # the log of its area is about 5.5


def test_features_of_one_candidate_and_of_an_empty_mask() -> None:
    one = features_of(some()[:1], CLICK, PIXELS, None)
    assert np.isfinite(one).all()
    nothing = Candidate(np.zeros(HW, bool), 0.5, "segmenter", usual=True)
    assert np.isfinite(features_of([nothing, *some()[1:]], CLICK, PIXELS, None)).all()
    box = Prompt((), (11.0, 11.0, 30.0, 30.0), "Cat")
    fit = features_of(some(), box, PIXELS, None)[:, FEATURES.index("box fit")]
    assert fit.argmax() == 1
