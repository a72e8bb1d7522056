"""Every learner's speed in training and use, its memory, and what a round of it takes.

    python -m bench.learners --images cells/images --coco cells/annotations.json
    python -m bench.learners --only maskrcnn fcos --preset full --device cuda
    python -m bench.learners --quick        # drawn pictures, a few steps

Each learner runs in a process of its own. One line of JSON per figure: name, value, unit, baseline, ratio.

- ``train_images_per_second``: pictures (crops) a second of the shared training loop, with reading, cutting
  and augmenting. Baseline: the same network and losses on batches that were drawn before, in a bare loop of
  torch (forward, backward, step of AdamW and nothing else); timed before and after, the faster counts.
- ``infer_images_per_second``: pictures a second of the predictor, from pixels to instances. Baseline: the
  modules of the network alone, called again with the inputs that they had.
- ``peak_rss_mb``: most memory of the process. ``round_minutes``: a whole training with the preset's steps at
  this speed, without reading the pictures and measuring the result; baseline: the same at the bare speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.detection_set import add_arguments, load_examples, print_figure, split, with_training_environment
from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput, GroundswellError
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.registry import KINDS
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.registry import LEARNERS, get_learner
from ml_backend.masks.shapes import whole_rle

_OTHERS = ("several", "adopted", "zero-shot")
"""Learners that train no network of their own."""
_WARM = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", metavar="LEARNER", help="these learners (default: all)")
    parser.add_argument("--preset", default="light", help="light (CPU) or full")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=12, help="training steps that are timed (default: 12)")
    parser.add_argument("--limit", type=int, default=12, help="pictures predicted (default: 12)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learners")
    parser.add_argument("--quick", action="store_true", help="3 steps, 3 pictures: a test of the benchmark")
    options = parser.parse_args()
    with_training_environment("bench.learners")
    if options.quick:
        options.steps, options.limit = 3, 3
    names = options.only or [name for name in LEARNERS if name not in _OTHERS]
    if len(names) == 1:
        measure(names[0], options)
        return
    given = [word for word in sys.argv[1:] if word not in (options.only or ())]
    given = [word for word in given if word != "--only"]
    for name in names:
        subprocess.run([sys.executable, "-m", "bench.learners", *given, "--only", name], check=True)


def measure(name: str, options: argparse.Namespace) -> None:
    """Print the figures of one learner."""
    with tempfile.TemporaryDirectory() as scratch:
        pictures, labels, examples = load_examples(options, Path(scratch))
        train, test = split(examples, options.limit, max(8, options.limit))
        kind = next(kind for kind in KINDS.values() if name in kind.learners)
        timed = _TimedFit(options.steps)
        timed.install()
        chosen = _chosen(name, options)
        spec = TrainSpec(
            labels,
            tuple(as_kind(example, kind, labels, is_test=False) for example in train),
            tuple(as_kind(example, kind, labels, is_test=True) for example in test),
            preset=options.preset,
            seed=options.seed,
            device=options.device,
            options=chosen,
            exclusive=kind.unit == "picture",
        )
        place = {"learner": name, "preset": options.preset, "set": pictures}
        place["device"] = resolve_device(options.device)
        started = time.perf_counter()
        try:
            get_learner(name).train(spec, Path(scratch) / "version", lambda share, line: None)
        except GroundswellError as error:  # not installed here
            print_figure("train_images_per_second", float("nan"), "image/s", None, said=str(error), **place)
            return
        seconds = time.perf_counter() - started
        for number, run in enumerate(timed.runs):
            which = {"part": number} if len(timed.runs) > 1 else {}
            print_figure("train_images_per_second", run.ours, "image/s", run.bare, **which, **place)
        if timed.runs:
            ours, bare = (
                sum(run.images / getattr(run, pace) for run in timed.runs) / 60 for pace in ("ours", "bare")
            )
            print_figure("round_minutes", ours, "min", bare, **place)
        else:  # it has no loop of steps
            print_figure("round_minutes", seconds / 60, "min", None, **place)
        predictor = get_learner(name).load(Path(scratch) / "version", device=options.device)
        images = [read_image(example.image) for example in test]
        print_figure("infer_images_per_second", *infer_pace(predictor, images), images=len(images), **place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print_figure("peak_rss_mb", peak, "MB", None, **place)


def _chosen(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The options of the command line, and random weights where the learner can start from others."""
    chosen: dict[str, Any] = dict(pair.split("=", 1) for pair in options.option)
    try:
        get_learner(name).check_options(options.preset, {"weights": "none"})
    except BadInput:
        return chosen
    return {"weights": "none", **chosen}


def as_kind(example: Example, kind: ProjectKind, labels: Sequence[str], *, is_test: bool) -> Example:
    """An example with masks as one of another kind: boxes, one mask per label, its commonest label, tags."""
    if kind.unit == "picture":
        size = tuple(read_image(example.image).shape[:2])
        commonest = Counter(example.label).most_common(1)[0][0] if example.label else 0
        whole = whole_rle((int(size[0]), int(size[1])))
        return dataclasses.replace(example, label=(commonest,), rle=(whole,), tags=(commonest,))
    if kind.tagged:
        tags = tuple(sorted(set(example.label)))
        return dataclasses.replace(example, tags=tags) if is_test else Example(
            example.task_id, example.image, (), (), tags
        )  # fmt: skip
    drawn = kind.to_instances(
        [(labels[label], rle) for label, rle in zip(example.label, example.rle, strict=True)]
    )
    return dataclasses.replace(
        example, label=tuple(labels.index(label) for label, _ in drawn), rle=tuple(rle for _, rle in drawn)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Timed:
    """One loop: images a second of ours and of the bare one, and the images of the preset's whole run."""

    ours: float
    bare: float
    images: int


class _TimedFit:
    """Stands in for the shared loop: times a few steps of it and of a bare one, and trains no further."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.runs: list[_Timed] = []

    def install(self) -> None:
        """Before the learner is imported: it takes the loop from its module."""
        from ml_backend.learners.training import loop

        self._fit = loop.fit
        loop.fit = self  # type: ignore[assignment]

    def __call__(
        self, model: Any, next_batch: Callable[[int], Any], loss_of: Any, settings: Any, **more: Any
    ) -> Any:
        from ml_backend.learners.training.batches import to_device

        n = min(self.steps, settings.iterations)
        few = dataclasses.replace(settings, iterations=n, validate_every=0, patience=0, seconds=0.0)
        device = more["device"]
        # pictures are decoded, and buffers and threads are there, before anything is timed
        self._fit(model, next_batch, loss_of, dataclasses.replace(few, iterations=_WARM), **more)
        batches = [to_device(next_batch(step), device) for step in range(n)]
        images = sum(_images_in(batch) for batch in batches)
        before = self._bare(model, batches, loss_of, settings.lr, device)
        started = _now(device)
        result = self._fit(model, next_batch, loss_of, few, **more)
        ours = _now(device) - started
        after = self._bare(model, batches, loss_of, settings.lr, device)
        whole = round(images / n * settings.iterations)
        self.runs.append(_Timed(images / ours, images / min(before, after), whole))
        model.eval()
        return result

    def _bare(self, model: Any, batches: Sequence[Any], loss_of: Any, lr: float, device: Any) -> float:
        import copy

        import torch

        model = copy.deepcopy(model).train()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
        started = _now(device)
        for batch in batches:
            loss = torch.stack([value.float() for value in loss_of(model, batch).values()]).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return _now(device) - started


def _images_in(batch: Any) -> int:
    """Pictures in a batch: a list of samples, or tensors whose first axis counts them."""
    if isinstance(batch, list):
        return len(batch)
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()))
    elif isinstance(batch, tuple):
        batch = batch[0]
    return len(batch)


def _now(device: Any) -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def infer_pace(predictor: Any, images: Sequence[Any]) -> tuple[float, str, float | None]:
    """Images per second of the predictor, the unit, and those of its network's modules alone."""
    import torch

    networks = [value for value in vars(predictor).values() if isinstance(value, torch.nn.Module)]
    list(predictor.predict(images[:1]))
    started = time.perf_counter()
    list(predictor.predict(images))
    ours = len(images) / (time.perf_counter() - started)
    if not networks:
        return ours, "image/s", None
    calls = _calls(networks, lambda: list(predictor.predict(images)))
    best = float("inf")
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            for module, arguments, named in calls:
                module(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
    return ours, "image/s", len(images) / best


def _calls(networks: Sequence[Any], work: Callable[[], object]) -> list[tuple[Any, Any, Any]]:
    """The outermost calls of modules that ``work`` makes, with their arguments."""
    calls: list[tuple[Any, Any, Any]] = []
    depth = 0

    def enter(module: Any, arguments: Any, named: Any) -> None:
        nonlocal depth
        if depth == 0:
            calls.append((module, arguments, named))
        depth += 1

    def leave(module: Any, arguments: Any, result: Any) -> None:
        nonlocal depth
        depth -= 1

    hooks = []
    for network in networks:
        for module in network.modules():
            hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(leave))
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


if __name__ == "__main__":
    main()
