"""Errors about weights say what somebody has in hand."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.clicks.segmenters.sam_identify import identify
from ml_backend.clicks.segmenters.sam_onnx import SamOnnxSegmenter
from ml_backend.clicks.segmenters.sam_weights import load_sam
from ml_backend.errors import ModelError
from tests.ml_backend.clicks.hf_folders import save
from tests.ml_backend.clicks.sam_models import small_sam

SAM2 = ("image_encoder.trunk.pos_embed_window", "sam_mask_decoder.iou_token.weight")
FOREIGN: dict[str, tuple[tuple[str, ...], str]] = {
    "sam2": (SAM2, "a SAM 2 checkpoint of facebook's sam2 package"),
    "sam2.1": ((*SAM2, "no_obj_embed_spatial"), "a SAM 2.1 checkpoint of facebook's sam2 package"),
    "sam3": (("detector.backbone.a", "tracker.b"), "a SAM 3 checkpoint of facebook's sam3 package"),
    "edgetam": (("spatial_perceiver.a", *SAM2), "an EdgeTAM checkpoint"),
    "efficienttam": (("image_encoder.trunk.pos_embed", SAM2[1]), "EfficientTAM"),
    "hq": (
        ("mask_decoder.hf_token.weight", "mask_decoder.compress_vit_feat.0.weight"),
        "an HQ-SAM checkpoint",
    ),
    "mobile": (("image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.a"), "a MobileSAM checkpoint"),
    "detector": (("backbone.body.conv1.weight", "roi_heads.box_head.fc6.weight"), "a detection model"),
    "resnet": (("layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"), "classifies pictures"),
}


def write(path: Path, names: tuple[str, ...], wrapped: str | None = "model") -> Path:
    state: Any = dict.fromkeys(names, torch.zeros(1))
    torch.save({wrapped: state} if wrapped else state, path)
    return path


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
def test_foreign_checkpoints_are_named_and_what_to_do(tmp_path: Path, name: str, wrapped: str | None) -> None:
    names, words = FOREIGN[name]
    path = write(tmp_path / "weights.pt", names, wrapped)
    found = identify(path)
    assert found is not None
    assert words in found.what
    assert "GROUNDSWELL_" in found.hint or "groundswell" in found.hint
    if wrapped != "state_dict":
        with pytest.raises(ModelError, match="not a SAM checkpoint") as caught:
            load_sam(path)
        assert words in caught.value.message
        assert caught.value.hint == found.hint


def test_a_folder_of_transformers_given_to_the_others(tmp_path: Path) -> None:
    folder = save("sam2", tmp_path / "sam2")
    with pytest.raises(ModelError, match=r"model of type 'sam2'.*GROUNDSWELL_SEGMENTER=hf"):
        load_sam(folder)
    with pytest.raises(ModelError, match=r"model of type 'sam2'.*GROUNDSWELL_SEGMENTER=hf"):
        SamOnnxSegmenter(folder)
    weights = identify(folder / "model.safetensors")
    assert weights is not None
    assert "SAM model in transformers' format" in weights.what


def test_folders_with_a_foreign_file(tmp_path: Path) -> None:
    write(tmp_path / "sam2.1_hiera_tiny.pt", FOREIGN["sam2.1"][0])
    with pytest.raises(ModelError, match=r"a folder with sam2\.1_hiera_tiny\.pt, a SAM 2\.1 checkpoint"):
        SamOnnxSegmenter(tmp_path)


def test_an_official_checkpoint_and_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save(small_sam().state_dict(), path)
    found = identify(path)
    assert found is not None
    assert "segment-anything" in found.what
    assert identify(write(tmp_path / "odd.pt", ("a", "b"))) is None
    assert identify(tmp_path / "gone.pt") is None
    (tmp_path / "text.pth").write_bytes(b"no weights")
    assert identify(tmp_path / "text.pth") is None
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    assert identify(tmp_path / "cut.safetensors") is None


def test_a_pickled_program_is_named_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "FastSAM.pt"
    program = b"cultralytics.nn.tasks\nSegmentationModel\n)R."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("FastSAM/data.pkl", program)
        archive.writestr("FastSAM/version", "3\n")
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(program)
    found = identify(path)
    assert found is not None
    assert "ultralytics" in found.what
