"""The table of segmenters: listing, probes, errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_backend.clicks.serving.catalog import SEGMENTERS, build_segmenter
from ml_backend.clicks.serving.segmenter_list import list_segmenters
from ml_backend.devices import is_out_of_memory, resolve_device
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings


def settings(tmp_path: Path, **changes: Any) -> BackendSettings:
    return BackendSettings(data_dir=tmp_path, device="cpu", **changes)


def test_all_segmenters_are_listed_with_what_they_need(tmp_path: Path) -> None:
    rows = {row.name: row for row in list_segmenters(settings(tmp_path))}
    known = {"auto", "classical", "shipped", "sam", "sam-onnx", "click-onnx", "hf", "project"}
    assert set(rows) == known == set(SEGMENTERS)
    assert rows["classical"].ready
    assert "GROUNDSWELL_SAM_CHECKPOINT is not set" in rows["sam"].reason
    assert "GROUNDSWELL_SAM_ONNX or GROUNDSWELL_SAM_CHECKPOINT is not set" in rows["sam-onnx"].reason
    assert "GROUNDSWELL_HF_MODEL is not set" in rows["hf"].reason
    assert all(bool(row.licence) == bool(SEGMENTERS[name].weights) for name, row in rows.items())
    assert "trained" in rows["project"].reason
    gone = list_segmenters(settings(tmp_path, sam_checkpoint=tmp_path / "gone.pth"))
    assert "does not exist" in next(row.reason for row in gone if row.name == "sam")
    (tmp_path / "pair").mkdir()
    own = list_segmenters(
        settings(tmp_path, sam_checkpoint=tmp_path / "gone.pth", sam_onnx=tmp_path / "pair")
    )
    assert "no encoder in" in next(row.reason for row in own if row.name == "sam-onnx")
    assert {row.name for row in own if row.here} == {"auto", "classical", "shipped"}


@pytest.mark.parametrize("name", ["sam", "sam-onnx", "click-onnx", "hf", "project", "nonsense"])
def test_what_cannot_be_built_says_why(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_segmenter(name, settings(tmp_path))
    assert caught.value.field
    assert caught.value.hint


def test_every_factory_exists() -> None:
    from importlib import import_module

    for entry in SEGMENTERS.values():
        module, _, attribute = entry.factory.partition(":")
        assert callable(getattr(import_module(module), attribute))


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(ModelError, match="unknown device"):
        resolve_device("toaster")
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))
