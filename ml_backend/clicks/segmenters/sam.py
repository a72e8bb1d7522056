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

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.sam_weights import build_sam, load_sam
from ml_backend.clicks.start_masks import mask_logits
from ml_backend.device_fallback import DeviceFallback
from ml_backend.devices import is_out_of_memory, resolve_device
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
    prompt: Prompt, start_mask: StartMask | None, hw: tuple[int, int], size: int, low: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32] | None, bool]:
    """A prompt as the inputs of a SAM decoder.

    ``size`` is the side of the encoder's input, ``low`` the side of its low-resolution masks. Returns

    * points (n, 2) float32 in the encoder's frame; the two corners of a box come last;
    * their labels (n,) int32: 1 object, 0 background, 2 and 3 the corners of the box;
    * the mask input (low, low), or None;
    * whether to ask for several masks.
    """
    height, width = hw
    scale = size / max(height, width)
    new_h, new_w = int(height * scale + 0.5), int(width * scale + 0.5)
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
        mask_input = given if given is not None else mask_logits(start_mask.mask, size=low)
    several = box is None and start_mask is None and len(prompt.points) == 1
    return frame.astype(np.float32), np.asarray(kinds, np.int32), mask_input, several


class SamSegmenter:
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
        import torch

        self.encoder = f"sam-{digest[:16]}"
        self.fallback = DeviceFallback(self.name, device)
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self._size = int(model.image_encoder.img_size)
        self._moving = threading.Lock()
        try:
            self._place(model.to(device), device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._state = (model, None, device)
            self._to_cpu(error)
        # On a GPU one decode runs at a time, to save memory; on a CPU several clicks may decode together.
        self._decoding: Any = threading.Lock() if torch.device(device).type == "cuda" else nullcontext()

    def _place(self, model: Any, device: str) -> None:
        import torch

        with torch.inference_mode():
            dense = model.prompt_encoder.get_dense_pe()
        self._state = (model, dense, device)

    @property
    def device(self) -> str:
        """Where it runs now."""
        return self.fallback.device

    @property
    def notice(self) -> str:
        """Why the CPU is used although another device was asked for; else empty."""
        return self.fallback.notice

    @property
    def model(self) -> Any:
        """The torch model, where it is now."""
        return self._state[0]

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
        kept = zero_click(prompt, start_mask)
        if kept is not None:
            return kept
        import torch

        hw = embedding.hw
        low = self._size // 4
        points, kinds, mask_input, several = decoder_prompt(prompt, start_mask, hw, self._size, low)
        features = np.asarray(embedding.arrays["features"], np.float32)

        def decode(model: Any, dense: Any, device: str) -> tuple[Any, float, Any]:
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
            best = int(iou[0].argmax())
            # Only the chosen mask is resized to the image: a third of the work of all three.
            scale = self._size / max(hw)
            inner = (int(hw[0] * scale + 0.5), int(hw[1] * scale + 0.5))
            full = model.postprocess_masks(masks[:, best : best + 1], inner, hw)[0] > model.mask_threshold
            return full.cpu(), float(iou[0, best]), masks[0, best : best + 1].float().cpu()

        with torch.inference_mode(), self._decoding:
            mask, iou, logits = self._retry(decode)
        return ClickResult(mask.numpy(), np.array([min(max(iou, 0.0), 1.0)], np.float32), logits.numpy())

    # -- out of memory ----------------------------------------------------------------------------------

    def _retry(self, call: Any) -> Any:
        """Run on the device. When it is out of memory, run on the CPU for a while; see DeviceFallback."""
        if self.fallback.is_due():
            self._try_device()
        state = self._state
        try:
            return call(*state)
        except (RuntimeError, MemoryError) as error:
            if state[2] == "cpu" or not is_out_of_memory(error):
                raise
            self._to_cpu(error)
        return call(*self._state)

    def _to_cpu(self, error: BaseException) -> None:
        with self._moving:
            model, _, device = self._state
            if device != "cpu":
                # Not a deep copy: it would first need the memory twice, on the device that just ran out.
                self._place(_copy(model, "cpu"), "cpu")
                self.fallback.leave("ran out of memory", error)
                del model
                _free_device_memory()

    def _try_device(self) -> None:
        """Try to move the model back to the device asked for; stay on the CPU if memory is still short."""
        with self._moving:
            if not self.fallback.is_due():
                return  # another thread was here before
            try:
                # A copy: other threads may be using the one on the CPU.
                self._place(_copy(self.model, self.fallback.wanted), self.fallback.wanted)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _free_device_memory()
                self.fallback.leave("is still out of memory", error)
            else:
                self.fallback.come_back()


def _copy(model: Any, device: str) -> Any:
    """The model with its weights on another device."""
    return build_sam({name: tensor.cpu() for name, tensor in model.state_dict().items()}).to(device)


def _free_device_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
