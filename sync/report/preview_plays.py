"""Plays of a preview, in processes of their own where there are many masks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from clustering.answers import SearchPolicy
from clustering.arrays import Bools
from clustering.costs import Costs
from clustering.price import Cost, one_play
from clustering.project_pool import ProjectPool
from clustering.search import make_policy
from clustering.simulation import People

__all__ = ["Job", "Stage", "played"]

_SMALL_POOL = 800
"""Up to so many masks the plays run in this process: starting others takes longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What all plays share; sent to a process once."""

    project: ProjectPool
    free: Bools
    costs: Costs
    people: People | None
    larger: float


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One play: the policy with its options, the seed and the number of its certificate, and the truth."""

    policy: str
    options: Mapping[str, Any]
    seed: int
    certificate: int
    truth: Bools


_stage: Stage | None = None
_policies: dict[str, SearchPolicy] = {}
"""of a process: kept between plays, since a policy keeps what it reads of the pool"""


def played(stage: Stage, jobs: Sequence[Job], workers: int | None, *, apart: bool) -> Iterator[Cost]:
    """The cost of each job, in their order, as they become known.

    ``workers``: processes; None = two where the machine has them. With ``apart`` no play runs in this
    process, and those that do leave the cores to whoever wants them (``nice``).
    """
    many = min(2, os.cpu_count() or 1) if workers is None else workers
    if not apart and (many < 2 or len(stage.project) <= _SMALL_POOL):
        kept: dict[str, SearchPolicy] = {}
        for job in jobs:
            yield _play(stage, kept, job)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(many, context, initializer=_begin, initargs=(stage, apart)) as pool:
        yield from pool.map(_play_here, jobs)


def _begin(stage: Stage, gently: bool) -> None:
    global _stage
    if gently and hasattr(os, "nice"):
        os.nice(10)
    _stage = stage
    _policies.clear()


def _play_here(job: Job) -> Cost:
    assert _stage is not None, "the process was begun with a stage"
    return _play(_stage, _policies, job)


def _play(stage: Stage, policies: dict[str, SearchPolicy], job: Job) -> Cost:
    name = repr((job.policy, sorted(job.options.items())))
    policy = policies.setdefault(name, make_policy(job.policy, **job.options))
    return one_play(
        policy,
        stage.project,
        job.truth,
        seed=job.seed,
        costs=stage.costs,
        people=stage.people,
        free=stage.free,
        certificate=job.certificate,
        larger=stage.larger,
    )
