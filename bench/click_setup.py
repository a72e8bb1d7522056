"""What the click benchmark runs on: SAM with random weights, pictures, a project, and the server."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.project_facts import ProjectFacts, save_facts
from ml_backend.devices import TUNED

CONFIG = """<View>
<KeyPointLabels name="kp" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true" smartOnly="true"><Label
value="Cat"/></RectangleLabels> <BrushLabels name="brush" toName="image" smart="false"><Label
value="Cat"/></BrushLabels> <Image name="image" value="$image"/></View>"""
WIDTH, HEIGHT = 1024, 768


def random_sam(kind: str) -> Any:
    """segment-anything with random weights: ``vit_b`` as published, ``vit_tiny`` with an image encoder of
    ViT-Ti's size (12 layers of 192, 3 heads), ``small`` for a quick run.

    The decoder's upsampling is made constant over each of its cells, so that masks are blobs. Purely random
    masks are noise at one pixel, which no decoder, ours or another, would be fairly timed on.
    """
    import torch
    from segment_anything import sam_model_registry
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    if kind == "vit_b":
        model = sam_model_registry["vit_b"]()
    else:
        depth, width, heads, global_layers = (12, 192, 3, (2, 5, 8, 11))
        if kind == "small":
            depth, width, heads, global_layers = (2, 96, 2, (1,))
        model = Sam(
            image_encoder=ImageEncoderViT(
                depth=depth, embed_dim=width, img_size=1024, mlp_ratio=4,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), num_heads=heads, patch_size=16,
                qkv_bias=True, use_rel_pos=True, global_attn_indexes=global_layers, window_size=14,
                out_chans=256,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
            ),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=3,
                transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
                transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256,
            ),
            pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375],
        )  # fmt: skip
    with torch.no_grad():
        for layer in model.mask_decoder.output_upscaling:
            if isinstance(layer, torch.nn.ConvTranspose2d):
                layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
    return model.eval()


def make_pictures(folder: Path, count: int, *, hw: tuple[int, int] = (HEIGHT, WIDTH)) -> list[Path]:
    """Distinct JPEGs of ellipses, by default 1024 × 768."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        path = folder / f"{index:04d}.jpg"
        if not path.exists():
            rng = np.random.default_rng(index)
            image: npt.NDArray[np.uint8] = np.full((*hw, 3), rng.integers(40, 120, 3), np.uint8)
            for _ in range(25):
                centre = (int(rng.integers(hw[1])), int(rng.integers(hw[0])))
                axes = (int(rng.integers(15, 120)), int(rng.integers(15, 120)))
                colour = tuple(int(c) for c in rng.integers(0, 255, 3))
                cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, colour, -1)
            image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(path), image)
        paths.append(path)
    return paths


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment(
    folder: Path, segmenter: str, checkpoint: Path, *, tuned: bool = True, **more: str
) -> dict[str, str]:
    """Environment of the server and of the measurements beside it."""
    env = {k: v for k, v in os.environ.items() if k not in TUNED and not k.startswith("GROUNDSWELL_")}
    return {
        **env,
        **(TUNED if tuned else {}),
        "GROUNDSWELL_DATA_DIR": str(folder / "data"),
        "GROUNDSWELL_ALLOW_IMAGE_DIRS": str(folder),
        "GROUNDSWELL_SEGMENTER": segmenter,
        "GROUNDSWELL_HF_MODEL" if segmenter == "hf" else "GROUNDSWELL_SAM_CHECKPOINT": str(checkpoint),
        "GROUNDSWELL_DEVICE": "cpu",
        "GROUNDSWELL_LOG_LEVEL": "WARNING",
        **more,
    }


def make_project(folder: Path) -> ProjectFacts:
    facts = ProjectFacts(1, "1.1700000000", "bench", "instances", CONFIG, ("Cat",))
    save_facts(folder / "data", facts)
    return facts


@contextlib.contextmanager
def server(env: dict[str, str], log: Path, *, threads: int = 8) -> Iterator[int]:
    """The app under gunicorn as ``groundswell up`` starts it; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "gunicorn", "ml_backend._wsgi:app", "--bind", f"127.0.0.1:{port}"]
    command += ["--worker-class", "gthread", "--workers", "1", "--threads", str(threads), "--timeout", "600"]
    command += ["--control-socket", str(log.with_suffix(".ctl"))]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env={**env, "GROUNDSWELL_OPEN_BACKEND": "true"}, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        raise RuntimeError(f"the server did not start, see {log}") from None
                    time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered click: seconds on the wire, HTTP status, and a hash of the mask."""

    seconds: float
    status: int
    mask: str
    bytes: int


class User:
    """One person's browser: a connection kept open, contexts as the editor sends them."""

    def __init__(self, port: int, facts: ProjectFacts) -> None:
        self._port = port
        self._facts = facts
        self._connection: http.client.HTTPConnection | None = None

    def click(
        self, image: Path, points: list[tuple[float, float, bool]], *, regions: list[Any] | None = None
    ) -> Reply:
        """Click points (percent) on an image; ``regions`` are on the task already, as Label Studio sends
        them.
        """
        items = [
            {
                "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
                "value": {"x": x, "y": y, "width": 0.26, "labels": ["Cat"], "keypointlabels": ["Cat"]},
                "is_positive": positive, "id": f"p{index}", "from_name": "kp", "to_name": "image",
                "type": "keypointlabels", "origin": "manual",
            }
            for index, (x, y, positive) in enumerate(points)
        ]  # fmt: skip
        task = {
            "id": int(image.stem) + 1, "data": {"image": str(image)}, "project": 1, "predictions": [],
            "annotations": [{"id": 1, "result": regions}] if regions else [],
            "drafts": [{"id": 1, "result": regions}] if regions else [],
        }  # fmt: skip
        params = {"login": None, "password": None, "context": {"result": items}}
        document = {"tasks": [task], "project": self._facts.key, "label_config": self._facts.label_config}
        body = json.dumps({**document, "params": params}).encode()
        began = time.perf_counter()
        status, data = self._post(body)
        seconds = time.perf_counter() - began
        mask = ""
        if status == 200:
            found = json.loads(data)["results"][0]["result"]
            mask = hashlib.sha256(json.dumps([r["value"].get("rle") for r in found]).encode()).hexdigest()
        return Reply(seconds, status, mask, len(data))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        for again in (True, False):
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
                self._connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                return response.status, response.read()
            except (http.client.HTTPException, ConnectionError):
                self._connection = None  # the server closes idle connections; one new try
                if not again:
                    raise
        raise AssertionError("unreachable")


_SAM_TO_HF = (
    ("iou_prediction_head.layers.0", "iou_prediction_head.proj_in"),
    ("iou_prediction_head.layers.1", "iou_prediction_head.layers.0"),
    ("iou_prediction_head.layers.2", "iou_prediction_head.proj_out"),
    ("output_upscaling.0", "upscale_conv1"),
    ("output_upscaling.1", "upscale_layer_norm"),
    ("output_upscaling.3", "upscale_conv2"),
    ("mask_downscaling.0", "mask_embed.conv1"),
    ("mask_downscaling.1", "mask_embed.layer_norm1"),
    ("mask_downscaling.3", "mask_embed.conv2"),
    ("mask_downscaling.4", "mask_embed.layer_norm2"),
    ("mask_downscaling.6", "mask_embed.conv3"),
    ("point_embeddings", "point_embed"),
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("image_encoder", "vision_encoder"),
    ("neck.0", "neck.conv1"),
    ("neck.1", "neck.layer_norm1"),
    ("neck.2", "neck.conv2"),
    ("neck.3", "neck.layer_norm2"),
    ("patch_embed.proj", "patch_embed.projection"),
    (".norm", ".layer_norm"),
    ("blocks", "layers"),
)
_HYPERNETWORK = re.compile(r"(output_hypernetworks_mlps\.\d+)\.layers\.(\d)")


def sam_as_hf(state: dict[str, Any]) -> dict[str, Any]:
    """Weights of a segment-anything model under the names that transformers' SamModel has for them."""
    named = {}
    for name, tensor in state.items():
        for ours, theirs in _SAM_TO_HF:
            name = name.replace(ours, theirs)
        found = _HYPERNETWORK.search(name)
        if found is not None:
            part = ("proj_in", "layers.0", "proj_out")[int(found[2])]
            name = name.replace(found[0], f"{found[1]}.{part}")
        named[name] = tensor
    shared = "prompt_encoder.shared_embedding.positional_embedding"
    return {**named, "shared_image_embedding.positional_embedding": named[shared]}
