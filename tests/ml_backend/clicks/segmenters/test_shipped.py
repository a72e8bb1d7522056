"""The click network of the package: its files, clicks honoured, fewer clicks than `classical`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("onnxruntime", reason="extra 'onnx' is not installed")

from bench.click_network.judge import generated_targets
from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.evaluation.simulated_clicks import compare, evaluate_clicks
from ml_backend.clicks.project_network.click_net import ProjectSegmenter, load_network
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.shipped import SHIPPED_NETWORK, ShippedSegmenter
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.clicks.serving.mask_chain import MaskChains
from ml_backend.clicks.serving.segmenter_list import list_segmenters
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.clicks.training.options import ClickOptions
from ml_backend.clicks.training.trainer import _initial
from ml_backend.images.decode import read_image
from ml_backend.settings import BackendSettings


@pytest.fixture(scope="module")
def shipped() -> ShippedSegmenter:
    return ShippedSegmenter(threads=1)


@pytest.fixture(scope="module")
def picture() -> npt.NDArray[np.uint8]:
    """Noise with three bright discs."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:120, :160]
    image = rng.normal(70, 12, (120, 160, 3))
    for x, y in ((40, 40), (110, 60), (60, 95)):
        image[(xs - x) ** 2 + (ys - y) ** 2 < 18**2] += (70, 50, 10)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_it_is_ready_without_any_setting_and_small(tmp_path: Path) -> None:
    settings = BackendSettings(data_dir=tmp_path)
    assert next(row for row in list_segmenters(settings) if row.name == "shipped").here
    built = build_segmenter("shipped", settings)
    assert built.encoder.startswith("shipped-")
    assert 0 < built.nbytes < 8e6
    assert sum(file.stat().st_size for file in SHIPPED_NETWORK.iterdir()) < 8e6


def test_the_file_for_torch_gives_the_same_masks(
    shipped: ShippedSegmenter, picture: npt.NDArray[np.uint8]
) -> None:
    torch.set_num_threads(1)
    network, manifest = load_network(SHIPPED_NETWORK)
    assert (manifest.size, manifest.first_side) == (shipped.size, shipped.first_side)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    theirs = ProjectSegmenter(SHIPPED_NETWORK)
    for prompt in (Prompt(((40.0, 40.0, True),), None, ""), Prompt((), (90.0, 40.0, 130.0, 80.0), "")):
        one = shipped.segment(shipped.embed(picture), prompt, None)
        two = theirs.segment(theirs.embed(picture), prompt, None)
        assert (one.masks != two.masks).mean() < 1e-3  # a logit near 0 may fall either way


def test_every_click_is_honoured(shipped: ShippedSegmenter, picture: npt.NDArray[np.uint8]) -> None:
    rng, embedding = np.random.default_rng(1), shipped.embed(picture)
    for _ in range(6):
        points: tuple[tuple[float, float, bool], ...] = ()
        start: StartMask | None = None
        for _ in range(4):
            x, y = int(rng.integers(160)), int(rng.integers(120))
            points = (*points, (float(x), float(y), bool(not points or rng.random() < 0.5)))
            mask = shipped.segment(embedding, Prompt(points, None, ""), start).masks[0]
            assert all(mask[int(v), int(u)] == positive for u, v, positive in points)
            start = StartMask(mask, None, box_of_mask(mask), False)


def test_a_start_without_clicks_comes_back_and_a_negative_click_takes_away(
    shipped: ShippedSegmenter, picture: npt.NDArray[np.uint8]
) -> None:
    mask = np.zeros((120, 160), bool)
    mask[22:59, 22:100] = True
    start = StartMask(mask, None, box_of_mask(mask), True)
    embedding = shipped.embed(picture)
    assert (shipped.segment(embedding, Prompt((), None, ""), start).masks[0] == mask).all()
    less = shipped.segment(embedding, Prompt(((80.0, 40.0, False),), None, ""), start).masks[0]
    assert not less[40, 80]
    assert less[40, 40]
    assert less.sum() < mask.sum()


def test_what_it_saw_in_other_windows_can_be_had(
    shipped: ShippedSegmenter, picture: npt.NDArray[np.uint8]
) -> None:
    embedding = shipped.embed(picture)
    click = Prompt(((float(picture.shape[1] // 2), float(picture.shape[0] // 2), True),), None, "x")
    best, every = shipped.segment(embedding, click, None), shipped.segment_all(embedding, click)
    np.testing.assert_array_equal(every.masks[0], best.masks[0])
    assert every.iou[0] == best.iou[0]
    assert 1 < len(every.masks) <= 4
    assert len(every.iou) == len(every.masks)
    assert every.masks[:, picture.shape[0] // 2, picture.shape[1] // 2].all()
    classical = ClassicalSegmenter()
    theirs = classical.segment(classical.embed(picture), click, None).masks[0]
    assert any((mask == theirs).all() for mask in every.masks), "its answer is one of them"


def test_kept_masks_equal_those_made_anew(shipped: ShippedSegmenter, picture: npt.NDArray[np.uint8]) -> None:
    points = ((40.0, 40.0, True), (60.0, 40.0, False), (32.0, 50.0, True))
    chains, answers = MaskChains(), []
    for count in (1, 2, 3):
        prompt = Prompt(points[:count], None, "")
        answers.append(chains.mask("sha", shipped, prompt, None, lambda: shipped.embed(picture)).rle)
    for count in (3, 2, 1):
        prompt = Prompt(points[:count], None, "")
        kept = chains.mask("sha", shipped, prompt, None, lambda: pytest.fail("embedded again"))
        anew = MaskChains().mask(
            "sha", ShippedSegmenter(threads=1), prompt, None, lambda: shipped.embed(picture)
        )
        assert kept.rle == anew.rle == answers[count - 1]


@pytest.mark.slow
def test_fewer_clicks_than_classical_on_scenes_it_never_saw(
    shipped: ShippedSegmenter, tmp_path: Path
) -> None:
    targets = generated_targets(20, 4_000_000, tmp_path)
    ours, theirs = (
        evaluate_clicks(segmenter, targets, read_image, max_clicks=8, stop_iou=0.85)[0]["empty"]
        for segmenter in (shipped, ClassicalSegmenter())
    )
    paired = compare(theirs, ours, target_iou=0.85, max_clicks=8)
    assert paired.difference.value < 0, paired
    assert paired.fewer > paired.more


def test_a_projects_network_can_start_from_it() -> None:
    options = ClickOptions(first_weights="shipped")
    network, continued = _initial(options, None)
    ours, _ = load_network(SHIPPED_NETWORK)
    assert not continued  # all steps are done, as from random weights
    assert torch.equal(network.head.weight, ours.head.weight)
    torch.manual_seed(0)
    for other in (ClickOptions(first_weights="random"), ClickOptions(first_weights="shipped", width=8)):
        assert not torch.equal(_initial(other, None)[0].head.weight, ours.head.weight)
    assert _initial(options, SHIPPED_NETWORK)[1]
