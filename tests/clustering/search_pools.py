"""Pools and plays shared by the tests of the search policies."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.cluster.hierarchy import linkage

from bench.pools import CORRECT_IOU, make_pool
from clustering.answers import AnswerLog, PolicyStep, SearchPolicy, Stream
from clustering.pool import Pool
from clustering.project_pool import ProjectPool
from clustering.trees import ClusterTree

__all__ = ["answer_all", "flat_pool", "known_pool", "old_answers", "play_through", "strong_pool"]


@lru_cache(maxsize=4)
def known_pool(n: int, seed: int = 1) -> tuple[ClusterTree, Pool, npt.NDArray[np.bool_]]:
    """Tree, pool and truth of the synthetic generator, linked by scipy."""
    pool, iou = make_pool(n, seed=seed, dim=16)
    return ClusterTree.from_linkage(linkage(pool.embedding, "complete")), pool, iou > CORRECT_IOU


@lru_cache(maxsize=4)
def strong_pool(n: int, seed: int = 1) -> tuple[ClusterTree, Pool, npt.NDArray[np.bool_]]:
    """Tree, pool and truth where nine of ten masks are good: enough to certify some, however it is tuned."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(3.2, 1.5, n)
    embedding = rng.standard_normal((n, 8)).astype(np.float32)
    embedding[:, 0] += odds
    side = special.expit(odds[:, None] + 0.5 * rng.standard_normal((n, 2))).astype(np.float32) ** 0.5
    pool = Pool(embedding, side[:, 0], side[:, 1], np.zeros((n, 0), np.float32))
    tree = ClusterTree.from_linkage(linkage(embedding, "complete"))
    return tree, pool, rng.random(n) < special.expit(odds)


def flat_pool(
    n: int, *, prior: float = 0.81, good: float = 1.0
) -> tuple[ClusterTree, Pool, npt.NDArray[np.bool_]]:
    """n equal instances with a tree; the first share ``good`` of them is right."""
    side = np.full(n, np.sqrt(prior), np.float32)
    pool = Pool(np.ones((n, 4), np.float32), side, side, np.zeros((n, 0), np.float32))
    merges = linkage(pool.embedding, "complete") if n > 1 else np.zeros((0, 4))
    return ClusterTree.from_linkage(merges, n), pool, np.arange(n) < good * n


def old_answers(item: npt.ArrayLike, yes: npt.ArrayLike, *, stream: Stream = Stream.SEARCH) -> AnswerLog:
    """Answers that no phase of the policy asked for."""
    rows, said = np.asarray(item, np.int64), np.asarray(yes, np.float32)
    m = len(rows)
    answer = np.where(said == 0.5, np.float32(np.nan), np.round(said))
    none = np.full(m, -1, np.int64)
    return AnswerLog(rows, said, answer, none, none, np.full(m, stream, np.int8), np.ones(m))


def answer_all(
    policy: SearchPolicy,
    tree: ClusterTree,
    pool: Pool,
    truth: npt.NDArray[np.bool_],
    *,
    budget: int,
    seed: int = 0,
    log: AnswerLog | None = None,
) -> tuple[AnswerLog, PolicyStep]:
    """Answer truthfully, on from a log if there is one, until the policy asks nothing more."""
    log, project = AnswerLog.empty() if log is None else log, ProjectPool.single(pool, tree)
    for _ in range(2000):
        step = policy.step(project, log, budget=budget, seed=seed)
        if not len(step.questions):
            return log, step
        assert len(step.questions) <= budget
        log = log.extended(step.questions, truth[step.questions.item])
    raise AssertionError("the policy never stops asking")


def play_through(
    policy: SearchPolicy,
    tree: ClusterTree,
    pool: Pool,
    truth: npt.NDArray[np.bool_],
    *,
    budget: int,
    seed: int = 0,
) -> list[PolicyStep]:
    """Every look of a truthful play."""
    log, steps, project = AnswerLog.empty(), [], ProjectPool.single(pool, tree)
    while True:
        steps.append(policy.step(project, log, budget=budget, seed=seed))
        if not len(steps[-1].questions):
            return steps
        log = log.extended(steps[-1].questions, truth[steps[-1].questions.item])
