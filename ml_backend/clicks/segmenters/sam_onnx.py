"""SAM-family encoder and decoder pairs in onnxruntime: exact, and about twice as fast as torch on a CPU.

Two kinds of pairs are supported; the names and ranks of their inputs tell which one it is:

* SAM's export and those with the same inputs (MobileSAM, our ``export_sam_onnx``). The decoder takes
  ``image_embeddings, point_coords, point_labels, mask_input, has_mask_input[, orig_im_size]``. The encoder
  takes one image, either (1, 3, S, S) normalised and padded, or (H, W, 3) with the long side resized to S.
* EfficientSAM. The encoder takes ``batched_images`` (1, 3, H, W) in 0..1 at the image's own size, the decoder
  ``image_embeddings, batched_point_coords, batched_point_labels, orig_im_size``. It has no mask input, so
  only the box of a start mask is used.

Where a decoder offers low-resolution masks, only those are asked for. Only the chosen mask is resized here.

A decoder may give one mask instead of all four. It then chooses by the number of points: from three on SAM's
answer to a clear prompt, below that the best of those to an ambiguous one. A box alone is two points, but a
clear prompt, so it gets the empty point with which SAM pads prompts.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import publish_dir
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.inspection import Inspection, check_sam_file, inspect_file
from ml_backend.clicks.segmenters.onnx_sessions import OnnxSessions
from ml_backend.clicks.segmenters.sam import decoder_prompt, zero_click
from ml_backend.clicks.segmenters.sam_identify import identify
from ml_backend.clicks.segmenters.sam_weights import PIXEL_MEAN, PIXEL_STD, file_digest
from ml_backend.device_fallback import FallsBack
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings

__all__ = ["SamOnnxSegmenter", "export_sam_onnx", "from_settings", "pair_folder", "resize_to_image"]

log = logging.getLogger(__name__)

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
_HINT = (
    "Point GROUNDSWELL_SAM_ONNX to a folder with encoder.onnx and decoder.onnx, or "
    "GROUNDSWELL_SAM_CHECKPOINT to a SAM .pth file"
)


class SamOnnxSegmenter(FallsBack):
    """An ONNX pair on the CPU (or CUDA where the installed onnxruntime has it). Thread-safe.

    While the device fails, for lack of memory or another reason, the CPU is used: see ``OnnxSessions``.
    """

    name = "sam-onnx"
    persist = True

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 0) -> None:
        """Load ``encoder.onnx`` and ``decoder.onnx`` of ``folder``; ModelError when they are missing or not
        a supported pair.
        """
        encoder, decoder = _find(folder)
        self.encoder = f"sam-onnx-{file_digest(encoder)[:12]}-{file_digest(decoder)[:4]}"
        self._models = OnnxSessions(
            {"encoder": encoder, "decoder": decoder},
            device=device,
            model=self.name,
            threads=threads,
            hint=_HINT,
        )
        self.fallback = self._models.fallback
        self.nbytes = self._models.nbytes
        image = self._models.inputs("encoder")[0]
        self._image_input = image.name
        inputs = {i.name for i in self._models.inputs("decoder")}
        self._efficient = "batched_point_coords" in inputs
        wanted = {"image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input"}
        if not self._efficient and not wanted <= inputs:
            raise ModelError(
                f"{decoder} has the inputs {', '.join(sorted(inputs))}: not a SAM decoder",
                field="sam_checkpoint",
                hint=_HINT,
            )
        self._wants_size = "orig_im_size" in inputs
        shape = image.shape
        self._channels_last = len(shape) == 3
        fixed = [s for s in shape if isinstance(s, int) and s > 3]
        self._size = max(fixed) if fixed else 1024
        self._uint8 = "uint8" in image.type
        outputs = self._models.outputs("decoder")
        self._iou_output = next((n for n in outputs if "iou" in n), outputs[min(1, len(outputs) - 1)])
        self._mask_output = next((n for n in outputs if "low_res" in n), outputs[0])
        self._single_token = "low_res" in self._mask_output
        self._gives_one = False  # files seldom say it, the first answer does

    # -- encode -----------------------------------------------------------------------------------------

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """(H, W, 3) uint8 RGB → features as the decoder takes them, float32."""
        height, width = image.shape[:2]
        features = self._models.run("encoder", None, {self._image_input: self._pixels(image)})[0]
        return Embedding(self.encoder, (height, width), {"features": np.asarray(features, np.float32)})

    def _pixels(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if self._efficient:
            scaled = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
            scaled /= 255.0
            return scaled
        height, width = image.shape[:2]
        scale = self._size / max(height, width)
        h, w = int(height * scale + 0.5), int(width * scale + 0.5)
        small = _resize_antialiased(image, h, w)
        if self._channels_last:
            return small if self._uint8 else small.astype(np.float32)
        padded = np.zeros((1, 3, self._size, self._size), np.float32)
        inner = padded[0, :, :h, :w]
        np.subtract(small.transpose(2, 0, 1), np.asarray(PIXEL_MEAN, np.float32)[:, None, None], out=inner)
        inner /= np.asarray(PIXEL_STD, np.float32)[:, None, None]
        return padded

    # -- decode -----------------------------------------------------------------------------------------

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """As ``SamSegmenter.segment``."""
        return self._segment(embedding, prompt, start_mask, every=False)

    def segment_all(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        """All masks that the decoder gives for a prompt, the one of ``segment`` first."""
        return self._segment(embedding, prompt, None, every=True)

    def _segment(
        self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None, *, every: bool
    ) -> ClickResult:
        kept = zero_click(prompt, start_mask)
        if kept is not None:
            return kept
        hw = embedding.hw
        features = np.asarray(embedding.arrays["features"], np.float32)
        if self._efficient:
            return self._segment_efficient(features, hw, prompt, start_mask, every=every)
        low = self._size // 4
        points, kinds, mask_input, several = decoder_prompt(prompt, start_mask, hw, self._size, low)
        corners = kinds >= 2
        is_box_alone = len(kinds) == 2 and bool(corners.all())
        if not corners.any() or (self._gives_one and is_box_alone):
            points, kinds = _padded(points, kinds)
        feed = {
            "image_embeddings": features,
            "point_coords": points[None],
            "point_labels": kinds[None].astype(np.float32),
            "mask_input": np.zeros((1, 1, low, low), np.float32)
            if mask_input is None
            else mask_input[None, None],
            "has_mask_input": np.array([float(mask_input is not None)], np.float32),
        }
        if self._wants_size:
            # The resized masks are not used: the smallest size makes their computation cheap.
            size = hw if not self._single_token else (1, 1)
            feed["orig_im_size"] = np.asarray(size, np.float32)
        wanted = [self._iou_output, self._mask_output]
        iou, masks = self._models.run("decoder", wanted, feed)
        if masks.shape[1] == 1 and is_box_alone and not self._gives_one:
            self._gives_one = True
            points, kinds = _padded(points, kinds)
            feed |= {"point_coords": points[None], "point_labels": kinds[None].astype(np.float32)}
            iou, masks = self._models.run("decoder", wanted, feed)
        chosen = _best_first(iou[0], masks.shape[1], several=several)[: None if every else 1]
        found, fed_back = [], []
        for index in chosen:
            logits = np.ascontiguousarray(masks[0, index], np.float32)
            if self._single_token:
                mask = resize_to_image(logits, hw, size=self._size) > 0
            else:
                mask, logits = logits > 0, cv2.resize(logits, (low, low), interpolation=cv2.INTER_AREA)
            found.append(mask)
            fed_back.append(logits)
        return ClickResult(np.stack(found), _scores(iou[0, chosen]), np.stack(fed_back))

    def _segment_efficient(
        self,
        features: npt.NDArray[np.float32],
        hw: tuple[int, int],
        prompt: Prompt,
        start_mask: StartMask | None,
        *,
        every: bool,
    ) -> ClickResult:
        # EfficientSAM takes coordinates at the image's own size and no mask.
        points, kinds, _, _ = decoder_prompt(prompt, start_mask, hw, max(hw), 256)
        iou_batch, mask_batch = self._models.run(
            "decoder",
            [self._iou_output, self._mask_output],
            {
                "image_embeddings": features,
                "batched_point_coords": points[None, None],
                "batched_point_labels": kinds[None, None].astype(np.float32),
                "orig_im_size": np.asarray(hw, np.int64),
            },
        )
        iou, masks = iou_batch.reshape(-1), mask_batch.reshape(-1, *mask_batch.shape[-2:])
        chosen = np.argsort(-iou, kind="stable")[: None if every else 1]
        found = []
        for index in chosen:
            logits = np.ascontiguousarray(masks[index], np.float32)
            if logits.shape != hw:
                logits = cv2.resize(logits, (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR)
            found.append(logits > 0)
        return ClickResult(np.stack(found), _scores(iou[chosen]), None)


def _padded(
    points: npt.NDArray[np.float32], kinds: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """With the empty point (0, 0) of label -1 by which SAM's exports expect prompts to be padded."""
    return (
        np.concatenate([points, np.zeros((1, 2), np.float32)]),
        np.concatenate([kinds, np.full(1, -1, np.int32)]),
    )


def _best_first(iou: npt.NDArray[np.float32], count: int, *, several: bool) -> npt.NDArray[np.intp]:
    """Mask 0 is SAM's answer to a clear prompt; masks 1 to 3 are its answers to an ambiguous one."""
    if count == 1 or not several:
        return np.zeros(1, np.intp)
    return 1 + np.argsort(-iou[1:], kind="stable")


def _scores(iou: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.clip(iou, 0.0, 1.0), np.float32)


def resize_to_image(
    logits: npt.NDArray[np.float32], hw: tuple[int, int], *, size: int
) -> npt.NDArray[np.float32]:
    """Resize low-resolution logits to the image (H, W).

    As in SAM there are two bilinear steps: up to the padded square of side ``size``; then, with the padding
    cut off, to the size of the image.
    """
    scale = size / max(hw)
    inner_h, inner_w = int(hw[0] * scale + 0.5), int(hw[1] * scale + 0.5)
    square = cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR)
    resized: npt.NDArray[np.float32] = cv2.resize(
        square[:inner_h, :inner_w], (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR
    )
    return resized


def _resize_antialiased(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """PIL's bilinear resize, which SAM was trained with and which its predictor uses."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _find(folder: Path) -> tuple[Path, Path]:
    """The pair in a folder: encoder.onnx and decoder.onnx, or the only files with these words in their
    names.
    """
    found = []
    for word, exact in (("encoder", ENCODER), ("decoder", DECODER)):
        files = sorted(folder.glob(f"*{word}*.onnx")) if folder.is_dir() else []
        path = folder / exact if (folder / exact).exists() else (files[0] if len(files) == 1 else None)
        if path is None:
            other = identify(folder)
            if other is not None and "ONNX" not in other.what:
                raise ModelError(
                    f"{folder} is {other.what}: not an ONNX pair", field="sam_onnx", hint=other.hint
                )
            raise ModelError(f"no {word} in {folder}", field="sam_onnx", hint=_HINT)
        found.append(path)
    return found[0], found[1]


def export_sam_onnx(sam: Any, out_dir: Path) -> Path:
    """Write ``encoder.onnx`` and ``decoder.onnx`` of a segment-anything model; returns ``out_dir``.

    The folder appears by rename, whole or not at all. ViT-B takes about half a minute.
    """
    import warnings

    import torch
    from segment_anything.utils.onnx import SamOnnxModel

    class Decoder(torch.nn.Module):
        """SAM's exportable decoder without the resize: low-resolution masks only."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = SamOnnxModel(sam, return_single_mask=False)

        def forward(
            self,
            image_embeddings: Any,
            point_coords: Any,
            point_labels: Any,
            mask_input: Any,
            has_mask_input: Any,
        ) -> tuple[Any, Any]:
            inner = self.inner
            masks, iou = inner.mask_decoder.predict_masks(
                image_embeddings=image_embeddings,
                image_pe=inner.model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=inner._embed_points(point_coords, point_labels),
                dense_prompt_embeddings=inner._embed_masks(mask_input, has_mask_input),
            )
            return iou, masks

    size = int(sam.image_encoder.img_size)
    low = size // 4
    grid = sam.prompt_encoder.image_embedding_size
    dim = int(sam.prompt_encoder.embed_dim)
    with publish_dir(out_dir) as staging, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every shape that is constant on purpose
        torch.onnx.export(
            sam.image_encoder,
            (torch.zeros(1, 3, size, size),),
            str(staging / ENCODER),
            input_names=["image"],
            output_names=["image_embeddings"],
            opset_version=17,
            dynamo=False,
        )
        torch.onnx.export(
            Decoder(),
            (
                torch.zeros(1, dim, *grid),
                torch.zeros(1, 3, 2),
                torch.ones(1, 3),
                torch.zeros(1, 1, low, low),
                torch.ones(1),
            ),
            str(staging / DECODER),
            input_names=["image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input"],
            output_names=["iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
            opset_version=17,
            dynamo=False,
        )
        (staging / "source.json").write_text(
            json.dumps({"img_size": size, "exported_from": "segment-anything"})
        )
    return out_dir


_export_lock = threading.Lock()


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> SamOnnxSegmenter:
    """``sam-onnx`` from GROUNDSWELL_SAM_ONNX, else GROUNDSWELL_SAM_CHECKPOINT: a folder with a pair, or a SAM
    .pth that is exported once.
    """
    from ml_backend.devices import omp_threads, resolve_device

    folder = pair_folder(settings)
    return SamOnnxSegmenter(folder, device=resolve_device(settings.device), threads=omp_threads())


def pair_folder(settings: BackendSettings) -> Path:
    """The folder with the pair that these settings name; a SAM .pth is exported into one first.

    Raises ModelError when nothing is named, or it is not there.
    """
    path = settings.sam_onnx or settings.sam_checkpoint
    if path is None or not path.exists():
        raise ModelError(
            "no SAM checkpoint is configured" if path is None else f"{path} does not exist",
            field="sam_onnx",
            hint=_HINT,
        )
    if path.is_dir():
        return path
    folder = settings.data_dir / "exports" / f"sam-{file_digest(path)[:16]}"
    with _export_lock:
        if not folder.exists():
            from ml_backend.clicks.segmenters.sam_weights import load_sam

            log.warning("exporting %s to ONNX once, into %s; this can take a minute", path, folder)
            export_sam_onnx(load_sam(path)[0], folder)
    return folder


def inspect(settings: BackendSettings, project: ProjectPaths | None) -> Inspection:
    """What the folder, or the .pth that would be exported, is."""
    found = inspect_file(settings, ("sam_onnx", "sam_checkpoint"))
    if found.problem:
        return found
    (path,) = found.files
    if not path.is_dir():
        return check_sam_file(path)
    try:
        return Inspection(files=_find(path))
    except ModelError as error:
        return Inspection.refused(error)
