"""The benchmark of learners: every figure with its baseline, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_learner_gets_every_figure() -> None:
    options = ["--option", "size=64", "--option", "batch=1", "--option", "channels=16", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.learners", "--quick", "--only", "fcos", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {line["name"]: line for line in lines}
    assert set(found) == {
        "train_images_per_second",
        "round_minutes",
        "infer_images_per_second",
        "peak_rss_mb",
    }
    assert {line["learner"] for line in lines} == {"fcos"}
    for name in ("train_images_per_second", "infer_images_per_second"):
        assert found[name]["value"] > 0
        assert found[name]["baseline"] > 0
    # the whole run of the preset, not the few steps that were timed
    assert found["round_minutes"]["value"] * 60 * found["train_images_per_second"]["value"] > 100
    assert found["peak_rss_mb"]["value"] > 100
