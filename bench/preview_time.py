"""How long the price in a preview takes, and how much memory: what a large pool makes slow.

    python -m bench.preview_time                   # 20,000 masks of a weak detector, 12 test pictures
    python -m bench.preview_time --masks 200000    # larger pools are played on a sample
    python -m bench.preview_time --profile         # where one play spends its time

One line of JSON: wall-clock and CPU seconds (children included), load average of the machine before the run,
and the peak of memory in MB of this process and of the largest child. On a busy machine the wall clock says
how busy it is; the CPU seconds, divided by the processes, say what a free machine would need.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import time

import numpy as np

from bench.pools import KINDS
from bench.preview import Case, generated
from clustering.answers import AnswerLog
from clustering.costs import Costs
from clustering.price import chosen_truths, one_play
from clustering.search import make_policy
from clustering.trees.tree import ClusterTree
from clustering.truth_draws import fit_truth
from ml_backend.artifacts.pool_tables import PoolTable
from sync.report.preview_price import forecast_price
from sync.review.verdicts import Certificate, ReviewLog
from sync.rounds.cluster import LabelPool
from sync.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--masks", type=int, default=20_000)
    parser.add_argument("--kind", choices=list(KINDS), default="weak")
    parser.add_argument("--workers", type=int, default=None, help="processes; default: as a preview takes")
    parser.add_argument("--plays", type=int, default=None, help="per promise; default: as a preview takes")
    parser.add_argument("--profile", action="store_true", help="profile one play instead")
    arguments = parser.parse_args()
    case = generated(arguments.kind, arguments.masks, tests=12, seed=0)
    if arguments.profile:
        _profile(case)
        return
    load, began, cpu = os.getloadavg()[0], time.perf_counter(), _cpu()
    prices = forecast_price(
        Settings(),
        [_label_pool(case)],
        case.project.lessons,
        _no_answers(),
        round_number=1,
        plays=arguments.plays,
        workers=arguments.workers,
    )
    row = {
        "name": "preview_time",
        "masks": len(case.project),
        "plays": sum(price.plays for price in prices),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(_cpu() - cpu, 1),
        "load_average": round(load, 1),
        "mb": _mb(resource.RUSAGE_SELF),
        "mb_child": _mb(resource.RUSAGE_CHILDREN),
    }
    print(json.dumps(row))


def _label_pool(case: Case) -> LabelPool:
    n = len(case.project)
    texts = np.full(n, "", object)
    table = PoolTable(
        key=texts,
        task_id=np.zeros(n, np.int64),
        label=texts,
        box_xyxy=np.zeros((n, 4), np.float32),
        counts=texts,
        hw=np.ones((n, 2), np.int32),
        score=case.project.columns.score,
        quality=case.project.columns.quality,
        embedding=np.zeros((n, 0), np.float32),
        edges=np.zeros((n, 0), np.float32),
    )
    return LabelPool("mask", table, case.project.columns, ClusterTree.from_linkage(np.zeros((0, 4)), 1))


def _no_answers() -> ReviewLog:
    rows = np.zeros(0, np.int64)
    nobody: frozenset[str] = frozenset()
    nothing: frozenset[int] = frozenset()
    return ReviewLog(
        log=AnswerLog.empty(),
        certificate=Certificate(1, ""),
        questions=(),
        answered=nobody,
        skipped=nobody,
        waiting=nobody,
        known=nothing,
        carried=nothing,
        nearly=nothing,
        cannot_be_shown=nothing,
        again=rows,
        expert=rows,
        spent=nothing,
        decided={},
        gold=(0, 0, 0, 0),
        workers=(),
    )


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _mb(who: int) -> int:
    return round(resource.getrusage(who).ru_maxrss / 1024)


def _profile(case: Case) -> None:
    model = fit_truth(case.project, np.zeros(0, np.int64), np.zeros(0), seed=0)
    truth = chosen_truths(model, 1, purity=0.85, seed=0)[0]
    policy = make_policy("certified", purity=0.85)
    one_play(policy, case.project, truth, seed=0, costs=Costs())  # reads the pool, once per process
    profile = cProfile.Profile()
    profile.runcall(one_play, policy, case.project, truth, seed=0, costs=Costs())
    pstats.Stats(profile).sort_stats("cumulative").print_stats(25)


if __name__ == "__main__":
    main()
