"""A segmenter in a process of its own: results, lines about the progress and errors come back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_backend.clicks.evaluation.experiment import ClickExperiment
from ml_backend.clicks.evaluation.simulated_clicks import ClickTarget
from ml_backend.errors import ModelError
from ml_backend.masks.rle import encode_mask
from ml_backend.settings import BackendSettings
from sync.lab.measured_segmenter import SegmenterTask, measure


def task(folder: Path, name: str, picture: bytes | None = None) -> SegmenterTask:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 15:45] = True
    path = folder / "a.png"
    if picture is None:
        cv2.imwrite(str(path), np.where(mask, 220, 40).astype(np.uint8))
    else:
        path.write_bytes(picture)
    target = ClickTarget(path, "block", encode_mask(mask))
    experiment = ClickExperiment(max_clicks=2)
    return SegmenterTask(name, [target], [experiment], BackendSettings(data_dir=folder / "data"))


def test_a_report_says_how_much_memory_it_took(tmp_path: Path) -> None:
    lines: list[str] = []
    (report,) = measure(task(tmp_path, "classical"), lines.append)
    assert report["starts"]["empty"]["n_targets"] == 1
    assert 20e6 < report["peak_bytes"] < 2e9
    assert lines
    assert lines[-1].startswith("classical: 1 of 1 masks")


def test_errors_come_back_as_they_were(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown click segmenter") as error:
        measure(task(tmp_path, "sam-9"), lambda line: None)
    assert error.value.field == "segmenter"


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the new process finds this module first
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(9)\n")
    with pytest.raises(ModelError, match="ended with code"):
        measure(task(tmp_path, "classical"), lambda line: None)
