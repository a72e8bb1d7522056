"""Clicks through real HTTP to the served app, against the bare model in the same run. Prints JSON lines.

``python -m bench.clicks [--quick] [--segmenter sam|sam-onnx] [--encoder vit_b|small]``

The floor is segment-anything itself, called in-process on an embedding that is there: decoder, mask resize,
brush encoding, under the same allocator and threads. Weights are random (latency does not depend on them).
The table of encoders says what each step bought: every row is a process of its own, ``baseline`` the plain
eager encoder under the default allocator, ``max_error`` the difference of its output relative to that row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.click_setup import (
    HEIGHT,
    WIDTH,
    Reply,
    User,
    environment,
    make_pictures,
    make_project,
    random_sam,
    server,
    sha_of,
)
from ml_backend.clicks.base import Embedding
from ml_backend.clicks.embeddings import write_embedding

ENCODERS = ("eager", "eager-tuned", "onnxruntime", "onnxruntime-tuned", "bf16-tuned")


def say(name: str, value: float, unit: str, baseline: float | None = None, **more: Any) -> None:
    """One JSON line; ``ratio`` is value / baseline, so below 1 is faster than the baseline."""
    ratio = None if not baseline else round(value / baseline, 4)
    line = {
        "name": name,
        "value": round(value, 5),
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        **more,
    }
    print(json.dumps(line), flush=True)


def quantiles(replies: list[Reply]) -> dict[str, float]:
    seconds = np.array([r.seconds for r in replies])
    return {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99)}


def some_clicks(count: int, seed: int) -> list[tuple[float, float, bool]]:
    rng = np.random.default_rng(seed)
    return [(float(x), float(y), True) for x, y in np.round(rng.uniform(5, 95, (count, 2)), 3)]


# Measurements in a process of their own


def child_floor(checkpoint: Path, image: Path, clicks: int) -> dict[str, Any]:
    """Seconds of segment-anything's own parts: encoder, and decoder + resize + brush encoding per click."""
    import cv2
    from segment_anything import SamPredictor

    from ml_backend.brush import encode_brush
    from ml_backend.clicks.sam_weights import load_sam

    predictor = SamPredictor(load_sam(checkpoint)[0])
    pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    predictor.set_image(pixels)
    began = time.perf_counter()
    predictor.set_image(pixels)
    encode = time.perf_counter() - began
    seconds = []
    for x, y, _ in [*some_clicks(3, 99), *some_clicks(clicks, 1)]:
        at = np.array([[x / 100 * WIDTH, y / 100 * HEIGHT]])
        began = time.perf_counter()
        masks, iou, _ = predictor.predict(at, np.array([1]), multimask_output=True)
        encode_brush(masks[int(iou.argmax())])
        seconds.append(time.perf_counter() - began)
    return {"encode_s": encode, "clicks_s": seconds[3:]}


def child_encoder(variant: str, checkpoint: Path, image: Path, runs: int, out: Path) -> dict[str, Any]:
    """Seconds of one way to encode, after one run to warm up; the output is left for comparison."""
    import cv2
    import torch

    pixels = np.asarray(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB), np.uint8)
    segmenter: Any
    if variant.startswith("onnxruntime"):
        from ml_backend.clicks.sam_onnx import from_settings
        from ml_backend.settings import BackendSettings

        segmenter = from_settings(BackendSettings(), None)
    else:
        from ml_backend.clicks.sam import SamSegmenter
        from ml_backend.clicks.sam_weights import load_sam

        segmenter = SamSegmenter(load_sam(checkpoint)[0], "0" * 64)

    def encode() -> Any:
        if variant.startswith("bf16"):
            with torch.inference_mode():
                return segmenter.model.image_encoder(segmenter._preprocess(pixels).bfloat16()).float().numpy()
        return segmenter.embed(pixels).arrays["features"]

    if variant.startswith("bf16"):
        segmenter.model.image_encoder.bfloat16()
    encode()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        features = encode()
        seconds.append(time.perf_counter() - began)
    np.save(out, np.asarray(features, np.float32))
    return {"encode_s": seconds}


def run_child(env: dict[str, str], *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.clicks", "--child", *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# The benchmark


def encoder_table(folder: Path, checkpoint: Path, image: Path, *, runs: int) -> None:
    """What allocator, runtime and number format buy, and how far each is from the plain output."""
    reference: Any = None
    base = 0.0
    for variant in ENCODERS:
        env = environment(folder, "sam-onnx", checkpoint, tuned=variant.endswith("tuned"))
        out = folder / f"{variant}.npy"
        found = run_child(env, "encoder", variant, str(checkpoint), str(image), str(runs), str(out))
        median = float(np.median(found["encode_s"]))
        features = np.load(out)
        if reference is None:
            reference, base = features, median
        error = float(np.abs(features - reference).max() / np.abs(reference).max())
        say(
            f"encode/{variant}", median, "s", round(base, 5), speedup=round(base / median, 2), max_error=error
        )


def serve(folder: Path, checkpoint: Path, args: argparse.Namespace) -> None:
    """All rows that go through the server."""
    facts = make_project(folder)
    n_cold, n_warm, visited = (2, 12, 20) if args.quick else (5, 60, 200)
    users = (4,) if args.quick else (4, 16)
    each = 6 if args.quick else 12
    images = make_pictures(folder / "images", n_cold + 20 + visited)
    env = environment(folder, args.segmenter, checkpoint)
    floor = run_child(env, "floor", str(checkpoint), str(images[0]), str(n_warm))
    bare = float(np.median(floor["clicks_s"]))
    say("floor/click", bare, "s", p99=float(np.percentile(floor["clicks_s"], 99)))
    say("floor/encode", floor["encode_s"], "s")
    encoder = seed_embeddings(env, images[n_cold + 20 :], folder)
    with server(env, folder / "server.log") as port:
        user = User(port, facts)
        user.click(images[-1], some_clicks(1, 7))  # loads the model
        cold = [user.click(image, some_clicks(1, 2)) for image in images[:n_cold]]
        row("click/cold", cold, floor["encode_s"] + bare, target_p50=1.15)
        warm = [user.click(images[0], [point]) for point in some_clicks(n_warm, 3)]
        row("click/warm", warm, bare, target_p50=1.3, target_p99=2.5)
        warm_p50 = quantiles(warm)["p50"]
        again = [user.click(images[0], [some_clicks(1, 3)[0]]) for _ in range(n_warm)]
        row("click/same prompts again", again, bare)
        chain = some_clicks(n_warm // 2, 4)
        growing = [user.click(images[0], chain[: k + 1]) for k in range(len(chain))]
        row("click/growing series", growing, bare)
        regions = [brush_region(k) for k in range(50)]
        crowded = [user.click(images[0], [p], regions=regions) for p in some_clicks(n_warm, 5)]
        row("click/50 regions on the image", crowded, warm_p50, target_p50=1.1)
        away = [user.click(image, some_clicks(1, 6)) for image in images[n_cold + 20 :]]
        row(f"click/each of {visited} embedded images", away, warm_p50)
        back = [user.click(image, [p]) for image in images[:n_cold] for p in some_clicks(1, 8)]
        row(f"click/back after {visited} others", back, warm_p50, target_p50=1.2)
        crowd = {}
        for count in users:
            crowd[count] = crowd_of(port, facts, images[n_cold : n_cold + count], each)
    check_crowd(env, folder, facts, crowd, bare)
    kept = sum(p.stat().st_size for p in (folder / "data" / "embeddings" / encoder).glob("*"))
    say("embedding bytes", float(kept), "B")


def row(name: str, replies: list[Reply], baseline: float, **targets: float) -> None:
    q = quantiles(replies)
    errors = sum(r.status != 200 for r in replies)
    more = {k: round(v, 5) for k, v in q.items()}
    ratios = {f"ratio_{k}": round(v / baseline, 3) for k, v in q.items()}
    size = int(np.median([r.bytes for r in replies]))
    say(
        name,
        q["p50"],
        "s",
        round(baseline, 5),
        n=len(replies),
        errors=errors,
        reply_bytes=size,
        **more,
        **ratios,
        **targets,
    )


def brush_region(seed: int) -> dict[str, Any]:
    """A region as the editor stores it: it travels with every click, twice."""
    import cv2

    from ml_backend.brush import encode_brush

    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))), int(rng.integers(20, 80)), 1, -1)
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Cat"]}
    return {"id": f"r{seed}", "type": "brushlabels", "from_name": "brush", "to_name": "image", "value": value,
            "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}  # fmt: skip


def seed_embeddings(env: dict[str, str], images: list[Path], folder: Path) -> str:
    """Put embeddings of many images on disk, as the worker's embedding ahead does; random features."""
    encoder = run_child(env, "encoder-name")["encoder"]
    rng = np.random.default_rng(0)
    for image in images:
        features = rng.normal(0, 0.1, (1, 256, 64, 64)).astype(np.float32)
        path = folder / "data" / "embeddings" / encoder / f"{sha_of(image)}.safetensors"
        write_embedding(path, Embedding(encoder, (HEIGHT, WIDTH), {"features": features}))
    return str(encoder)


Crowd = tuple[list[tuple[Path, tuple[float, float, bool], Reply]], float]


def crowd_of(port: int, facts: Any, images: list[Path], each: int) -> Crowd:
    """One user per image, clicking without a pause; images embedded by a first click each."""
    for image in images:
        User(port, facts).click(image, some_clicks(1, 6))
    answers: list[tuple[Path, tuple[float, float, bool], Reply]] = []
    together = threading.Barrier(len(images) + 1)

    def work(index: int) -> None:
        user = User(port, facts)
        together.wait()
        for point in some_clicks(each, 1000 + index + 50 * len(images)):
            answers.append((images[index], point, user.click(images[index], [point])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    together.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - began


def check_crowd(env: dict[str, str], folder: Path, facts: Any, crowd: dict[int, Crowd], bare: float) -> None:
    """Ask every question again, one by one, of a fresh process: equal masks, or somebody got another's."""
    with server(env, folder / "server.log") as port:
        user = User(port, facts)
        for count, (answers, seconds) in crowd.items():
            foreign = sum(user.click(image, [point]).mask != reply.mask for image, point, reply in answers)
            errors = sum(reply.status != 200 for _, _, reply in answers)
            q = quantiles([reply for _, _, reply in answers])
            rate = len(answers) / seconds
            more: dict[str, Any] = {k: round(v, 5) for k, v in q.items()}
            more |= {"n": len(answers), "errors": errors, "foreign_masks": foreign}
            say(f"{count} users/clicks per second", rate, "1/s", round(1 / bare, 3), **more)


def child(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "floor":
        found = child_floor(Path(rest[0]), Path(rest[1]), int(rest[2]))
    elif kind == "encoder":
        found = child_encoder(rest[0], Path(rest[1]), Path(rest[2]), int(rest[3]), Path(rest[4]))
    else:
        from ml_backend.clicks.registry import build_segmenter
        from ml_backend.settings import BackendSettings

        settings = BackendSettings()
        found = {"encoder": build_segmenter(settings.segmenter, settings).encoder}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small encoder, few clicks: does it run?")
    parser.add_argument("--segmenter", choices=("sam", "sam-onnx"), default="sam-onnx")
    parser.add_argument("--encoder", choices=("vit_b", "small"), default=None, help="default: vit_b")
    parser.add_argument("--skip-encoders", action="store_true", help="leave out the table of encoders")
    parser.add_argument("--work", type=Path, default=None, help="folder to keep checkpoint and pictures in")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    import torch

    kind = args.encoder or ("small" if args.quick else "vit_b")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.work or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / f"{kind}.pth"
        if not checkpoint.exists():
            torch.save(random_sam(kind).state_dict(), checkpoint)
        say("cores", float(os.cpu_count() or 1), "", encoder=kind, segmenter=args.segmenter)
        image = make_pictures(folder / "images", 1)[0]
        if not args.skip_encoders:
            encoder_table(folder, checkpoint, image, runs=1 if args.quick else 3)
        serve(folder, checkpoint, args)


if __name__ == "__main__":
    main()
