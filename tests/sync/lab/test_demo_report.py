"""The demo report: intervals, JSON, table and plot."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from sync.lab.demo_report import DemoReport, RoundFigures, Share
from sync.lab.demo_report_output import report_table, save_report


@pytest.mark.parametrize(("good", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 9), (930, 1000)])
def test_the_interval_is_wilsons(good: int, n: int) -> None:
    share = Share.of(good, n)
    assert share is not None
    expected = binomtest(good, n).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert share.low <= share.value <= share.high
    assert share.n == n


def test_nothing_measured_is_not_a_number() -> None:
    assert Share.of(0, 0) is None


def figures(number: int, *, empty: bool = False) -> RoundFigures:
    return RoundFigures(
        round=number,
        model_version=f"gs1-r{number}-abc",
        labelled_tasks=10 * number,
        train_tasks=8 * number,
        headline="AP",
        metrics={} if empty else {"AP": Share(0.3 * number, 0.2, 0.7, 4)},
        pool=0 if empty else 100,
        pool_precision=Share.of(0, 0) if empty else Share.of(80, 100),
        questions=0 if empty else 30,
        answers=0 if empty else 30,
        accepted=0 if empty else 75,
        propagated=0 if empty else 50,
        rejected=0,
        precision=None if empty else Share.of(72, 75),
        precision_propagated=None,
        masks_per_question=None if empty else 2.5,
        recall=None if empty else 0.9,
        answer_hours=0.0 if empty else 0.25,
        hours_to_finish=0.0 if empty else 2.5,
        seconds={"train": 12.0},
    )


@pytest.mark.parametrize("empty", [False, True])
def test_a_report_is_saved_with_its_plot_even_when_nothing_was_found(tmp_path: Path, empty: bool) -> None:
    report = DemoReport({"title": "cells"}, [figures(1, empty=True), figures(2, empty=empty)], 60.0)
    save_report(report, tmp_path / "out" / "report.json")
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["rounds"][1]["accepted"] == (0 if empty else 75)
    assert saved["rounds"][0]["metrics"] == {}
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_every_round_with_its_intervals() -> None:
    from rich.console import Console

    file = io.StringIO()
    table = report_table(DemoReport({"title": "cells"}, [figures(1), figures(2)], 60.0))
    Console(width=220, file=file).print(table)
    text = file.getvalue()
    assert "0.960" in text
    assert "0.600 (0.200–0.700)" in text
    assert "2.50" in text
