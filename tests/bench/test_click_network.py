"""Training of a network for all projects: scenes with exact masks, a run that goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from bench.click_network.samples import Bank, MixedSampler, cut_out
from bench.click_network.scenes import Scene, SceneMaker
from bench.click_network.ship import ship
from bench.click_network.train import Plan, train
from ml_backend.clicks.project_network.click_net import NetworkManifest, load_network, save_network
from ml_backend.examples import Example
from ml_backend.instances import Rle

TINY = Plan(
    size=48, small=32, width=8, batch=4, large_batch=2, slots=8, steps=6, last_steps=3, save_every=2,
    large_share=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Three generated scenes as finished tasks on disk."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(7)
    maker = SceneMaker([], [], side=128)
    made = []
    for number in range(3):
        scene = _filled(maker, rng)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), scene.image)
        rles = tuple(_rle(mask) for mask in scene.masks)
        made.append(Example(number, path, (0,) * len(rles), rles))
    return made


def _filled(maker: SceneMaker, rng: np.random.Generator) -> Scene:
    scenes = (maker.make(rng) for _ in range(50))
    return next(scene for scene in scenes if len(scene.masks) >= 2)


def _rle(mask: np.ndarray) -> Rle:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def test_scenes_repeat_and_differ(examples: list[Example]) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    cutouts = cut_out(examples, 4, np.random.default_rng(0))
    assert cutouts
    assert all(c.mask.any() and c.image.shape[:2] == c.mask.shape for c in cutouts)
    maker = SceneMaker([texture], cutouts, side=96)
    one, same, other = (
        [maker.make(rng) for _ in range(8)] for rng in (np.random.default_rng(seed) for seed in (1, 1, 2))
    )
    for a, b, c in zip(one, same, other, strict=True):
        assert a.image.shape == (96, 96, 3)
        assert a.image.dtype == np.uint8
        assert (a.image == b.image).all()
        assert all((x == y).all() for x, y in zip(a.masks, b.masks, strict=True))
        assert (a.image != c.image).any()
        assert all(40 * 0.2 <= mask.sum() <= 0.75 * mask.size for mask in a.masks)
    assert sum(len(scene.masks) for scene in one) >= 8


def test_a_clicked_sample_comes_back_with_one_more_click(examples: list[Example]) -> None:
    sampler = MixedSampler([examples], SceneMaker([], [], side=96), size=32, seed=0, generated=0.5)
    bank = Bank(sampler, size=32, slots=6)
    seen_more = 0
    for _ in range(12):
        samples = bank.take(6)
        assert len({id(sample) for sample in samples}) == 6
        before = {id(sample): len(sample.points) for sample in samples}
        bank.put_back(np.stack([sample.target ^ (np.arange(32) < 6) for sample in samples]))
        seen_more += sum(len(s.points) == before.get(id(s), -9) + 1 for s in samples)
    assert seen_more >= 12
    right = bank.take(6)
    bank.put_back(np.stack([sample.target for sample in right]))  # all right: nothing is left to learn
    assert not {id(s) for s in right} & {id(s) for s in bank.take(6)}


def test_the_same_seed_draws_the_same_samples(examples: list[Example]) -> None:
    drawn = []
    for seed in (3, 3, 4):
        sampler = MixedSampler([examples], SceneMaker([], [], side=96), size=32, seed=seed, generated=0.5)
        drawn.append(sampler.draw(12))
    one, same, other = drawn
    assert all((a.image == b.image).all() and a.points == b.points for a, b in zip(one, same, strict=True))
    assert any((a.image != b.image).any() for a, b in zip(one, other, strict=True))


def test_training_goes_on_where_it_stopped(examples: list[Example], tmp_path: Path) -> None:
    lines: list[str] = []
    maker = SceneMaker([], [], side=96)
    first = train(TINY, [examples], maker, tmp_path / "a.pt", lines.append)
    kept = torch.load(tmp_path / "a.pt", weights_only=True)
    assert (kept["step"], len(lines)) == (9, 5)
    lines.clear()
    longer = replace(TINY, last_steps=5)
    second = train(longer, [examples], maker, tmp_path / "a.pt", lines.append)
    assert lines[0] == "going on from step 9"
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 11
    far = [float((a.float() - b.float()).abs().max()) for a, b in zip(
        first.state_dict().values(), second.state_dict().values(), strict=True
    )]  # fmt: skip
    assert max(far) > 0
    assert first.head.weight.allclose(second.head.weight, atol=0.05)  # two steps, not a new start


def test_both_files_of_a_shipped_network_hold_the_same_weights(
    examples: list[Example], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="extra 'onnx' is not installed")
    from ml_backend.clicks.segmenters.click_onnx import ClickOnnxSegmenter

    network = train(TINY, [examples], SceneMaker([], [], side=96), tmp_path / "c.pt", lambda line: None)
    (tmp_path / "out").mkdir()
    save_network(tmp_path / "out", network, NetworkManifest(size=48, width=8, first_side=60.0))
    ship(tmp_path / "out", tmp_path / "shipped")
    loaded, manifest = load_network(tmp_path / "shipped")
    exported = ClickOnnxSegmenter(tmp_path / "shipped" / "network.onnx", threads=1)
    assert (manifest.size, manifest.first_side) == (exported.size, exported.first_side) == (48, 60.0)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
    maps = np.zeros((3, 48, 48), np.float32)
    maps[0, 20:26, 20:26] = 1
    previous = (rng.random((48, 48)) > 0.5).astype(np.float32)
    from ml_backend.clicks.segmenters.input_maps import compute_input_maps

    points = np.array([[23, 23, 1]], np.float32)
    given = compute_input_maps(image, maps, previous > 0, points)
    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        ours = loaded(
            pixels, torch.from_numpy(maps)[None], torch.from_numpy(previous)[None, None],
            torch.from_numpy(given)[None],
        )  # fmt: skip
    np.testing.assert_allclose(exported._logits(image, maps, previous, points), ours[0, 0].numpy(), atol=1e-3)
