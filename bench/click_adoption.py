"""How often is a project's click network taken over by chance, and how late a good one?

``python -m bench.click_adoption``: simulated projects finish tasks, a new version is compared with the
segmenter in use whenever a quarter more is finished, and two rules decide: the one in use
(``adoption.decide_adoption``) and the one before it (a 95 % bootstrap interval over at least three
pictures, at every look). Prints one JSON object: for each kind of network the share of projects that ever
adopt it, and the median of finished tasks at which they do, where a quarter of the tasks is held out.

The networks: ``equal`` has the same distribution of clicks as the segmenter; the ``fails`` ones need a
little less on most masks and reach nothing on one mask in eight, one picture in eight, one picture in
twenty, so that the mean is the same; ``better`` ones need fewer clicks. Each version is drawn anew, on the
same pictures.
"""

from __future__ import annotations

import argparse
import json
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.evaluation.adoption import (
    IMAGINED_FAILURES,
    MAX_CLICKS,
    MIN_PICTURES,
    allowed_error,
)

__all__ = ["adopted_at", "simulate"]

Floats = npt.NDArray[np.float64]

_FIRST_BEFORE: Final = 3
_GROWTH: Final = 1.25
_HELD_OUT: Final = 0.25
_NEVER: Final = 10**6
_NETWORKS: Final = {
    "equal": ("shift", 0.0),
    "fails on 1 mask in 8": ("mask", 1 / 8),
    "fails on 1 picture in 8": ("picture", 1 / 8),
    "fails on 1 picture in 20": ("picture", 1 / 20),
    "better by 0.8 clicks": ("shift", -1.0),
    "better by 1.4 clicks": ("shift", -2.0),
    "better by 2.0 clicks": ("shift", -3.0),
}


def looks(first: int, most: int) -> list[int]:
    """Held-out pictures at each comparison."""
    found = [first]
    while found[-1] * _GROWTH <= most:
        found.append(int(np.ceil(found[-1] * _GROWTH)))
    return found


class Projects:
    """Held-out masks of many projects: (projects, pictures, masks of a picture), padded.

    ``theirs`` are the clicks of the segmenter in use; a version of the network is drawn by ``version``.
    """

    def __init__(self, kind: str, amount: float, projects: int, pictures: int, seed: int) -> None:
        self._kind, self._amount = kind, amount
        self._rng = np.random.default_rng(seed)
        counts = 1 + self._rng.poisson(2, (projects, pictures))
        self.there = np.arange(counts.max())[None, None] < counts[..., None]
        self._hard = self._rng.normal(0.0, 1.5, (projects, pictures, 1))
        self.theirs = self._clicks(0.0) if kind == "shift" else self._normal()

    def version(self) -> tuple[Floats, Floats]:
        """Differences of one version, summed by picture, and the same if it failed everywhere."""
        if self._kind == "shift":
            ours = self._clicks(self._amount)
        else:
            shape = self.there.shape if self._kind == "mask" else (*self.there.shape[:2], 1)
            fails = self._rng.random(shape) < self._amount
            room = float((MAX_CLICKS - self.theirs)[self.there].mean())
            gain = self._amount * room / (1 - self._amount)
            ours = np.where(fails, MAX_CLICKS, self.theirs - gain)
        change = np.where(self.there, ours - self.theirs, 0.0).sum(-1)
        return change, np.where(self.there, MAX_CLICKS - self.theirs, 0.0).sum(-1)

    def _clicks(self, shift: float) -> Floats:
        free = np.exp(self._rng.normal(1.4, 0.7, self.there.shape)) + self._hard + shift
        return np.clip(np.round(free), 1, MAX_CLICKS)

    def _normal(self) -> Floats:
        return np.clip(np.round(self._rng.normal(4.0, 1.0, self.there.shape)), 1, MAX_CLICKS)


def adopted_at(made: Projects, rule: str, most: int, *, draws: int, seed: int) -> npt.NDArray[np.int64]:
    """Held-out pictures at which each project adopts a version; ``_NEVER`` where it does not."""
    rng = np.random.default_rng(seed)
    counts = made.there.sum(-1)
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), size=(draws, most + IMAGINED_FAILURES))
    at = np.full(len(counts), _NEVER)
    for look, pictures in enumerate(looks(MIN_PICTURES if rule == "now" else _FIRST_BEFORE, most), start=1):
        change, room = (part[:, :pictures] for part in made.version())
        if rule == "now":
            sums = np.column_stack([change, *[room.mean(1)] * IMAGINED_FAILURES]).astype(np.float32)
            flipped = signs[:, : sums.shape[1]] @ sums.T
            chance = (1 + (flipped <= sums.sum(1) + 1e-3).sum(0)) / (draws + 1)
            adopted = chance <= allowed_error(look)
        else:
            weight = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=400).astype(np.float64)
            means = (weight @ change.T) / (weight @ counts[:, :pictures].T)
            adopted = np.percentile(means, 97.5, axis=0) < 0
        at[adopted & (at == _NEVER)] = pictures
    return at


def simulate(*, projects: int, most: int, draws: int, seed: int) -> dict[str, dict[str, object]]:
    """For each network and rule: share of projects that adopt it, and the median of finished tasks then."""
    found: dict[str, dict[str, object]] = {}
    for number, (name, (kind, amount)) in enumerate(_NETWORKS.items()):
        row: dict[str, object] = {}
        for rule in ("before", "now"):
            made = Projects(kind, amount, projects, most, seed + number)
            at = adopted_at(made, rule, most, draws=draws, seed=seed)
            share = float((at < _NEVER).mean())
            middle = float(np.median(at))
            row[rule] = {
                "adopted": round(share, 3),
                "finished tasks": round(middle / _HELD_OUT) if middle < _NEVER else None,
            }
        found[name] = row
    return found


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=200, help="held-out pictures at the last comparison")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = simulate(projects=asked.projects, most=asked.pictures, draws=asked.draws, seed=asked.seed)
    print(
        json.dumps(
            {"projects": asked.projects, "looks": len(looks(MIN_PICTURES, asked.pictures)), **rows}, indent=1
        )
    )


if __name__ == "__main__":
    main()
