"""Write a classifier as one file that runs without Groundswell: ONNX or TorchScript."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_backend.artifacts.files import storage_errors, write_atomic, write_json
from ml_backend.errors import ModelError
from ml_backend.extras import require_extra
from ml_backend.learners.classes.network import ClassNetwork
from ml_backend.learners.classes.predictor import ClassConfig
from ml_backend.learners.torchscript import write_torchscript

__all__ = ["export_classifier"]


def export_classifier(network: ClassNetwork, config: ClassConfig, out: Path) -> Path:
    """Write ``out`` (ONNX where its name ends in .onnx, else TorchScript) and beside it a .json of labels,
    input and output. Calibration is inside. Raises ModelError, MissingExtra, StorageError.
    """
    network = network.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    # two pictures, and none of them even: tracing must take the number of pictures for variable
    example = torch.rand(2, 3, config.side, config.side, generator=torch.Generator().manual_seed(0)) * 255
    manifest = {
        "task": "classes",
        "labels": list(config.labels),
        "exclusive": config.exclusive,
        "side": config.side,
        "input": (
            f"pixels: (n, 3, {config.side}, {config.side}) float32 RGB in 0..255; pictures are "
            "scaled to this square by Pillow's bilinear resize"
        ),
        "output": {
            "probability": "(n, labels) float32, calibrated"
            + (", rows sum to 1" if config.exclusive else ", one for each label"),
            "embedding": "(n, 128) float32 of length 1",
        },
    }
    if out.suffix == ".onnx":
        return _write_onnx(network, example, out, manifest)
    return write_torchscript(network, out, manifest, example=example)


def _write_onnx(network: ClassNetwork, example: Tensor, out: Path, manifest: dict[str, Any]) -> Path:
    require_extra("onnx")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as staging, torch.inference_mode():
            file = Path(staging) / out.name
            torch.onnx.export(
                network,
                (example,),
                file,
                input_names=["pixels"],
                output_names=["probability", "embedding"],
                dynamic_axes={name: {0: "n"} for name in ("pixels", "probability", "embedding")},
                opset_version=17,
                dynamo=False,
            )
            write_atomic(out, file.read_bytes())
    except RuntimeError as error:
        raise ModelError(f"this network cannot be written as ONNX: {error}") from error
    write_json(out.with_suffix(".json"), {"format": "onnx", **manifest})
    return out
