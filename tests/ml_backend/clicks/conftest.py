"""A click service whose masks give away which image they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_backend.clicks.serving.service import ClickService
from ml_backend.images.store import ImageStore
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.click_helpers import (
    Build,
    FixedPool,
    TellTale,
)


@pytest.fixture
def settings(tmp_path: Path) -> BackendSettings:
    return BackendSettings(
        data_dir=tmp_path / "data", allow_image_dirs=str(tmp_path), device="cpu", open_backend=True
    )


@pytest.fixture
def build(settings: BackendSettings) -> Build:
    def make(segmenter: Any = None, **options: Any) -> ClickService:
        return ClickService(
            settings,
            ImageStore(settings),
            segmenters=FixedPool(settings, segmenter or TellTale()),
            **options,
        )

    return make
