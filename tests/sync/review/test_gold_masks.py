"""Gold masks: as hard as the masks of the pool, and of the right truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from sqlalchemy import select

from ml_backend.artifacts.pool_tables import PoolTable, instance_key
from ml_backend.instances import Instances, Rle
from ml_backend.kinds.instances import INSTANCES
from ml_backend.masks.edges import EDGES
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.review.gold_masks import choose_gold, wrong_mask
from sync.review.verdicts import read_review_log
from sync.rounds.cluster import load_label_pools
from sync.rounds.known_masks import KnownMasks, match_drawn
from sync.rounds.round_records import trained_round
from sync.rounds.task_queries import test_split as split_of
from sync.store.tables import QuestionRecord
from tests.sync.conftest import World
from tests.sync.steps import step
from tests.sync.tiny_learner import TinyPredictor

MakeWorld = Callable[..., World]
GOOD_IOU = INSTANCES.good_iou
Bools = np.ndarray[Any, Any]


def _square(x: int, y: int) -> Rle:
    mask = np.zeros((64, 64), bool)
    mask[y : y + 20, x : x + 20] = True
    return encode_mask(mask)


def _predictions(pictures: int, seed: int) -> tuple[KnownMasks, list[tuple[int, Rle]]]:
    """Squares found more or less right, the model liking those that are nearly right; and those drawn."""
    rng = np.random.default_rng(seed)
    drawn = {task: [("cell", _square(22, 22))] for task in range(pictures)}
    rows = []
    for task in range(pictures):
        # moved by 2 pixels a square is good, by 3 to 5 a near miss
        dx, dy = (int(step) for step in rng.choice([0, 1, 2, 3, 4, 5, 8, 14], 2))
        rle = _square(22 + dx, 22 + dy if rng.random() < 0.3 else 22)
        iou = float(coco.iou([rle], [drawn[task][0][1]], [0])[0, 0])
        rows.append((task, rle, np.clip(0.35 + 0.6 * iou + rng.normal(0, 0.05), 0, 1)))
    n = len(rows)
    table = PoolTable(
        key=np.array([instance_key(task, "cell", rle["counts"]) for task, rle, _ in rows], object),
        task_id=np.arange(n),
        label=np.array(["cell"] * n, object),
        box_xyxy=np.zeros((n, 4), np.float32),
        counts=np.array([rle["counts"] for _, rle, _ in rows], object),
        hw=np.full((n, 2), 64, np.int32),
        score=np.array([score for _, _, score in rows], np.float32),
        quality=np.ones(n, np.float32),
        embedding=np.zeros((n, 1), np.float32),
        edges=np.zeros((n, len(EDGES)), np.float32),
    )
    return match_drawn(table, drawn, ["cell"], [INSTANCES]), [
        (task, rows_[0][1]) for task, rows_ in drawn.items()
    ]


def _passes(iou: np.ndarray[Any, Any]) -> float:
    """Share of these wrong masks that lenient workers say yes to."""
    return float(np.interp(iou, [0.55, 0.65], [0.0, 0.6]).mean())


def test_gold_tells_how_many_wrong_masks_lenient_workers_let_pass() -> None:
    known, drawn = _predictions(600, seed=1)
    chosen = choose_gold(drawn, known, "cell", INSTANCES, 120, np.random.default_rng(0), taken=set())
    assert len(chosen) == 120
    truth = {task: rle for task, rle in drawn}
    iou = np.array([float(coco.iou([rle], [truth[task]], [0])[0, 0]) for task, rle in chosen])
    assert (iou > GOOD_IOU).sum() == 60
    # the wrong masks of a pool that a certificate may meet are those the model likes
    pool, _ = _predictions(3000, seed=2)
    wrong = ~pool.good
    liked = wrong & (pool.table.score >= np.quantile(pool.table.score[wrong], 0.7))
    told, true = 1 - _passes(iou[iou <= GOOD_IOU]), 1 - _passes(pool.iou[liked])
    assert true < 0.75, "lenient workers miss many"
    assert true - 0.12 <= told <= true + 0.05


def test_wrong_gold_is_mostly_nearly_right_and_no_mask_comes_twice() -> None:
    known, drawn = _predictions(300, seed=3)
    taken: set[str] = set()
    first = choose_gold(drawn, known, "cell", INSTANCES, 40, np.random.default_rng(0), taken=taken)
    again = choose_gold(drawn, known, "cell", INSTANCES, 40, np.random.default_rng(0), taken=taken)
    keys = [instance_key(task, "cell", str(rle["counts"])) for task, rle in (*first, *again)]
    assert len(set(keys)) == 80
    rows = {str(key): i for i, key in enumerate(known.table.key)}
    iou = known.iou[[rows[key] for key in keys if key in rows]]
    wrong = iou[iou <= GOOD_IOU]
    assert len(wrong) == 40
    assert all((wrong[:n] > 0.5).mean() >= 0.75 for n in range(1, 41))
    best = known.table.score[[rows[key] for key in keys[:40] if key in rows and not known.good[rows[key]]]]
    later = known.table.score[[rows[key] for key in keys[40:] if key in rows and not known.good[rows[key]]]]
    assert best.mean() > later.mean(), "those the model likes most come first"


@pytest.mark.parametrize("label", ["cell", "other"])
def test_drawn_masks_are_made_slightly_wrong_where_there_are_too_few_predictions(label: str) -> None:
    known, drawn = _predictions(3, seed=4)
    more = drawn + [(task + 100, rle) for task, rle in drawn * 5]
    chosen = choose_gold(more, known, label, INSTANCES, 30, np.random.default_rng(1), taken=set())
    iou = np.array([float(coco.iou([rle], [_square(22, 22)], [0])[0, 0]) for _, rle in chosen])
    # each drawn mask of a picture once as it is, and made wrong in different ways
    assert 5 <= (iou > GOOD_IOU).sum() <= 8
    made = iou[iou <= GOOD_IOU][6:]
    assert len(made) >= 5
    assert ((made >= 0.5) & (made <= 0.74)).all()


@pytest.mark.parametrize("size", [3, 8, 30])
def test_masks_made_wrong_are_near_misses(size: int) -> None:
    mask = np.zeros((80, 80), bool)
    mask[30 : 30 + size, 30 : 30 + size] = True
    found = 0
    for seed in range(12):
        made = wrong_mask(encode_mask(mask), np.random.default_rng(seed))
        if made is None:
            continue
        other = decode_rle(made).astype(bool)
        assert 0.55 <= (mask & other).sum() / (mask | other).sum() <= 0.74
        found += 1
    assert found >= 6


def _half_right(self: TinyPredictor, image: Any) -> Instances:
    """Every other mask is moved, some by so much that they are just wrong."""
    found = _plain(self, image)
    rles = []
    for i, rle in enumerate(found.rle):
        mask = decode_rle(rle).astype(bool)
        rows = int(mask.any(axis=1).sum())
        rles.append(encode_mask(np.roll(mask, round(rows * (0.2, 0.45, 0.0)[i % 3]), axis=0)))
    names = {name: getattr(found, name) for name in Instances.__slots__}
    return Instances(**{**names, "rle": rles})


_plain = TinyPredictor._one


def test_near_misses_of_the_test_split_become_gold_of_the_right_truth(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyPredictor, "_one", _half_right)
    world = make_world(24, policy="certified", gold_share=0.3, review_overlap_max=3, test_fraction=0.5)
    world.label(*range(12))
    worker = world.worker()
    for _ in range(4):
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
        for name in ("ann", "ben"):
            world.answer_all(world.studio.as_user(f"{name}@example.com", "x"))
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    pools = step(load_label_pools, project, record)
    keys = {str(key) for pool in pools for key in pool.table.key}
    with world.store.read() as session:
        gold = [q for q in session.scalars(select(QuestionRecord)) if q.instance not in keys]
    split = split_of(project.db, record.split)
    wrong = []
    for question in gold:
        scene = world.scenes[world.tasks.index(question.task_id)]
        masks = [encode_mask(mask) for label, mask in scene.masks if label == question.label]
        iou = coco.iou([question.rle], masks, [0] * len(masks)).max() if masks else 0.0
        if iou <= GOOD_IOU:
            wrong.append((float(iou), question.task_id in split))
    near = [iou for iou, in_split in wrong if in_split and iou > 0.5]
    assert len(near) >= 3
    assert min(iou for iou, _ in wrong) < 0.74
    # workers told the truth: every answer to gold agrees with the truth that the store finds again
    yes, good, no, bad = step(read_review_log, project, 1, pools).gold
    assert (yes, no) == (good, bad)
    assert good >= 3
    assert bad >= 3
