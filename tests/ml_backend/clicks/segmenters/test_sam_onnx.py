"""The ONNX pair against torch with the same weights, foreign pairs, and files that are missing or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.utils.onnx import SamOnnxModel

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.segmenters.sam import SamSegmenter
from ml_backend.clicks.segmenters.sam_onnx import SamOnnxSegmenter, export_sam_onnx, from_settings
from ml_backend.clicks.start_masks import start_mask_from
from ml_backend.device_fallback import DeviceFallback
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.sam_models import picture, small_sam

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Exporting aten..index operator:UserWarning",
)


@pytest.fixture(scope="module")
def sam() -> Any:
    torch.set_num_threads(1)
    return small_sam()


@pytest.fixture(scope="module")
def pair(sam: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_sam_onnx(sam, tmp_path_factory.mktemp("onnx") / "pair")


@pytest.mark.parametrize("hw", [(96, 128), (150, 70), (7, 5), (300, 300)])
def test_equals_torch_for_clicks_boxes_and_fed_back_masks(sam: Any, pair: Path, hw: tuple[int, int]) -> None:
    image = picture(hw)
    a, b = SamSegmenter(sam, "0" * 64), SamOnnxSegmenter(pair, threads=1)
    ea, eb = a.embed(image), b.embed(image)
    found, expected = (np.asarray(e.arrays["features"], np.float32) for e in (eb, ea))
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    points = ((0.4 * hw[1], 0.5 * hw[0], True), (0.1 * hw[1], 0.9 * hw[0], False))
    box = (0.1 * hw[1], 0.2 * hw[0], 0.8 * hw[1], 0.9 * hw[0])
    start_mask: StartMask | None = None
    for prompt in (Prompt(points[:1], None, "x"), Prompt(points, None, "x"), Prompt((), box, "x")):
        ra, rb = a.segment(ea, prompt, start_mask), b.segment(eb, prompt, start_mask)
        assert ra.logits is not None
        assert rb.logits is not None
        np.testing.assert_allclose(rb.logits, ra.logits, atol=5e-4)
        # Pixels may differ only where the logit is zero to within that error.
        assert (ra.masks != rb.masks).mean() < 0.003
        assert rb.iou[0] == pytest.approx(ra.iou[0], abs=1e-3)
        every, theirs = b.segment_all(eb, prompt), a.segment_all(ea, prompt)
        assert len(every.masks) == len(theirs.masks) == (3 if len(prompt.points) == 1 else 1)
        np.testing.assert_allclose(every.iou, theirs.iou, atol=1e-3)
        if start_mask is None:
            np.testing.assert_array_equal(every.masks[0], rb.masks[0])
        start_mask = start_mask_from(ra.masks[0], logits=ra.logits[0], from_proposal=False)


def official_decoder(sam: Any, pair: Path, folder: Path, *, single: bool) -> Path:
    """A decoder written as segment-anything's own script writes it, with the resize inside."""
    (folder / "my_encoder.onnx").write_bytes((pair / "encoder.onnx").read_bytes())
    torch.onnx.export(
        SamOnnxModel(sam, return_single_mask=single),
        (
            torch.zeros(1, 64, 16, 16),
            torch.zeros(1, 3, 2),
            torch.ones(1, 3),
            torch.zeros(1, 1, 64, 64),
            torch.ones(1),
            torch.tensor([90.0, 120.0]),
        ),
        str(folder / "my_decoder.onnx"),
        input_names=[
            "image_embeddings", "point_coords", "point_labels",
            "mask_input", "has_mask_input", "orig_im_size",
        ],
        output_names=["masks", "iou_predictions", "low_res_masks"],
        dynamic_axes={"point_coords": {1: "n"}, "point_labels": {1: "n"}},
        opset_version=17,
        dynamo=False,
    )  # fmt: skip
    return folder


def test_decoder_of_the_official_export(sam: Any, pair: Path, tmp_path: Path) -> None:
    official_decoder(sam, pair, tmp_path, single=False)
    ours, foreign = SamOnnxSegmenter(pair, threads=1), SamOnnxSegmenter(tmp_path, threads=1)
    image = picture((96, 128))
    prompt = Prompt(((60.0, 40.0, True),), None, "x")
    a, b = ours.segment(ours.embed(image), prompt, None), foreign.segment(foreign.embed(image), prompt, None)
    np.testing.assert_array_equal(a.masks, b.masks)
    assert ours.encoder != foreign.encoder


def test_a_box_alone_is_a_clear_prompt_to_a_decoder_with_one_mask(
    sam: Any, pair: Path, tmp_path: Path
) -> None:
    """Such a decoder takes two points for an ambiguous click; padded as SAM pads, it gives the first mask."""
    torch_sam, one = (
        SamSegmenter(sam, "0" * 64),
        SamOnnxSegmenter(official_decoder(sam, pair, tmp_path, single=True), threads=1),
    )
    image = picture((96, 128))
    embedding = torch_sam.embed(image)
    box, click = (12.0, 9.0, 70.0, 80.0), (40.0, 30.0, False)
    for prompt in (Prompt((), box, "x"), Prompt((), box, "x"), Prompt((click,), box, "x")):
        found = one.segment(one.embed(image), prompt, None)
        points = [(0.0, 0.0)] if not prompt.points else [(80.0, 60.0)]  # 128 pixels fill 256
        kinds = [-1] if not prompt.points else [0]
        encoder, (_, dense, _) = sam.prompt_encoder, torch_sam._state
        with torch.inference_mode():
            sparse, mask = encoder(points=None, boxes=torch.tensor([[2.0 * v for v in box]]), masks=None)
            added = encoder._embed_points(torch.tensor([points]), torch.tensor([kinds]), pad=False)
            masks, _ = sam.mask_decoder.predict_masks(
                torch.from_numpy(embedding.arrays["features"]), dense, torch.cat([sparse, added], 1), mask
            )
        assert found.logits is not None
        np.testing.assert_allclose(found.logits[0], masks[0, 0].numpy(), atol=1e-4)
        assert all(np.abs(found.logits[0] - masks[0, other].numpy()).max() > 1e-2 for other in (1, 2, 3))


class _EfficientEncoder(torch.nn.Module):
    def forward(self, batched_images: torch.Tensor) -> torch.Tensor:
        return batched_images[:, :1]


class _EfficientDecoder(torch.nn.Module):
    """The input and output convention of EfficientSAM's export: masks are discs of radius 10 around the
    point.
    """

    def forward(
        self,
        image_embeddings: torch.Tensor,
        batched_point_coords: torch.Tensor,
        batched_point_labels: torch.Tensor,
        orig_im_size: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h, w = image_embeddings.shape[-2:]
        ys = torch.arange(h, dtype=torch.float32)[:, None]
        xs = torch.arange(w, dtype=torch.float32)[None, :]
        at = batched_point_coords[0, 0, 0]
        near = 100.0 - (xs - at[0]) ** 2 - (ys - at[1]) ** 2 + 0 * batched_point_labels.sum()
        masks = torch.stack([near, -near])[None, None] + 0 * orig_im_size.sum()
        return masks, torch.tensor([[[0.9, 0.2]]]) + 0 * near.sum()


def test_efficient_sam_convention(tmp_path: Path) -> None:
    torch.onnx.export(
        _EfficientEncoder(), (torch.zeros(1, 3, 40, 60),), str(tmp_path / "encoder.onnx"),
        input_names=["batched_images"], output_names=["image_embeddings"],
        dynamic_axes={"batched_images": {2: "h", 3: "w"}, "image_embeddings": {2: "h", 3: "w"}},
        opset_version=17, dynamo=False,
    )  # fmt: skip
    torch.onnx.export(
        _EfficientDecoder(),
        (torch.zeros(1, 1, 40, 60), torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1), torch.tensor([40, 60])),
        str(tmp_path / "decoder.onnx"),
        input_names=["image_embeddings", "batched_point_coords", "batched_point_labels", "orig_im_size"],
        output_names=["output_masks", "iou_predictions"],
        dynamic_axes={"image_embeddings": {2: "h", 3: "w"}, "batched_point_coords": {2: "n"}},
        opset_version=17, dynamo=False,
    )  # fmt: skip
    segmenter = SamOnnxSegmenter(tmp_path, threads=1)
    result = segmenter.segment(
        segmenter.embed(picture((50, 80))), Prompt(((30.0, 20.0, True),), None, "x"), None
    )
    ys, xs = np.mgrid[:50, :80]
    np.testing.assert_array_equal(result.masks[0], (xs - 30) ** 2 + (ys - 20) ** 2 < 100)
    assert result.iou[0] == pytest.approx(0.9)


def test_pth_is_exported_once(sam: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(sam.state_dict(), path)
    settings = BackendSettings(data_dir=tmp_path / "data", sam_checkpoint=path, device="cpu")
    first = from_settings(settings, None)
    (folder,) = (tmp_path / "data" / "exports").iterdir()
    stamp = (folder / "encoder.onnx").stat().st_mtime_ns
    second = from_settings(settings, None)
    assert first.encoder == second.encoder
    assert (folder / "encoder.onnx").stat().st_mtime_ns == stamp


def test_missing_and_corrupt_files(pair: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no encoder"):
        SamOnnxSegmenter(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"nonsense")
    (tmp_path / "decoder.onnx").write_bytes((pair / "decoder.onnx").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        SamOnnxSegmenter(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes((pair / "encoder.onnx").read_bytes())
    (tmp_path / "decoder.onnx").write_bytes((pair / "encoder.onnx").read_bytes())
    with pytest.raises(ModelError, match="not a SAM decoder"):
        SamOnnxSegmenter(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        from_settings(BackendSettings(sam_checkpoint=tmp_path / "gone", device="cpu"), None)


class _Full:
    """A session on a device that fails as onnxruntime fails."""

    def __init__(self, inner: Any, message: str) -> None:
        self._inner = inner
        self.message = message
        self.calls = 0

    def run(self, *_: object) -> None:
        self.calls += 1
        raise RuntimeError(self.message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer", "ran out of memory"),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", "cannot run this model"),
    ],
)
def test_a_device_that_fails_hands_over_to_the_cpu_aloud(
    pair: Path, caplog: pytest.LogCaptureFixture, message: str, words: str
) -> None:
    ours = SamOnnxSegmenter(pair, threads=1)
    image = picture((40, 60))
    want = ours.embed(image)
    models = ours._models
    full = {name: _Full(session, message) for name, session in models._sessions.items()}
    models._sessions = dict(full)
    ours.fallback = models.fallback = DeviceFallback("sam-onnx", "cuda")
    with caplog.at_level("WARNING"):
        got = ours.embed(image)
    np.testing.assert_array_equal(got.arrays["features"], want.arrays["features"])
    ours.segment(got, Prompt(((30.0, 20.0, True),), None, "x"), None)
    assert full["encoder"].calls == 1
    assert full["decoder"].calls == 0  # the CPU serves both from then on
    assert ours.device == "cpu"
    assert words in ours.notice
    assert ours.notice in caplog.text


@pytest.mark.parametrize(("message", "device"), [("Failed to allocate memory", "cuda"), ("broken", "cpu")])
def test_the_device_is_tried_again_after_memory_ran_out(pair: Path, message: str, device: str) -> None:
    now = [0.0]
    ours = SamOnnxSegmenter(pair, threads=1)
    models = ours._models
    full = {name: _Full(session, message) for name, session in models._sessions.items()}
    models._sessions = dict(full)
    ours.fallback = models.fallback = DeviceFallback("sam-onnx", "cuda", clock=lambda: now[0])
    ours.embed(picture((40, 60)))
    assert ours.device == "cpu"
    now[0] = 1e6
    ours.embed(picture((40, 60)))
    assert ours.device == device  # what is not for want of memory stays until the next load
    assert full["encoder"].calls == 1


def test_input_that_fails_everywhere_moves_nothing(pair: Path) -> None:
    models = SamOnnxSegmenter(pair, threads=1)._models
    models._sessions = {name: _Full(session, "bad") for name, session in models._sessions.items()}
    models.fallback = DeviceFallback("sam-onnx", "cuda")
    with pytest.raises(ModelError, match=r"encoder\.onnx failed"):
        models.run("encoder", None, {"image": np.zeros((1, 1), np.float32)})
    assert models.fallback.device == "cuda"
    assert models.fallback.notice == ""


def test_an_absent_provider_is_said(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with caplog.at_level("WARNING"):
        ours = SamOnnxSegmenter(pair, device="cuda", threads=1)
    assert ours.device == "cpu"
    assert "install onnxruntime-gpu" in caplog.text
