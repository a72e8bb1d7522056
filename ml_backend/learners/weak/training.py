"""Train the heads of CIM on bags of proposals; minutes on a CPU, since the features stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.learners.base import Progress
from ml_backend.learners.training.loop import FitResult, fit
from ml_backend.learners.training.settings import LoopSettings
from ml_backend.learners.weak.bags import Bag
from ml_backend.learners.weak.heads import Heads, Output
from ml_backend.learners.weak.losses import bag_loss, branch_losses, cluster_loss
from ml_backend.learners.weak.mining import MiningSettings, mine
from ml_backend.learners.weak.responses import class_responses, labels_with_contrast
from ml_backend.learners.weak.seeds import Clusters, initial_clusters
from ml_backend.learners.weak.settings import CimSettings

__all__ = ["feature_scale", "train_heads"]

_CLUSTER_WEIGHT, _INTEGRITY_WEIGHT = 12.0, 3.0
_PRIOR_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Pictures of one step and the step, which says how much the objectness still counts."""

    step: int
    places: npt.NDArray[np.int64]


def train_heads(
    bags: Sequence[Bag],
    labels: int,
    settings: CimSettings,
    *,
    seed: int,
    device: torch.device,
    progress: Progress,
    folder: Path | None = None,
) -> tuple[Heads, FitResult]:
    """Heads trained on bags, none of them empty. ``folder``: see ``fit``."""
    torch.manual_seed(seed)
    mean, spread = feature_scale(bags)
    heads = Heads(bags[0].features.shape[1], labels, width=settings.width, dropout=settings.dropout)
    heads.mean.copy_(mean)
    heads.spread.copy_(spread)
    responses = class_responses(bags, mean, spread)
    contrast = labels_with_contrast(bags)
    heads.blind[1:] = torch.from_numpy(~contrast)
    clusters = [
        initial_clusters(bag, response, contrast) for bag, response in zip(bags, responses, strict=True)
    ]
    mining = MiningSettings(settings.seed_share, settings.seed_score, settings.integrity == "on")
    loop = LoopSettings(
        iterations=settings.iterations,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        amp="off",
    )

    def next_batch(step: int) -> _Batch:
        # every picture once per pass, in a new order each pass
        wanted = np.arange(step * settings.batch, (step + 1) * settings.batch)
        turn, place = np.divmod(wanted, len(bags))
        orders = {
            t: np.random.default_rng((seed, t)).permutation(len(bags)) for t in np.unique(turn).tolist()
        }
        return _Batch(step, np.array([orders[int(t)][p] for t, p in zip(turn, place, strict=True)]))

    def loss_of(model: Heads, batch: _Batch) -> dict[str, Tensor]:
        chosen = [bags[i] for i in batch.places.tolist()]
        features = torch.from_numpy(np.concatenate([bag.features for bag in chosen])).to(device)
        outputs = model(features, [len(bag) for bag in chosen])
        fade = max(0.0, 1 - batch.step / max(1.0, _PRIOR_SHARE * settings.iterations))
        rng = np.random.default_rng((seed, 1 << 20, batch.step))
        total: dict[str, Tensor] = {}
        for place, bag, output in zip(batch.places.tolist(), chosen, outputs, strict=True):
            for name, value in _losses(bag, output, clusters[place], mining, fade, rng, ~contrast).items():
                total[name] = total.get(name, torch.zeros((), device=device)) + value / len(chosen)
        return total

    result = fit(heads, next_batch, loss_of, loop, device=device, seed=seed, progress=progress, folder=folder)
    return heads, result


def feature_scale(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (f,) of the features of all proposals."""
    features = np.concatenate([bag.features for bag in bags]).astype(np.float64)
    spread = np.maximum(features.std(axis=0), 1e-3)
    return torch.from_numpy(features.mean(axis=0)).float(), torch.from_numpy(spread).float()


def _losses(
    bag: Bag,
    output: Output,
    clusters: Clusters,
    mining: MiningSettings,
    fade: float,
    rng: np.random.Generator,
    blind: npt.NDArray[np.bool_],
) -> dict[str, Tensor]:
    """All losses of one picture. ``fade`` goes from 1 to 0: the power of the objectness in the integrity.
    ``blind`` (C,): labels whose integrity is the objectness alone, see ``Heads``."""
    device = output.mil_class.device
    tags = torch.from_numpy(bag.tags.astype(np.float32)).to(device)
    losses = {
        "bag": bag_loss(output, tags),
        "clusters": _CLUSTER_WEIGHT * cluster_loss(output, clusters),
    }
    trust = (bag.prior[:, None] + 1e-3) ** fade
    columns = np.concatenate([[False], blind])
    with torch.no_grad():
        pick = output.mil_pick / output.mil_pick.max(dim=0).values.clamp(min=1e-9)
    before = (_numpy(output.mil_class), _numpy(pick) * (bag.prior[:, None] + 1e-3))
    for branch, (classes, integrity) in enumerate(zip(output.classes, output.integrity, strict=True)):
        quiet = clusters.background
        pseudo = mine(bag, before[0], before[1], branch, mining, rng, quiet)
        tagged, classed, complete = branch_losses(classes, integrity, pseudo, tags)
        losses[f"bag_{branch}"], losses[f"class_{branch}"] = tagged, classed
        if mining.integrity:
            losses[f"integrity_{branch}"] = _INTEGRITY_WEIGHT * complete
        learnt = _numpy(integrity) * trust
        before = (_numpy(classes), np.where(columns, bag.prior[:, None], learnt).astype(np.float32))
    return losses


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tensor.detach().float().cpu().numpy())
