"""A machine with a limit in bytes: files of old rounds go from its disk, and come back when they are used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.artifacts.files import publish_dir, write_atomic
from ml_backend.artifacts.model_versions import ModelRegistry
from sync.artifacts.manifest import read_manifest
from sync.artifacts.opening import share_installation, shared_files
from sync.artifacts.shared import SharedFiles
from sync.backup.backup import backup
from sync.exchange.collect import Choice
from sync.exchange.export import export_project
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.review_project import installation_id
from sync.rounds.old_rounds import drop_old_rounds
from sync.rounds.round_records import current_round
from sync.rounds.wanted_version import note_wanted_version
from sync.settings import Settings
from sync.store.database import Store, utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord, RoundRecord
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
SIZE = 1000
"""bytes of each large file"""


class Machine:
    """One machine's view of project 1."""

    def __init__(self, folder: Path, store: Store, limit: int | None) -> None:
        self.settings = Settings(
            data_dir=folder,
            artifacts_url=str(folder.parent / "objects"),
            signing_key="k" * 32,
            artifacts_project_bytes=limit,
        )
        shared = shared_files(self.settings, store, 1)
        assert shared is not None
        self.shared: SharedFiles = shared
        self.root = shared.root
        self.db = ProjectStore(1, "1.0", "p", store, shared=shared)

    def versions(self, kind: str) -> dict[str, list[str]]:
        """Names of the files of each version."""
        folders = sorted((self.root / kind).iterdir()) if (self.root / kind).exists() else []
        return {
            folder.name: sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            )
            for folder in folders
        }

    def a_day_later(self) -> None:
        """As if everything that is here had been here for two days."""
        then = utc_now().timestamp() - 2 * 24 * 3600
        held = json.loads((self.root / ".held.json").read_text())
        for name, row in held.items():
            os.utime(self.root / name, (then, then))
            row[2] = (self.root / name).stat().st_mtime_ns
        (self.root / ".held.json").write_text(json.dumps(held))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
    yield store
    store.close()


@pytest.fixture
def full(tmp_path: Path, store: Store) -> Machine:
    """A machine without a limit that made three rounds, of which the third serves."""
    machine = Machine(tmp_path / "full", store, None)
    for number in (1, 2, 3):
        add_round(machine, number)
    return machine


def add_round(machine: Machine, number: int) -> None:
    version = f"v{number}"
    with machine.db.write() as session:
        session.add(
            RoundRecord(
                project_id=1, number=number, model_version=version, digest="", step="push", pushed="p",
                finished_tasks=1, review_done=True, started_at=utc_now(), updated_at=utc_now(), figures={},
            )
        )  # fmt: skip
    with publish_dir(machine.root / "models" / version, guard=machine.db.guard) as staging:
        (staging / "model.pt").write_bytes(os.urandom(SIZE))
        (staging / "manifest.json").write_bytes(b"{}")
    for part in (0, 1):
        name = f"pools/{version}/pool.parquet/part-{part}.parquet"
        write_atomic(machine.root / name, os.urandom(SIZE // 2), guard=machine.db.guard)
    write_atomic(machine.root / "current", version.encode(), guard=machine.db.guard)


POOL = ["pool.parquet/part-0.parquet", "pool.parquet/part-1.parquet"]
MODEL = ["manifest.json", "model.pt"]


@pytest.mark.parametrize(
    ("limit", "pools", "weights"),
    [
        (None, {"v1", "v2", "v3"}, {"v1", "v2", "v3"}),
        (6 * SIZE + 100, {"v1", "v2", "v3"}, {"v1", "v2", "v3"}),
        (5 * SIZE + 100, {"v2", "v3"}, {"v1", "v2", "v3"}),
        (4 * SIZE + 100, {"v2", "v3"}, {"v2", "v3"}),
        (3 * SIZE + 100, {"v3"}, {"v2", "v3"}),
        (0, {"v3"}, {"v3"}),
    ],
)
def test_a_new_machine_fetches_what_fits_and_always_what_is_in_use(
    full: Machine, store: Store, tmp_path: Path, limit: int | None, pools: set[str], weights: set[str]
) -> None:
    lean = Machine(tmp_path / "lean", store, limit)
    lean.shared.fetch()
    assert lean.versions("pools") == dict.fromkeys(sorted(pools), POOL)
    models = lean.versions("models")
    assert {name for name, files in models.items() if "model.pt" in files} == weights
    assert sorted(models) == ["v1", "v2", "v3"]
    assert all("manifest.json" in files for files in models.values())
    assert lean.shared.fetch() == 0
    assert lean.shared.publish("all", lean.db.write) == 0  # nothing counts as deleted
    other = Machine(tmp_path / "other", store, None)
    other.shared.fetch()
    assert other.versions("pools") == dict.fromkeys(["v1", "v2", "v3"], POOL)


def test_what_is_wanted_or_serves_stays(full: Machine, store: Store, tmp_path: Path) -> None:
    lean = Machine(tmp_path / "lean", store, 0)
    write_atomic(full.root / "current", b"v1", guard=full.db.guard)
    with store.write() as session:
        session.get_one(ProjectRecord, 1).version_wanted = "v2"
    lean.shared.fetch()
    assert lean.versions("models") == dict.fromkeys(["v1", "v2", "v3"], MODEL)


def test_old_files_go_a_day_after_they_came_and_come_back_when_they_are_used(
    full: Machine, store: Store, tmp_path: Path
) -> None:
    lean = Machine(tmp_path / "lean", store, 4 * SIZE + 100)
    lean.shared.fetch()
    assert sorted(lean.versions("pools")) == ["v2", "v3"]
    add_round(full, 4)
    lean.shared.fetch()
    assert sorted(lean.versions("pools")) == ["v2", "v3", "v4"]  # v2 came a moment ago, somebody may read it
    assert lean.shared.publish("all", lean.db.write) == 0
    lean.a_day_later()
    write_atomic(full.root / "split.json", b"{}", guard=full.db.guard)
    lean.shared.fetch()
    assert lean.versions("pools") == dict.fromkeys(["v3", "v4"], POOL)
    assert lean.versions("models")["v2"] == ["manifest.json"]
    assert not (lean.root / ".fetch").exists()
    assert lean.shared.is_away(lean.root / "pools" / "v1")
    assert not lean.shared.is_away(lean.root / "pools" / "v3")
    assert not lean.shared.is_away(lean.root / "pools" / "v9")
    assert lean.shared.publish("all", lean.db.write) == 0

    assert lean.shared.bring(lean.root / "pools" / "v1", lean.root / "models" / "v2") == 3
    assert lean.shared.bring(lean.root / "pools" / "v1", lean.root / "models" / "v2") == 0
    assert lean.versions("models")["v2"] == MODEL
    for name in (f"pools/v1/{POOL[0]}", "models/v2/model.pt"):
        assert (lean.root / name).read_bytes() == (full.root / name).read_bytes()
    write_atomic(full.root / "split.json", b"[]", guard=full.db.guard)
    lean.shared.fetch()
    assert sorted(lean.versions("pools")) == ["v1", "v3", "v4"]  # for a day
    lean.a_day_later()
    write_atomic(full.root / "split.json", b"{}", guard=full.db.guard)
    lean.shared.fetch()
    assert sorted(lean.versions("pools")) == ["v3", "v4"]
    with store.read() as session:
        assert len(read_manifest(session, 1)) == 4 * 4 + 2


def test_a_file_that_was_changed_or_is_new_here_stays_with_its_folder(
    full: Machine, store: Store, tmp_path: Path
) -> None:
    lean = Machine(tmp_path / "lean", store, None)
    lean.shared.fetch()
    lean.a_day_later()
    (lean.root / "pools/v1" / POOL[0]).write_bytes(b"not published yet")
    lean = Machine(tmp_path / "lean", store, 0)
    write_atomic(full.root / "split.json", b"{}", guard=full.db.guard)
    lean.shared.fetch()
    assert lean.versions("pools") == dict.fromkeys(["v1", "v3"], POOL)
    lean = Machine(tmp_path / "another", store, None)
    lean.shared.fetch()
    lean.a_day_later()
    (lean.root / "pools/v2/embeddings.json").write_bytes(b"{}")
    lean = Machine(tmp_path / "another", store, 0)
    lean.shared.fetch()
    assert sorted(lean.versions("pools")) == ["v2", "v3"]


def test_a_kill_between_the_note_and_the_removal_loses_nothing(
    full: Machine, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = Machine(tmp_path / "lean", store, None)
    lean.shared.fetch()
    lean.a_day_later()
    lean = Machine(tmp_path / "lean", store, 0)
    write_atomic(full.root / "split.json", b"{}", guard=full.db.guard)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SharedFiles, "_leave", killed)
        with pytest.raises(KeyboardInterrupt):
            lean.shared.fetch()
    lean.shared.publish("all", lean.db.write)
    lean.shared.fetch()
    other = Machine(tmp_path / "other", store, None)
    other.shared.fetch()
    for kind in ("pools", "models"):
        assert other.versions(kind) == full.versions(kind)
        for version, names in full.versions(kind).items():
            for name in names:
                path = f"{kind}/{version}/{name}"
                assert (other.root / path).read_bytes() == (full.root / path).read_bytes()


def test_what_goes_while_a_job_ends_is_not_withdrawn(
    full: Machine, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process of this machine removes files while this one compares its note with the disk."""
    lean = Machine(tmp_path / "lean", store, None)
    lean.shared.fetch()
    lean.a_day_later()
    lean = Machine(tmp_path / "lean", store, 0)
    write_atomic(full.root / "split.json", b"{}", guard=full.db.guard)
    from sync.artifacts import shared

    below = shared.files_below

    def meanwhile(root: Path) -> Any:
        monkeypatch.undo()
        lean.shared.fetch()
        return below(root)

    monkeypatch.setattr(shared, "files_below", meanwhile)
    lean.shared.publish("all", lean.db.write)
    assert sorted(lean.versions("pools")) == ["v3"]
    with store.read() as session:
        assert len(read_manifest(session, 1)) == 3 * 4 + 2


@pytest.mark.parametrize("bound", [None, 0])
def test_rounds_that_are_kept_no_more_are_withdrawn_from_a_lean_machine_too(
    full: Machine, store: Store, tmp_path: Path, bound: int | None
) -> None:
    lean = Machine(tmp_path / "lean", store, bound)
    lean.shared.fetch()
    settings = lean.settings.model_copy(update={"keep_rounds": 0})
    paths = step_paths(lean)
    assert drop_old_rounds(lean.db, settings, paths) == 2
    assert drop_old_rounds(lean.db, settings, paths) == 0
    with store.read() as session:
        names = set(read_manifest(session, 1))
    assert {name for name in names if name.startswith("pools/")} == {f"pools/v3/{name}" for name in POOL}
    assert sum(name.endswith("model.pt") for name in names) == 3


def test_another_limit_counts_at_once(full: Machine, store: Store, tmp_path: Path) -> None:
    Machine(tmp_path / "lean", store, 0).shared.fetch()
    freed = Machine(tmp_path / "lean", store, None)
    assert freed.shared.fetch() == 6
    assert freed.versions("pools") == full.versions("pools")
    freed.a_day_later()
    bound = Machine(tmp_path / "lean", store, 5 * SIZE + 100)
    bound.shared.fetch()
    assert sorted(bound.versions("pools")) == ["v2", "v3"]


def step_paths(machine: Machine) -> Any:
    from ml_backend.artifacts.paths import ProjectPaths

    return ProjectPaths(machine.settings.data_dir, 1)


def _look(world: World) -> None:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""


def test_everything_works_on_a_machine_that_holds_only_what_is_in_use(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """Three rounds on one machine; then another one, with no room for old rounds, uses the first of them."""
    shared = {"artifacts_url": str(tmp_path / "objects"), "signing_key": "k" * 32}
    world = make_world(14, retrain_after=2, database_url=f"sqlite:///{tmp_path / 'shared.db'}", **shared)
    share_installation(world.store, world.settings.data_dir, installation_id)
    versions = []
    for first, last in ((0, 6), (6, 8), (8, 10)):
        world.label(*range(first, last))
        world.review_to_the_end()
        record = current_round(world.open().db)
        assert record is not None
        versions.append(record.model_version)
    step(export_project, world.open(), tmp_path / "then.json", choice=Choice(round=1))

    values = {name: getattr(world.settings, name) for name in world.settings.model_fields_set}
    world.settings = Settings(**{**values, "data_dir": tmp_path / "lean", "artifacts_project_bytes": 0})
    share_installation(world.store, world.settings.data_dir, installation_id)
    _look(world)
    paths = world.open().paths
    assert sorted(path.name for path in paths.pools.iterdir()) == [versions[2]]
    registry = ModelRegistry(world.settings.data_dir)
    assert [info.version for info in registry.versions(world.project_id)] == versions
    assert [path.name for path in paths.model(versions[0]).iterdir()] == ["manifest.json"]
    found = status(world.settings, world.store)
    assert found["projects"][0]["old_rounds"] == {
        "keep_rounds": None,
        "with_pool": 0,
        "in_store_alone": 2,
        "without_pool": 0,
    }
    assert any("2 in the object store alone, 0 without" in line for line in status_lines(found))

    step(export_project, world.open(), tmp_path / "now.json", choice=Choice(round=1))
    assert (tmp_path / "now.json").read_bytes() == (tmp_path / "then.json").read_bytes()
    assert paths.pool(versions[0]).is_dir()

    note_wanted_version(world.open().db, versions[1])
    _look(world)
    record = current_round(world.open().db)
    assert record is not None
    assert (record.number, record.origin, record.failed) == (4, "adopted", "")
    assert len(list(paths.model(versions[1]).iterdir())) > 1

    made = backup(world.settings, tmp_path / "all.tar", pools="all")
    assert (made.models, made.pools) == (4, 4)
