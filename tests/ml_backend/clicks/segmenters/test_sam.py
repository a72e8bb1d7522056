"""Our SAM against segment-anything's own predictor with the same random weights: equal to the pixel."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.segmenters.sam import SamSegmenter, from_settings
from ml_backend.clicks.segmenters.sam_weights import load_sam
from ml_backend.clicks.start_masks import mask_logits, start_mask_from
from ml_backend.device_fallback import DeviceChange, DeviceFallback
from ml_backend.errors import BadPrompt, ModelError
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.sam_models import picture, small_sam

SIZES = [(96, 128), (150, 70), (33, 200), (7, 5), (300, 300)]


@pytest.fixture(scope="module")
def sam() -> Any:
    torch.set_num_threads(1)
    return small_sam()


@pytest.mark.parametrize("hw", SIZES)
def test_clicks_with_logits_fed_back_equal_the_predictor(sam: Any, hw: tuple[int, int]) -> None:
    image = picture(hw)
    ours = SamSegmenter(sam, "0" * 64)
    theirs = SamPredictor(sam)
    theirs.set_image(image)
    embedding = ours.embed(image)
    np.testing.assert_array_equal(embedding.arrays["features"], theirs.features.numpy())
    rng = np.random.default_rng(1)
    clicks = [(x * hw[1], y * hw[0], i % 2 == 0) for i, (x, y) in enumerate(rng.random((5, 2)).tolist())]
    start_mask: StartMask | None = None
    fed = None
    for count in range(1, 6):
        points = clicks[:count]
        masks, iou, logits = theirs.predict(
            np.array([p[:2] for p in points]),
            np.array([int(p[2]) for p in points]),
            mask_input=fed,
            multimask_output=count == 1,
        )
        best = int(iou.argmax())
        result = ours.segment(embedding, Prompt(tuple(points), None, "x"), start_mask)
        np.testing.assert_array_equal(result.masks[0], masks[best])
        assert result.logits is not None
        np.testing.assert_array_equal(result.logits[0], logits[best])
        assert result.iou[0] == pytest.approx(float(np.clip(iou[best], 0, 1)))
        if count == 1:
            every = ours.segment_all(embedding, Prompt(tuple(points), None, "x"))
            order = np.argsort(-iou, kind="stable")
            np.testing.assert_array_equal(every.masks, masks[order])
            np.testing.assert_allclose(every.iou, np.clip(iou[order], 0, 1), rtol=1e-6)
        fed = logits[best : best + 1]
        start_mask = start_mask_from(result.masks[0], logits=result.logits[0], from_proposal=False)


@pytest.mark.parametrize("hw", SIZES)
def test_box_and_box_with_click_equal_the_predictor(sam: Any, hw: tuple[int, int]) -> None:
    image = picture(hw, 3)
    ours, theirs = SamSegmenter(sam, "0" * 64), SamPredictor(sam)
    theirs.set_image(image)
    embedding = ours.embed(image)
    box = (0.1 * hw[1], 0.2 * hw[0], 0.8 * hw[1], 0.9 * hw[0])
    masks, _, _ = theirs.predict(box=np.array(box), multimask_output=False)
    np.testing.assert_array_equal(ours.segment(embedding, Prompt((), box, "x"), None).masks[0], masks[0])
    point = (0.3 * hw[1], 0.4 * hw[0], False)
    masks, _, _ = theirs.predict(
        np.array([point[:2]]), np.array([0]), box=np.array(box), multimask_output=False
    )
    result = ours.segment(embedding, Prompt((point,), box, "x"), None)
    np.testing.assert_array_equal(result.masks[0], masks[0])


def test_start_from_a_proposal_gives_box_and_logits(sam: Any) -> None:
    image = picture((96, 128))
    ours, theirs = SamSegmenter(sam, "0" * 64), SamPredictor(sam)
    theirs.set_image(image)
    mask = np.zeros((96, 128), bool)
    mask[20:60, 30:90] = True
    start_mask = start_mask_from(mask, from_proposal=True)
    assert tuple(start_mask.box_xyxy) == (30.0, 20.0, 90.0, 60.0)
    embedding = ours.embed(image)
    same = ours.segment(embedding, Prompt((), None, "x"), start_mask)
    np.testing.assert_array_equal(same.masks[0], mask)
    masks, _, _ = theirs.predict(
        np.array([[50.0, 30.0]]),
        np.array([1]),
        box=np.array(start_mask.box_xyxy),
        mask_input=mask_logits(mask, size=64)[None],
        multimask_output=False,
    )
    result = ours.segment(embedding, Prompt(((50.0, 30.0, True),), None, "x"), start_mask)
    np.testing.assert_array_equal(result.masks[0], masks[0])


def test_nothing_clicked_and_nothing_to_start_from(sam: Any) -> None:
    ours = SamSegmenter(sam, "0" * 64)
    with pytest.raises(BadPrompt):
        ours.segment(ours.embed(picture((8, 8))), Prompt((), None, "x"), None)


def test_architecture_is_read_off_the_checkpoint(sam: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(sam.state_dict(), path)
    loaded, digest = load_sam(path)
    assert len(digest) == 64
    a, b = SamSegmenter(sam, digest), SamSegmenter(loaded, digest)
    image = picture((60, 40))
    np.testing.assert_array_equal(a.embed(image).arrays["features"], b.embed(image).arrays["features"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        (b"not a checkpoint at all", "not a readable checkpoint"),
        ("half", "not a readable checkpoint"),
        ({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 8)}, "does not fit"),
        ([1, 2], "table of tensors"),
    ],
)
def test_missing_or_corrupt_checkpoint(sam: Any, tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "sam.pth"
    if content == "half":
        torch.save(sam.state_dict(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=words) as caught:
        from_settings(BackendSettings(sam_checkpoint=path, device="cpu"), None)
    assert "groundswell models pull" in caught.value.hint


def test_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    path = tmp_path / "evil.pth"
    torch.save({"a": Evil()}, path)
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load_sam(path)
    assert not (tmp_path / "owned").exists()


def test_out_of_memory_falls_back_to_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    ours = SamSegmenter(small_sam(), "0" * 64)
    image = picture((40, 60))
    want = ours.embed(image).arrays["features"]
    model, dense, _ = ours._state
    calls = []

    def exhausted(_: object, pixels: object) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    # A stand-in for a full GPU: the same weights, an encoder that fails as torch fails, a device not the CPU.
    model.image_encoder.register_forward_pre_hook(exhausted)
    ours._state = (model, dense, "meta")
    ours.fallback = DeviceFallback("sam", "meta")
    torch_to = torch.Tensor.to
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda t, d, *a, **k: t if d == "meta" else torch_to(t, d, *a, **k))
        with caplog.at_level("WARNING"):
            got = ours.embed(image).arrays["features"]
    np.testing.assert_array_equal(got, want)
    assert calls == [1]
    assert ours.device == "cpu"
    assert "out of memory" in ours.notice
    assert ours.notice in caplog.text


def test_after_a_pause_the_device_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    ours = SamSegmenter(small_sam(), "0" * 64)
    ours.fallback = DeviceFallback("sam", "meta", pause_s=60.0, clock=lambda: now[0])
    changes: list[DeviceChange] = []
    ours.fallback.watch(changes.append)
    ours._state = (*ours._state[:2], "meta")
    full = [True]
    torch_to, module_to = torch.Tensor.to, torch.nn.Module.to

    def move(module: Any, device: Any) -> Any:
        if str(device) == "meta" and full[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return module if str(device) == "meta" else module_to(module, device)

    def send(tensor: Any, device: Any, *more: Any, **options: Any) -> Any:
        if str(device) == "meta" and full[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tensor if str(device) == "meta" else torch_to(tensor, device, *more, **options)

    monkeypatch.setattr(torch.nn.Module, "to", move)
    monkeypatch.setattr(torch.Tensor, "to", send)
    image = picture((40, 60))
    want = ours.embed(image).arrays["features"]
    assert ours.device == "cpu"
    now[0] = 59.0
    ours.embed(image)
    assert len(changes) == 1
    now[0] = 61.0  # tried and still full: the next pause is twice as long
    ours.embed(image)
    assert ours.device == "cpu"
    assert "still out of memory" in ours.notice
    full[0] = False
    now[0] = 61.0 + 119.0
    ours.embed(image)
    assert ours.device == "cpu"
    now[0] = 61.0 + 121.0
    np.testing.assert_array_equal(ours.embed(image).arrays["features"], want)
    assert ours.device == "meta"
    assert ours.notice == ""
    assert [change.fell_back for change in changes] == [True, True, False]
    assert ours.fallback.count == 2


def test_other_errors_are_not_swallowed() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("other")

    ours = SamSegmenter(small_sam(), "0" * 64)
    ours.model.image_encoder.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="other"):
        ours.embed(picture((40, 60)))


@pytest.mark.slow
def test_a_model_of_full_size_equals_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package builds for ViT-B, 1024 px, with a narrow encoder: the whole one takes a minute."""

    def narrow(**options: Any) -> Any:
        less = {"depth": 2, "embed_dim": 64, "num_heads": 2, "global_attn_indexes": (1,)}
        return ImageEncoderViT(**{**options, **less})

    builder = import_module("segment_anything.build_sam")  # the package has a function of the same name
    monkeypatch.setattr(builder, "ImageEncoderViT", narrow)
    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]()
    assert model.image_encoder.img_size == 1024
    ours, theirs = SamSegmenter(model, "0" * 64), SamPredictor(model)
    image = picture((120, 200))
    theirs.set_image(image)
    embedding = ours.embed(image)
    np.testing.assert_array_equal(embedding.arrays["features"], theirs.features.numpy())
    masks, iou, _ = theirs.predict(np.array([[50.0, 60.0]]), np.array([1]), multimask_output=True)
    result = ours.segment(embedding, Prompt(((50.0, 60.0, True),), None, "x"), None)
    np.testing.assert_array_equal(result.masks[0], masks[int(iou.argmax())])
