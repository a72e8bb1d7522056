"""Put a trained network into the package: ``python -m bench.click_network.ship FOLDER [TARGET]``.

FOLDER is what ``python -m bench.click_network.run`` made. The weights are rounded to half precision first, so
that the file for torch and the ONNX file hold the same numbers.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from ml_backend.clicks.project_network.click_net import WEIGHTS, load_network, save_network
from ml_backend.clicks.project_network.onnx_export import export_click_network
from ml_backend.clicks.segmenters.shipped import SHIPPED_NETWORK

__all__ = ["ship"]


def ship(folder: Path, target: Path) -> None:
    """Write network.onnx, weights.safetensors in half precision and click.json into ``target``."""
    network, manifest = load_network(folder)
    network.half().float()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as rounded:
        save_network(Path(rounded), network, manifest)
        export_click_network(Path(rounded), target / "network.onnx")
    save_network(target, network, manifest)
    half = {n: v.half() if v.is_floating_point() else v for n, v in network.state_dict().items()}
    save_file(half, target / WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=SHIPPED_NETWORK)
    arguments = parser.parse_args()
    ship(arguments.folder, arguments.target)
    for file in sorted(arguments.target.iterdir()):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
