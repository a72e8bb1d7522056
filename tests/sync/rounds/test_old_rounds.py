"""Old rounds give back their space when told to; nothing that is used, asked for or said by people goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput, LeaseLost
from sync.exchange.content import Choice
from sync.exchange.export import export_project
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.rounds.old_rounds import drop_old_rounds
from sync.rounds.round_records import current_round
from sync.rounds.wanted_version import forget_wanted_version, note_wanted_version
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.lease import Lease
from sync.store.project_store import ProjectStore
from sync.store.round_state import old_rounds
from sync.store.tables import LeaseRecord, RoundRecord
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def a_round(number: int, *, pushed: str = "v", done: bool = True, at: str = "push") -> RoundRecord:
    return RoundRecord(number=number, step=at, pushed=pushed, review_done=done, figures={})


@pytest.mark.parametrize(
    ("rounds", "keep", "kept", "to_drop"),
    [
        ([a_round(1), a_round(2), a_round(3)], 0, (), (2, 1)),
        ([a_round(1), a_round(2), a_round(3)], 1, (2,), (1,)),
        ([a_round(1), a_round(2), a_round(3)], None, (2, 1), ()),
        # 3 is shown, and its review is not done: what 2 accepted is exported
        ([a_round(1), a_round(2), a_round(3, done=False)], 0, (), (1,)),
        # 3 has a model, and 2 is still shown
        ([a_round(1), a_round(2), a_round(3, pushed="", done=False, at="infer")], 0, (), (1,)),
        ([a_round(1, pushed="", done=False, at="train")], 0, (), ()),
        ([a_round(1, done=False, at="cluster"), a_round(2, done=False, at="cluster")], 0, (), ()),
        ([], 0, (), ()),
    ],
)
def test_which_rounds_are_old(
    rounds: list[RoundRecord], keep: int | None, kept: tuple[int, ...], to_drop: tuple[int, ...]
) -> None:
    found = old_rounds(rounds, keep)
    assert (found.kept, found.to_drop) == (kept, to_drop)


def with_option(world: World, keep: int | None) -> None:
    values = {name: getattr(world.settings, name) for name in world.settings.model_fields_set}
    world.settings = Settings(**{**values, "keep_rounds": keep})


def newest(world: World) -> RoundRecord:
    record = current_round(world.open().db)
    assert record is not None
    return record


def look(world: World) -> None:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""


@pytest.fixture
def three_rounds(make_world: MakeWorld) -> tuple[World, list[str]]:
    """A world after three trainings, reviewed each time, and the names of their versions."""
    world = make_world(14, retrain_after=2)
    names = []
    for last in (6, 8, 10):
        world.label(*range(last - 2 if last > 6 else 0, last))
        world.review_to_the_end()
        names.append(newest(world).model_version)
    assert len(set(names)) == 3
    return world, names


def pools(world: World) -> set[str]:
    return {path.name for path in world.open().paths.pools.iterdir()}


def trees(world: World) -> set[int]:
    return {int(path.parent.name) for path in world.open().paths.rounds.glob("*/tree-*.npz")}


def test_only_pools_and_trees_of_old_rounds_go(three_rounds: tuple[World, list[str]], tmp_path: Path) -> None:
    world, names = three_rounds
    look(world)
    assert pools(world) == set(names)  # nobody asked for anything
    root = world.open().paths.root
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    shown = world.studio.prediction_versions(world.project_id)

    with_option(world, 1)
    look(world)
    assert pools(world) == {names[1], names[2]}
    assert trees(world) == {2, 3}
    with_option(world, 0)
    look(world)
    assert pools(world) == {names[2]}
    assert trees(world) == {3}
    gone = {path.relative_to(root).parts[:2] for path in before if not path.exists()}
    assert gone == {("pools", names[0]), ("pools", names[1]), ("rounds", "1"), ("rounds", "2")}
    assert {path.suffix for path in before if not path.exists() and "rounds" in path.parts} == {".npz"}
    versions = ModelRegistry(world.settings.data_dir).versions(world.project_id)
    assert [info.version for info in versions] == names  # any of them can be asked for
    assert world.studio.prediction_versions(world.project_id) == shown

    found = status(world.settings, world.store)
    assert found["projects"][0]["old_rounds"] == {
        "keep_rounds": 0,
        "with_pool": 0,
        "in_store_alone": 0,
        "without_pool": 2,
    }
    assert any("0 rounds with pool and trees, 2 without (keep_rounds: 0)" in s for s in status_lines(found))
    step(export_project, world.open(), tmp_path / "now.json")
    with pytest.raises(BadInput, match="masks of round 1 are not there any more"):
        step(export_project, world.open(), tmp_path / "then.json", choice=Choice(round=1))


def test_a_version_whose_pool_is_gone_can_serve_again(three_rounds: tuple[World, list[str]]) -> None:
    world, names = three_rounds
    with_option(world, 0)
    look(world)
    assert pools(world) == {names[2]}
    note_wanted_version(world.open().db, names[0])
    look(world)
    record = newest(world)
    assert (record.number, record.origin) == (4, "adopted")
    assert (world.open().paths.pool(record.model_version) / "pool.parquet").exists() or any(
        world.open().paths.pool(record.model_version).iterdir()
    )
    assert {len(world.studio.predictions(task)) for task in world.tasks} == {0, 1}


def test_without_its_lease_nothing_goes_then_only_what_nobody_asked_for_and_after_a_kill_the_rest(
    three_rounds: tuple[World, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, names = three_rounds
    with_option(world, 0)
    lease = Lease(world.store, f"project/{world.project_id}", "slow", ttl_s=600, heartbeat_s=0)
    assert lease.acquire()
    with world.store.write() as session:
        row = session.get_one(LeaseRecord, f"project/{world.project_id}")
        row.holder, row.fence, row.heartbeat_at = "successor", row.fence + 1, utc_now()
    db = world.open().db
    mine = ProjectStore(db.id, db.key, db.title, world.store, lease)
    with pytest.raises(LeaseLost):
        drop_old_rounds(mine, world.settings, world.open().paths)
    assert pools(world) == set(names)

    note_wanted_version(world.open().db, names[0])
    step(drop_old_rounds, world.open())
    assert pools(world) == {names[0], names[2]}
    forget_wanted_version(world.open().db, names[0])

    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name.startswith(".gone-"):
            raise KeyboardInterrupt

    monkeypatch.setattr("sync.rounds.old_rounds.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        step(drop_old_rounds, world.open())
    assert pools(world) == {f".gone-{names[0]}", names[2]}
    monkeypatch.undo()
    step(drop_old_rounds, world.open())
    assert pools(world) == {names[2]}
    assert trees(world) == {3}
