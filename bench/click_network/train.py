"""One run of training: steady steps, a falling learning rate at the end, a running mean of the weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from bench.click_network.samples import Bank, MixedSampler
from bench.click_network.scenes import SceneMaker
from ml_backend.clicks.project_network.click_net import ClickNet
from ml_backend.clicks.training.trainer import (
    keep_pages,
    normalised_focal_loss,
    sample_tensors,
    soft_iou_loss,
)
from ml_backend.examples import Example

__all__ = ["Plan", "train"]


@dataclass(frozen=True, slots=True)
class Plan:
    """``steps`` at a steady learning rate, then ``last_steps`` in which it falls to nothing. Inputs have side
    ``small`` except for ``large_share`` of the steady steps and ``last_large_share`` of the last ones, which
    have side ``size``.
    """

    size: int = 128
    small: int = 64
    width: int = 32
    batch: int = 16
    large_batch: int = 8
    slots: int = 96
    large_share: float = 0.08
    last_large_share: float = 0.6
    steps: int = 12000
    last_steps: int = 2000
    learning_rate: float = 2e-3
    mean_decay: float = 0.998
    generated: float = 0.7
    seed: int = 0
    save_every: int = 200


def train(
    plan: Plan, sets: Sequence[Sequence[Example]], maker: SceneMaker, checkpoint: Path,
    say: Callable[[str], None],
) -> ClickNet:  # fmt: skip
    """The network whose weights are the running mean at the end, in eval mode.

    Goes on from ``checkpoint`` if it is there, with other random samples. The same plan starts from the same
    weights and samples; later ones may differ a little, because the last bits of a sum depend on where in
    memory its numbers lie, and a mask that changes by a pixel may move the next click.
    """
    keep_pages()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(plan.seed)
    network, mean = ClickNet(plan.width), ClickNet(plan.width)
    mean.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=1e-3)
    step = 0
    if checkpoint.exists():
        kept: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(kept["network"])
        mean.load_state_dict(kept["mean"])
        optimiser.load_state_dict(kept["optimiser"])
        step = int(kept["step"])
        say(f"going on from step {step}")
    sampler = MixedSampler(
        sets, maker, size=plan.size, seed=plan.seed + 1_000_003 * step, generated=plan.generated
    )
    banks = {
        plan.small: Bank(sampler, size=plan.small, slots=plan.slots),
        plan.size: Bank(sampler, size=plan.size, slots=plan.slots // 2),
    }
    network.train()
    losses: list[float] = []
    began = time.monotonic()
    while step < plan.steps + plan.last_steps:
        last = step >= plan.steps
        fall = (step - plan.steps + 1) / plan.last_steps if last else 0.0
        rate = plan.learning_rate * min(1.0, (step + 1) / 100) * max(1e-3, 1.0 - fall)
        for group in optimiser.param_groups:
            group["lr"] = rate
        large = sampler.rng.random() < (plan.last_large_share if last else plan.large_share)
        bank = banks[plan.size if large else plan.small]
        samples = bank.take(plan.large_batch if large else plan.batch)
        image, clicks, previous, input_maps, target = sample_tensors(samples, torch.device("cpu"))
        logits: Tensor = network(image, clicks, previous, input_maps)
        loss = normalised_focal_loss(logits, target) + soft_iou_loss(logits, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        bank.put_back(logits.detach().numpy()[:, 0] > 0)
        step += 1
        _follow(mean, network, min(plan.mean_decay, step / (step + 10)))
        losses.append(float(loss.detach()))
        if step % plan.save_every == 0 or step == plan.steps + plan.last_steps:
            pace = (time.monotonic() - began) / len(losses)
            say(f"step {step}, loss {np.mean(losses[-plan.save_every :]):.3f}, {pace:.2f} s a step")
            _save(checkpoint, network, mean, optimiser, step, plan)
    return mean.eval()


@torch.no_grad()
def _follow(mean: ClickNet, network: ClickNet, decay: float) -> None:
    """Move the running mean towards the network; counters are copied."""
    for kept, now in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)


def _save(
    path: Path, network: ClickNet, mean: ClickNet, optimiser: torch.optim.Optimizer, step: int, plan: Plan
) -> None:
    fresh = path.with_suffix(".new")
    torch.save(
        {
            "network": network.state_dict(),
            "mean": mean.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "plan": asdict(plan),
        },
        fresh,
    )
    fresh.replace(path)
