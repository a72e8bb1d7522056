"""The bench of previews on a small pool: one line per promise, and the coverage."""

from __future__ import annotations

import json
import sys

import pytest

from bench import preview


def test_every_promise_gets_a_line_and_coverage_counts_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--kinds", "strong", "--sizes", "300", "--tests", "4", "--seeds", "5", "--plays", "2"]
    monkeypatch.setattr(sys, "argv", ["preview", *arguments])
    preview.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = lines[:3]
    assert [row["promise"] for row in rows] == [0.8, 0.85, 0.9]
    held = sum(row["questions"][1] <= row["real_questions"] <= row["questions"][2] for row in rows)
    assert [line["name"] for line in lines[3:]] == ["preview/strong-300/coverage", "preview/all/coverage"]
    for line in lines[3:]:
        assert line["forecasts"] == 3
        assert line["questions"]["held"] == held
        assert line["questions"]["interval"][0] <= held / 3 <= line["questions"]["interval"][1]


def test_test_pictures_are_no_part_of_the_pool() -> None:
    case = preview.generated("labels20", 400, tests=5, seed=1)
    lessons = case.project.lessons
    assert lessons is not None
    assert len(case.project) + len(lessons) == 400 + 5 * preview.MASKS_A_PICTURE
    assert len(set(lessons.picture.tolist())) == 5
    assert len(case.good) == len(case.project)


def test_truths_alone_are_drawn_without_a_play(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preview, "one_play", lambda *_, **__: pytest.fail("a play"))
    arguments = ["--truths", "--kinds", "strong", "--sizes", "400", "--tests", "5", "--seeds", "1", "2"]
    monkeypatch.setattr(sys, "argv", ["preview", *arguments])
    preview.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows, last = lines[:6], lines[-1]
    for row in rows:
        middle, low, high = row["acceptable"]
        assert 0 <= low <= middle <= high <= row["masks"]
    held = sum(row["acceptable"][1] <= row["real_acceptable"] <= row["acceptable"][2] for row in rows)
    assert last["acceptable"]["held"] == held
    assert "questions" not in last
    widths = [(row["acceptable"][2] - row["acceptable"][1]) / row["masks"] for row in rows]
    assert min(widths) <= last["acceptable"]["width"] <= max(widths)
