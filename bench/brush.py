"""The brush codec against that of Label Studio's SDK: milliseconds per mask, both in one run.

    python -m bench.brush
    python -m bench.brush --quick

One line of JSON per figure: ``value`` is ours, ``baseline`` the SDK's on the same mask, ``ratio`` baseline /
value (higher is better). Before any timing, ours is checked to give the same bytes and the same mask.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from label_studio_sdk.converter.brush import decode_rle as sdk_decode
from label_studio_sdk.converter.brush import mask2rle as sdk_encode

from ml_backend.label_studio.codecs.bitmask import bitmask_to_rle, rle_to_bitmask
from ml_backend.label_studio.codecs.brush import brush_to_rle, decode_brush, encode_brush, rle_to_brush
from ml_backend.masks.rle import encode_mask

Mask = npt.NDArray[np.bool_]


def shapes(*, quick: bool) -> dict[str, Mask]:
    """Masks by name: one disc, forty blobs, a noisy ellipse on a large picture."""
    rng = np.random.default_rng(0)
    disc = np.zeros((768, 1024), np.uint8)
    cv2.circle(disc, (512, 384), 200, 1, -1)
    blobs = np.zeros((768, 1024), np.uint8)
    for _ in range(40):
        centre = (int(rng.integers(1024)), int(rng.integers(768)))
        cv2.ellipse(blobs, centre, (int(rng.integers(10, 60)), int(rng.integers(10, 60))), 30, 0, 360, 1, -1)
    found = {"disc_1024x768": disc > 0, "blobs_1024x768": blobs > 0}
    if not quick:
        large = np.zeros((3000, 4000), np.uint8)
        cv2.ellipse(large, (2000, 1500), (1400, 900), 20, 0, 360, 1, -1)
        edge = rng.random((3000, 4000)) < 0.002
        found["noisy_ellipse_4000x3000"] = (large > 0) ^ (edge & (cv2.dilate(large, np.ones((41, 41))) > 0))
    return found


def best_ms(call: Callable[[], Any], *, budget_s: float) -> float:
    """Shortest of as many runs as fit the budget (at least two), in milliseconds."""
    best, end, runs = float("inf"), time.perf_counter() + budget_s, 0
    while runs < 2 or (time.perf_counter() < end and runs < 50):
        began = time.perf_counter()
        call()
        best, runs = min(best, time.perf_counter() - began), runs + 1
    return best * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small masks only, short runs")
    options = parser.parse_args()
    budget = 0.2 if options.quick else 2.0
    for name, mask in shapes(quick=options.quick).items():
        hw = (int(mask.shape[0]), int(mask.shape[1]))
        rle = encode_mask(mask)
        data = encode_brush(mask)
        bitmap = rle_to_bitmask(rle)
        white = (mask * 255).astype(np.uint8)
        same_bytes = sdk_encode(white) == data == rle_to_brush(rle)
        same_mask = np.array_equal(decode_brush(data, hw), mask) and brush_to_rle(data, hw) == rle
        if not (same_bytes and same_mask and bitmask_to_rle(bitmap, hw) == rle):
            raise SystemExit(f"{name}: ours differs from the SDK's")
        slow_encode = best_ms(lambda w=white: sdk_encode(w), budget_s=budget)
        slow_decode = best_ms(lambda d=data, s=hw: sdk_decode(d).reshape(*s, 4)[:, :, 3], budget_s=budget)
        pairs = {
            "encode_pixels": (best_ms(lambda m=mask: encode_brush(m), budget_s=budget), slow_encode),
            "encode_coco_rle": (best_ms(lambda r=rle: rle_to_brush(r), budget_s=budget), slow_encode),
            "decode_pixels": (best_ms(lambda d=data, s=hw: decode_brush(d, s), budget_s=budget), slow_decode),
            "decode_coco_rle": (
                best_ms(lambda d=data, s=hw: brush_to_rle(d, s), budget_s=budget),
                slow_decode,
            ),
            "encode_bitmask_png": (best_ms(lambda r=rle: rle_to_bitmask(r), budget_s=budget), slow_encode),
        }
        for what, (ours, baseline) in pairs.items():
            line = {
                "name": f"brush/{name}/{what}",
                "value": round(ours, 3),
                "unit": "ms",
                "baseline": round(baseline, 3),
                "ratio": round(baseline / ours, 2),
                "bytes": len(json.dumps(data)) if what != "encode_bitmask_png" else len(bitmap),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
