"""The project's click network as an ONNX file that ``click-onnx`` and other programs load."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ml_backend.artifacts.files import write_atomic
from ml_backend.clicks.segmenters.input_maps import N_INPUT_MAPS

__all__ = ["export_click_network"]


def export_click_network(folder: Path, out: Path) -> Path:
    """Write the project network of ``folder`` (``train_click_model``) as one ONNX file of signature *maps*.

    The file's metadata holds the input size and the side of the first window. Raises ModelError when there is
    no network.
    """
    import onnx
    import torch

    from ml_backend.clicks.project_network.click_net import load_network

    network, manifest = load_network(folder)
    size = manifest.size
    example = tuple(torch.zeros(1, channels, size, size) for channels in (3, 3, 1, N_INPUT_MAPS))
    with tempfile.TemporaryDirectory() as staging:
        file = Path(staging) / "click.onnx"
        torch.onnx.export(
            network, example, file, input_names=["image", "clicks", "previous", "input_maps"],
            output_names=["logits"], opset_version=17, dynamo=False,
        )  # fmt: skip
        model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {"size": str(size), "first_side": str(manifest.first_side)})
    write_atomic(out, model.SerializeToString())
    return out
