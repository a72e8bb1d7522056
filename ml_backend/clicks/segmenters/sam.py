"""segment-anything as a ClickSegmenter without state: features are a value, the decoder is a pure function.

It computes the same masks as ``segment_anything.SamPredictor`` with the same weights (tests compare them).
But ``SamPredictor`` keeps the current image in the object, so two users would overwrite each other's. How
prompts are given to the decoder:

* first click alone: three masks are asked for, the one with the highest predicted IoU is the answer;
* a box, or anything that starts from a mask: one mask;
* from the previous mask: its own low-resolution logits are fed back;
* from a proposal: its box and its mask as logits of about ±10 (a bare mask prompt is often ignored);
  with no click at all the proposal itself is the answer, so it never gets worse before the first click.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.inspection import Inspection, check_sam_file, inspect_file
from ml_backend.clicks.segmenters.sam_device import TorchOnDevice
from ml_backend.clicks.segmenters.sam_weights import build_sam, load_sam
from ml_backend.clicks.start_masks import mask_logits
from ml_backend.devices import resolve_device
from ml_backend.errors import BadPrompt, ModelError
from ml_backend.settings import BackendSettings

__all__ = ["SamSegmenter", "decoder_prompt", "from_settings", "zero_click"]


def zero_click(prompt: Prompt, start_mask: StartMask | None) -> ClickResult | None:
    """The start mask itself when nothing was clicked, else None. Raises BadPrompt when there is neither."""
    if prompt.points or prompt.box is not None:
        return None
    if start_mask is None:
        raise BadPrompt("no clicks, no box and nothing to start from", field="context.result")
    logits = None if start_mask.logits is None else start_mask.logits[None]
    return ClickResult(start_mask.mask[None], np.ones(1, np.float32), logits)


def decoder_prompt(
    prompt: Prompt,
    start_mask: StartMask | None,
    hw: tuple[int, int],
    size: int,
    low: int,
    *,
    squeeze: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32] | None, bool]:
    """A prompt as the inputs of a SAM decoder.

    ``size`` is the side of the encoder's input, ``low`` the side of its low-resolution masks. The long side
    of the picture fills the input; with ``squeeze`` both sides do. Returns

    * points (n, 2) float32 in the encoder's frame; the two corners of a box come last;
    * their labels (n,) int32: 1 object, 0 background, 2 and 3 the corners of the box;
    * the mask input (low, low), or None;
    * whether to ask for several masks.
    """
    height, width = hw
    scale = size / max(height, width)
    new_h, new_w = int(height * scale + 0.5), int(width * scale + 0.5)
    if squeeze:
        new_h = new_w = size
    coords = [(x, y) for x, y, _ in prompt.points]
    kinds = [int(positive) for _, _, positive in prompt.points]
    box = prompt.box
    if box is None and start_mask is not None and start_mask.from_proposal:
        box = start_mask.box_xyxy
    if box is not None:
        coords += [(box[0], box[1]), (box[2], box[3])]
        kinds += [2, 3]
    frame = np.asarray(coords, np.float64).reshape(-1, 2) * (new_w / width, new_h / height)
    mask_input = None
    if start_mask is not None:
        given = start_mask.logits
        if given is None:
            given = mask_logits(start_mask.mask, size=low, squeeze=squeeze)
        mask_input = given
    several = box is None and start_mask is None and len(prompt.points) == 1
    return frame.astype(np.float32), np.asarray(kinds, np.int32), mask_input, several


class SamSegmenter(TorchOnDevice):
    """SAM in torch on one device. Thread-safe: the model is read-only, calls share nothing.

    Parameters
    ----------
    model : ``segment_anything.modeling.Sam`` in eval mode
    digest : digest of its weights, part of every embedding's key
    device : where to run; while memory is short there, the CPU is used (``fallback``)
    """

    name = "sam"
    persist = True

    def __init__(self, model: Any, digest: str, *, device: str = "cpu") -> None:
        self.encoder = f"sam-{digest[:16]}"
        self._size = int(model.image_encoder.img_size)
        self._start(model, device)

    def _prepare(self, model: Any) -> Any:
        import torch

        with torch.inference_mode():
            return model.prompt_encoder.get_dense_pe()

    def _copy(self, model: Any, device: str) -> Any:
        return build_sam({name: tensor.cpu() for name, tensor in model.state_dict().items()}).to(device)

    # -- encode -----------------------------------------------------------------------------------------

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """(H, W, 3) uint8 RGB → features (1, C, s, s) float32. The caller holds the device's gate."""
        import torch

        height, width = image.shape[:2]
        pixels = self._preprocess(image)
        with torch.inference_mode():
            features = self._retry(lambda model, _, device: model.image_encoder(pixels.to(device)))
        return Embedding(self.encoder, (height, width), {"features": features.cpu().numpy()})

    def _preprocess(self, image: npt.NDArray[np.uint8]) -> Any:
        """Resize the long side, normalise, pad: (1, 3, size, size) float32 on the CPU."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        resized = ResizeLongestSide(self._size).apply_image(np.ascontiguousarray(image))
        model = self.model
        tensor = torch.from_numpy(resized).permute(2, 0, 1)[None].to(model.pixel_mean.device)
        with torch.inference_mode():
            return model.preprocess(tensor.contiguous()).cpu()

    # -- decode -----------------------------------------------------------------------------------------

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """The best mask for a prompt, its predicted IoU and its (256, 256) logits."""
        return self._segment(embedding, prompt, start_mask, every=False)

    def segment_all(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        """All masks that the decoder gives for a prompt, three for a first click, the best first."""
        return self._segment(embedding, prompt, None, every=True)

    def _segment(
        self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None, *, every: bool
    ) -> ClickResult:
        kept = zero_click(prompt, start_mask)
        if kept is not None:
            return kept
        import torch

        hw = embedding.hw
        low = self._size // 4
        points, kinds, mask_input, several = decoder_prompt(prompt, start_mask, hw, self._size, low)
        features = np.asarray(embedding.arrays["features"], np.float32)

        def decode(model: Any, dense: Any, device: str) -> tuple[Any, Any, Any]:
            at = torch.from_numpy(_writable(features)).to(device)
            corners = kinds >= 2
            encoder = model.prompt_encoder
            clicks = None
            if not corners.all():
                clicks = (
                    torch.from_numpy(points[~corners])[None].to(device),
                    torch.from_numpy(kinds[~corners])[None].to(device),
                )
            box = torch.from_numpy(points[corners].reshape(1, 4)).to(device) if corners.any() else None
            mask = (
                None if mask_input is None else torch.from_numpy(_writable(mask_input))[None, None].to(device)
            )
            sparse, dense_prompt = encoder(points=clicks, boxes=box, masks=mask)
            masks, iou = model.mask_decoder(
                image_embeddings=at,
                image_pe=dense,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense_prompt,
                multimask_output=several,
            )
            chosen = iou[0].argsort(descending=True, stable=True)[: None if every else 1]
            # Only what is asked for is resized to the image: one mask is a third of the work of all three.
            scale = self._size / max(hw)
            inner = (int(hw[0] * scale + 0.5), int(hw[1] * scale + 0.5))
            full = model.postprocess_masks(masks[:, chosen], inner, hw)[0] > model.mask_threshold
            return full.cpu(), iou[0, chosen].float().cpu(), masks[0, chosen].float().cpu()

        with torch.inference_mode(), self._decoding:
            mask, iou, logits = self._retry(decode)
        return ClickResult(mask.numpy(), iou.clamp(0.0, 1.0).numpy(), logits.numpy())


def _writable(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A copy where needed: torch refuses to wrap a read-only memory map without a warning."""
    return array if array.flags.writeable else array.copy()


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> SamSegmenter:
    """``sam`` from GROUNDSWELL_SAM_CHECKPOINT. ModelError when it is unset, missing or corrupt."""
    path: Path | None = settings.sam_checkpoint
    if path is None:
        raise ModelError(
            "no SAM checkpoint is configured",
            field="sam_checkpoint",
            hint="Run 'groundswell models pull sam_vit_b' and set GROUNDSWELL_SAM_CHECKPOINT to the file",
        )
    model, digest = load_sam(path)
    return SamSegmenter(model, digest, device=resolve_device(settings.device))


def inspect(settings: BackendSettings, project: ProjectPaths | None) -> Inspection:
    """What the file of GROUNDSWELL_SAM_CHECKPOINT is."""
    found = inspect_file(settings, ("sam_checkpoint",))
    return found if found.problem else check_sam_file(found.files[0])
