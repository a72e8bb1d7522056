"""Click segmenters measured on a COCO set: simulated users click until the mask is good enough."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_backend.clicks.evaluation.experiment import (
    ClickExperiment,
    ClickSplit,
    compare_reports,
    pick_targets,
    split_images,
    stored_proposals,
    with_starts,
)
from ml_backend.clicks.evaluation.robots import ROBOTS
from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.masks.coco import CocoSet
from ml_backend.settings import BackendSettings
from sync.lab.measured_segmenter import SegmenterTask, measure

__all__ = ["ClickEvaluation", "ClickScores", "evaluate_clicks"]

_NETWORK_FILE = "click.json"
Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class ClickEvaluation:
    """What is measured.

    Parameters
    ----------
    segmenters : names; ``project`` is the network that is trained on the training share first
    starts : ``empty`` (a user starts from nothing), ``proposal`` (from a mask that a model proposes), or both
    robots : where simulated users click, see ``ml_backend.clicks.evaluation.robots``
    limit : masks to measure, spread over images; None: all
    max_clicks : clicks after which a user gives up
    train_fraction : share of images kept for training, never measured
    proposals : COCO results file of masks to start from
    model : folder of the model version that proposes; trained there when it is empty; None: a temporary one
    click_model : folder of the network ``project``; trained there when it is empty; None: a temporary one
    model_iterations, iterations : training steps of the two; None: their defaults
    seed : of split, choice of masks and training
    """

    segmenters: Sequence[str]
    starts: Sequence[str] = ("empty",)
    robots: Sequence[str] = ("ritm",)
    limit: int | None = None
    max_clicks: int = 20
    train_fraction: float = 0.0
    proposals: Path | None = None
    model: Path | None = None
    click_model: Path | None = None
    model_iterations: int | None = None
    iterations: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise BadInput naming what cannot be measured."""
        for start in self.starts:
            if start not in ("empty", "proposal"):
                raise BadInput(f"unknown start {start!r}", field="start", hint="Use empty or proposal")
        for robot in self.robots:
            if robot not in ROBOTS:
                hint = f"Use {', '.join(ROBOTS)} or both"
                raise BadInput(f"unknown robot {robot!r}", field="robot", hint=hint)
        if "proposal" in self.starts and self.proposals is not None and self.model is not None:
            raise BadInput(
                "a start from proposals needs one source of them",
                field="start",
                hint="Give --proposals or --model, not both",
            )
        if "project" in self.segmenters and not self.train_fraction and not _is_trained(self.click_model):
            raise BadInput(
                "project must be trained on something", field="train_fraction", hint="For example 0.5"
            )


@dataclass(frozen=True, slots=True)
class ClickScores:
    """Counts of the split, a report per robot and segmenter, and paired differences from the first one."""

    images: int
    train_images: int
    masks: int
    reports: Sequence[dict[str, Any]]
    differences: Sequence[Mapping[str, Any]]


def evaluate_clicks(
    data: CocoSet,
    plan: ClickEvaluation,
    settings: BackendSettings,
    *,
    report: Report = lambda share, line: None,
) -> ClickScores:
    """Measure all segmenters of the plan on the same masks, each in a process of its own.

    ``report`` is called with the share done (0..1) and a line about it. Raises BadInput, see ``check``.
    """
    plan.check()
    split = split_images(data, train_fraction=plan.train_fraction, seed=plan.seed)
    experiment = ClickExperiment(limit=plan.limit, max_clicks=plan.max_clicks, seed=plan.seed)
    experiment = with_starts(experiment, plan.starts)  # type: ignore[arg-type]
    with ExitStack() as scratch:
        found: dict[int, list[Rle]] = {}
        if "proposal" in plan.starts:
            found = _proposals(plan, split, data.categories, scratch, report)
        targets = pick_targets(split.test, data.categories, experiment, found)
        experiments = [replace(experiment, robot=robot) for robot in plan.robots]  # type: ignore[arg-type]
        names = list(plan.segmenters)
        runs: list[list[dict[str, Any]]] = []
        for number, name in enumerate(names):
            network = _network(plan, split, scratch, report) if name == "project" else None
            task = SegmenterTask(name, targets, experiments, settings, network)
            share = number / len(names)
            runs.append(measure(task, lambda line, share=share: report(share, line)))  # type: ignore[misc]
        reports: list[dict[str, Any]] = []
        differences: list[Mapping[str, Any]] = []
        for robot, of_robot in zip(plan.robots, zip(*runs, strict=True), strict=True):
            first, *others = of_robot
            for other in others:
                differences += [{"robot": robot, **row} for row in compare_reports(first, other)]
            reports += of_robot
    return ClickScores(len(split.test), len(split.train), len(targets), reports, differences)


def _is_trained(folder: Path | None) -> bool:
    return folder is not None and (folder / _NETWORK_FILE).exists()


def _temporary(scratch: ExitStack, prefix: str) -> Path:
    return Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))


def _proposals(
    plan: ClickEvaluation, split: ClickSplit, labels: Sequence[str], scratch: ExitStack, report: Report
) -> dict[int, list[Rle]]:
    """Masks to start from, by image: stored ones, or those of the model, trained first when missing."""
    from ml_backend.clicks.evaluation.proposal_model import proposals_of_model

    if plan.proposals is not None:
        return stored_proposals(plan.proposals, split.test)
    found = proposals_of_model(
        split,
        labels,
        plan.model or _temporary(scratch, "click-proposer-") / "model",
        lambda share, line: report(0.0, f"proposals: {share:.0%} {line}"),
        options=None if plan.model_iterations is None else {"iterations": plan.model_iterations},
        seed=plan.seed,
    )
    report(0.0, f"proposals: {sum(map(len, found.values()))} on {len(found)} images")
    return found


def _network(plan: ClickEvaluation, split: ClickSplit, scratch: ExitStack, report: Report) -> Path:
    """Folder of the network ``project``; it is trained on the training share when there is none yet."""
    from ml_backend.clicks.project_network.click_net import save_network
    from ml_backend.clicks.training.options import ClickOptions
    from ml_backend.clicks.training.trainer import train_network

    folder = plan.click_model or _temporary(scratch, "click-network-")
    if not _is_trained(folder):
        options = ClickOptions(seed=plan.seed)
        if plan.iterations is not None:
            options = replace(options, iterations=plan.iterations, seconds=float("inf"))
        network, manifest, _, _ = train_network(
            [image.example() for image in split.train],
            options,
            lambda done, line: report(0.0, f"project: {done:.0%} {line}"),
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_network(folder, network, manifest)
    return folder
