"""Learn which candidate people kept, and decide whether the ranking may serve.

Half of the held-out pictures are learnt from, the other half decides: neither the project's model nor its
click network has seen any of them, so their masks are no better here than on new pictures. The test is that
of the click network (``clicks.evaluation.adoption``), with a count of comparisons of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.evaluation.adoption import MIN_MASKS, MIN_PICTURES, Adoption, decide_adoption
from ml_backend.clicks.evaluation.robots import ROBOTS, component_robot
from ml_backend.clicks.evaluation.simulated_clicks import ClickTrace
from ml_backend.clicks.ranking.joint import JointSegmenter
from ml_backend.clicks.ranking.ranker import Ranker, Seen, fit_ranker, save_ranker
from ml_backend.clicks.ranking.versions import name_of
from ml_backend.clicks.start_masks import Proposals
from ml_backend.clicks.training.project_clicks import (
    ClickedPicture,
    no_ranking,
    play,
    seen_clicks,
    usual_sizes,
    wanted_of,
)
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import Predictor, Progress

__all__ = ["RankingReport", "clicked_pictures", "learn_ranking", "measure", "train_ranking"]

ReadImage = Callable[[Path], npt.NDArray[np.uint8]]

_MAX_CLICKS: Final = 10
_PER_PICTURE: Final = 4


@dataclass(frozen=True, slots=True)
class RankingReport:
    """What was decided on a ranking. ``base`` is the segmenter it was measured with; ``clicks`` and
    ``first_iou`` are means with the ranking and without it; ``adoption`` is None where too little is held
    out.
    """

    use: bool
    reason: str
    base: str = ""
    learnt_from: int = 0
    clicks: tuple[float, float] | None = None
    first_iou: tuple[float, float] | None = None
    adoption: Adoption | None = None


def clicked_pictures(
    examples: Sequence[Example],
    labels: Sequence[str],
    model: Predictor | None,
    *,
    version: str = "held out",
    read: ReadImage = read_image,
) -> list[ClickedPicture]:
    """Finished pictures with what the project's model proposes on them."""
    pictures = []
    for example in examples:
        names = tuple(labels[i] if labels else "" for i in example.label)
        found = None
        if model is not None:
            found = Proposals(version, model.labels, next(iter(model.predict([read(example.image)]))))
        pictures.append(ClickedPicture(example.image, names, tuple(example.rle), found))
    return pictures


def learn_ranking(
    pictures: Sequence[ClickedPicture],
    base: ClickSegmenter,
    second: ClickSegmenter | None,
    ranker: Ranker,
    *,
    seed: int = 0,
    read: ReadImage = read_image,
    progress: Callable[[float], None] = lambda share: None,
) -> Ranker:
    """``ranker`` with the weights that simulated first clicks on the pictures teach. BadInput when there
    was never a choice.
    """
    rng = np.random.default_rng(seed)
    seen: list[Seen] = []
    for number, picture in enumerate(pictures):
        joint, pixels = _joint(picture, base, second, ranker, read)
        embedding = base.embed(pixels)
        rows = [int(i) for i in rng.permutation(len(picture.rle))[:_PER_PICTURE]]
        for wanted in wanted_of(picture, rows):
            seen += seen_clicks(
                joint, embedding, wanted, tuple(ROBOTS.values()), rng, picture=number, sizes=ranker.sizes.get
            )
        progress((number + 1) / len(pictures))
    return replace(ranker, weights=fit_ranker(seen))


def measure(
    pictures: Sequence[ClickedPicture],
    base: ClickSegmenter,
    second: ClickSegmenter | None,
    ranker: Ranker,
    *,
    max_clicks: int = _MAX_CLICKS,
    seed: int = 1,
    read: ReadImage = read_image,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[ClickTrace], list[ClickTrace]]:
    """Clicks of simulated people on the same masks, with the ranking and without it."""
    rng = np.random.default_rng(seed)
    ranked, plain = list[ClickTrace](), list[ClickTrace]()
    for number, picture in enumerate(pictures):
        joint, pixels = _joint(picture, base, second, ranker, read)
        embedding = base.embed(pixels)
        rows = [int(i) for i in rng.permutation(len(picture.rle))[:_PER_PICTURE]]
        for wanted in wanted_of(picture, rows):
            for segmenter, traces in ((joint, ranked), (base, plain)):
                traces.append(
                    play(
                        segmenter, embedding, wanted, usual=base, proposals=picture.proposals,
                        robot=component_robot, max_clicks=max_clicks, image=str(picture.image),
                    )
                )  # fmt: skip
        progress((number + 1) / len(pictures))
    return ranked, plain


def train_ranking(
    train: Sequence[Example],
    held_out: Sequence[Example],
    labels: Sequence[str],
    out: Path,
    *,
    base: ClickSegmenter,
    second: ClickSegmenter | None,
    model: Predictor | None,
    look: int,
    progress: Progress,
    seed: int = 0,
) -> RankingReport:
    """Learn a ranking, test it, and write its file into ``out``, the folder of a click version.

    ``train`` only says how large objects are. ``look`` is the number of this comparison of the project, from
    1. With fewer held-out masks or pictures than twice what the test needs nothing is learnt.
    """
    held_out = [example for example in held_out if example.rle]
    order = np.random.default_rng(seed).permutation(len(held_out))
    half = len(held_out) // 2
    parts = [[held_out[int(i)] for i in part] for part in (order[:half], order[half:])]
    masks = [sum(min(len(example.rle), _PER_PICTURE) for example in part) for part in parts]
    if min(masks) < MIN_MASKS or half < MIN_PICTURES:
        return RankingReport(
            False,
            f"no ranking of candidates yet: {2 * MIN_MASKS} held-out masks on {2 * MIN_PICTURES} pictures "
            f"are needed, half to learn from; there are {sum(masks)} on {len(held_out)}",
        )
    progress(0.0, "finding candidates on held-out pictures")
    sizes = usual_sizes([([labels[i] if labels else "" for i in e.label], e.rle) for e in train])
    start = replace(no_ranking(), sizes=sizes, base=name_of(base), second=name_of(second))
    ranker = learn_ranking(
        clicked_pictures(parts[0], labels, model), base, second, start,
        seed=seed, progress=lambda share: progress(0.5 * share, "learning which candidate is kept"),
    )  # fmt: skip
    ranked, plain = measure(
        clicked_pictures(parts[1], labels, model), base, second, ranker, seed=seed,
        progress=lambda share: progress(0.5 + 0.5 * share, "clicking with and without the ranking"),
    )  # fmt: skip
    save_ranker(out, ranker)
    return _report(ranked, plain, ranker, half, look)


def _report(
    ranked: Sequence[ClickTrace], plain: Sequence[ClickTrace], ranker: Ranker, learnt_from: int, look: int
) -> RankingReport:
    adoption = decide_adoption(ranked, plain, look=look, max_clicks=_MAX_CLICKS)
    first = (_first_iou(ranked), _first_iou(plain))
    reason = (
        f"clicks to IoU 0.85 on {adoption.masks} held-out masks of {adoption.pictures} pictures: "
        f"{adoption.clicks:.2f} with the best of all candidates, {adoption.incumbent_clicks:.2f} without; "
        f"IoU after one click {first[0]:.2f} and {first[1]:.2f}: "
        f"{'use the ranking' if adoption.use else 'keep it as it is'} ({adoption.sentence})"
    )
    return RankingReport(
        adoption.use, reason, ranker.base, learnt_from,
        (adoption.clicks, adoption.incumbent_clicks), first, adoption,
    )  # fmt: skip


def _first_iou(traces: Sequence[ClickTrace]) -> float:
    return float(np.mean([trace.ious[min(1, len(trace.ious) - 1)] for trace in traces]))


def _joint(
    picture: ClickedPicture,
    base: ClickSegmenter,
    second: ClickSegmenter | None,
    ranker: Ranker,
    read: ReadImage,
) -> tuple[JointSegmenter, npt.NDArray[np.uint8]]:
    pixels = read(picture.image)
    joint = JointSegmenter(
        base, ranker, second=second, proposals=picture.proposals, pixels=lambda: pixels, key="measured"
    )
    return joint, pixels
