"""Clusters by another model than the learner: a pool is described by one model, whatever changes half way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml_backend.artifacts.pools import read_pool
from ml_backend.learners.mask_features import MaskFeatures
from sync.rounds.cluster import load_label_pools
from sync.rounds.known_masks import load_lessons
from sync.rounds.round_records import trained_round
from sync.store.tables import RoundRecord
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
OWN = 3
"""length of the tiny learner's embeddings"""


def vision_model(folder: Path) -> str:
    """A tiny one with random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14,
    )  # fmt: skip
    transformers.Dinov2Model(config).save_pretrained(folder)
    return str(folder)


def look(world: World) -> RoundRecord:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    record = trained_round(world.open().db)
    assert record is not None
    return record


def widths(world: World, record: RoundRecord) -> set[int]:
    """Lengths of the embeddings in the pool of a round, tree by tree."""
    return {p.pool.embedding.shape[1] for p in step(load_label_pools, world.open(), record) if len(p)}


def test_clusters_and_lessons_read_the_embeddings_of_the_model_that_was_chosen(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    model = vision_model(tmp_path / "dino")
    world = make_world(14, question_budget=0, cluster_features=model)
    world.label(*range(6))
    record = look(world)
    assert widths(world, record) == {16}
    lessons = step(load_lessons, world.open(), record, LABELS)
    assert lessons is not None
    assert lessons.pool.embedding.shape[1] == 16
    pool = read_pool(world.open().paths.pool(record.model_version))
    scene = world.scenes[world.tasks.index(int(pool.task_id[0]))]
    expected = MaskFeatures(model)(scene.image, [pool.rle(0)])
    np.testing.assert_allclose(pool.embedding[:1], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("before", "after", "dim"), [("own", "classical", OWN), ("classical", "own", 126)])
def test_a_changed_choice_counts_from_the_next_version_on(
    make_world: MakeWorld, before: str, after: str, dim: int
) -> None:
    world = make_world(14, question_budget=0, cluster_features=before, retrain_after=4)
    world.label(*range(6))
    record = look(world)
    assert widths(world, record) == {dim}
    world.settings = world.settings.model_copy(update={"cluster_features": after})
    world.studio.import_tasks(world.project_id, [world.studio.task(world.tasks[8]).data])
    record = look(world)  # the new task joins the pool
    pool = read_pool(world.open().paths.pool(record.model_version))
    assert len(set(pool.task_id.tolist())) > 8
    assert pool.embedding.shape[1] == dim
    world.label(*range(6, 12))
    later = look(world)
    assert later.number > record.number
    assert widths(world, later) == {126 if after == "classical" else OWN}


def test_a_model_that_is_gone_stops_the_round_with_a_reason(make_world: MakeWorld) -> None:
    world = make_world(10, question_budget=0, cluster_features="no/such/folder")
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert "cluster_features" in report.error
