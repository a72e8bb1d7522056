"""The log of verdicts: what may stand in it, and what it says about each mask."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import AnswerLog, Questions, Stream, final_verdicts, verified_labels
from tests.clustering.search_pools import old_answers


def test_latest_verdict_counts() -> None:
    log = old_answers([3, 1, 3], [1, 1, 0])
    items, yes = final_verdicts(log)
    assert items.tolist() == [1, 3]
    assert yes.tolist() == [1.0, 0.0]
    assert verified_labels(log, 5).tolist() == [0, 1, 0, -1, 0]


def test_carried_and_undecided_answers_verify_nothing() -> None:
    carried = old_answers([0, 1], [1, 0], stream=Stream.CARRIED)
    assert not verified_labels(carried, 3).any()
    assert not verified_labels(old_answers([0, 1], [0.5, 0.5]), 3).any()


def test_answers_are_logged_as_they_were_asked() -> None:
    k = np.arange(3)
    questions = Questions(
        item=k,
        cluster=k - 1,
        phase=np.array([9, 9, -1]),
        stream=np.array([1, 1, 0], np.int8),
        inclusion=np.array([0.5, 0.5, 1.0]),
        form=np.zeros(3, np.int8),
        sheet=np.full(3, -1),
    )
    log = AnswerLog.empty().extended(questions, [1.0, 0.0, np.nan])
    assert log.phase.tolist() == [9, 9, -1]
    assert log.cluster.tolist() == [-1, 0, 1]
    assert log.yes.tolist() == [1.0, 0.0, 0.5]  # neither yes nor no
    log = log.extended(questions, [1.0, 1.0, np.nan], yes=[0.2, 0.9, 0.4])
    np.testing.assert_allclose(log.yes[3:], [0.2, 0.9, 0.4])  # what all answers say
    assert log.answer[3:5].tolist() == [1.0, 1.0]  # what one person said
    with pytest.raises(ValueError, match="answers for"):
        log.extended(questions, [1.0, 0.0])


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("yes", np.array([1.5], np.float32), "verdict"),
        ("yes", np.array([np.nan], np.float32), "verdict"),
        ("answer", np.array([0.5], np.float32), "answer"),
        ("inclusion", np.array([0.0]), "inclusion"),
        ("phase", np.zeros(2, np.int64), "different lengths"),
    ],
)
def test_values_out_of_range_are_refused(column: str, value: np.ndarray, word: str) -> None:
    good = old_answers([0], [1])
    columns = {name: getattr(good, name) for name in AnswerLog.__slots__} | {column: value}
    with pytest.raises(ValueError, match=word):
        AnswerLog(**columns)
