"""May a project's own network take over? A test that stays honest however often it is asked.

The network and the segmenter in use click the same held-out masks. Their difference is counted in clicks to
IoU 0.85, ten at most (nobody clicks longer), and summed over each picture, because masks of one picture are
not independent.

*Test.* Signs of the pictures' sums are flipped at random (a randomisation test, Fisher 1935; with clusters:
Canay, Romano and Shaikh 2017). It assumes that pictures are independent, and that a network which is no
better is ahead on a picture as often as it is behind by as much. A network that is a little better almost
everywhere and fails on a few pictures breaks the second part, and the few may be missing among those held
out. So two pictures are added in thought on which the network fails at every mask.
``bench/click_adoption.py`` simulates such networks: with one picture, one project in ten still got one.

*Repeated looks.* Every new version is another chance to be lucky. The k-th comparison of a project is
therefore allowed the error 0.05 / (k (k + 1)). These sum to 0.05 over any number of looks, whatever the
looks have in common (Bonferroni), so at most one project in twenty ever gets a network that is no better.

People draw with the segmenter that serves; its masks may be a little more like the truth for that reason.
The test cannot see this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.evaluation.simulated_clicks import ClickTrace

__all__ = [
    "ERROR",
    "IMAGINED_FAILURES",
    "MIN_MASKS",
    "MIN_PICTURES",
    "Adoption",
    "allowed_error",
    "chance_of",
    "decide_adoption",
]

ERROR: Final = 0.05
"""Share of projects that may ever get a network that is no better than the segmenter it replaces."""
MIN_MASKS, MIN_PICTURES = 30, 10
"""Held-out masks, and pictures they lie on, without which nothing is decided."""
MAX_CLICKS: Final = 10
IMAGINED_FAILURES: Final = 2
_TARGET_IOU: Final = 0.85
_DRAWS: Final = 99_999
_EXACT: Final = 12
"""Up to so many pictures all sign patterns are looked at, beyond a random sample of them."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """The verdict of one comparison.

    use : the network may serve. look : which comparison of the project this was, from 1. chance : how
    probable such a lead would be for a network that is no better. allowed : what that had to be at most.
    masks, pictures : what it was measured on. clicks, incumbent_clicks : mean clicks to IoU 0.85, ten at
    most.
    """

    use: bool
    look: int
    chance: float
    allowed: float
    masks: int
    pictures: int
    clicks: float
    incumbent_clicks: float

    @property
    def sentence(self) -> str:
        """The test in words, for status and report."""
        if self.masks < MIN_MASKS or self.pictures < MIN_PICTURES:
            return (
                f"too little to decide: {self.masks} held-out masks on {self.pictures} pictures, "
                f"{MIN_MASKS} on {MIN_PICTURES} are needed"
            )
        verb = "is below" if self.use else "is not below"
        return (
            f"comparison {self.look} of this project: a network that is no better would lead so with "
            f"probability {self.chance:.2g}, which {verb} the {self.allowed:.2g} allowed"
        )


def allowed_error(look: int, *, error: float = ERROR) -> float:
    """The error that the ``look``-th comparison may take; over all looks they sum to ``error``."""
    if look < 1:
        raise ValueError(f"looks are counted from 1, got {look}")
    return error / (look * (look + 1))


def chance_of(sums: npt.NDArray[np.float64], worst: float, *, draws: int = _DRAWS, seed: int = 0) -> float:
    """How often random signs give a total as low as that of ``sums``: a valid p-value of "no better".

    ``sums`` (n,) holds one difference per picture, below 0 where the network needs fewer clicks. ``worst`` is
    the difference of each picture that is added in thought.
    """
    found = np.append(np.asarray(sums, np.float64), np.full(IMAGINED_FAILURES, max(worst, 0.0)))
    total = float(found.sum()) + 1e-9
    if len(found) <= _EXACT:
        patterns = np.arange(2 ** len(found))[:, None] >> np.arange(len(found)) & 1
        return float(np.mean((1.0 - 2.0 * patterns) @ found <= total))
    rng = np.random.default_rng(seed)
    below = 0
    for start in range(0, draws, 10_000):
        size = (min(10_000, draws - start), len(found))
        below += int(np.count_nonzero((1.0 - 2.0 * rng.integers(0, 2, size, np.int8)) @ found <= total))
    return (below + 1) / (draws + 1)


def decide_adoption(
    network: Sequence[ClickTrace],
    incumbent: Sequence[ClickTrace],
    *,
    look: int,
    max_clicks: int = MAX_CLICKS,
) -> Adoption:
    """Compare clicks on the same masks in the same order. ``max_clicks``: how often a user clicked at most.

    ValueError when the traces do not pair.
    """
    if [t.image for t in network] != [t.image for t in incumbent]:
        raise ValueError(f"{len(network)} and {len(incumbent)} traces are not over the same masks")
    most = min(MAX_CLICKS, max_clicks)
    ours, theirs = _clicks(network, most), _clicks(incumbent, most)
    names, picture = np.unique(np.array([t.image for t in network]), return_inverse=True)
    sums = np.asarray(np.bincount(picture, ours - theirs, minlength=len(names)), np.float64)
    room = np.bincount(picture, most - theirs, minlength=len(names))
    allowed = allowed_error(look)
    enough = len(ours) >= MIN_MASKS and len(names) >= MIN_PICTURES
    chance = chance_of(sums, float(room.mean())) if enough else 1.0
    return Adoption(
        use=enough and chance <= allowed,
        look=look,
        chance=chance,
        allowed=allowed,
        masks=len(ours),
        pictures=len(names),
        clicks=float(ours.mean()) if len(ours) else float("nan"),
        incumbent_clicks=float(theirs.mean()) if len(ours) else float("nan"),
    )


def _clicks(traces: Sequence[ClickTrace], most: int) -> npt.NDArray[np.float64]:
    found = [trace.clicks_to(_TARGET_IOU) for trace in traces]
    return np.array([most if n is None else min(n, most) for n in found], np.float64)
