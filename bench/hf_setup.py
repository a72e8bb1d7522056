"""Models of transformers for the click benchmark, of real size with random weights, and their bare calls.

``python -m bench.hf_setup levels --work FOLDER`` says what keeping less of a picture's features does to
masks; ``python -m bench.hf_setup calls --work FOLDER`` what our calls cost beside the bare ones, as CPU time;
``python -m bench.hf_setup sam --work FOLDER`` whether ``hf`` gives the masks of ``sam`` for the same ViT-B.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

__all__ = ["HF_MODELS", "BareHf", "save_random_hf"]

HF_MODELS = {"sam2": "Sam2", "sam3": "Sam3Tracker", "sam": "Sam", "small": "Sam2"}
"""Choice → prefix of its classes. ``sam2`` is SAM 2.1 hiera-tiny, ``sam3`` the tracker of SAM 3, ``sam`` is
ViT-B, ``small`` a SAM 2 that sees 256 × 256 pixels."""


def save_random_hf(kind: str, folder: Path, *, fine: float = 0.1) -> Path:
    """Write config, image processor and random weights of ``kind`` into ``folder``, unless they are there.

    As in ``random_sam`` the decoder's last steps are constant over their cells, and the fine features, whose
    weights are multiplied by ``fine``, add little to them: masks are blobs, not noise at one pixel.
    """
    import torch
    import transformers

    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    config = getattr(transformers, f"{HF_MODELS[kind]}Config")()
    if kind == "small":
        backbone = config.vision_config.backbone_config
        backbone.hidden_size, backbone.blocks_per_stage = 24, [1, 1, 2, 1]
        backbone.embed_dim_per_stage, backbone.num_attention_heads_per_stage = [24, 48, 96, 192], [1, 1, 2, 4]
        backbone.global_attention_blocks = [3]
        config.vision_config.backbone_channel_list = [192, 96, 48, 24]
        config.vision_config.backbone_feature_sizes = [[64, 64], [32, 32], [16, 16]]
        backbone.image_size, config.prompt_encoder_config.image_size = [256, 256], 256
    model = getattr(transformers, f"{HF_MODELS[kind]}Model")(config)
    with torch.no_grad():
        for name, layer in model.mask_decoder.named_modules():
            if isinstance(layer, torch.nn.ConvTranspose2d):
                layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
            if name in ("conv_s0", "conv_s1"):
                layer.weight.mul_(fine)
    model.save_pretrained(folder)
    processors = {"Sam3Tracker": "Sam3ImageProcessor", "Sam": "SamImageProcessorPil"}
    images = getattr(transformers, processors.get(HF_MODELS[kind], "Sam2ImageProcessor"))()
    if kind == "small":
        images.size = {"height": 256, "width": 256}
    images.save_pretrained(folder)
    return folder


class BareHf:
    """The calls of transformers' own examples, with the image embedding kept between clicks as they show it.

    ``precision`` is that of the whole model.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        import torch
        import transformers

        kind = transformers.AutoConfig.from_pretrained(folder).model_type
        prefix = {"sam": "Sam", "sam2": "Sam2", "sam3_tracker": "Sam3Tracker"}[kind]
        self._dtype = getattr(torch, precision)
        self._model = (
            getattr(transformers, f"{prefix}Model").from_pretrained(folder, dtype=self._dtype).eval()
        )
        images = {"Sam": "SamImageProcessorPil", "Sam3Tracker": "Sam3ImageProcessor"}.get(
            prefix, "Sam2ImageProcessor"
        )
        self._processor = getattr(transformers, f"{prefix}Processor")(
            getattr(transformers, images).from_pretrained(folder)
        )
        self._is_padded = prefix == "Sam"

    def encode(self, image: npt.NDArray[np.uint8]) -> None:
        """Processor and image encoder."""
        import torch

        with torch.inference_mode():
            given = self._processor(images=image, return_tensors="pt")
            self._sizes = [given["original_sizes"]]
            if self._is_padded:
                self._sizes.append(given["reshaped_input_sizes"])
            self._image = image
            pixels = given["pixel_values"].to(self._dtype)
            self._embedding = self._model.get_image_embeddings(pixels)

    def click(self, x: float, y: float) -> npt.NDArray[np.bool_]:
        """Processor for the point, decoder with three masks, all resized; the best by predicted IoU."""
        import torch

        with torch.inference_mode():
            if self._is_padded:
                height, width = self._image.shape[:2]
                scale = 1024 / max(height, width)
                points = torch.tensor([[[[x * scale, y * scale]]]])
                labels = torch.ones(1, 1, 1, dtype=torch.int64)
            else:
                given = self._processor(
                    input_points=[[[[x, y]]]],
                    input_labels=[[[1]]],
                    original_sizes=self._sizes[0],
                    return_tensors="pt",
                )
                points, labels = given["input_points"], given["input_labels"]
            said = self._model(
                image_embeddings=self._embedding,
                input_points=points.to(self._dtype),
                input_labels=labels,
                multimask_output=True,
            )
            masks = self._processor.post_process_masks(said.pred_masks.float(), *self._sizes)[0]
        best = int(said.iou_scores[0, 0].argmax())
        found: npt.NDArray[np.bool_] = masks[0, best].numpy()
        return found


def level_table(folder: Path, clicks: int) -> None:
    """Print what keeping less of the features does, as JSON lines: bytes a picture, and IoU with the masks of
    all features in float32, for first and second clicks.
    """
    import cv2

    from bench.click_setup import HEIGHT, WIDTH, make_pictures
    from ml_backend.clicks.base import Embedding, Prompt
    from ml_backend.clicks.segmenters import hf
    from ml_backend.clicks.segmenters.hf_models import load_model
    from ml_backend.clicks.start_masks import start_mask_from

    segmenter = hf.HfSegmenter(*load_model(folder))
    path = make_pictures(folder.parent / "images", 1)[0]
    with mock.patch.object(hf, "_halved", lambda array: array):
        whole = segmenter.embed(np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8))

    def changed(change: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]]) -> Embedding:
        return Embedding(whole.encoder, whole.hw, {n: change(n, a) for n, a in whole.arrays.items()})

    def masks(embedding: Embedding) -> list[npt.NDArray[np.bool_]]:
        found = []
        for x0, y0, x1, y1 in np.random.default_rng(0).uniform(0.05, 0.95, (clicks, 4)):
            first, second = (x0 * WIDTH, y0 * HEIGHT, True), (x1 * WIDTH, y1 * HEIGHT, False)
            one = segmenter.segment(embedding, Prompt((first,), None, ""), None)
            assert one.logits is not None
            before = start_mask_from(one.masks[0], logits=one.logits[0], from_proposal=False)
            two = segmenter.segment(embedding, Prompt((first, second), None, ""), before)
            found += [one.masks[0], two.masks[0]]
        return found

    reference = masks(whole)
    variants: dict[str, Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]]] = {
        "all float32": lambda name, array: array,
        "fine levels float16 (used)": lambda n, a: a if n == "features" else a.astype(np.float16),
        "all float16": lambda n, a: a.astype(np.float16).astype(
            np.float32 if n == "features" else np.float16
        ),
        "without the finest": lambda n, a: np.zeros_like(a) if n == "fine0" else a,
    }
    for name, change in variants.items():
        kept = changed(change)
        size = kept.nbytes
        size -= whole.arrays["fine0"].nbytes if name.startswith("without") else 0
        size -= whole.arrays["features"].nbytes // 2 if name == "all float16" else 0
        ious = [
            np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))
            for a, b in zip(reference, masks(kept), strict=True)
        ]
        row = {"name": f"levels/{name}", "bytes": size, "n": len(ious), "equal": ious.count(1.0)}
        row |= {"iou_min": round(min(ious), 5), "iou_mean": round(float(np.mean(ious)), 5)}
        print(json.dumps(row), flush=True)


def call_table(folder: Path, clicks: int, precision: str) -> None:
    """Print CPU seconds of one encoding and one click, ours against the bare calls, in turns in this process.

    CPU seconds say something on a busy machine too; bench.clicks measures what people wait for.
    """
    import os

    import cv2

    from bench.click_setup import HEIGHT, WIDTH, make_pictures
    from ml_backend.clicks.base import Prompt
    from ml_backend.clicks.segmenters.hf import HfSegmenter
    from ml_backend.clicks.segmenters.hf_models import load_model
    from ml_backend.label_studio.codecs.brush import encode_brush

    path = make_pictures(folder.parent / "images", 1)[0]
    image = np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)
    bare = BareHf(folder, precision)
    ours = HfSegmenter(*load_model(folder), precision="bfloat16" if precision == "bfloat16" else "float32")

    def cpu(call: Callable[[], Any]) -> float:
        began = time.process_time()
        call()
        return time.process_time() - began

    encodes = [(cpu(lambda: bare.encode(image)), cpu(lambda: ours.embed(image))) for _ in range(3)][1:]
    embedding = ours.embed(image)
    times = []
    for x, y in np.random.default_rng(0).uniform(0.05, 0.95, (clicks + 2, 2)):
        prompt = Prompt(((x * WIDTH, y * HEIGHT, True),), None, "")
        one = cpu(lambda x=x, y=y: encode_brush(bare.click(x * WIDTH, y * HEIGHT)))  # type: ignore[misc]
        two = cpu(lambda p=prompt: encode_brush(ours.segment(embedding, p, None).masks[0]))  # type: ignore[misc]
        times.append((one, two))
    for name, pairs in (("encode", encodes), ("click", times[2:])):
        base, value = (float(np.median(side)) for side in zip(*pairs, strict=True))
        row = {"name": f"cpu/{name}", "value": round(value, 4), "baseline": round(base, 4), "unit": "s"}
        row |= {"ratio": round(value / base, 3), "n": len(pairs), "precision": precision}
        print(json.dumps({**row, "load": round(os.getloadavg()[0], 1)}), flush=True)


def same_model_table(folder: Path, clicks: int) -> None:
    """Print in how many pixels the masks of segmenters ``hf`` and ``sam`` differ for the same random ViT-B.

    And the CPU seconds of both: transformers as it is, and with segment-anything's attention and epsilon.
    """
    import os

    import cv2
    import torch
    import transformers

    from bench.click_setup import HEIGHT, WIDTH, make_pictures, random_sam, sam_as_hf
    from ml_backend.clicks.base import Prompt
    from ml_backend.clicks.segmenters.hf import HfSegmenter
    from ml_backend.clicks.segmenters.hf_models import load_model
    from ml_backend.clicks.segmenters.sam import SamSegmenter
    from ml_backend.clicks.segmenters.sam_weights import load_sam

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, official = folder / "sam_vit_b.pth", random_sam("vit_b")
    torch.save(official.state_dict(), checkpoint)
    path = make_pictures(folder / "images", 1)[0]
    image = np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)
    points = np.random.default_rng(0).uniform(0.05, 0.95, (clicks, 2)) * (WIDTH, HEIGHT)

    def run(segmenter: Any) -> tuple[list[npt.NDArray[np.bool_]], float, float]:
        segmenter.embed(image)  # the first call allocates
        began = time.process_time()
        embedding = segmenter.embed(image)
        encoded = time.process_time()
        masks = [
            segmenter.segment(embedding, Prompt(((float(x), float(y), True),), None, ""), None).masks[0]
            for x, y in points
        ]
        return masks, encoded - began, (time.process_time() - encoded) / clicks

    wanted, encode, click = run(SamSegmenter(*load_sam(checkpoint)))
    for name, attention, epsilon in (("defaults", "sdpa", 1e-6), ("as segment-anything", "eager", 1e-5)):
        config = transformers.SamConfig()
        config.mask_decoder_config.layer_norm_eps = epsilon
        model = transformers.SamModel._from_config(config, attn_implementation=attention)
        model.load_state_dict(sam_as_hf(official.state_dict()))
        here = folder / name.replace(" ", "-")
        model.save_pretrained(here)
        transformers.SamImageProcessorPil().save_pretrained(here)
        loaded, *rest = load_model(here)
        loaded.set_attn_implementation(attention)
        found, *costs = run(HfSegmenter(loaded, *rest))
        off = [int(np.count_nonzero(a ^ b)) for a, b in zip(wanted, found, strict=True)]
        row = {"name": f"sam/{name}", "n": clicks, "pixels_off": sorted(off)}
        for part, value, baseline in zip(("encode", "click"), costs, (encode, click), strict=True):
            row |= {f"{part}_s": round(value, 4), f"{part}_baseline_s": round(baseline, 4)}
            row |= {f"{part}_ratio": round(value / baseline, 3)}
        print(json.dumps({**row, "load": round(os.getloadavg()[0], 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("levels", "calls", "sam"))
    parser.add_argument("--encoder", choices=tuple(HF_MODELS), default="sam2")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of calls")
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--work", type=Path, required=True, help="folder for model and picture")
    args = parser.parse_args()
    name = f"hf-{args.encoder}"
    if args.table == "sam":
        same_model_table(args.work / "same-sam", args.clicks)
    elif args.table == "levels":
        level_table(save_random_hf(args.encoder, args.work / f"{name}-plain", fine=1.0), args.clicks)
    else:
        call_table(save_random_hf(args.encoder, args.work / name), args.clicks, args.precision)


if __name__ == "__main__":
    main()
