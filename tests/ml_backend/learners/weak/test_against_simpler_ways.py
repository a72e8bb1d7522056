"""Complete-instance mining against simpler uses of the same proposals: it must pay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from bench.weak import ways
from ml_backend.learners.evaluation import evaluate
from ml_backend.learners.weak.dataset import make_bags
from ml_backend.learners.weak.settings import CimSettings
from ml_backend.learners.weak.training import train_heads

from .coloured import LABELS, draw

SETTINGS = CimSettings(iterations=80, batch=4, most=60)


def silent(share: float, line: str) -> None:
    """Progress that nobody reads."""


def test_mined_instances_are_better_than_those_of_tags_without_integrity(tmp_path: Path) -> None:
    test = draw(tmp_path / "images", 5, seed=1, keep_masks=True)
    blind = [dataclasses.replace(example, label=(), rle=()) for example in test]
    _, bags, _ = make_bags(draw(tmp_path / "images", 9), 2, SETTINGS, seed=0, progress=silent)
    _, pool, _ = make_bags(blind, 2, SETTINGS, seed=0, progress=silent)
    heads = {
        way: train_heads(
            bags,
            len(LABELS),
            dataclasses.replace(SETTINGS, integrity=way),
            seed=0,
            device=torch.device("cpu"),
            progress=silent,
        )[0]
        for way in ("on", "off")
    }
    found = [ways(bag, heads["on"], heads["off"], SETTINGS) for bag in pool]
    quality = {
        way: evaluate([each[way] for each in found], test, LABELS, resamples=2).metrics["AP50"][0]
        for way in found[0]
    }
    mined = quality.pop("mined")
    assert mined > 0.6, quality
    assert mined > quality["no_integrity"] + 0.1, quality
    assert mined > quality["best_of_tag"] + 0.1, quality
    assert mined > quality["above_score"] - 0.1, (
        quality
    )  # no two objects touch here: all that scores is whole
