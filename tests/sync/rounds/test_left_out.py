"""A finished task whose picture turns out damaged in training: left out, named, and the round goes on."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image
from sqlalchemy import select

from ml_backend.artifacts.model_versions import ModelRegistry
from sync.store.tables import RoundRecord, TaskRecord
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def test_a_truncated_picture_is_left_out_of_training_and_named(make_world: MakeWorld) -> None:
    world = make_world(10)
    path = world.images / "001.png"
    whole = io.BytesIO()
    Image.fromarray(world.scenes[1].image).save(whole, "JPEG")
    data = whole.getvalue()
    path.write_bytes(data[: len(data) - 300])  # the header is right: it is fetched like any other
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    bad = world.tasks[1]
    with world.store.read() as session:
        assert "damaged" in session.get_one(TaskRecord, bad).image_error
        (record,) = session.scalars(select(RoundRecord)).all()
    (entry,) = record.figures["train"]["left_out"]
    assert entry["task_id"] == bad
    assert "damaged" in entry["reason"]
    (version,) = ModelRegistry(world.settings.data_dir).versions(world.project_id)
    assert version.manifest["left_out"] == [entry]
