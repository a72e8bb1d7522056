"""The project's click network: windows, clicks honoured, start masks kept, training that learns, job that
publishes.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from pycocotools import mask as coco_mask

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.simulated_clicks import mask_iou
from ml_backend.clicks.project_network.click_net import (
    ClickNet,
    NetworkManifest,
    ProjectSegmenter,
    load_network,
    save_network,
)
from ml_backend.clicks.project_network.versions import is_outdated, is_usable
from ml_backend.clicks.segmenters.honour_clicks import honour_clicks
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT, N_INPUT_MAPS
from ml_backend.clicks.segmenters.windows import (
    Window,
    click_maps,
    click_points,
    crop_image,
    crop_mask,
    fit_window,
)
from ml_backend.clicks.segmenters.zoom import ZoomSegmenter
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.clicks.training.job import job_spec, publish_click_model, run_click_job
from ml_backend.clicks.training.options import ClickOptions
from ml_backend.clicks.training.trainer import train_click_model, train_network
from ml_backend.clicks.training.window_samples import Sampler, degraded_mask, next_click
from ml_backend.errors import BadInput, BadPrompt, ModelError
from ml_backend.examples import Example
from ml_backend.instances import Rle

Mask = npt.NDArray[np.bool_]
TINY = ClickOptions(size=48, small_size=32, width=8, iterations=60, threads=1, eval_limit=8, max_clicks=5)


def rle_of(mask: Mask) -> Rle:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def disc(hw: tuple[int, int], x: float, y: float, radius: float) -> Mask:
    ys, xs = np.mgrid[: hw[0], : hw[1]]
    return np.asarray((xs - x) ** 2 + (ys - y) ** 2 <= radius**2)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Bright discs on a dark noisy ground, 6 images of 96×128 with 4 discs each."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        image = rng.normal(60, 15, (96, 128, 3))
        masks = []
        for x, y in ((24, 24), (96, 28), (30, 70), (94, 68)):
            mask = disc((96, 128), x + rng.uniform(-6, 6), y + rng.uniform(-4, 4), rng.uniform(8, 14))
            image[mask] += (90, 70, 20)
            masks.append(mask)
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8)[:, :, ::-1])
        made.append(Example(i, path, (0,) * 4, tuple(rle_of(m) for m in masks)))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network on disk."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network")
    save_network(path, ClickNet(8), NetworkManifest(size=48, width=8, first_side=40.0))
    return path


class Fixed(ZoomSegmenter):
    """A 'network' that knows the truth at picture size; remembers the windows it was shown."""

    name = encoder = "fixed"
    size, first_side = 64, 60.0

    def __init__(self, truth: Mask) -> None:
        self.truth = truth
        self.windows: list[Window] = []

    def _look(
        self, image: object, prompt: Prompt, start_mask: StartMask | None, window: Window
    ) -> npt.NDArray[np.float32]:
        self.windows.append(window)
        return np.where(crop_mask(self.truth, window, self.size), 5.0, -5.0).astype(np.float32)

    def _logits(self, *_: object) -> npt.NDArray[np.float32]:
        raise AssertionError("not reached")


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "side", "expected"),
    [
        ((50, 40, 60, 50), 40, Window(35, 25, 40)),
        ((0, 0, 10, 10), 40, Window(0, 0, 40)),  # moved into the picture
        ((190, 90, 200, 100), 40, Window(160, 60, 40)),
        ((95, 45, 105, 55), 150, Window(25, -25, 150)),  # higher than the picture: centred on it
        ((95, 45, 105, 55), 900, Window(0, -50, 200)),  # never wider than the long side
    ],
)
def test_windows(box: tuple[float, float, float, float], side: float, expected: Window) -> None:
    assert fit_window(box, side, (100, 200)) == expected


def test_crops_beyond_the_border_are_black_and_empty() -> None:
    image, mask = np.full((10, 30, 3), 200, np.uint8), np.ones((10, 30), bool)
    window = Window(5, -5, 20)
    assert crop_image(image, window, 20)[:5].max() == 0
    assert crop_image(image, window, 20)[5:15].min() == 200
    assert crop_mask(mask, window, 20).sum() == 200
    assert crop_mask(mask, window, 40).sum() == 800


def test_click_lands_where_the_pixel_is() -> None:
    prompt = Prompt(((12.0, 7.0, True), (20.0, 7.0, False), (90.0, 90.0, True)), (10, 5, 14, 9), "")
    window = Window(10, 5, 16)
    points = click_points(prompt, window, 64)
    assert points.tolist() == [
        [10, 10, 1],
        [42, 10, 0],
    ]  # pixel 2 of 16 covers 8..11 of 64
    maps = click_maps(points, prompt.box, window, 64)
    assert maps.shape == (3, 64, 64)
    assert maps[0, 10, 10] == maps[1, 10, 42] == 1
    assert maps[0].sum() == maps[1].sum() > 60
    assert maps[2, :16, :16].all()
    assert maps[2].sum() == 256


def test_window_is_refitted_to_what_was_found() -> None:
    small = Fixed(disc((200, 300), 150, 100, 7))
    result = small.segment(small.embed(np.zeros((200, 300, 3), np.uint8)), click((150, 100)), None)
    assert small.windows[0].side == 60
    assert small.windows[-1].side == 32  # not below min_side
    large = Fixed(disc((200, 300), 150, 100, 60))
    result = large.segment(large.embed(np.zeros((200, 300, 3), np.uint8)), click((150, 100)), None)
    assert [w.side for w in large.windows] == [60, 96, 154]
    assert mask_iou(result.masks[0], large.truth) > 0.95
    assert result.masks.shape == (1, 200, 300)
    assert result.iou[0] > 0.95


class Blurred(Fixed):
    """Knows the truth, but only to a sixteenth of the window: a closer look knows more."""

    def _look(
        self, image: object, prompt: Prompt, start_mask: StartMask | None, window: Window
    ) -> npt.NDArray[np.float32]:
        self.windows.append(window)
        coarse = crop_mask(self.truth, window, 16).astype(np.float32)
        fine = cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_NEAREST)
        return np.asarray(fine * 10 - 5, np.float32)


def test_a_small_correction_of_a_large_object_is_looked_at_closely() -> None:
    body = disc((400, 400), 190, 200, 120)
    truth = body | disc((400, 400), 350, 200, 14)
    segmenter = Blurred(truth)
    embedding = segmenter.embed(np.zeros((400, 400, 3), np.uint8))
    result = segmenter.segment(
        embedding, click((200, 200), (350, 200)), StartMask(body, None, box_of_mask(body), False)
    )
    closest = min(segmenter.windows, key=lambda w: w.side)
    assert closest.side < 0.5 * max(w.side for w in segmenter.windows)
    assert closest.x0 < 350 < closest.x0 + closest.side
    bump = (slice(180, 221), slice(330, 371))
    coarse = Blurred(truth)
    coarse._sharpen = lambda *a: a[4]  # type: ignore[method-assign]
    blurred = coarse.segment(
        embedding, click((200, 200), (350, 200)), StartMask(body, None, box_of_mask(body), False)
    )
    near, far = (mask_iou(r.masks[0][bump], truth[bump]) for r in (result, blurred))
    assert near > far + 0.1
    # a click on what is right already asks for nothing
    segmenter.windows.clear()
    segmenter.segment(embedding, click((200, 200)), StartMask(truth, None, box_of_mask(truth), False))
    assert len({w.side for w in segmenter.windows}) == 1


def click(*points: tuple[float, float], negative: tuple[tuple[float, float], ...] = ()) -> Prompt:
    rows = [(float(x), float(y), True) for x, y in points] + [
        (float(x), float(y), False) for x, y in negative
    ]
    return Prompt(tuple(rows), None, "")


# -- clicks are honoured ---------------------------------------------------------------------------


def test_no_click_is_contradicted() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        logits = cv2.GaussianBlur(rng.normal(0, 3, (60, 80)).astype(np.float32), (0, 0), 4) * 5
        spots = rng.permutation(60 * 80)[:8]
        points = tuple((float(s % 80), float(s // 80), bool(rng.integers(2))) for s in spots)
        mask = honour_clicks(logits, Prompt(points, None, ""), None)
        assert all(mask[int(y), int(x)] == positive for x, y, positive in points)


def test_parts_without_a_click_go_unless_started_from() -> None:
    clicked, other = disc((60, 80), 20, 30, 8), disc((60, 80), 60, 30, 8)
    logits = np.where(clicked | other, 4.0, -4.0).astype(np.float32)
    assert (honour_clicks(logits, click((20, 30)), None) == clicked).all()
    assert (honour_clicks(logits, click((20, 30)), clicked | other) == clicked | other).all()
    box_only = Prompt((), (0, 0, 80, 60), "")
    assert (honour_clicks(logits, box_only, None) == clicked | other).all()


# -- the segmenter ---------------------------------------------------------------------------------


def ask(
    segmenter: ProjectSegmenter, image: npt.NDArray[np.uint8], prompt: Prompt, start_mask: StartMask | None
) -> ClickResult:
    return segmenter.segment(segmenter.embed(image), prompt, start_mask)


@pytest.mark.parametrize("hw", [(90, 160), (160, 90), (7, 5), (1, 1), (48, 48)])
def test_any_size_of_picture(folder: Path, hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*hw, 3), dtype=np.uint8)
    segmenter = ProjectSegmenter(folder)
    at = (hw[1] // 2, hw[0] // 2)
    for prompt in (click(at), click(at, negative=((0, 0),)), Prompt((), (0, 0, hw[1], hw[0]), "")):
        result = ask(segmenter, image, prompt, None)
        assert result.masks.shape == (1, *hw)
        assert result.masks.dtype == bool
        assert 0 <= result.iou[0] <= 1
    assert ask(segmenter, image, click(negative=(at,)), None).masks[0][at[1], at[0]] == np.False_


def test_without_a_prompt_the_start_mask_comes_back_untouched(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    mask = disc((60, 80), 30, 30, 11)
    result = ask(
        ProjectSegmenter(folder), image, Prompt((), None, ""), StartMask(mask, None, box_of_mask(mask), True)
    )
    assert (result.masks[0] == mask).all()
    empty = StartMask(np.zeros((60, 80), bool), None, (0, 0, 0, 0), True)
    for start_mask in (None, empty):
        with pytest.raises(BadPrompt, match="click, a box or a mask"):
            ask(ProjectSegmenter(folder), image, Prompt((), None, ""), start_mask)


def test_same_question_same_answer_from_many_threads(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40 + 9 * i, 70, 3), dtype=np.uint8) for i in range(4)]
    segmenter = ProjectSegmenter(folder)
    alone = [ask(ProjectSegmenter(folder), image, click((30, 20)), None).masks for image in images]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            if not np.array_equal(ask(segmenter, images[i], click((30, 20)), None).masks, alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i % 4,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_encoder_names_the_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_network(tmp_path, ClickNet(8), NetworkManifest(size=48, width=8, first_side=40.0))
    assert ProjectSegmenter(folder).encoder == ProjectSegmenter(folder).encoder
    assert ProjectSegmenter(folder).encoder != ProjectSegmenter(tmp_path).encoder


def test_missing_and_corrupt_weights(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no click network"):
        ProjectSegmenter(tmp_path)
    (tmp_path / "click.json").write_bytes((folder / "click.json").read_bytes())
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:500])
    with pytest.raises(ModelError, match="no usable click network"):
        load_network(tmp_path)
    save_network(tmp_path, ClickNet(16), NetworkManifest(size=48, width=8, first_side=40.0))
    with pytest.raises(ModelError, match="size mismatch"):
        load_network(tmp_path)


def test_a_version_of_an_earlier_release_says_so(folder: Path, tmp_path: Path) -> None:
    old = NetworkManifest(size=48, width=8, first_side=40.0, format=CLICK_FORMAT - 1)
    save_network(tmp_path, ClickNet(8), old)
    for load in (ProjectSegmenter, load_network):
        with pytest.raises(ModelError, match=f"has format {CLICK_FORMAT - 1}") as caught:
            load(tmp_path)
        assert "The worker trains a new one" in caught.value.hint
    assert is_usable(folder)
    assert not is_usable(tmp_path)
    assert not is_usable(tmp_path / "nowhere")
    assert [is_outdated(f) for f in (folder, tmp_path, tmp_path / "nowhere")] == [False, True, False]


# -- training --------------------------------------------------------------------------------------


def test_samples_start_right(examples: list[Example]) -> None:
    sampler = Sampler(examples, size=48, seed=0)
    assert 32 <= sampler.first_side <= 45
    kinds = {"click": 0, "box": 0, "mask": 0}
    for sample in sampler.draw(120):
        assert sample.image.shape == (48, 48, 3)
        assert sample.target.sum() >= 4
        for x, y in sample.points:
            sign = 0 if sample.clicks[0, y, x] else 1
            assert sample.clicks[sign, y, x] == 1
        kinds["box"] += bool(sample.clicks[2].any())
        kinds["mask"] += bool(sample.previous.any())
        kinds["click"] += bool(sample.clicks[0].any() and not sample.previous.any())
        assert sample.input_maps().shape == (N_INPUT_MAPS, 48, 48)
    assert min(kinds.values()) >= 3
    assert kinds["click"] > 60


def test_large_objects_are_also_corrected_in_close_looks(tmp_path: Path) -> None:
    mask = disc((200, 200), 100, 100, 60)
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.where(mask[..., None], 200, 50).astype(np.uint8).repeat(3, 2))
    sampler = Sampler([Example(1, path, (0,), (rle_of(mask),))], size=48, seed=0)
    cut = 0
    for sample in sampler.draw(80):
        if not sample.previous.any():
            continue
        ((x, y),) = sample.points
        assert sample.previous[y, x] != sample.target[y, x]
        # seen closely the object reaches over two borders or more
        edges = (sample.target[0], sample.target[-1], sample.target[:, 0], sample.target[:, -1])
        cut += sum(bool(edge.any()) for edge in edges) >= 2
    assert cut >= 5


def test_sampler_without_masks() -> None:
    with pytest.raises(BadInput, match="no example holds a mask"):
        Sampler([Example(1, Path("x.png"), (), ())], size=48, seed=0)


def test_next_click_is_on_an_error(examples: list[Example]) -> None:
    sampler = Sampler(examples, size=48, seed=1)
    for sample in sampler.draw(30):
        sample.clicks[:] = 0
        sample.points.clear()
        predicted = degraded_mask(sample.target, sampler.rng)
        next_click(sample, predicted, sampler.rng)
        assert (sample.previous == predicted).all()
        if (predicted != sample.target).any():
            (x, y) = sample.points[0]
            assert predicted[y, x] != sample.target[y, x]
            assert bool(sample.clicks[0, y, x]) == bool(sample.target[y, x])
        next_click(sample, sample.target, sampler.rng)
        assert len(sample.points) <= 1


@pytest.mark.slow
def test_training_learns_and_beats_a_blind_segmenter(examples: list[Example], tmp_path: Path) -> None:
    truth_free = Fixed(np.zeros((96, 128), bool))
    truth_free.name = "blind"
    lines: list[tuple[float, str]] = []
    report = train_click_model(
        examples[:3],
        examples[3:],
        tmp_path,
        truth_free,
        lambda done, line: lines.append((done, line)),
        labels=("disc",),
        options=TINY,
    )
    assert report.scores.iou_at[1].value > 0.7
    assert report.paired.difference.high < 0
    assert not report.use
    assert "keep blind (too little to decide: 8 held-out masks on 3 pictures" in report.reason
    assert (report.n_train_images, report.n_train_instances, report.iterations) == (3, 12, 60)
    assert [done for done, _ in lines] == sorted(done for done, _ in lines)
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors", "click.json", "report.json"}


def test_training_is_repeatable_and_obeys_the_clock(examples: list[Example]) -> None:
    # No corrections: they follow the sign of logits, where the last bit can decide.
    few = ClickOptions(size=48, small_size=32, width=8, batch=4, iterations=3, threads=1, max_corrections=0)
    one, two = (train_network(examples, few, lambda *_: None)[0].state_dict() for _ in range(2))
    for name in one:  # not bit for bit: sums may be ordered by where the allocator put an array
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-3)
    late = ClickOptions(size=48, small_size=32, width=8, batch=2, iterations=10**6, seconds=1e-6, threads=1)
    assert train_network(examples, late, lambda *_: None)[2] <= 2


@pytest.mark.slow
def test_job_publishes_by_rename_and_not_twice(examples: list[Example], tmp_path: Path) -> None:
    project = ProjectPaths(tmp_path, 7)
    options = {
        "size": 48,
        "width": 8,
        "batch": 4,
        "iterations": 8,
        "threads": 1,
        "eval_limit": 2,
        "max_clicks": 2,
    }
    spec = job_spec(examples[:4], examples[4:], ["disc"], options=options)
    lines: list[str] = []
    report = publish_click_model(project, "v1", spec, lambda done, line: lines.append(line))
    assert any("measuring classical" in line for line in lines)
    assert report["incumbent"]["segmenter"] == "classical"
    assert not report["use"]  # two held-out images prove nothing
    assert "2 held-out masks on 2 pictures, 30 on 10 are needed" in report["reason"]
    assert report["adoption"]["look"] == 1
    assert "no ranking of candidates yet" in report["ranking"]["reason"]
    assert not (project.clicks / "current").exists()
    assert not (project.clicks / "ranking").exists()
    ProjectSegmenter(project.clicks / "v1")
    lines.clear()
    assert publish_click_model(project, "v1", spec, lambda done, line: lines.append(line)) == report
    assert lines == []
    assert [p.name for p in project.clicks.iterdir() if p.name.startswith(".")] == []


def test_job_says_what_was_wrong(examples: list[Example], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    spec = job_spec(examples[:1], examples[1:2], ["disc"], options={"iteration": 5})
    with pytest.raises(BadInput, match=r"options\.iteration: there is no such option"):
        run_click_job(spec, out, lambda *_: None)
    assert list(tmp_path.glob(".*")) == []


def test_embedding_is_the_picture(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    embedding = ProjectSegmenter(folder).embed(image)
    assert isinstance(embedding, Embedding)
    assert embedding.hw == (30, 40)
    assert embedding.arrays["pixels"] is image


def test_a_report_decides_what_serves(folder: Path, tmp_path: Path) -> None:
    """A finished version is not trained again; what passed its test serves until a newer one does."""
    project = ProjectPaths(tmp_path, 7)
    for version, use, serves in (
        ("v0", False, None),
        ("v1", True, "v1"),
        ("v2", True, "v2"),
        ("v3", False, "v2"),
        ("v2", False, None),  # trained again by another release: no longer better
    ):
        (project.clicks / version).mkdir(parents=True, exist_ok=True)
        write_json(project.clicks / version / "report.json", {"use": use})
        publish_click_model(project, version, {}, lambda *_: pytest.fail("trained again"))
        current = project.clicks / "current"
        assert (current.read_text() if current.exists() else None) == serves


@pytest.mark.parametrize(
    ("beaten", "lost_to", "serves"),
    [
        ("classical", "shipped", None),  # made before the package had a network
        ("classical", "classical", "v1"),
        ("shipped", "shipped", "v1"),
        ("shipped", "classical", "v1"),  # onnxruntime is gone
        ("classical", "hf", "v1"),  # under auto it does not stand against a large model anyway
        ("", "shipped", "v1"),
    ],
)
def test_what_only_beat_classical_ends_when_its_successor_loses_to_the_network_of_the_package(
    tmp_path: Path, beaten: str, lost_to: str, serves: str | None
) -> None:
    project = ProjectPaths(tmp_path, 7)
    for version, use, against in (("v1", True, beaten), ("v2", False, lost_to)):
        report = {"use": use} | ({"incumbent": {"segmenter": against}} if against else {})
        write_json(project.clicks / version / "report.json", report)
        publish_click_model(project, version, {}, lambda *_: pytest.fail("trained again"))
    current = project.clicks / "current"
    assert (current.read_text() if current.exists() else None) == serves


def test_every_version_of_a_project_is_another_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = ProjectPaths(tmp_path, 7)
    asked: list[int] = []

    def trained(spec: dict[str, Any], out: Path, *_: object) -> None:
        asked.append(spec["look"])
        write_json(out / "click.json", {"format": CLICK_FORMAT})
        write_json(out / "report.json", {"use": False, "adoption": {"look": spec["look"]}})

    monkeypatch.setattr("ml_backend.clicks.training.job.run_click_job", trained)
    for version in ("v0", "v1", "v2"):  # reports of an earlier release have no number
        folder = project.clicks / version
        folder.mkdir(parents=True)
        write_json(folder / "report.json", {"use": False})
    for version in ("v3", "v4", "v4"):
        publish_click_model(project, version, {"look": 1}, lambda *_: None)
    assert asked == [4, 5]
    write_json(project.clicks / "v4" / "click.json", {"format": CLICK_FORMAT - 1})
    publish_click_model(project, "v4", {}, lambda *_: None)
    assert asked == [4, 5, 6]  # trained again for this release: looked at again
    shutil.rmtree(project.clicks / "v0")
    publish_click_model(project, "v5", {}, lambda *_: None)
    assert asked[-1] == 7


@pytest.mark.slow
def test_training_goes_on_from_an_earlier_version(examples: list[Example], tmp_path: Path) -> None:
    silent = ClickOptions(size=48, small_size=32, width=8, iterations=120, threads=1)
    network, manifest, _, _ = train_network(examples, silent, lambda *_: None)
    save_network(tmp_path, network, manifest)
    few = ClickOptions(size=48, small_size=32, width=8, iterations=20, threads=1, learning_rate=1e-3)
    on = train_network(examples, few, lambda *_: None, start=tmp_path)[3]
    fresh = train_network(examples, few, lambda *_: None)[3]
    assert on < 0.5 * fresh  # 0.17 to 0.2 on four seeds
