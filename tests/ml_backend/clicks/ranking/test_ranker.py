"""The ranking: what it chooses, how it is learnt and kept, and a segmenter that uses it."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.ranking.candidates import Candidate
from ml_backend.clicks.ranking.features import FEATURES, UsualSize
from ml_backend.clicks.ranking.joint import JointSegmenter
from ml_backend.clicks.ranking.ranker import RANKING_FILE, Ranker, Seen, fit_ranker, load_ranker, save_ranker
from ml_backend.clicks.start_masks import start_mask_from
from ml_backend.errors import BadInput, ModelError
from tests.ml_backend.clicks.click_helpers import disc
from tests.ml_backend.clicks.ranking.ranking_helpers import HW, Small, proposals, weights
from tests.ml_backend.clicks.ranking.test_candidates import BESIDE, BIG, CLICK, PIXELS, some


@pytest.mark.parametrize("name", ["from_network", "size", "edge_step", "nearest", "click_depth"])
def test_the_order_of_the_candidates_does_not_matter(name: str) -> None:
    ranker = Ranker(weights(**{name: 1.0}), {"Cat": UsualSize(5.0, 0.3)})
    found = some()
    chosen = {
        id(ranker.choose([found[i] for i in order], CLICK, PIXELS))
        for order in itertools.permutations(range(4))
    }
    assert len(chosen) == 1


def test_equal_values_keep_the_usual_answer_in_any_order() -> None:
    ranker = Ranker(weights())
    for order in itertools.permutations(some()):
        assert ranker.choose(order, CLICK, PIXELS).usual
    twins = [some()[0], Candidate(BIG, 0.7, "network"), Candidate(BESIDE, 0.7, "proposal")]
    prefers_others = Ranker(weights(usual=-1.0))
    assert {prefers_others.choose(o, CLICK, PIXELS).source for o in itertools.permutations(twins)} == {
        "proposal"
    }


def test_the_highest_value_wins_and_scores_that_are_not_finite_do_no_harm() -> None:
    assert Ranker(weights(from_network=1.0)).choose(some(), CLICK, PIXELS).source == "network"
    by_score = Ranker(weights(score_of_network=1.0, score_of_more=1.0, score_of_segmenter=1.0))
    assert by_score.choose(some(), CLICK, PIXELS).usual  # 0.9; the others said nothing that counts
    assert Ranker((float("nan"),) * len(FEATURES)).choose(some(), CLICK, PIXELS).usual


def test_one_candidate_or_none() -> None:
    ranker = Ranker(weights(usual=-5.0))
    assert ranker.choose(some()[:1], CLICK, PIXELS).usual
    nothing = Candidate(np.zeros(HW, bool), 0.5, "segmenter", usual=True)
    assert ranker.choose([nothing], CLICK, PIXELS) is nothing
    for without in ([], some()[1:]):
        with pytest.raises(ValueError, match="usual"):
            ranker.choose(without, CLICK, PIXELS)


def test_it_learns_which_source_people_kept() -> None:
    rng = np.random.default_rng(0)
    agreement, network = FEATURES.index("agreement"), FEATURES.index("from network")

    def clicks(n: int) -> list[Seen]:
        rows = []
        for number in range(n):
            features = rng.normal(0, 1, (3, len(FEATURES)))
            features[:, network] = [0, 1, 0]
            rows.append(
                Seen(features, 0.5 + 0.1 * features[:, agreement] - 0.3 * features[:, network], number)
            )
        return rows

    ranker = Ranker(fit_ranker(clicks(80)))
    new = clicks(200)
    kept = np.mean([row.ious[ranker.values(row.features).argmax()] for row in new])
    assert kept > np.mean([row.ious.max() for row in new]) - 0.01
    assert kept > np.mean([row.ious[0] for row in new]) + 0.05


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(BadInput, match="no click with several candidates"):
        fit_ranker([Seen(np.zeros((1, len(FEATURES))), np.ones(1), 0)])


def test_a_ranking_is_kept_as_numbers(tmp_path: Path) -> None:
    ranker = Ranker(weights(from_network=0.25, usual=-1.5), {"Cat": UsualSize(4.0, 0.5)}, "small:1", "x:2")
    save_ranker(tmp_path, ranker)
    assert load_ranker(tmp_path) == ranker


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"weights": [0.0]},
        {"weights": "many"},
        {"weights": [float("nan")] * len(FEATURES)},
        {"features": ["something else"] * len(FEATURES)},
        {"sizes": {"Cat": {"mean": "large"}}},
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save_ranker(tmp_path, Ranker(weights()))
    path = tmp_path / RANKING_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"ranking\.json"):
        load_ranker(tmp_path)
    path.write_text("{")
    with pytest.raises(ModelError, match=r"ranking\.json"):
        load_ranker(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"ranking\.json"):
        load_ranker(tmp_path)


def joint(base: Small, **named: Any) -> JointSegmenter:
    given: dict[str, Any] = {"second": None, "proposals": None, "pixels": lambda: PIXELS, "key": "k"}
    return JointSegmenter(base, named.pop("ranker", Ranker(weights(from_proposal=1.0))), **given | named)


def test_a_first_click_takes_the_best_candidate_and_the_next_one_refines_it() -> None:
    base = Small()
    ranked = joint(base, proposals=proposals([BIG]))
    embedding = ranked.embed(PIXELS)
    first = ranked.segment(embedding, CLICK, None)
    np.testing.assert_array_equal(first.masks[0], BIG)
    assert first.iou[0] == 1.0
    start = start_mask_from(first.masks[0], from_proposal=False)
    points = (*CLICK.points, (27.0, 20.0, False))
    second = ranked.segment(embedding, Prompt(points, None, "Cat"), start)
    assert base.starts[-1] is start
    np.testing.assert_array_equal(second.masks[0], BIG & ~disc(HW, 27, 20, 4))
    for prompt in (Prompt(((20.0, 20.0, False),), None, "Cat"), Prompt(CLICK.points, (0, 0, 30, 30), "Cat")):
        np.testing.assert_array_equal(
            ranked.segment(embedding, prompt, None).masks, base.segment(embedding, prompt, None).masks
        )


def test_a_label_with_one_mask_for_all_of_a_picture_is_corrected_as_usual() -> None:
    base = Small()
    known = replace(proposals([BIG]), whole=frozenset({"Cat"}))
    prefers = Ranker(weights(from_segmenter=1.0))
    start = start_mask_from(BIG, from_proposal=True)
    embedding = base.embed(PIXELS)
    found = joint(base, proposals=known, ranker=prefers).segment(embedding, CLICK, start)
    np.testing.assert_array_equal(found.masks[0], BIG)
    other = joint(base, proposals=proposals([BIG]), ranker=prefers).segment(embedding, CLICK, start)
    np.testing.assert_array_equal(other.masks[0], disc(HW, 20, 20, 4))


@pytest.mark.parametrize(
    ("threads", "name", "source"),
    [(0, "project", "network"), (2, "project", "network"), (0, "classical", "configured")],
)
def test_the_second_segmenter_is_asked_beside_the_first(threads: int, name: str, source: str) -> None:
    base, network = Small(), Small(7, encoder="net-1", name=name)
    with ThreadPoolExecutor(2) as pool:
        ranked = joint(
            base,
            second=network,
            ranker=Ranker(weights(**{f"from_{source}": 1.0})),
            threads=pool if threads else None,
        )
        found = ranked.segment(ranked.embed(PIXELS), CLICK, None)
    np.testing.assert_array_equal(found.masks[0], disc(HW, 20, 20, 7))
    assert (ranked.name, ranked.encoder) == ("small, ranked", "small-1+k")


def test_a_score_that_is_not_finite_is_not_passed_on() -> None:
    class Unsure(Small):
        def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
            found = super().segment(embedding, prompt, start_mask)
            return ClickResult(found.masks, np.array([np.nan], np.float32), None)

    base = Unsure()
    assert joint(base).segment(base.embed(PIXELS), CLICK, None).iou[0] == 0.0
