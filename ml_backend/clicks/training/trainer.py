"""Train the project's click network on finished masks, and decide whether it should replace the segmenter in
use now.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ml_backend.artifacts.files import write_json
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.evaluation.adoption import Adoption, decide_adoption
from ml_backend.clicks.evaluation.report import as_json
from ml_backend.clicks.evaluation.simulated_clicks import (
    ClickScores,
    ClickTarget,
    ClickTrace,
    Interval,
    PairedScores,
    compare,
    evaluate_clicks,
    score,
)
from ml_backend.clicks.project_network.click_net import (
    ClickNet,
    NetworkManifest,
    ProjectSegmenter,
    load_network,
    save_network,
)
from ml_backend.clicks.segmenters.shipped import SHIPPED_NETWORK
from ml_backend.clicks.training.options import ClickOptions
from ml_backend.clicks.training.window_samples import Sample, Sampler, next_click
from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import LeftOut, Progress
from ml_backend.learners.readable_examples import nothing_left, readable_examples

__all__ = [
    "ClickReport",
    "click_targets",
    "keep_pages",
    "normalised_focal_loss",
    "sample_tensors",
    "soft_iou_loss",
    "train_click_model",
    "train_network",
]


@dataclass(frozen=True, slots=True)
class ClickReport:
    """What training did, and the verdict.

    ``left_out`` names the tasks of both splits whose picture could not be used.
    ``use`` is True when ``adoption`` says so, a test that allows for the looks before; ``reason`` says it in
    a sentence for status.
    """

    iterations: int
    seconds: float
    n_train_images: int
    n_train_instances: int
    loss: float
    scores: ClickScores
    incumbent: ClickScores
    paired: PairedScores
    adoption: Adoption
    use: bool
    reason: str
    left_out: tuple[LeftOut, ...] = ()


def normalised_focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss whose weights are rescaled to sum to the number of pixels, per picture (RITM). (N, 1, S,
    S) -> ().
    """
    log_p = torch.where(target > 0.5, F.logsigmoid(logits), F.logsigmoid(-logits))
    weight = (1.0 - log_p.exp()).clamp_min(1e-6) ** gamma
    with torch.no_grad():
        scale = weight.flatten(1).sum(1).reciprocal() * weight[0].numel()
        scale = scale.clamp(max=20.0).view(-1, 1, 1, 1)
    return -(weight * scale * log_p).mean()


def soft_iou_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft IoU per picture, averaged. (N, 1, S, S) -> ()."""
    p = logits.sigmoid()
    common = (p * target).flatten(1).sum(1)
    union = (p + target - p * target).flatten(1).sum(1)
    return (1.0 - (common + 1.0) / (union + 1.0)).mean()


def sample_tensors(
    samples: Sequence[Sample], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """image, clicks, previous, input_maps and target of the samples, as ``ClickNet`` takes them."""
    image = (
        torch.from_numpy(np.stack([s.image for s in samples])).to(device).permute(0, 3, 1, 2).float() / 255.0
    )
    clicks = torch.from_numpy(np.stack([s.clicks for s in samples])).to(device)
    previous = torch.from_numpy(np.stack([s.previous for s in samples])).to(device)[:, None].float()
    target = torch.from_numpy(np.stack([s.target for s in samples])).to(device)[:, None].float()
    input_maps = torch.from_numpy(np.stack([s.input_maps() for s in samples])).to(device)
    return image.contiguous(), clicks, previous, input_maps, target


def keep_pages() -> None:
    """Let glibc keep big activation buffers between steps: twice as fast on a CPU. Nothing on other
    systems.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 1 << 28)):  # MMAP_MAX, TRIM_THRESHOLD, TOP_PAD
        mallopt(parameter, value)


def _initial(options: ClickOptions, start: Path | None) -> tuple[ClickNet, bool]:
    """The earlier version's network and True if it has the wanted width; else that of the package, or a
    random one, and False.
    """
    shipped = SHIPPED_NETWORK if options.first_weights == "shipped" else None
    for folder in (start, shipped):
        if folder is not None:
            network, manifest = load_network(folder)
            if manifest.width == options.width:
                return network, folder is start
    return ClickNet(options.width), False


def _correction_odds(most: int) -> npt.NDArray[np.float64]:
    """Probabilities of 0..most corrections: falling, since each costs a forward pass."""
    odds = np.linspace(2.0, 1.0, most + 1)
    return np.asarray(odds / odds.sum(), np.float64)


def train_network(
    examples: Sequence[Example], options: ClickOptions, progress: Progress, *, start: Path | None = None
) -> tuple[ClickNet, NetworkManifest, int, float]:
    """Train from random weights, or continue from the version in ``start``.

    Returns the network, its manifest, the iterations done and the mean loss of the last tenth of them.

    Raises BadInput when no example holds a usable mask.
    """
    device = torch.device(resolve_device(options.device))
    keep_pages()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    sampler = Sampler(examples, size=options.size, seed=options.seed)
    # Not channels_last: its backward pass crashes on CPUs for layers of few channels (torch 2.15).
    network, continued = _initial(options, start)
    network = network.to(device)
    wanted_steps = max(1, round(options.iterations * (options.continued_share if continued else 1.0)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=1e-3)
    corrections = _correction_odds(options.max_corrections)
    began = time.monotonic()
    losses: list[float] = []
    done = 0.0
    while done < 1.0:
        # Progress is the larger share, of iterations or of seconds, so the learning rate always falls to its
        # end.
        done = max((len(losses) + 1) / wanted_steps, (time.monotonic() - began) / options.seconds)
        rate = min(1.0, (len(losses) + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * min(done, 1.0)))
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * max(rate, 1e-3)
        sampler.size = options.small_size if done < options.small_share else options.size
        samples = sampler.draw(options.batch)
        network.eval()
        with torch.no_grad():
            for _ in range(int(sampler.rng.choice(len(corrections), p=corrections))):
                image, clicks, previous, input_maps, _ = sample_tensors(samples, device)
                predicted = (network(image, clicks, previous, input_maps)[:, 0] > 0).cpu().numpy()
                for sample, mask in zip(samples, predicted, strict=True):
                    next_click(sample, mask, sampler.rng)
        network.train()
        image, clicks, previous, input_maps, target = sample_tensors(samples, device)
        logits = network(image, clicks, previous, input_maps)
        loss = normalised_focal_loss(logits, target) + soft_iou_loss(logits, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % 25 == 0 or done >= 1.0:
            progress(min(done, 1.0), f"iteration {len(losses)}, loss {np.mean(losses[-50:]):.3f}")
    manifest = NetworkManifest(
        size=options.size, width=options.width, first_side=round(sampler.first_side, 1)
    )
    return network.eval(), manifest, len(losses), float(np.mean(losses[-max(1, len(losses) // 10) :]))


def click_targets(
    examples: Sequence[Example], labels: Sequence[str], *, limit: int | None, seed: int = 0
) -> list[ClickTarget]:
    """Up to ``limit`` masks of the examples, spread over images: one random mask of each image, then a second
    of each, and so on.
    """
    rng = np.random.default_rng(seed)
    order = [int(i) for i in rng.permutation(len(examples))]
    picks = {i: [int(j) for j in rng.permutation(len(examples[i].rle))] for i in order}
    targets: list[ClickTarget] = []
    for turn in range(max((len(p) for p in picks.values()), default=0)):
        for i in order:
            if turn < len(picks[i]) and (limit is None or len(targets) < limit):
                j = picks[i][turn]
                label = labels[examples[i].label[j]] if labels else ""
                targets.append(ClickTarget(examples[i].image, label, examples[i].rle[j]))
    return targets


def _reason(scores: ClickScores, incumbent: ClickScores, paired: PairedScores, adoption: Adoption) -> str:
    key = f"{paired.target_iou:.2f}"
    ours, theirs = scores.noc[key], incumbent.noc[key]

    def said(name: str, noc: Interval) -> str:
        return f"{name} {noc.value:.2f} [{noc.low:.2f}, {noc.high:.2f}]"

    return (
        f"clicks to IoU {key} on {paired.n_targets} held-out masks of {scores.n_images} pictures: "
        f"{said('project', ours)}, {said(incumbent.segmenter, theirs)}; difference "
        f"{paired.difference.value:+.2f} [{paired.difference.low:+.2f}, {paired.difference.high:+.2f}] "
        f"(95 %, over pictures): {'use project' if adoption.use else 'keep ' + incumbent.segmenter} "
        f"({adoption.sentence})"
    )


def train_click_model(
    train: Sequence[Example],
    test: Sequence[Example],
    out: Path,
    incumbent: ClickSegmenter,
    progress: Progress,
    *,
    labels: Sequence[str] = (),
    options: ClickOptions | None = None,
    start: Path | None = None,
    look: int = 1,
    read_image: Callable[[Path], npt.NDArray[np.uint8]] = read_image,
) -> ClickReport:
    """Train on ``train``, measure against ``incumbent`` on ``test``, write network and report.json into
    ``out``.

    ``start`` is the folder of an earlier version to train on from; ``look`` says which comparison of the
    project with the segmenter in use this is, from 1; ``out`` is an existing empty folder (a
    staging folder of ``artifacts.publish_dir``). Raises BadInput when either split has no usable mask.
    """
    options = options or ClickOptions()
    usable, held_out = readable_examples(train), readable_examples(test)
    left_out = usable.left_out + held_out.left_out
    if not any(example.rle for example in usable.kept):
        raise nothing_left(usable.left_out)
    train, test = usable.kept, held_out.kept
    targets = click_targets(test, labels, limit=options.eval_limit, seed=options.seed)
    if not targets:
        raise BadInput(
            "there is no held-out mask to measure the click network on",
            field="test",
            hint="Finish more tasks: some of them are held out",
        )
    began = time.monotonic()
    network, manifest, iterations, loss = train_network(
        train, options, lambda done, line: progress(0.8 * done, line), start=start
    )
    seconds = time.monotonic() - began
    save_network(out, network, manifest)
    runs: list[tuple[list[ClickTrace], ClickScores]] = []
    for segmenter in (ProjectSegmenter(out, device=options.device), incumbent):
        progress(0.8 + 0.1 * len(runs), f"measuring {segmenter.name} on {len(targets)} held-out masks")
        traces, embed_s = evaluate_clicks(segmenter, targets, read_image, max_clicks=options.max_clicks)
        empty = traces["empty"]
        scores = score(empty, segmenter=segmenter.name, max_clicks=options.max_clicks, embed_s=embed_s)
        runs.append((empty, scores))
    paired = compare(runs[1][0], runs[0][0], target_iou=0.85, max_clicks=options.max_clicks)
    adoption = decide_adoption(runs[0][0], runs[1][0], look=look, max_clicks=options.max_clicks)
    reason = _reason(runs[0][1], runs[1][1], paired, adoption)
    report = ClickReport(
        iterations, seconds, len(train), sum(len(e.rle) for e in train), loss,
        runs[0][1], runs[1][1], paired, adoption, adoption.use, reason, left_out,
    )  # fmt: skip
    write_json(out / "report.json", as_json(report))
    return report
