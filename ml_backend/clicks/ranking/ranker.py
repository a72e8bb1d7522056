"""A small model that says which candidate mask people would keep, as a file of numbers.

A candidate's value is a weighted sum of its features. The weights make the softmax of the values fit what
was kept: the share that a candidate should get falls with its IoU with the final mask (conditional logit:
McFadden 1974; with graded outcomes: Cao et al., ListNet, ICML 2007). Constants of the click itself cancel
out, so only differences between its candidates are learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from scipy.optimize import minimize

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.clicks.base import Prompt
from ml_backend.clicks.ranking.candidates import SOURCES, Candidate, usual_of
from ml_backend.clicks.ranking.features import FEATURES, UsualSize, features_of
from ml_backend.errors import BadInput, ModelError

__all__ = ["RANKING_FILE", "Ranker", "Seen", "fit_ranker", "load_ranker", "save_ranker"]

RANKING_FILE: Final = "ranking.json"
FORMAT: Final = 1
SHARPNESS: Final = 0.05
"""Of two candidates whose IoU differs by this, the better one should get e times the share."""
RIDGE: Final = 0.003

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One simulated first click: features (n, m) of its candidates, their IoU (n,) with the final mask, and
    the number of the picture.
    """

    features: Floats
    ious: Floats
    picture: int


@dataclass(frozen=True, slots=True)
class Ranker:
    """Immutable; safe under threads.

    ``weights`` has one number per name in ``FEATURES``; ``sizes`` the usual size of the objects of each
    label; ``base`` and ``second`` what segmenters it was measured with (``versions.name_of``).
    """

    weights: tuple[float, ...]
    sizes: Mapping[str, UsualSize] = field(default_factory=dict)
    base: str = ""
    second: str = ""

    def values(self, features: Floats) -> Floats:
        """(n, m) features → (n,) values; higher is better."""
        return np.asarray(features @ np.asarray(self.weights, np.float64), np.float64)

    def choose(
        self, candidates: Sequence[Candidate], prompt: Prompt, pixels: npt.NDArray[np.uint8]
    ) -> Candidate:
        """The candidate that ranks highest. The order of the candidates does not matter.

        The usual one stays where nothing is better, and where no value can be computed. ValueError when none
        of the candidates is the usual one.
        """
        usual = usual_of(candidates)
        shown = [c for c in candidates if c.usual or c.mask.any()]
        if len(shown) < 2:
            return usual
        values = self.values(features_of(shown, prompt, pixels, self.sizes.get(prompt.label)))
        if not np.isfinite(values).all():
            return usual
        best = max(range(len(shown)), key=lambda i: (round(float(values[i]), 9), *_order(shown[i])))
        return shown[best] if values[best] > values[shown.index(usual)] else usual


def _order(candidate: Candidate) -> tuple[bool, int, int, int]:
    """What decides between candidates of one value, whatever their order."""
    inside = int(np.count_nonzero(candidate.mask))
    return candidate.usual, -SOURCES.index(candidate.source), inside, -int(candidate.mask.argmax())


def fit_ranker(
    seen: Sequence[Seen], *, sharpness: float = SHARPNESS, ridge: float = RIDGE
) -> tuple[float, ...]:
    """Weights for ``Ranker``; every picture counts alike. BadInput when no click has two candidates."""
    rows = [row for row in seen if len(row.ious) > 1]
    if not rows:
        raise BadInput("there is no click with several candidates to learn from", field="test")
    x = np.concatenate([row.features for row in rows])
    ends = np.cumsum([len(row.ious) for row in rows])
    starts = np.concatenate([[0], ends[:-1]])
    sizes = ends - starts
    spread = x.std(0)
    scale = np.where(spread > 1e-9, spread, np.inf)  # a column that never changes gets no weight
    z = (x - x.mean(0)) / scale
    wanted = np.concatenate([_softmax(row.ious / sharpness) for row in rows])
    number = np.array([row.picture for row in rows])
    _, place, count = np.unique(number, return_inverse=True, return_counts=True)
    weight = 1.0 / count[place]
    weight /= weight.sum()
    each = np.repeat(weight, sizes)

    def loss(w: Floats) -> tuple[float, Floats]:
        value = z @ w
        value -= np.repeat(np.maximum.reduceat(value, starts), sizes)
        total = np.log(np.add.reduceat(np.exp(value), starts))
        log_share = value - np.repeat(total, sizes)
        off = each * (np.exp(log_share) - wanted)
        return float(-(each * wanted) @ log_share + ridge * (w @ w)), z.T @ off + 2 * ridge * w

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return tuple(float(v) for v in found / scale)


def _softmax(values: Floats) -> Floats:
    share = np.exp(values - values.max())
    return np.asarray(share / share.sum(), np.float64)


class _Size(BaseModel):
    model_config = ConfigDict(strict=True)
    mean: FiniteFloat
    spread: FiniteFloat


class _File(BaseModel):
    model_config = ConfigDict(strict=True)
    format: int
    features: list[str]
    weights: list[FiniteFloat]
    sizes: dict[str, _Size]
    base: str
    second: str


def save_ranker(folder: Path, ranker: Ranker) -> None:
    """Write the ranking's file into the folder of a click version."""
    write_json(
        folder / RANKING_FILE,
        {
            "format": FORMAT,
            "features": list(FEATURES),
            "weights": list(ranker.weights),
            "sizes": {name: {"mean": s.mean, "spread": s.spread} for name, s in ranker.sizes.items()},
            "base": ranker.base,
            "second": ranker.second,
        },
    )


def load_ranker(folder: Path) -> Ranker:
    """The ranking of a click version. ModelError when there is none that this release understands."""
    path = folder / RANKING_FILE
    try:
        said = _File.model_validate(read_json(path))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{path} holds no ranking of candidates: {str(error).splitlines()[0]}") from error
    if said.format != FORMAT or said.features != list(FEATURES) or len(said.weights) != len(FEATURES):
        raise ModelError(f"{path} was made by another release of Groundswell")
    sizes = {name: UsualSize(size.mean, size.spread) for name, size in said.sizes.items()}
    return Ranker(tuple(said.weights), sizes, said.base, said.second)
