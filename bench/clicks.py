"""Clicks through real HTTP to the served app, against the bare model in the same run. Prints JSON lines.

``python -m bench.clicks [--quick] [--segmenter sam|sam-onnx] [--encoder vit_b|vit_tiny|small]``
``python -m bench.clicks [--quick] --segmenter hf [--encoder sam2|sam3|sam|small] [--precision bfloat16]``

The floor is segment-anything itself (with ``hf``: the calls of transformers' own examples), called in-process
on an embedding that is there: decoder, mask resize, brush encoding, under the same allocator and threads, in
turns with the clicks it is compared with. Weights are random (latency does not depend on them).
``--many 1000`` clicks on that many small pictures and says the server's memory on the way, with a RAM tier
that holds a few of their embeddings only.
The table of encoders says what each step bought: every row is a process of its own, ``baseline`` the plain
eager encoder under the default allocator, ``max_error`` the difference of its output relative to that row.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
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
from bench.hf_setup import HF_MODELS, BareHf, save_random_hf
from ml_backend.clicks.base import Embedding, Prompt
from ml_backend.clicks.serving.embeddings import write_embedding

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


def child_floor(checkpoint: Path, image: Path) -> None:
    """Answer lines of stdin with seconds: ``encode``, or ``x y`` (percent) for a click on the embedding that
    is there: the bare decoder and mask resize, then brush encoding.
    """
    import cv2

    from ml_backend.label_studio.codecs.brush import encode_brush
    from ml_backend.settings import BackendSettings

    bare = BareHf(checkpoint, BackendSettings().hf_precision) if checkpoint.is_dir() else BareSam(checkpoint)
    pixels = np.asarray(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB), np.uint8)
    bare.encode(pixels)
    for line in sys.stdin:
        began = time.perf_counter()
        if line.strip() == "encode":
            bare.encode(pixels)
        else:
            x, y = (float(v) / 100 for v in line.split())
            encode_brush(bare.click(x * WIDTH, y * HEIGHT))
        print(time.perf_counter() - began, flush=True)


class BareSam:
    """segment-anything's own predictor."""

    def __init__(self, checkpoint: Path) -> None:
        from segment_anything import SamPredictor

        from ml_backend.clicks.segmenters.sam_weights import load_sam

        self._predictor = SamPredictor(load_sam(checkpoint)[0])

    def encode(self, image: Any) -> None:
        self._predictor.set_image(image)

    def click(self, x: float, y: float) -> Any:
        masks, iou, _ = self._predictor.predict(np.array([[x, y]]), np.array([1]), multimask_output=True)
        return masks[int(iou.argmax())]


class Floor:
    """The bare model in a process of its own, asked between the clicks it is compared with: whatever else
    the machine does then slows both alike.
    """

    def __init__(self, env: dict[str, str], checkpoint: Path, image: Path) -> None:
        command = [sys.executable, "-m", "bench.clicks", "--child", "floor", str(checkpoint), str(image)]
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for point in some_clicks(5, 99):
            self.click(point)

    def encode(self) -> float:
        return self._ask("encode")

    def click(self, point: tuple[float, float, bool]) -> float:
        return self._ask(f"{point[0]} {point[1]}")

    def _ask(self, line: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def child_encoder(variant: str, checkpoint: Path, image: Path, runs: int, out: Path) -> dict[str, Any]:
    """Seconds of one way to encode, after one run to warm up; the output is left for comparison."""
    import cv2
    import torch

    pixels = np.asarray(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB), np.uint8)
    segmenter: Any
    if variant.startswith("onnxruntime"):
        from ml_backend.clicks.segmenters.sam_onnx import from_settings
        from ml_backend.settings import BackendSettings

        segmenter = from_settings(BackendSettings(), None)
    else:
        from ml_backend.clicks.segmenters.sam import SamSegmenter
        from ml_backend.clicks.segmenters.sam_weights import load_sam

        segmenter = SamSegmenter(load_sam(checkpoint)[0], "0" * 64)

    def encode() -> Any:
        if variant.startswith("bf16"):
            with torch.inference_mode():
                return segmenter.model.image_encoder(segmenter._preprocess(pixels).bfloat16()).float().numpy()
        return segmenter.embed(pixels).arrays["features"]

    if variant.startswith("bf16"):
        segmenter.model.image_encoder.bfloat16()
    encode()
    seconds, cpu = [], []
    for _ in range(runs):
        began, cpu_began = time.perf_counter(), time.process_time()
        features = encode()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    np.save(out, np.asarray(features, np.float32))
    return {"encode_s": seconds, "cpu_s": cpu}


def run_child(env: dict[str, str], *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.clicks", "--child", *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# The benchmark


def encoder_table(folder: Path, checkpoint: Path, image: Path, *, runs: int) -> None:
    """What allocator, runtime and number format buy, how far each is from the plain output, and what that
    does to the masks of a few clicks.
    """
    from ml_backend.clicks.segmenters.sam import SamSegmenter
    from ml_backend.clicks.segmenters.sam_weights import load_sam

    segmenter = SamSegmenter(load_sam(checkpoint)[0], "0" * 64)
    reference: Any = None
    masks: list[Any] = []
    base = 0.0
    for variant in ENCODERS:
        env = environment(folder, "sam-onnx", checkpoint, tuned=variant.endswith("tuned"))
        out = folder / f"{variant}.npy"
        load = round(os.getloadavg()[0], 2)
        found = run_child(env, "encoder", variant, str(checkpoint), str(image), str(runs), str(out))
        seconds = median(found["encode_s"])
        features = np.load(out)
        clicked = [_decoded(segmenter, features, point) for point in some_clicks(10, 11)]
        if reference is None:
            reference, base, masks = features, seconds, clicked
        error = float(np.abs(features - reference).max() / np.abs(reference).max())
        ious = [
            np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))
            for a, b in zip(masks, clicked, strict=True)
        ]
        more = {"speedup": round(base / seconds, 2), "max_error": error, "load": load}
        more |= {"fastest": round(min(found["encode_s"]), 4), "cpu_s": round(median(found["cpu_s"]), 4)}
        more |= {"mask_iou_mean": round(float(np.mean(ious)), 5), "mask_iou_min": round(float(min(ious)), 5)}
        say(f"encode/{variant}", seconds, "s", round(base, 5), **more)


def _decoded(segmenter: Any, features: Any, point: tuple[float, float, bool]) -> Any:
    embedding = Embedding(segmenter.encoder, (HEIGHT, WIDTH), {"features": features})
    prompt = Prompt(((point[0] / 100 * WIDTH, point[1] / 100 * HEIGHT, True),), None, "Cat")
    return segmenter.segment(embedding, prompt, None).masks[0]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cold: int
    warm: int
    visited: int
    back: int
    each: int
    users: tuple[int, ...]
    encoded: int = 4
    """of the pictures that several users click on: how many are encoded then, not before"""


FULL = Sizes(cold=5, warm=100, visited=200, back=20, each=12, users=(4, 16))
SHORT = Sizes(cold=2, warm=10, visited=6, back=2, each=3, users=(16,), encoded=1)
QUICK = Sizes(cold=3, warm=30, visited=40, back=10, each=6, users=(4, 16))


def serve(folder: Path, checkpoint: Path, segmenter: str, sizes: Sizes, **more: str) -> None:
    """All rows that go through the server."""
    facts = make_project(folder)
    pictures = make_pictures(folder / "images", sizes.cold + 20 + sizes.back + sizes.visited)
    cold_ones, rest = pictures[: sizes.cold], pictures[sizes.cold :]
    crowd_ones, back_ones, others = rest[:20], rest[20 : 20 + sizes.back], rest[20 + sizes.back :]
    env = environment(folder, segmenter, checkpoint, **more)
    encoder, shape = embedding_shape(env, pictures[0])
    # The RAM tier holds fewer than are visited, so that who comes back is served from the disk.
    room = min(120, sizes.visited // 2) * sum(np.zeros(s, d).nbytes for s, d in shape.values())
    env["GROUNDSWELL_EMBEDDING_RAM_BYTES"] = str(room)
    seed_embeddings(encoder, shape, [*crowd_ones[sizes.encoded :], *back_ones, *others], folder)
    floor = Floor(env, checkpoint, pictures[0])
    with server(env, folder / "server.log") as port:
        user = User(port, facts)
        user.click(others[-1], some_clicks(1, 7))  # loads the model
        bare: list[float] = []
        encodes, cold = [], []
        for image, point in zip(cold_ones, some_clicks(sizes.cold, 2), strict=True):
            encodes.append(floor.encode())
            bare.append(floor.click(point))
            cold.append(user.click(image, [point]))
        say("floor/encode", median(encodes), "s", all=[round(s, 3) for s in encodes])
        row("click/cold", cold, [a + b for a, b in zip(encodes, bare, strict=True)], target_p50=1.15)
        floors, warm, crowded = [], [], []
        regions = [brush_region(k) for k in range(50)]
        for point, other in zip(some_clicks(sizes.warm, 3), some_clicks(sizes.warm, 5), strict=True):
            floors.append(floor.click(point))
            warm.append(user.click(cold_ones[0], [point]))
            crowded.append(user.click(cold_ones[0], [other], regions=regions))
        say("floor/click", median(floors), "s", p99=round(float(np.percentile(floors, 99)), 5))
        row("click/warm", warm, floors, target_p50=1.3, target_p99=2.5)
        warm_s = [reply.seconds for reply in warm]
        row("click/50 regions on the image", crowded, warm_s, target_p50=1.1)
        chain = some_clicks(sizes.warm // 3, 4)
        growing = [user.click(cold_ones[0], chain[: k + 1]) for k in range(len(chain))]
        row("click/growing series", growing, warm_s)
        again = [user.click(cold_ones[0], [chain[0]]) for _ in range(sizes.warm)]
        row("click/same prompts again", again, warm_s)
        for image in back_ones:
            user.click(image, some_clicks(1, 6))
        away = [user.click(image, some_clicks(1, 6)) for image in others]
        row(f"click/each of {sizes.visited} embedded images", away, warm_s)
        back, stay = [], []
        for image, point, other in zip(
            back_ones, some_clicks(sizes.back, 8), some_clicks(sizes.back, 9), strict=True
        ):
            back.append(user.click(image, [point]))
            stay.append(user.click(image, [other]).seconds)
        row(f"click/back after {sizes.visited} others", back, stay, target_p50=1.2)
        crowd = {n: crowd_of(port, facts, crowd_ones[:n], sizes.each) for n in sizes.users}
        phases(port)
    floor.close()
    check_crowd(env, folder, facts, crowd, median(floors))
    kept = sum(p.stat().st_size for p in (folder / "data" / "embeddings" / encoder).glob("*"))
    say("embedding bytes", float(kept), "B")


def median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def phases(port: int) -> None:
    """Mean time of every phase of all clicks so far, as the server itself counts it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    for phase in ("fetch", "decode", "encode", "wait", "segment", "serialise"):
        total, count = (
            re.search(rf'^groundswell_phase_seconds_{what}{{phase="{phase}"}} (\S+)$', text, re.M)
            for what in ("sum", "count")
        )
        if total is not None and count is not None:
            n = float(count.group(1))
            say(f"phase/{phase}", float(total.group(1)) / n, "s", n=int(n))


def row(name: str, replies: list[Reply], baselines: list[float], **targets: float) -> None:
    """One line of clicks against the median of what they are compared with; both were taken in turns."""
    q = quantiles(replies)
    baseline = median(baselines)
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

    from ml_backend.label_studio.codecs.brush import encode_brush

    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))), int(rng.integers(20, 80)), 1, -1)
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Cat"]}
    return {"id": f"r{seed}", "type": "brushlabels", "from_name": "brush", "to_name": "image", "value": value,
            "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}  # fmt: skip


Shape = dict[str, tuple[tuple[int, ...], str]]


def embedding_shape(env: dict[str, str], image: Path) -> tuple[str, Shape]:
    """The encoder's name, and shape and type of what it keeps of a picture."""
    found = run_child(env, "encoder-name", str(image))
    return str(found["encoder"]), {name: (tuple(s), d) for name, (s, d) in found["arrays"].items()}


def seed_embeddings(encoder: str, shape: Shape, images: list[Path], folder: Path) -> None:
    """Put embeddings of many images on disk, as the worker's embedding ahead does; random features."""
    rng = np.random.default_rng(0)
    for image in images:
        arrays = {name: rng.normal(0, 0.1, s).astype(d) for name, (s, d) in shape.items()}
        path = folder / "data" / "embeddings" / encoder / f"{sha_of(image)}.safetensors"
        write_embedding(path, Embedding(encoder, (HEIGHT, WIDTH), arrays))


def many_pictures(env: dict[str, str], folder: Path, count: int) -> None:
    """The server's resident memory while somebody clicks once on each of many small pictures."""
    facts = make_project(folder)
    pictures = make_pictures(folder / "small", count, hw=(192, 256))
    limits = {"GROUNDSWELL_EMBEDDING_RAM_BYTES": "100000000", "GROUNDSWELL_IMAGE_RAM_BYTES": "10000000"}
    with server({**env, **limits}, folder / "many.log") as port:
        user = User(port, facts)
        replies = []
        for index, (image, point) in enumerate(zip(pictures, some_clicks(count, 21), strict=True), 1):
            replies.append(user.click(image, [point]))
            if index in (count // 10, count // 2, count):
                errors = sum(r.status != 200 for r in replies)
                say(f"memory/after {index} pictures", resident_mb(port), "MB", errors=errors)


def resident_mb(port: int) -> float:
    """Memory of the processes of the server that listens on a port, without what the disk can give back."""
    import psutil

    found = next(p for p in psutil.Process().children() if any(f":{port}" in part for part in p.cmdline()))
    family = [found, *found.children(recursive=True)]
    return sum(m.rss - m.shared for m in (p.memory_info() for p in family)) / 1e6


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
        child_floor(Path(rest[0]), Path(rest[1]))
        return
    if kind == "encoder":
        found = child_encoder(rest[0], Path(rest[1]), Path(rest[2]), int(rest[3]), Path(rest[4]))
    else:
        import cv2

        from ml_backend.clicks.serving.catalog import build_segmenter
        from ml_backend.settings import BackendSettings

        settings = BackendSettings()
        segmenter = build_segmenter(settings.segmenter, settings)
        made = segmenter.embed(np.asarray(cv2.imread(rest[0]), np.uint8)).arrays
        found = {
            "encoder": segmenter.encoder,
            "arrays": {name: [list(a.shape), str(a.dtype)] for name, a in made.items()},
        }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small encoder, few clicks: does it run?")
    parser.add_argument("--short", action="store_true", help="one short pass, for a slow or busy machine")
    parser.add_argument("--segmenter", choices=("sam", "sam-onnx", "hf"), default="sam-onnx")
    parser.add_argument(
        "--encoder",
        choices=("vit_b", "vit_tiny", "small", *HF_MODELS),
        default=None,
        help="default: vit_b, of hf sam2",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of hf")
    parser.add_argument("--many", type=int, default=0, help="small pictures to click on for the memory row")
    parser.add_argument("--skip-server", action="store_true", help="only the memory row")
    parser.add_argument("--skip-encoders", action="store_true", help="leave out the table of encoders")
    parser.add_argument("--only-encoders", action="store_true", help="leave out the server")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of every encoder, after one more")
    parser.add_argument("--work", type=Path, default=None, help="folder to keep checkpoint and pictures in")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    import torch

    is_hf = args.segmenter == "hf"
    kind = args.encoder or ("sam2" if is_hf else "small" if args.quick else "vit_b")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.work or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / (f"hf-{kind}" if is_hf else f"{kind}.pth")
        if is_hf:
            save_random_hf(kind, checkpoint)
        elif not checkpoint.exists():
            torch.save(random_sam(kind).state_dict(), checkpoint)
        more = {"GROUNDSWELL_HF_PRECISION": args.precision} if is_hf else {}
        load = round(os.getloadavg()[0], 2)
        say(
            "cores", float(os.cpu_count() or 1), "", encoder=kind, segmenter=args.segmenter, load=load, **more
        )
        image = make_pictures(folder / "images", 1)[0]
        if not args.skip_encoders and not is_hf:
            encoder_table(folder, checkpoint, image, runs=args.runs)
        if args.only_encoders:
            return
        if not args.skip_server:
            sizes = SHORT if args.short else QUICK if args.quick else FULL
            serve(folder, checkpoint, args.segmenter, sizes, **more)
        if args.many:
            many_pictures(environment(folder, args.segmenter, checkpoint, **more), folder, args.many)
        say("load at the end", os.getloadavg()[0], "")


if __name__ == "__main__":
    main()
