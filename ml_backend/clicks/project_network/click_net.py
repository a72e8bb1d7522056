"""The project's own click network: small enough to train in minutes on a CPU and to answer in milliseconds.

A U-Net-like network over image, click discs, box and previous mask (the inputs of RITM, Sofiiuk et al.
2021), with two additions that help when there is little training data:

* *Input maps* (module ``input_maps``): geodesic distances to the clicks and the classical segmenter's answer.
* *Prototypes*: the mean feature under the positive clicks, the negative clicks, the previous mask and the
  classical segmenter's mask. Each is compared with the features of all pixels. So the network does not have
  to learn from examples alone what "looks like the clicked pixels" means.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT, N_INPUT_MAPS, compute_input_maps
from ml_backend.clicks.segmenters.zoom import ZoomSegmenter
from ml_backend.devices import resolve_device
from ml_backend.errors import ModelError

__all__ = ["ClickNet", "NetworkManifest", "ProjectSegmenter", "load_network", "save_network"]

WEIGHTS, MANIFEST = "weights.safetensors", "click.json"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class NetworkManifest:
    """What a network needs besides its weights: ``size`` is the side of its input, ``width`` its number of
    channels, ``first_side`` the side of the window for a first click, in pixels of the picture.
    """

    size: int
    width: int
    first_side: float
    format: int = CLICK_FORMAT


class _Block(nn.Module):
    """Two 3×3 convolutions with a shortcut; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.norm_a = nn.BatchNorm2d(outputs)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.norm_b = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_a(self.a(x)))
        return F.relu(self.norm_b(self.b(y)) + self.skip(x))


class _Up(nn.Module):
    """Double the resolution and mix in the encoder's map of that resolution."""

    def __init__(self, inputs: int, lateral: int, outputs: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(inputs + lateral, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.mix = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_mix = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = F.relu(self.norm(self.lateral(torch.cat([x, lateral], 1))))
        return F.relu(self.norm_mix(self.mix(x)))


def _prototypes(features: Tensor, weights: Tensor) -> Tensor:
    """Cosine similarity of features (N, C, H, W) to their mean under each of weights (N, K, H, W) -> (N, K,
    H, W).

    Where a weight map is empty the similarity is 0.
    """
    n, c, h, w = features.shape
    unit = F.normalize(features, dim=1, eps=1e-4).reshape(n, c, h * w)
    flat = weights.reshape(n, -1, h * w)
    total = flat.sum(-1, keepdim=True)
    mean = torch.bmm(flat, unit.transpose(1, 2)) / (total + 1e-4)
    mean = F.normalize(mean, dim=2, eps=1e-4)
    return torch.bmm(mean, unit).reshape(n, -1, h, w)


class ClickNet(nn.Module):
    """image (N, 3, S, S) RGB in 0..1, clicks (N, 3, S, S) 0/1 (positive, negative, box), previous (N, 1, S,
    S) 0/1, input_maps (N, N_INPUT_MAPS, S, S) -> logits (N, 1, S, S). S is a multiple of 16; ``width`` is the
    number of channels at half resolution.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.look = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        # 8 image features, given maps, 4 similarities to the image features under clicks and masks
        full = 8 + 4 + N_INPUT_MAPS + 4
        self.stem = _Block(full, w, stride=2)
        self.down2 = _Block(w, 2 * w, stride=2)
        self.down3 = _Block(2 * w + 4, 3 * w, stride=2)
        self.down4 = _Block(3 * w, 4 * w, stride=2)
        self.context = _Block(4 * w, 4 * w, dilation=2)
        self.up3 = _Up(4 * w, 3 * w, 3 * w)
        self.up2 = _Up(3 * w, 2 * w + 4, 2 * w)
        self.up1 = _Up(2 * w, w, w)
        # Few channels at full resolution: a channel costs sixteen times as much there as at a quarter.
        self.narrow = nn.Conv2d(w, 16, 1)
        self.up0 = nn.Sequential(
            nn.Conv2d(16 + full, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.head = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor, clicks: Tensor, previous: Tensor, input_maps: Tensor) -> Tensor:
        given = torch.cat([clicks, previous, input_maps], 1)
        marks = torch.cat([clicks[:, :2], previous, input_maps[:, :1]], 1)
        seen = self.look((image - cast(Tensor, self.mean)) / cast(Tensor, self.std))
        full = torch.cat([seen, given, _prototypes(seen, marks)], 1)
        half = self.stem(full)
        quarter = self.down2(half)
        quarter = torch.cat([quarter, _prototypes(quarter, F.avg_pool2d(marks, 4))], 1)
        eighth = self.down3(quarter)
        deep = self.context(self.down4(eighth))
        x = self.narrow(self.up1(self.up2(self.up3(deep, eighth), quarter), half))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.head(self.up0(torch.cat([x, full], 1)))
        return out


def save_network(folder: Path, network: ClickNet, manifest: NetworkManifest) -> None:
    """Write weights.safetensors and click.json into ``folder``."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    write_json(folder / MANIFEST, asdict(manifest))


def load_network(folder: Path) -> tuple[ClickNet, NetworkManifest]:
    """The network in eval mode with its manifest. Raises ModelError when files are missing or do not fit."""
    try:
        fields: Any = read_json(folder / MANIFEST)
        manifest = NetworkManifest(**fields)
        _check(manifest, folder)
        network = ClickNet(manifest.width)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"no usable click network in {folder}: {error}", hint="Train it again: delete the folder"
        ) from error
    return network.eval(), manifest


def _check(manifest: NetworkManifest, folder: Path) -> None:
    if manifest.format != CLICK_FORMAT or manifest.size % 16:
        raise ModelError(
            f"the click network in {folder} has format {manifest.format} and size {manifest.size}, "
            f"this version of Groundswell runs format {CLICK_FORMAT} and multiples of 16",
            field=str(folder / MANIFEST),
            hint="The worker trains a new one; to have it sooner, delete the folder",
        )


class ProjectSegmenter(ZoomSegmenter):
    """Segmenter 'project': a folder written by ``train_click_model``, loaded on the first click.

    Safe under threads: the network is only read, and one lock per segmenter keeps clicks from sharing the
    cores.
    """

    name = "project"

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Read manifest and digest of ``folder``. Raises ModelError when there is no network."""
        self.folder = folder
        self.device = resolve_device(device)
        self._lock = threading.Lock()
        self._network: ClickNet | None = None
        try:
            manifest = NetworkManifest(**read_json(folder / MANIFEST))
            weights = (folder / WEIGHTS).read_bytes()
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(
                f"no click network in {folder}: {error}", hint="Wait for the worker's next round"
            ) from error
        _check(manifest, folder)
        self.encoder = f"project-{hashlib.sha256(weights).hexdigest()[:12]}"
        self.nbytes = len(weights)
        self.size, self.first_side = manifest.size, manifest.first_side

    def load(self) -> None:
        """Load the weights now and not at the first click. Raises ModelError when they are damaged."""
        with self._lock:
            self._load()

    def _load(self) -> ClickNet:
        if self._network is None:
            network, _ = load_network(self.folder)
            self._network = network.to(self.device).to(memory_format=torch.channels_last)
        return self._network

    def _logits(
        self,
        image: npt.NDArray[np.uint8],
        clicks: npt.NDArray[np.float32],
        previous: npt.NDArray[np.float32],
        points: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        input_maps = compute_input_maps(image, clicks, previous > 0, points)
        with self._lock, torch.inference_mode():
            network = self._load()
            pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255.0
            given = torch.from_numpy(clicks).to(self.device)[None]
            before = torch.from_numpy(previous).to(self.device)[None, None]
            maps = torch.from_numpy(input_maps).to(self.device)[None]
            out = network(pixels.contiguous(memory_format=torch.channels_last), given, before, maps)
            logits: npt.NDArray[np.float32] = out[0, 0].float().cpu().numpy()
        return logits
