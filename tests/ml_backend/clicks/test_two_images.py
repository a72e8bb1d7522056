"""Clicks in a task with two pictures: each is answered with a mask of the picture that was clicked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.clicks.start_masks import Proposals
from ml_backend.errors import BadPrompt
from ml_backend.instances import Instances
from ml_backend.masks.rle import encode_mask
from tests.ml_backend.clicks.click_helpers import (
    Build,
    click,
    disc,
    facts,
    mask_of,
    save_picture,
    task,
)

TWO_IMAGES = """<View>
<KeyPointLabels name="kp" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<KeyPointLabels name="kp2" toName="second" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Cat"/></BrushLabels>
<BrushLabels name="brush2" toName="second" smart="false"><Label value="Cat"/></BrushLabels>
<Image name="image" value="$image"/><Image name="second" value="$more[0].url"/></View>"""


class EverywhereProposal:
    """One proposal that covers all of the first picture."""

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals:
        rle = encode_mask(np.ones((60, 80), bool))
        box = np.array([[0, 0, 80, 60]], np.float32)
        one = np.ones(1, np.float32)
        found = Instances(np.zeros(1, np.int64), box, [rle], one, one, np.zeros((1, 0), np.float32))
        return Proposals("v1", ("Cat",), found)


def test_a_click_on_the_second_image_gets_a_mask_of_that_image(build: Build, tmp_path: Path) -> None:
    service = build(proposals=EverywhereProposal())
    first = save_picture(tmp_path / "a.png", 5)
    second = save_picture(tmp_path / "b.png", 12, hw=(90, 40))
    data = {"image": str(first), "more": [{"url": str(second)}]}
    shown = facts(config=TWO_IMAGES)
    click_b = click(50, 50) | {"from_name": "kp2", "to_name": "second"}
    for sent in ([click_b], [click(10, 10), click_b]):  # the editor sends unaccepted clicks of both
        reply = service.predict({"id": 7, "data": data}, {"result": sent}, shown)
        (region,) = reply["result"]
        assert (region["from_name"], region["to_name"]) == ("brush2", "second")
        np.testing.assert_array_equal(mask_of(reply, (90, 40)), disc((90, 40), 20, 45, 12))
    on_a = service.predict({"id": 7, "data": data}, {"result": [click(50, 50)]}, shown)
    assert on_a["result"][0]["from_name"] == "brush"
    assert mask_of(on_a).all()  # starts from the proposal, which is of the first picture alone
    assert on_a["result"][0]["id"] != region["id"]


def test_a_click_on_an_image_that_is_gone_is_refused(build: Build, tmp_path: Path) -> None:
    image = save_picture(tmp_path / "a.png", 5)
    with pytest.raises(BadPrompt, match="no Image tag"):
        build().predict(task(7, image), {"result": [click(50, 50) | {"to_name": "old"}]}, facts())
