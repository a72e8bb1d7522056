"""More like this where people draw boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clustering.alike import rank_score
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.learners.alike.looks import Looks
from ml_backend.masks.rle import encode_mask, rle_box
from ml_backend.masks.shapes import box_rle
from sync.alike.ask import Ask
from sync.alike.looks import Looker
from sync.worker.more_like_this import more_like_this
from tests.sync.conftest import HW, LABELS, World

MakeWorld = Callable[..., World]


def test_boxes_are_offered_and_as_many_as_are_told(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves of an object overlap nowhere and have one box: one of them is offered."""
    monkeypatch.setattr("sync.alike.looks._CANDIDATES", 20)
    xml = build_label_config(LABELS, kind="boxes")
    config = parse_label_config(xml)
    world = make_world(4, config=xml)
    regions = [
        Region(f"r{i}", "box", label, box_rle(rle_box(encode_mask(mask)), HW), (0.0, 0.0, 1.0, 1.0))
        for i, (label, mask) in enumerate(world.scenes[0].masks)
    ]
    world.studio.create_annotation(world.tasks[0], to_result(regions, config, HW))
    real = Looker.proposals

    def in_halves(self: Looker, task: int, address: str) -> Looks:
        looks = real(self, task, address)
        if task == world.tasks[0]:
            return looks
        upper = np.add.outer(np.arange(20), np.arange(20)) < 20
        halves = np.zeros((2, *HW), np.bool_)
        halves[0, 10:30, 20:40], halves[1, 10:30, 20:40] = upper, ~upper
        feature = np.repeat(looks.feature[:1], 2, axis=0) + np.array([[0.0], [0.01]], np.float32)
        return Looks(HW, [encode_mask(half) for half in halves], np.array([0.9, 0.8], np.float32), feature)

    monkeypatch.setattr(Looker, "proposals", in_halves)
    found = more_like_this(world.settings, world.store, world.studio, world.project_id, Ask())
    assert set(found.examples) == {label for label, _ in world.scenes[0].masks}
    there = [
        region
        for task in world.tasks[1:]
        for row in world.studio.predictions(task)
        for region in parse_annotation(row.result, config).regions
    ]
    assert len(there) == sum(found.masks.values()) == 3
    for one in found.offers:
        assert rle_box(one.rle) == pytest.approx((20, 10, 40, 30))
        assert one.score == pytest.approx(
            rank_score(np.array([one.similarity]), np.array([one.prior]))[0], abs=1e-3
        )
