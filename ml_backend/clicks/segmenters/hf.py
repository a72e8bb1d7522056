"""SAM and its successors through transformers: SAM, HQ-SAM, SAM 2 and 2.1, EdgeTAM, the tracker of SAM 3.

The folder's ``config.json`` says which. Prompts go to the decoder as in ``sam``: a first click alone asks
for several masks and takes the one with the highest predicted IoU; every further click starts from the mask
before it. Then clicks are made true as by every click network (``honour_clicks``).

The features of a picture are kept, the decoder runs on each click. SAM 2 and its relatives decode from three
levels of features, HQ-SAM from two; all but the coarsest are kept as float16, which brings 16.8 MB a picture
to 10.5 (SAM 2) and 21.2 to 13.3 (SAM 3). They are rounded when made, so a kept picture gives the same masks
as a new one. docs/clicks.md says how little that changes the masks.

Papers: Kirillov et al., "Segment anything", ICCV 2023; Ke et al., "Segment anything in high quality", NeurIPS
2023; Ravi et al., "SAM 2", 2024; Zhou et al., "EdgeTAM", CVPR 2025; Carion et al., "SAM 3", 2025.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.hf_models import Family, find_folder, load_model
from ml_backend.clicks.segmenters.honour_clicks import honour_clicks
from ml_backend.clicks.segmenters.sam import decoder_prompt, zero_click
from ml_backend.clicks.segmenters.sam_device import TorchOnDevice
from ml_backend.devices import resolve_device
from ml_backend.settings import BackendSettings

__all__ = ["HfSegmenter", "from_settings"]

Floats = npt.NDArray[np.float32]
Precision = Literal["float32", "bfloat16"]

_LOGIT_LIMIT = 32.0
"""The authors of SAM 2 feed masks back within this range; so do we for all its relatives."""


class HfSegmenter(TorchOnDevice):
    """One model of transformers. Thread-safe.

    Parameters
    ----------
    model, processor, family, digest : as ``load_model`` gives them
    device : where to run; while memory is short there, the CPU is used (``fallback``)
    precision : of the image encoder. The decoder always computes in float32, because the position of a click
        in bfloat16 would be off by pixels
    """

    name = "hf"
    persist = True
    points_batch = 8
    """Clicks that ``segment_points`` is best given at once: each has several masks of the picture's size."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: Family,
        digest: str,
        *,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.family = family
        self.encoder = f"hf-{family.model.lower()}-{digest[:16]}" + (
            "-bf16" if precision == "bfloat16" else ""
        )
        self._processor = processor
        prompts = model.prompt_encoder
        self._size = int(prompts.input_image_size)
        self._low = 4 * int(prompts.image_embedding_size[0])
        if precision == "bfloat16":
            _encode_in_bfloat16(model)
        self._start(model, device)

    def _copy(self, model: Any, device: str) -> Any:
        fresh = type(model)(model.config)
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        fresh.load_state_dict(weights, assign=True)
        if self.encoder.endswith("-bf16"):
            _encode_in_bfloat16(fresh)
        return fresh.eval().requires_grad_(False).to(device)

    # -- encode -----------------------------------------------------------------------------------------

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """(H, W, 3) uint8 RGB → ``features``, the coarsest level (1, C, s, s) float32, and the finer levels
        ``fine0``, ``fine1`` as float16. The caller holds the device's gate.
        """
        import torch

        height, width = image.shape[:2]
        pixels = self._pixels(image)
        with torch.inference_mode():
            found = self._retry(lambda model, _, device: model.get_image_embeddings(pixels.to(device)))
        if isinstance(found, torch.Tensor):  # SAM
            levels, coarse = [], found
        elif isinstance(found, tuple):  # HQ-SAM: of the intermediate features the decoder takes the first
            levels, coarse = [found[1][0]], found[0]
        else:
            *levels, coarse = found
        arrays: dict[str, npt.NDArray[np.generic]] = {"features": coarse.float().cpu().numpy()}
        for index, level in enumerate(levels):
            arrays[f"fine{index}"] = _halved(level.float().cpu().numpy())
        return Embedding(self.encoder, (height, width), arrays)

    def _pixels(self, image: npt.NDArray[np.uint8]) -> Any:
        side = {"height": self._size, "width": self._size}
        sizes = {"size": side} if self.family.squeezes else {
            "size": {"longest_edge": self._size}, "pad_size": side,
        }  # fmt: skip
        given = self._processor(
            images=_owned(np.ascontiguousarray(image)),
            input_data_format="channels_last",
            return_tensors="pt",
            **sizes,
        )
        return given["pixel_values"]

    # -- decode -----------------------------------------------------------------------------------------

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """The best mask for a prompt, its predicted IoU and its low-resolution logits."""
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
        points, kinds, mask_input, several = decoder_prompt(
            prompt, start_mask, hw, self._size, self._low, squeeze=self.family.squeezes
        )
        corners = kinds >= 2

        def decode(model: Any, _: Any, device: str) -> tuple[Any, Any, Any]:
            given = self._features(embedding, device)
            given["multimask_output"] = several
            if not corners.all():
                given["input_points"] = _tensor(points[~corners], device, 1, 1, -1, 2)
                given["input_labels"] = _tensor(kinds[~corners], device, 1, 1, -1)
            if corners.any():
                given["input_boxes"] = _tensor(points[corners], device, 1, 1, 4)
            if mask_input is not None:
                given["input_masks"] = _tensor(mask_input, device, 1, 1, self._low, self._low)
            said = model(**given)
            masks, iou = said.pred_masks[0, 0].float(), said.iou_scores[0, 0].float()
            chosen = iou.argsort(descending=True, stable=True)[: None if every else 1]
            logits = masks[chosen]
            full = torch.stack([self._to_image(one, hw) for one in logits.split(1)])
            return full.cpu(), iou[chosen].cpu(), logits.cpu()

        with torch.inference_mode(), self._decoding:
            full, iou, logits = self._retry(decode)
        if self.family.squeezes:
            logits = logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        before = None if start_mask is None else start_mask.mask
        found = np.stack([honour_clicks(one, prompt, before) for one in full.numpy()])
        return ClickResult(found, iou.clamp(0.0, 1.0).numpy(), logits.numpy())

    def segment_points(self, embedding: Embedding, points: Floats) -> ClickResult:
        """All masks of each of n clicks (n, 2) xy, every click on its own: k = n times as many as the model
        gives for one (3), those of the first click first. ``iou`` is what the model predicts.
        """
        import torch

        hw = embedding.hw
        all_of = Prompt(tuple((x, y, True) for x, y in points.tolist()), None, "")
        frame, kinds, _, _ = decoder_prompt(
            all_of, None, hw, self._size, self._low, squeeze=self.family.squeezes
        )

        def decode(model: Any, _: Any, device: str) -> tuple[Any, Any, Any]:
            given = self._features(embedding, device)
            given["input_points"] = _tensor(frame, device, 1, -1, 1, 2)
            given["input_labels"] = _tensor(kinds, device, 1, -1, 1)
            said = model(**given, multimask_output=True)
            logits = said.pred_masks[0].flatten(0, 1).float()
            masks = torch.stack([self._to_image(one[None], hw) > 0 for one in logits])
            return masks.cpu(), said.iou_scores[0].flatten().float().cpu(), logits.cpu()

        with torch.inference_mode(), self._decoding:
            masks, iou, logits = self._retry(decode)
        return ClickResult(masks.numpy(), iou.clamp(0, 1).numpy(), logits.numpy())

    def _features(self, embedding: Embedding, device: str) -> dict[str, Any]:
        """An embedding as the model takes it."""
        names = sorted(name for name in embedding.arrays if name != "features")
        fine = [_tensor(embedding.arrays[name], device).float() for name in names]
        coarse = _tensor(embedding.arrays["features"], device)
        if self.family.squeezes:
            return {"image_embeddings": [*fine, coarse]}
        return {"image_embeddings": coarse, **({"intermediate_embeddings": fine} if fine else {})}

    def _to_image(self, logits: Any, hw: tuple[int, int]) -> Any:
        """(1, low, low) logits → (H, W), as the model's own post-processing does it."""
        from torch.nn.functional import interpolate

        if not self.family.squeezes:
            scale = self._size / max(hw)
            logits = interpolate(
                logits[None], (self._size, self._size), mode="bilinear", align_corners=False
            )[0]
            logits = logits[:, : int(hw[0] * scale + 0.5), : int(hw[1] * scale + 0.5)]
        return interpolate(logits[None], hw, mode="bilinear", align_corners=False)[0, 0]


def _tensor(array: npt.NDArray[Any], device: str, *shape: int) -> Any:
    import torch

    return torch.from_numpy(_owned(array).reshape(shape or array.shape)).to(device)


def _owned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy where needed: torch refuses to wrap a read-only memory map without a warning."""
    return array if array.flags.writeable else array.copy()


def _halved(array: Floats) -> npt.NDArray[np.float16] | Floats:
    """As float16, unless a value is too large for it."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if bool(np.isfinite(half).all()) else array


def _encode_in_bfloat16(model: Any) -> None:
    """Weights and pictures of the image encoder in bfloat16, its output in float32 again; in place."""
    import torch

    encoder = model.vision_encoder.to(torch.bfloat16)

    def widen(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.float() if value.is_floating_point() else value
        return type(value)(widen(item) for item in value) if isinstance(value, list | tuple) else value

    def narrow(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        pixels = {name: v.bfloat16() for name, v in named.items() if name == "pixel_values"}
        return tuple(value.bfloat16() for value in args), {**named, **pixels}

    def after(_: Any, __: Any, output: Any) -> Any:
        for name in list(output):
            output[name] = widen(output[name])
        return output

    encoder.register_forward_pre_hook(narrow, with_kwargs=True)
    encoder.register_forward_hook(after)


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> HfSegmenter:
    """``hf`` from GROUNDSWELL_HF_MODEL. ModelError says what is missing or what was found instead."""
    device = resolve_device(settings.device)
    return HfSegmenter(*load_model(find_folder(settings)), device=device, precision=settings.hf_precision)
