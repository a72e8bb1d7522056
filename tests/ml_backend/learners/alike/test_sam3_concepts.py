"""SAM 3's concept prompts with a small model of random weights: shapes, and that prompts matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.alike.sam3_concepts import Concept, Sam3Concepts
from ml_backend.masks.rle import decode_rle

pytest.importorskip("transformers")

from tests.ml_backend.learners.cold_start import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.sam3(tmp_path_factory.mktemp("sam3"))


def test_a_name_a_box_or_both_give_masks_of_the_picture(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    model = Sam3Concepts(folder, least_score=0.0)
    box = (10.0, 12.0, 40.0, 36.0)
    asked = [Concept("disc"), Concept("disc", box), Concept("", box), Concept(""), Concept("square")]
    found = model(image, asked)
    assert len(found) == len(asked)
    for rles, scores in found:
        assert len(rles) == len(scores) <= 10
        assert all(decode_rle(rle).shape == (60, 90) and decode_rle(rle).any() for rle in rles)
        assert ((scores >= 0) & (scores <= 1)).all()
    assert not found[3][0]
    named, both, boxed, _, other = (scores for _, scores in found)
    assert len(named)
    for one in (both, boxed, other):
        assert len(one) != len(named) or np.abs(one - named).max() > 1e-6
    again = model(image, [Concept("disc", box)])[0]
    assert again[0] == found[1][0]
    moved = model(image, [Concept("disc", (50.0, 20.0, 85.0, 55.0))])[0]
    assert len(moved[1]) != len(both) or np.abs(moved[1] - both).max() > 1e-6


def test_a_high_bar_lets_nothing_through(folder: Path) -> None:
    image = np.zeros((30, 30, 3), np.uint8)
    ((rles, scores),) = Sam3Concepts(folder, least_score=1.0)(image, [Concept("disc")])
    assert rles == []
    assert scores.shape == (0,)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        Sam3Concepts(tmp_path / "none")
    assert error.value.field == "concepts"
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError) as second:
        Sam3Concepts(tmp_path)
    assert second.value.field == "concepts"
