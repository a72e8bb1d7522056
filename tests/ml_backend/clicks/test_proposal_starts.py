"""Which proposal a click starts from, and when the answer takes its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.pool_writer import write_pool
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.errors import BadPrompt
from ml_backend.kinds.base import Kind
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.services import PoolProposals, Pools
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.click_helpers import (
    Build,
    OneProposal,
    TellTale,
    click,
    disc,
    facts,
    mask_of,
    rectangle,
    save_picture,
    task,
)


def test_a_click_on_a_proposal_starts_from_it(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    proposal = disc((60, 80), 30, 30, 15)
    service = build(segmenter, proposals=OneProposal([proposal]))
    image = save_picture(tmp_path / "a.png", 3)
    service.predict(task(7, image), {"result": [click(37.5, 50)]}, facts())
    start_mask = segmenter.start_masks[-1]
    assert start_mask is not None
    assert start_mask.from_proposal
    np.testing.assert_array_equal(start_mask.mask, proposal)
    service.predict(task(7, image), {"result": [click(80, 50)]}, facts())
    assert segmenter.start_masks[-1] is None  # off the proposal
    service.predict(task(7, image), {"result": [click(37.5, 50, label="Dog")]}, facts())
    assert segmenter.start_masks[-1] is None  # another label
    service.predict(task(8, image), {"result": [click(37.5, 50)]}, facts())
    assert segmenter.start_masks[-1] is None  # another task


def test_one_mask_per_label_is_corrected_as_a_whole(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    proposal = disc((60, 80), 20, 30, 9) | disc((60, 80), 60, 30, 9)
    service = build(segmenter, proposals=OneProposal([proposal], whole=frozenset({"Cat"})))
    image = save_picture(tmp_path / "a.png", 3)
    for context in (
        [click(25, 50)],  # on one part
        [click(50, 50)],  # between the parts: something is missed there
        [click(95, 95)],  # far off
        [click(75, 50, positive=False)],  # a part that is wrong
    ):
        service.predict(task(7, image), {"result": context}, facts())
        start_mask = segmenter.start_masks[-1]
        assert start_mask is not None
        np.testing.assert_array_equal(start_mask.mask, proposal)
    reply = service.predict(task(7, image), {"result": [click(50, 50)]}, facts())
    assert (mask_of(reply) & proposal).sum() == proposal.sum()  # nothing of it is lost
    service.predict(task(7, image), {"result": [click(50, 50, label="Dog")]}, facts())
    assert segmenter.start_masks[-1] is None
    poor = build(segmenter, proposals=OneProposal([proposal], score=0.5, whole=frozenset({"Cat"})))
    poor.predict(task(7, image), {"result": [click(25, 50)]}, facts())
    assert segmenter.start_masks[-1] is None


@pytest.mark.parametrize(
    ("kind", "whole"), [("segmentation", True), ("components", False), ("instances", False)]
)
def test_the_kind_says_whether_a_label_has_one_mask(
    settings: BackendSettings, tmp_path: Path, kind: Kind, whole: bool
) -> None:
    found = OneProposal([disc((60, 80), 30, 30, 15)]).found.instances
    folder = settings.data_dir / "projects/1/pools/v1"
    write_pool(folder, ("Cat", "Dog"), [(7, found, {"hw": (60, 80)})], embedding_dim=0)
    config = build_label_config(("Cat", "Dog"), kind=kind)
    got = PoolProposals(Pools(settings.data_dir)).proposals(facts(1, config, model_version="v1"), 7)
    assert got is not None
    assert got.whole == (frozenset({"Cat", "Dog"}) if whole else frozenset())


def test_bad_proposals_are_not_started_from(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter, proposals=OneProposal([disc((60, 80), 30, 30, 15)], score=0.5))
    image = save_picture(tmp_path / "a.png", 3)
    service.predict(task(7, image), {"result": [click(37.5, 50)]}, facts())
    assert segmenter.start_masks[-1] is None


def test_a_proposal_from_an_image_of_another_size_is_not_started_from(build: Build, tmp_path: Path) -> None:
    segmenter = TellTale()
    service = build(segmenter, proposals=OneProposal([np.ones((60, 80), bool)]))
    for hw in ((30, 40), (120, 160)):
        image = save_picture(tmp_path / f"{hw[0]}.png", 3, hw)
        for context in ([click(37.5, 50)], [click(99, 99)], [rectangle(0, 0, 100, 100)]):
            assert service.predict(task(7, image), {"result": context}, facts())["result"]
            assert segmenter.start_masks[-1] is None


def test_proposals_come_from_the_pool_of_the_shown_version(settings: BackendSettings, tmp_path: Path) -> None:
    mask = disc((60, 80), 30, 30, 15)
    found = OneProposal([mask]).found.instances
    write_pool(
        settings.data_dir / "projects/1/pools/v1",
        ("Cat", "Dog"),
        [(7, found, {"hw": (60, 80)})],
        embedding_dim=0,
    )
    source = PoolProposals(Pools(settings.data_dir))
    assert source.proposals(facts(), 7) is None
    got = source.proposals(facts(model_version="v1"), 7)
    assert got is not None
    assert got.instances.rle == found.rle
    assert source.proposals(facts(model_version="v1"), 8) is None


class OnlyClicks(TellTale):
    """Keeps nothing of what it starts from."""

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        return super().segment(embedding, prompt, None)


def test_a_correction_takes_the_place_of_the_proposal_it_started_from(build: Build, tmp_path: Path) -> None:
    """The editor replaces a region by an accepted suggestion of the same id; see docs/annotators.md."""
    source = OneProposal([disc((60, 80), 30, 30, 15)])
    source.found = replace(source.found, region_ids=("shown",))
    image = save_picture(tmp_path / "a.png", 14)  # drawn around the last click with this radius

    def answer(*points: dict[str, Any]) -> dict[str, Any]:
        (item,) = build(OnlyClicks(), proposals=source).predict(
            task(7, image), {"result": list(points)}, facts()
        )["result"]
        return item  # type: ignore[no-any-return]

    on = answer(click(37.5, 50))
    assert on["id"] == "shown"
    assert on["meta"] == {"groundswell": {"started_from": "shown"}}
    beside = answer(click(95, 50))
    assert beside["id"] != "shown"
    assert "meta" not in beside
    # of two objects under one proposal, the one with the smaller share does not take the other's place
    source.found = replace(source.found, instances=OneProposal([np.ones((60, 80), bool)]).found.instances)
    part = answer(click(37.5, 50))
    assert part["id"] != "shown"
    assert part["meta"] == {"groundswell": {"started_from": "shown"}}


def test_a_click_without_a_label_is_about_the_proposal_under_it(build: Build, tmp_path: Path) -> None:
    config = build_label_config(("Cat", "Dog"), one_row=True)
    image = save_picture(tmp_path / "a.png", 9)
    unsaid = {**click(37.5, 50), "type": "keypoint", "value": {"x": 37.5, "y": 50.0, "labels": []}}
    service = build(TellTale(), proposals=OneProposal([disc((60, 80), 30, 30, 15)]))
    shape, label = service.predict(task(7, image), {"result": [unsaid]}, facts(1, config))["result"]
    assert (shape["type"], label["type"], label["value"]["labels"]) == ("brush", "labels", ["Cat"])
    assert shape["id"] == label["id"]
    with pytest.raises(BadPrompt, match="no label is chosen"):
        service.predict(task(8, image), {"result": [unsaid]}, facts(1, config))
    alone = replace(facts(1, build_label_config(("Cat",), one_row=True)), labels=("Cat",))
    _, label = service.predict(task(8, image), {"result": [unsaid]}, alone)["result"]
    assert label["value"]["labels"] == ["Cat"]


class Grows(TellTale):
    """Adds a square of 21 pixels to what it starts from, ``shift`` pixels to the right of the last click."""

    shift = 0

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        super().segment(embedding, prompt, start_mask)
        mask = np.zeros(embedding.hw, bool) if start_mask is None else start_mask.mask.copy()
        x, y, _ = prompt.points[-1]
        at = [slice(max(0, int(v) - 10), int(v) + 11) for v in (y, x + self.shift)]
        mask[at[0], at[1]] = True
        return ClickResult(mask[None], np.array([0.75], np.float32), None)


def test_a_click_just_beside_a_proposal_extends_it(build: Build, tmp_path: Path) -> None:
    """The first positive click within a fifth of the proposal's size; the nearest proposal of the label."""
    segmenter = Grows()
    near, far = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    near[20:41, 5:26], far[20:41, 45:66] = True, True  # 21 pixels on a side
    service = build(segmenter, proposals=OneProposal([far, near]))
    image = save_picture(tmp_path / "a.png", 3)

    def start(*points: dict[str, Any]) -> Any:
        service.predict(task(7, image), {"result": list(points)}, facts())
        found = segmenter.start_masks[-1]
        return None if found is None or not found.from_proposal else found.mask

    def at(x: float, **fields: Any) -> dict[str, Any]:
        return click((x + 0.5) / 80 * 100, 50, **fields)

    np.testing.assert_array_equal(start(at(28)), near)  # 3 px beside it
    np.testing.assert_array_equal(start(at(42)), far)
    assert start(at(32)) is None  # 7 px
    assert start(at(28, label="Dog")) is None
    assert start(at(28, positive=False)) is None
    segmenter.shift = 20
    service = build(segmenter, proposals=OneProposal([far, near]))
    assert start(at(28)) is None  # the mask would be of two objects
    later = service.predict(task(7, image), {"result": [at(28), at(29)]}, facts())
    assert not mask_of(later)[30, 10]  # further clicks do not start there either
