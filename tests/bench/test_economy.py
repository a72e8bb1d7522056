"""The economy on a small pool: one line per figure, all rows, and a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import economy


def test_every_row_gets_every_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = tmp_path / "table.md"
    arguments = ["--kinds", "weak", "--sizes", "400", "--plays", "2", "--table", str(table)]
    monkeypatch.setattr(sys, "argv", ["economy", *arguments])
    economy.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["name"]: line for line in lines}
    for row in economy.POLICIES:
        hours = found[f"economy.weak.400.{row}.hours_to_finish"]
        assert hours["low"] <= hours["value"] <= hours["high"]
        assert hours["ratio"] == pytest.approx(hours["value"] / hours["baseline"], rel=0.01)
        broken = found[f"economy.weak.400.{row}.promise_broken_unseen"]
        assert broken["plays"] == 2
        assert broken["low"] <= broken["value"] <= broken["high"]
        masks = [found[f"economy.weak.400.{row}.good_masks_at_{s:g}_of_our_seconds"] for s in economy.SHARES]
        assert masks[0]["value"] <= masks[-1]["value"]
        assert f"| {row} |" in table.read_text()
    whole = found["economy.weak.400.certified.good_masks_at_1_of_our_questions"]["value"]
    delivered = found["economy.weak.400.certified.masks"]["value"]
    precision = found["economy.weak.400.certified.precision"]["value"]
    assert whole == pytest.approx(delivered * precision, rel=0.05)
