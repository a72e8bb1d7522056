"""How often the promise of the certified policy is broken, cell by cell: pools, crowds and events that hurt.

    python -m bench.coverage                        # every cell, 200 plays each
    python -m bench.coverage --plays 1000 --cell "null*" "gold*"
    python -m bench.coverage --list

One line of JSON per cell. A play counts as broken if, at any step of it, less than the promised share was
good: of the masks accepted unseen (``unseen``), or of all masks delivered (``all``). Next to the share of
broken plays stands its interval (Clopper & Pearson 1934, 95 %). ``within`` is false where even the lower end
is above the promised error: there the promise does not hold. Cells marked ``must_break`` show assumptions
that matter: gold that is easier than the masks, and people who miss fewer good masks than the policy was
told. The exit status is 1 where a cell is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.answers import AnswerLog, PolicyStep, Stream
from clustering.costs import Costs
from clustering.evidence import clopper_pearson
from clustering.pool import Pool
from clustering.project_pool import Lessons, ProjectPool
from clustering.search import Certified

__all__ = ["CELLS", "Cell", "Crowd", "Outcome", "play_cell"]

PURITY, DELTA = 0.85, 0.05
CORRECT_IOU = 0.75
_DIM = 12
_MOST_STEPS = 400

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
World = tuple[list[Pool], Floats, Lessons | None]
"""The pools of the labels, the true IoU of all their masks, and lessons if there are any."""


# ---- pools ----------------------------------------------------------------------------------------------


def _pool(rng: Rng, good: npt.NDArray[np.bool_], seen: npt.NDArray[Any], *, sd: float = 0.6) -> World:
    """One label: ``seen`` (n,) is what the detector thinks, in log-odds; the embedding tells a part of it."""
    n = len(good)
    latent = rng.standard_normal((n, _DIM)).astype(np.float32)
    latent[:, 0] += (seen - seen.mean()) / (seen.std() + 1e-9)
    noisy = special.expit(seen[:, None] + sd * rng.standard_normal((n, 2))) ** 0.5
    pool = Pool(
        latent, noisy[:, 0].astype(np.float32), noisy[:, 1].astype(np.float32), np.zeros((n, 0), np.float32)
    )
    # most bad masks of a real detector are near misses
    bad = np.where(rng.random(n) < 0.8, rng.uniform(0.65, CORRECT_IOU, n), rng.uniform(0.1, 0.65, n))
    return [pool], np.where(good, rng.uniform(CORRECT_IOU + 1e-3, 1.0, n), bad), None


def usual(rng: Rng, n: int) -> World:
    """A detector that knows something: half of the masks are good."""
    odds = rng.normal(0.3, 2.2, n)
    return _pool(rng, rng.random(n) < special.expit(odds), odds)


def strong(rng: Rng, n: int) -> World:
    """Nine of ten masks are good."""
    odds = rng.normal(3.2, 1.5, n)
    return _pool(rng, rng.random(n) < special.expit(odds), odds)


def flat(rng: Rng, n: int, *, share: float = PURITY, claimed: float = 0.93) -> World:
    """All masks look alike, and just fewer than the promised share are good; the detector claims more."""
    good = np.zeros(n, bool)
    good[rng.permutation(n)[: int(np.ceil(share * n - 1e-9)) - 1]] = True
    return _pool(rng, good, np.full(n, float(special.logit(claimed))), sd=0.05)


def lying_lessons(rng: Rng, n: int, *, share: float = PURITY) -> World:
    """A flat pool at the promise, and lessons on which nearly every mask is good: the verifier hopes, and the
    certificate is tried again and again."""
    pools, iou, _ = flat(rng, n, share=share)
    k = 200
    others, _, _ = _pool(rng, np.ones(k, bool), np.full(k, 2.6), sd=0.05)
    truth = rng.random(k) < 0.97
    return pools, iou, Lessons(others[0], np.zeros(k, np.int64), truth, np.arange(k) // 5)


def best_part_at_the_promise(rng: Rng, n: int) -> World:
    """The better half keeps the promise by a hair or breaks it by a hair; the other half is bad."""
    better = np.arange(n) < n // 2
    good = rng.random(n) < np.where(better, 0.0, 0.25)
    size = int(better.sum())
    good[rng.permutation(size)[: int(np.ceil(PURITY * size)) - 1]] = True
    return _pool(rng, good, np.where(better, 2.5, -1.0), sd=0.3)


def stairs(rng: Rng, n: int) -> World:
    """Ten steps of a score; the mean of the best k is the promise for every k."""
    step = np.arange(n) * 10 // n
    good = np.zeros(n, bool)
    for k in range(10):
        mine = rng.permutation(np.flatnonzero(step == k))
        good[mine[: int(np.ceil(PURITY * len(mine))) - 1]] = True
    return _pool(rng, good, 4.0 - 0.3 * step, sd=0.05)


def over_confident(rng: Rng, n: int) -> World:
    """Some clusters score as high as the good ones, and six of ten of their masks are bad."""
    odds = rng.normal(1.0, 2.0, n)
    trap = rng.random(n) < 0.3
    pools, iou, _ = _pool(rng, rng.random(n) < special.expit(np.where(trap, -0.4, odds)), odds)
    pools[0].embedding[trap] += rng.standard_normal(_DIM).astype(np.float32) * 0.8
    return pools, iou, None


def miscalibrated(rng: Rng, n: int) -> World:
    """The surer the detector, the worse the masks; it claims nine of ten are good."""
    odds = rng.normal(0.5, 1.5, n)
    return _pool(rng, rng.random(n) < special.expit(odds), 2.5 - 0.5 * odds)


def hidden(rng: Rng, n: int) -> World:
    """Six of ten masks are good, and nothing tells which."""
    return _pool(rng, rng.random(n) < 0.6, rng.normal(1.5, 1.0, n))


def many_labels(rng: Rng, n: int) -> World:
    """Labels of sizes as in Zipf's law; each has a quality of its own."""
    size = np.maximum(1, np.round(n / np.arange(1, 21) / (1 / np.arange(1, 21)).sum())).astype(int)
    pools, iou = [], []
    for k in size.tolist():
        odds = rng.normal(rng.normal(1.2, 1.5), 1.5, k)
        one, truth, _ = _pool(rng, rng.random(k) < special.expit(odds), odds)
        pools += one
        iou.append(truth)
    return pools, np.concatenate(iou), None


def equal_labels(rng: Rng, n: int) -> World:
    """Twenty labels of equal size, each flat: good in 70 to 100 of a hundred, together at the promise."""
    pools, iou = [], []
    for share in np.linspace(0.70, 1.0, 20):
        one, truth, _ = flat(rng, n // 20, share=float(share))
        pools += one
        iou.append(truth)
    return pools, np.concatenate(iou), None


# ---- people ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How people answer: P(yes | good), P(yes | bad), and how far they pass near misses (IoU .65 to .75).

    Attributes
    ----------
    near : range of P(yes) of near misses; each mask has its own; None = as for the other bad masks
    spammers : share of answers given at random
    """

    good: float = 1.0
    bad: float = 0.0
    near: tuple[float, float] | None = None
    spammers: float = 0.0

    def chances(self, iou: Floats, rng: Rng) -> Floats:
        """(n,) P(yes) of one answer of somebody of the crowd."""
        chance = np.where(iou > CORRECT_IOU, self.good, self.bad)
        if self.near is not None:
            missed = (iou > 0.65) & (iou <= CORRECT_IOU)
            chance = np.where(missed, rng.uniform(*self.near, len(iou)), chance)
        return (1.0 - self.spammers) * chance + 0.5 * self.spammers


EXACT = Crowd()
GOOD_CROWD = Crowd(good=0.95, bad=0.1)
WEAK_CROWD = Crowd(good=0.9, bad=0.2)
CARELESS = Crowd(good=0.97, bad=0.05, spammers=0.1)
LENIENT = Crowd(good=0.96, bad=0.08, near=(0.4, 0.6))


def _gold_iou(kind: str, pool_iou: Floats, n: int, rng: Rng) -> Floats:
    """True IoU of n bad gold masks: near misses, easy ones, or as those of the pool."""
    if kind == "near":
        return rng.uniform(0.65, CORRECT_IOU, n)
    if kind == "easy":
        return rng.uniform(0.3, 0.6, n)
    bad = pool_iou[pool_iou <= CORRECT_IOU]
    return rng.choice(bad, n)


# ---- plays ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is played.

    Attributes
    ----------
    make, n : the pool, and about how many masks it has
    known : whether the policy is told how the crowd errs
    gold : kind of the bad gold masks, or "" for none
    gold_answers : fewest and most gold answers before the first question
    event : what happens on the way, one of ``_EVENTS``; empty = nothing
    rounds : pools one after the other, each with a certificate of its own
    delta : the promised error
    told : what the policy is told of the crowd, where that is not the truth
    hoped : P(good) that enters the verdicts before any answer, as a detector's would; None = verdicts are the
        answers
    options : further options of the policy
    must_break : shows a broken assumption, not a kept promise
    """

    make: Callable[[Rng, int], World]
    n: int = 300
    crowd: Crowd = EXACT
    known: bool = True
    gold: str = ""
    gold_answers: tuple[int, int] = (10, 2000)
    event: str = ""
    rounds: int = 1
    delta: float = DELTA
    told: Crowd | None = None
    hoped: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    must_break: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of one play; shares are the lowest of all its steps, 1 where nothing was delivered."""

    unseen: float = 1.0
    every: float = 1.0
    certified: bool = False
    questions: int = 0
    answer_s: float = 0.0
    hours: float = 0.0
    found: int = 0
    good: int = 0

    def watch(self, step: PolicyStep, good: npt.NDArray[np.bool_]) -> None:
        """Keep the lowest shares."""
        delivered = step.label > 0
        unseen = delivered & (step.decision >= 0)
        if unseen.any():
            self.unseen, self.certified = min(self.unseen, float(good[unseen].mean())), True
        if delivered.any():
            self.every = min(self.every, float(good[delivered].mean()))


def play_cell(cell: Cell, seed: int) -> Outcome:
    """One play of all rounds of a cell. The same cell and seed give the same play."""
    out = Outcome()
    for number in range(1, cell.rounds + 1):
        rng = np.random.default_rng([seed, number])
        pools, iou, lessons = cell.make(rng, cell.n)
        _play_round(cell, ProjectPool(pools, lessons=lessons), iou, rng, number, out)
    out.hours = (out.answer_s + Costs().drawn_mask * (out.good - out.found)) / 3600.0
    return out


def _play_round(
    cell: Cell, project: ProjectPool, iou: Floats, rng: Rng, certificate: int, out: Outcome
) -> None:
    good, chance = iou > CORRECT_IOU, cell.crowd.chances(iou, rng)
    gold = _Gold(cell, iou, rng) if cell.gold else None
    options = dict(cell.options)
    if cell.crowd != EXACT and cell.known and gold is None:
        told = cell.told or Crowd(good=float(chance[good].mean()), bad=float(chance[~good].mean()))
        options |= {"sensitivity": told.good, "specificity": 1.0 - told.bad}
    policy = Certified(purity=PURITY, delta=cell.delta, gold=None if gold is None else gold.counts, **options)
    log, budget = AnswerLog.empty(), max(24, cell.n // int(rng.choice([3, 8])))
    seed = int(rng.integers(2**31))
    change_at = (
        set(rng.choice(np.arange(2, 12), 2, replace=False).tolist())
        if cell.event == "options changed twice"
        else set()
    )
    for look in range(_MOST_STEPS):
        if look in change_at:
            certificate, seed = certificate + 1, seed + 1
            log = replace(log, phase=np.full(len(log), -1))
        if gold is not None:
            policy.gold = gold.counts  # the same policy, told what further gold says
        step = policy.step(project, log, budget=budget, seed=seed, certificate=certificate)
        out.watch(step, good)
        asked = step.questions
        if not len(asked):
            break
        said = (rng.random(len(asked)) < chance[asked.item]).astype(np.float32)
        log = log.extended(
            asked, said, None if cell.hoped is None else _verdicts(cell.crowd, said, cell.hoped)
        )
        out.questions += len(asked)
        out.answer_s += Costs().seconds(asked)
        if gold is not None:
            out.answer_s += gold.ask_some(len(asked), rng) * Costs().question
        log = _withdrawn(log, cell.event, look, rng)
    else:
        raise RuntimeError(f"the play goes on after {_MOST_STEPS} steps")
    out.found += int(good[step.label > 0].sum())
    out.good += int(good.sum())


def _verdicts(crowd: Crowd, said: npt.NDArray[np.float32], hoped: float) -> Floats:
    """(q,) P(good) of each mask by its answer and a prior."""
    yes, no = crowd.good / crowd.bad, (1.0 - crowd.good) / (1.0 - crowd.bad)
    odds = hoped / (1.0 - hoped) * np.where(said > 0.5, yes, no)
    return np.asarray(odds / (1.0 + odds))


def _withdrawn(log: AnswerLog, event: str, look: int, rng: Rng) -> AnswerLog:
    """The log without what somebody takes back now."""
    if event == "withdraw some" and look < 30 and rng.random() < 0.3:
        return log.take(rng.random(len(log)) >= 0.1)
    if event == "withdraw every no of the search" and look in (4, 7, 11, 16):
        return log.take((log.stream != Stream.SEARCH) | (log.answer != 0))
    return log


class _Gold:
    """Gold questions of known truth: some before the first answer, more on the way."""

    def __init__(self, cell: Cell, iou: Floats, rng: Rng) -> None:
        self._crowd, self._kind, self._pool_iou = cell.crowd, cell.gold, iou
        self.counts: tuple[int, ...] = (0, 0, 0, 0)
        low, high = np.log10(cell.gold_answers)
        self.ask_some(10 * round(10 ** rng.uniform(low, high)), rng)

    def ask_some(self, questions: int, rng: Rng) -> int:
        """One gold question in ten; half of them show a good mask. Returns their number."""
        good, bad = rng.binomial(questions, 0.05, 2)
        bad_iou = _gold_iou(self._kind, self._pool_iou, int(bad), rng)
        yes = rng.random(good) < self._crowd.chances(np.full(good, 0.9), rng)
        no = rng.random(bad) >= self._crowd.chances(bad_iou, rng)
        more = (yes.sum(), good, no.sum(), bad)
        self.counts = tuple(int(a + b) for a, b in zip(self.counts, more, strict=True))
        return int(good + bad)


# ---- cells ----------------------------------------------------------------------------------------------

_HARD = {
    "best half .85": best_part_at_the_promise,
    "stairs .85": stairs,
    "over-confident clusters": over_confident,
    "miscalibrated": miscalibrated,
    "quality hidden": hidden,
    "20 labels, Zipf": many_labels,
    "20 labels at the promise": equal_labels,
}
_KNOWN = {"exact": EXACT, "known .95/.90": GOOD_CROWD, "known .90/.80": WEAK_CROWD}
_GOLD = {
    "gold .95/.90": (GOOD_CROWD, "pool"),
    "gold careless": (CARELESS, "pool"),
    "gold lenient, near misses": (LENIENT, "near"),
    "gold lenient, easy": (LENIENT, "easy"),
}
_EVENTS = ("withdraw some", "withdraw every no of the search", "options changed twice")


def _lying_84(rng: Rng, n: int) -> World:
    return lying_lessons(rng, n, share=0.84)


def _cells() -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for crowd_name, crowd in _KNOWN.items():
        for n in (60, 100, 300, 1000, 3000):
            for name, make in (("usual", usual), ("strong", strong), ("lying lessons .85", lying_lessons)):
                # plays of large pools take long: only where masks get certified, and of the usual crowd
                if n < 3000 or (make is not usual and crowd is not WEAK_CROWD):
                    cells[f"{crowd_name}: {name} {n}"] = Cell(make=make, n=n, crowd=crowd)
        cells[f"{crowd_name}: lying lessons .84 1000"] = Cell(make=_lying_84, n=1000, crowd=crowd)
        for name, make in _HARD.items():
            cells[f"{crowd_name}: {name} 1000"] = Cell(make=make, n=1000, crowd=crowd)
    for crowd_name, (crowd, kind) in _GOLD.items():
        for name, make, n in (
            ("usual", usual, 300),
            ("strong", strong, 1000),
            ("lying lessons .85", lying_lessons, 1000),
            ("quality hidden", hidden, 300),
        ):
            if kind == "easy" and make is not usual:
                continue  # one cell is enough to show it
            cells[f"{crowd_name}: {name} {n}"] = Cell(
                make=make, n=n, crowd=crowd, gold=kind, must_break=kind == "easy"
            )
    for n in (100, 300, 1000):
        for crowd_name in ("exact", "known .95/.90"):
            # a promise that may be broken more often shows a test that errs too often sooner
            cells[f"{crowd_name}, delta .3: lying lessons .85 {n}"] = Cell(
                make=lying_lessons,
                n=n,
                crowd=_KNOWN[crowd_name],
                delta=0.3,
                options={"harvest": crowd_name != "exact"},
            )
    for name, told in (("better", Crowd(good=0.85, bad=0.1)), ("stricter", Crowd(good=0.99, bad=0.2))):
        cells[f"known, people {name} than told: lying lessons .84 1000"] = Cell(
            make=_lying_84, n=1000, crowd=GOOD_CROWD, told=told, must_break=name == "better"
        )
    for crowd_name in ("exact", "known .95/.90"):
        crowd = _KNOWN[crowd_name]
        for name, make in (("strong", strong), ("lying lessons .85", lying_lessons)):
            cells[f"{crowd_name}, 3 rounds: {name} 300"] = Cell(make=make, crowd=crowd, rounds=3)
            for event in _EVENTS:
                cells[f"{crowd_name}, {event}: {name} 300"] = Cell(make=make, crowd=crowd, event=event)
    return cells


CELLS = _cells()


# ---- tables ---------------------------------------------------------------------------------------------


def _play_named(name: str, seed: int) -> Outcome:
    return play_cell(CELLS[name], seed)


def summary(name: str, plays: list[Outcome]) -> dict[str, Any]:
    """The line of one cell."""
    delta = CELLS[name].delta
    result: dict[str, Any] = {"cell": name, "plays": len(plays), "delta": delta}
    within = True
    for key, shares in (("unseen", [p.unseen for p in plays]), ("all", [p.every for p in plays])):
        broken = int((np.array(shares) < PURITY - 1e-9).sum())
        low, high = (float(b) for b in clopper_pearson(broken, len(plays), alpha=0.025))
        result[key] = {"broken": broken, "low": round(low, 4), "high": round(high, 4)}
        within &= low <= delta
    found, good = sum(p.found for p in plays), sum(p.good for p in plays)
    return result | {
        "within": within,
        "must_break": CELLS[name].must_break,
        "certified": round(float(np.mean([p.certified for p in plays])), 3),
        "recall": round(found / max(good, 1), 3),
        "questions": round(float(np.mean([p.questions for p in plays])), 1),
        "answer_minutes": round(float(np.mean([p.answer_s for p in plays])) / 60.0, 2),
        "hours": round(float(np.mean([p.hours for p in plays])), 3),
        "hours_drawing_all": round(good / len(plays) * Costs().drawn_mask / 3600.0, 3),
    }


def run(names: list[str], plays: int, processes: int) -> Iterator[dict[str, Any]]:
    """The lines of the cells, one by one."""
    with ProcessPoolExecutor(processes) as workers:
        for name in names:
            chunk = max(1, plays // (8 * processes))
            yield summary(name, list(workers.map(_play_named, [name] * plays, range(plays), chunksize=chunk)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plays", type=int, default=200, help="plays of each cell (default: %(default)s)")
    parser.add_argument("--cell", nargs="+", default=["*"], help="names or patterns of cells (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="only print the names of the cells")
    options = parser.parse_args()
    names = [name for name in CELLS if any(fnmatch(name, pattern) for pattern in options.cell)]
    if not names:
        raise SystemExit(f"no cell is named {options.cell}; --list shows all")
    if options.list:
        print("\n".join(names))
        return
    failed = 0
    for line in run(names, options.plays, options.processes):
        failed += line["within"] == line["must_break"]
        print(json.dumps(line), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small arrays: threads only get into each other's way
    main()
