"""Known masks: what the model finds on the test split, matched with what people drew there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ml_backend.artifacts.pool_tables import PoolTable, instance_key
from ml_backend.artifacts.pools import read_pool
from ml_backend.images.decode import read_image
from ml_backend.kinds.instances import INSTANCES
from ml_backend.masks.edges import EDGES, edge_statistics
from ml_backend.masks.rle import encode_mask
from ml_backend.masks.statistics import STATISTICS
from sync.rounds.cluster import cluster, label_pool, load_label_pools
from sync.rounds.infer import infer, tasks_to_infer
from sync.rounds.known_masks import load_known_masks, load_lessons, match_drawn
from sync.rounds.project import OpenProject
from sync.rounds.pull import pull
from sync.rounds.round_records import reload_round
from sync.rounds.task_queries import test_split as split_of
from sync.rounds.train import start_round, train
from sync.store.tables import RoundRecord
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _clustered(world: World) -> tuple[OpenProject, RoundRecord]:
    """A round up to its frozen pool."""
    project = world.open()
    step(pull, project)
    record = step(start_round, project)
    for what in (train, infer, cluster):
        record = step(what, project, record)
    return project, record


def _again(project: OpenProject, record: RoundRecord) -> RoundRecord:
    """What the next look does before its review."""
    step(pull, project)
    record = reload_round(project.db, record)
    return step(cluster, project, step(infer, project, record))


def test_the_model_looks_at_the_test_split_and_the_round_never_sees_it(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    project, record = _clustered(world)
    split = split_of(project.db, record.split)
    assert split
    table = read_pool(project.paths.pool(record.model_version))
    assert set(table.task_id.tolist()) == split | set(world.tasks[8:])
    in_round = [
        task for pool in step(load_label_pools, project, record) for task in pool.table.task_id.tolist()
    ]
    assert set(in_round) == set(world.tasks[8:])
    assert step(tasks_to_infer, project, record) == []
    known = step(load_known_masks, project, record, LABELS)
    assert known is not None
    assert set(known.pictures.tolist()) == split
    truth = [world.scenes[world.tasks.index(task)].masks for task in known.pictures.tolist()]
    drawn = [[sum(label == name for label, _ in masks) for name in LABELS] for masks in truth]
    assert known.objects.tolist() == drawn
    assert known.good.all()
    assert {(int(p), int(o)) for p, o in zip(known.picture, known.object, strict=True)} == {
        (task, i) for task in split for i in range(3)
    }


def test_lessons_have_the_features_of_the_pool(make_world: MakeWorld) -> None:
    world = make_world(16, pool_min_score=0.8)
    world.label(*range(8))
    project, record = _clustered(world)
    lessons = step(load_lessons, project, record, LABELS)
    assert lessons is not None
    assert (lessons.pool.score >= 0.8).all()
    whole = read_pool(project.paths.pool(record.model_version), task_ids=split_of(project.db, record.split))
    assert 0 < len(lessons) < len(whole)
    known = step(load_known_masks, project, record, LABELS)
    assert known is not None
    place = {key: row for row, key in enumerate(whole.key)}
    rows = np.array([place[key] for key in known.table.key])
    for row in rows.tolist():  # as found on the picture of its task
        picture = read_image(world.images / f"{world.tasks.index(int(whole.task_id[row])):03d}.png")
        np.testing.assert_allclose(whole.edges[row], edge_statistics(picture, [whole.rle(row)])[0], atol=1e-6)
    assert whole.edges[rows].any(axis=1).all()
    same = label_pool(whole.take(rows))
    for name in ("embedding", "score", "quality", "extras"):
        assert np.array_equal(getattr(lessons.pool, name), getattr(same, name))
    assert lessons.picture.tolist() == whole.task_id[rows].tolist()
    assert [LABELS[i] for i in lessons.label] == whole.label[rows].tolist()
    assert step(load_lessons, project, record, LABELS) is lessons, "policies keep what they made of them"
    turned = step(load_lessons, project, record, LABELS[::-1])
    assert turned is not None
    assert (turned.label == 1 - lessons.label).all()


def test_a_pool_of_an_earlier_release_tells_nothing_by_its_edges(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    project, record = _clustered(world)
    parts = list((project.paths.pool(record.model_version) / "pool.parquet").iterdir())
    for part in parts:
        pq.write_table(pq.read_table(part, partitioning=None).drop_columns(["edges"]), part)
    task = min(
        split_of(project.db, record.split)
    )  # another picture behind a task of the test split: a part of this release
    row = world.studio._db["tasks"][str(task)]
    row["data"]["image"] = str((world.images / "015.png").resolve())
    world.studio._touch(row)
    project.memo.clear()
    record = _again(project, record)
    assert len(list(parts[0].parent.iterdir())) > len(parts)
    lessons = step(load_lessons, project, record, LABELS)
    assert lessons is not None
    assert task in lessons.picture
    pools = [label_pool(pool.table) for pool in step(load_label_pools, project, record)]
    for pool in (lessons.pool, *pools):
        assert pool.extras.shape == (len(pool), len(STATISTICS) + len(EDGES))
        assert not pool.extras[:, len(STATISTICS) :].any()


def test_annotations_and_images_that_change_are_followed(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    project, record = _clustered(world)
    task = min(split_of(project.db, record.split))
    number = world.tasks.index(task)
    annotation = world.studio.task(task).annotations[0]
    world.studio.update_annotation(annotation.id, world.scenes[number].result()[:-1])
    record = _again(project, record)
    known = step(load_known_masks, project, record, LABELS)
    assert known is not None
    assert known.objects[0].sum() == 2
    assert known.good[known.picture == task].sum() == 2
    # another picture behind the task: its masks are found anew, and nothing drawn fits them
    row = world.studio._db["tasks"][str(task)]
    row["data"]["image"] = str((world.images / "015.png").resolve())
    world.studio._touch(row)
    record = _again(project, record)
    known = step(load_known_masks, project, record, LABELS)
    assert known is not None
    assert not known.good[known.picture == task].all()
    world.studio.delete_annotation(annotation.id)
    record = _again(project, record)
    known = step(load_known_masks, project, record, LABELS)
    assert known is not None
    assert task not in known.pictures


def test_there_are_none_without_readable_test_pictures(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    project, record = _clustered(world)
    for task in split_of(project.db, record.split):
        (world.images / f"{world.tasks.index(task):03d}.png").write_text("no picture")
        row = world.studio._db["tasks"][str(task)]
        row["data"]["image"] = str((world.images / "gone.png").resolve())
        world.studio._touch(row)
    record = _again(project, record)
    assert step(load_known_masks, project, record, LABELS) is None
    assert step(load_lessons, project, record, LABELS) is None


def _square(x: int, y: int, size: int) -> Any:
    mask = np.zeros((40, 40), bool)
    mask[y : y + size, x : x + size] = True
    return encode_mask(mask)


@pytest.mark.parametrize(("size", "good"), [(10, True), (9, True), (8, False)])
def test_a_mask_belongs_to_the_drawn_mask_of_its_label_that_it_overlaps_most(size: int, good: bool) -> None:
    drawn = {
        5: [("bar", _square(0, 0, size)), *(("disc", _square(x, 20, 10)) for x in (0, 20))],
        6: [("disc", _square(0, 0, 10))],
    }
    found = [
        (5, "disc", _square(0, 0, 10)),  # only a bar was drawn there
        (5, "disc", _square(20, 20, size)),
        (5, "bar", _square(0, 0, 10)),
        (5, "ring", _square(0, 0, 10)),  # no label of the project
        (7, "bar", _square(0, 0, 10)),  # no test picture
    ]
    n = len(found)
    table = PoolTable(
        key=np.array([instance_key(t, name, rle["counts"]) for t, name, rle in found], object),
        task_id=np.array([t for t, _, _ in found]),
        label=np.array([name for _, name, _ in found], object),
        box_xyxy=np.zeros((n, 4), np.float32),
        counts=np.array([rle["counts"] for _, _, rle in found], object),
        hw=np.full((n, 2), 40, np.int32),
        score=np.ones(n, np.float32),
        quality=np.ones(n, np.float32),
        embedding=np.zeros((n, 1), np.float32),
        edges=np.zeros((n, len(EDGES)), np.float32),
    )
    known = match_drawn(table, drawn, LABELS, [INSTANCES] * len(LABELS))
    rows = {
        (int(known.picture[i]), LABELS[known.label[i]], str(known.table.counts[i])): (
            int(known.object[i]),
            bool(known.good[i]),
        )
        for i in range(len(known))
    }
    assert rows == {
        (5, "disc", found[0][2]["counts"]): (-1, False),
        (5, "disc", found[1][2]["counts"]): (2, good),
        (5, "bar", found[2][2]["counts"]): (0, good),
    }
    assert known.pictures.tolist() == [5, 6]
    assert known.objects.tolist() == [[2, 1], [1, 0]]
