"""What a file or folder of weights is, read off its names: for errors that say what somebody has in hand."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Identity", "identify", "identify_names"]

_HF = "Set GROUNDSWELL_SEGMENTER=hf and GROUNDSWELL_HF_MODEL to {} in transformers' format"
_TO_HF = _HF.format("a folder of the same model")
_PULL = "'groundswell models pull sam_vit_b' fetches a checkpoint that works"


@dataclass(frozen=True, slots=True)
class Identity:
    """``what`` continues "this is …"; ``hint`` says what to do with it."""

    what: str
    hint: str


def identify(path: Path) -> Identity | None:
    """What is at ``path``, None when nothing here knows it. Runs no code of the file, raises nothing."""
    try:
        if path.is_dir():
            return _folder(path)
        if path.suffix == ".onnx":
            return Identity(
                "an ONNX file",
                "A click network goes to GROUNDSWELL_SEGMENTER=click-onnx with GROUNDSWELL_CLICK_ONNX; of a "
                "SAM pair give the folder with encoder and decoder to GROUNDSWELL_SAM_ONNX",
            )
        if path.suffix == ".safetensors":
            return identify_names(_safetensors_names(path))
        return _pickled(path)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    except (AttributeError, TypeError, RecursionError):  # JSON of another shape, or nested too deeply
        return None


def identify_names(names: Collection[str]) -> Identity | None:
    """What weights with tensors of these names are; None when nothing here knows them."""

    def has(*starts: str) -> bool:
        return all(any(name.startswith(start) for name in names) for start in starts)

    if has("detector.", "tracker."):
        return Identity(
            "a SAM 3 checkpoint of facebook's sam3 package",
            _HF.format("a folder of SAM 3") + " (for example facebook/sam3)",
        )
    if has("detector_model.", "tracker_model."):
        return Identity("weights of SAM 3 in transformers' format", _HF.format("the folder they lie in,"))
    if has("vision_encoder.", "prompt_encoder.", "mask_decoder."):
        return Identity(
            "weights of a SAM model in transformers' format",
            _HF.format("the folder with these weights and config.json,"),
        )
    if has("spatial_perceiver."):
        return Identity(
            "an EdgeTAM checkpoint of facebook's EdgeTAM package",
            _HF.format("a folder of EdgeTAM") + " (for example yonigozlan/EdgeTAM-hf)",
        )
    if has("image_encoder.trunk.pos_embed_window", "sam_mask_decoder."):
        version = "2.1" if has("no_obj_embed_spatial") else "2"
        return Identity(
            f"a SAM {version} checkpoint of facebook's sam2 package",
            _HF.format(f"a folder of SAM {version}") + " (for example facebook/sam2.1-hiera-tiny)",
        )
    if has("image_encoder.trunk.", "sam_mask_decoder."):
        return Identity(
            "a checkpoint of a relative of SAM 2 (EfficientTAM, …)",
            "Export its encoder and decoder to ONNX; then GROUNDSWELL_SEGMENTER=sam-onnx",
        )
    if has("mask_decoder.hf_token", "mask_decoder.compress_vit_feat"):
        return Identity(
            "an HQ-SAM checkpoint (.pth of its own package)",
            _HF.format("a folder of HQ-SAM") + " (for example syscv-community/sam-hq-vit-base)",
        )
    if has("image_encoder.patch_embed.seq.", "mask_decoder."):
        return Identity(
            "a MobileSAM checkpoint (its encoder is a TinyViT)",
            "Export encoder and decoder to ONNX with MobileSAM's script; then GROUNDSWELL_SEGMENTER=sam-onnx",
        )
    if has("image_encoder.patch_embed.proj.", "prompt_encoder.", "mask_decoder."):
        return Identity(
            "a checkpoint of the segment-anything package or of a model built like it",
            "Set GROUNDSWELL_SEGMENTER=sam or sam-onnx, and GROUNDSWELL_SAM_CHECKPOINT to the file",
        )
    if has("roi_heads.") or has("proposal_generator.") or has("bbox_embed.") or has("class_embed."):
        return Identity(
            "a detection model: it finds objects by itself, but takes no clicks",
            "Detectors go to the project's learner (groundswell init --learner). For clicks: " + _PULL,
        )
    if has("layer1.", "layer4.") or has("blocks.0.", "head.") or has("features.0.", "classifier."):
        return Identity(
            "a network that classifies pictures or gives features; it makes no masks", f"For clicks: {_PULL}"
        )
    return None


_DETECTORS = {
    "conditional_detr", "d_fine", "dab-detr", "deformable_detr", "detr", "grounding-dino",
    "mm-grounding-dino", "omdet-turbo", "owlv2", "owlvit", "rf_detr", "rt_detr", "rt_detr_v2",
    "table-transformer", "yolos",
}  # fmt: skip


def _folder(path: Path) -> Identity | None:
    config = path / "config.json"
    if config.is_file():
        kind = str(json.loads(config.read_text()).get("model_type") or "")
        if kind in _DETECTORS:
            return Identity(
                f"a detection model ({kind}): it finds objects by itself, but takes no clicks",
                "Detectors go to the project's learner, cold-start. For clicks name a SAM model",
            )
        if kind == "sam3":
            return Identity(
                "SAM 3's model for words alone, without the part that takes clicks",
                "Use the whole SAM 3 (model_type sam3_video) or its tracker (sam3_tracker)",
            )
        if kind:
            return Identity(f"a model of type {kind!r} in transformers' format", _TO_HF)
    if any(path.glob("*encoder*.onnx")):
        return Identity(
            "a folder with ONNX files", "Set GROUNDSWELL_SEGMENTER=sam-onnx and GROUNDSWELL_SAM_ONNX"
        )
    for file in sorted(file for end in ("pt", "pth", "safetensors") for file in path.glob(f"*.{end}")):
        found = identify(file)
        if found is not None:
            return Identity(f"a folder with {file.name}, {found.what}", found.hint)
    return None


def _safetensors_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError("no header")
        return [name for name in json.loads(file.read(length)) if name != "__metadata__"]


def _pickled(path: Path) -> Identity | None:
    import torch

    try:
        state: Any = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # torch raises whatever its unpickler or zip reader meets
        return _program(path)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        return None
    return identify_names([str(name).removeprefix("module.") for name in state])


def _program(path: Path) -> Identity | None:
    """A pickle that names classes of a program: never loaded, because loading it would run its code."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        text = b"".join(archive.read(name) for name in pickles)
    if b"ultralytics" in text:
        return Identity(
            "a whole model of ultralytics (YOLO or FastSAM), which can only be opened by running its code",
            f"For clicks: {_PULL}",
        )
    if b"segment_anything" in text or b"torch.nn.modules" in text:
        return Identity(
            "a whole pickled model, which can only be opened by running its code",
            "Save its state_dict() instead of the model, and name that file",
        )
    return None
