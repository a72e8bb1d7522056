"""Predictions made ready to be sent: the same rows, each written once, in few requests."""

from __future__ import annotations

import json

import pytest

from bench.sync_project import CONFIG, drawn
from ml_backend.errors import StudioError
from sync.studio import prepared
from sync.studio.checks import label_interface, prediction_problem
from sync.studio.prepared import PreparedPredictions
from sync.studio.protocol import PredictionRow

ROWS = [PredictionRow(task, drawn(task), 0.25 * task, "é1") for task in range(5)]


def test_rows_are_read_back_as_they_were() -> None:
    found = PreparedPredictions(CONFIG, ROWS)
    assert list(found) == ROWS
    assert found[1:3] == ROWS[1:3]
    assert found.task_ids == [0, 1, 2, 3, 4]
    (body, count), *rest = found.bodies()
    assert not rest
    assert count == 5
    assert found.size == len(body) - 6  # brackets and commas
    sent = json.loads(body)
    assert [(row["task"], row["score"], row["model_version"]) for row in sent] == [
        (task, 0.25 * task, "é1") for task in range(5)
    ]
    assert sent[3]["result"] == drawn(3)


def test_no_request_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = PreparedPredictions(CONFIG, ROWS)
    monkeypatch.setattr(prepared, "_ROWS_PER_CALL", 2)
    assert [count for _, count in found.bodies()] == [2, 2, 1]
    assert [row["task"] for body, _ in found.bodies() for row in json.loads(body)] == [0, 1, 2, 3, 4]
    monkeypatch.setattr(prepared, "_ROWS_PER_CALL", 100)
    largest = max(PreparedPredictions(CONFIG, [row]).size for row in ROWS)
    monkeypatch.setattr(prepared, "_BYTES_PER_CALL", 2 * largest + 5)
    sizes = [(len(body), count) for body, count in found.bodies()]
    assert [count for _, count in sizes] == [2, 2, 1]
    assert all(size <= 2 * largest + 5 for size, _ in sizes)
    monkeypatch.setattr(prepared, "_BYTES_PER_CALL", 10)  # one that is larger is sent alone
    assert [count for _, count in found.bodies()] == [1, 1, 1, 1, 1]


def test_an_empty_one_sends_nothing() -> None:
    assert list(PreparedPredictions(CONFIG).bodies()) == []


def test_rows_that_would_be_dropped_are_named() -> None:
    bad = [PredictionRow(7, [], 1.5, "v"), PredictionRow(8, [], 0.5, ""), *ROWS]
    found = PreparedPredictions(CONFIG, bad)
    with pytest.raises(StudioError, match=r"2 of 7 predictions .* task 7: score 1\.5 .*; task 8: the model"):
        found.check()
    PreparedPredictions(CONFIG, ROWS).check()


@pytest.mark.parametrize(
    "rle", [[0, 255, 7], [], [256], [3, -1], [1.5], ["a"], [3, None], "abc", None, [[1]], [True]]
)
def test_masks_are_judged_as_the_sdk_judges_them(rle: object) -> None:
    """Masks that are fine are shortened before the SDK looks at them; no other mask may pass for that."""
    result = [{**item, "value": {**item["value"], "rle": rle}} for item in drawn(1)]
    whole = label_interface(CONFIG).validate_prediction({"result": result, "score": 0.5}, return_errors=True)
    assert bool(prediction_problem(CONFIG, PredictionRow(1, result, 0.5, "v"))) == bool(whole)
