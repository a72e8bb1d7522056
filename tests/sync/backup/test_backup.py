"""Backups of a working installation: what is in them, and that they show one moment."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ml_backend.artifacts.files import write_atomic
from ml_backend.errors import BadInput, StorageError
from sync.backup import backup as module
from sync.backup.archive import check_archive
from sync.backup.backup import alone, backup, default_name
from sync.backup.store_copy import pinned
from sync.settings import Settings
from sync.store.database import Store
from sync.store.migrate import NEWEST
from sync.store.tables import ProjectRecord, RoundRecord

MakeWorld = Callable[..., Any]


def fill(data_dir: Path, *names: str) -> None:
    for name in names:
        path = data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_in(archive: Path) -> set[str]:
    return set(check_archive(archive).manifest.files)


@pytest.fixture
def settings(tmp_path: Path, database: str) -> Settings:
    """An installation with one project of three rounds; version 3 is in training, version 2 serves."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database)
    store = Store(settings.database())
    with store.write() as session:
        session.add(ProjectRecord(id=7, key="7.0", title="before", label_config="<View/>"))
        for number in (1, 2, 3):
            fields = {"digest": "d", "step": "start" if number == 3 else "push", "finished_tasks": 5}
            session.add(
                RoundRecord(
                    project_id=7, number=number, model_version=f"gs7-r{number}", **fields,
                    started_at=module.datetime.now(module.UTC), updated_at=module.datetime.now(module.UTC),
                )
            )  # fmt: skip
    store.close()
    fill(
        settings.data_dir,
        "installation", "images/ab.png", "embeddings/e/1.safetensors", "logs/worker.log", "up.json",
        "checkpoints/sam.pt", "sample-set/one.png", "before-restore-1/x", ".doctor",
        "projects/7/project.json", "projects/7/crops/1.png", "projects/7/dirty", "projects/7/progress.json",
        "projects/7/training.json",
        *(f"projects/7/models/gs7-r{n}/weights.pt" for n in (0, 1, 2)),
        *(f"projects/7/pools/gs7-r{n}/pool.parquet" for n in (1, 2)),
        "projects/7/models/.training-gs7-r3/checkpoint.pt", "projects/7/rounds/2/round.json",
        "projects/7/orders/gs7-r2.parquet", "projects/7/mistakes/folds/a/fold-1/model.pt",
        "projects/7/mistakes/judged.parquet", "projects/7/clicks/click-r1/network.pt",
    )  # fmt: skip
    for version in (0, 1, 2):
        fill(settings.data_dir, f"projects/7/models/gs7-r{version}/manifest.json")
    write_atomic(settings.data_dir / "projects/7/current", b"gs7-r0")
    write_atomic(settings.data_dir / "projects/7/wanted_version.json", b"{}")
    write_atomic(
        settings.data_dir / "projects/7/rounds/3/snapshot.json", json.dumps({"start": "gs7-r2"}).encode()
    )
    return settings


def test_what_cannot_be_made_again_is_in_it_and_nothing_else(settings: Settings, tmp_path: Path) -> None:
    done = backup(settings, tmp_path / "all.tar.gz")
    store = "store/groundswell." + ("db" if done.store == "sqlite" else "dump")
    assert names_in(tmp_path / "all.tar.gz") == {
        store, "data/installation", "data/sample-set/one.png",
        *(f"data/projects/7/{name}" for name in (
            "project.json", "current", "wanted_version.json", "rounds/2/round.json", "rounds/3/snapshot.json",
            "orders/gs7-r2.parquet", "mistakes/judged.parquet", "clicks/click-r1/network.pt",
            *(f"models/gs7-r{n}/{file}" for n in (0, 1, 2) for file in ("weights.pt", "manifest.json")),
            "pools/gs7-r2/pool.parquet",  # round 1 is old: its pool is needed no more
        )),
    }  # fmt: skip
    assert (done.schema_revision, done.projects, done.models, done.pools) == (NEWEST, 1, 3, 1)
    assert (done.secrets, done.label_studio) == ((), False)
    assert sorted(path.name for path in settings.data_dir.iterdir() if path.name == ".backup") == []


def test_models_and_pools_by_choice(settings: Settings, tmp_path: Path) -> None:
    backup(settings, tmp_path / "small.tar", models="needed")
    names = names_in(tmp_path / "small.tar")
    assert not any("/pools/gs7-r1/" in name for name in names)
    # 0 serves, 2 is of the round before and what round 3 starts from; 1 is neither
    assert sorted({name.split("/")[4] for name in names if "/models/" in name}) == ["gs7-r0", "gs7-r2"]
    backup(settings, tmp_path / "large.tar", pools="all")
    assert "data/projects/7/pools/gs7-r1/pool.parquet" in names_in(tmp_path / "large.tar")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_version_that_a_training_starts_from_is_needed_however_old(
    settings: Settings, tmp_path: Path
) -> None:
    """Else a restored worker could not finish the round."""
    snapshot = settings.data_dir / "projects/7/rounds/3/snapshot.json"
    write_atomic(snapshot, json.dumps({"start": "gs7-r1"}).encode())
    backup(settings, tmp_path / "a.tar", models="needed")
    assert "data/projects/7/models/gs7-r1/weights.pt" in names_in(tmp_path / "a.tar")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_round_that_is_exported_is_needed_however_old(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.database())
    with store.write() as session:
        session.get_one(RoundRecord, (7, 1)).review_done = True
    store.close()
    backup(settings, tmp_path / "a.tar", models="needed")
    assert "data/projects/7/pools/gs7-r1/pool.parquet" in names_in(tmp_path / "a.tar")


def test_the_archive_is_for_its_owner_and_says_which_files_are_secret(
    settings: Settings, tmp_path: Path
) -> None:
    fill(settings.data_dir, "secrets.json", "signing.key", "label-studio/media/upload/1/a.png")
    fill(settings.data_dir, "label-studio/server.log")
    live = sqlite3.connect(settings.data_dir / "label-studio/label_studio.sqlite3")
    live.execute("PRAGMA journal_mode=WAL")
    live.execute("CREATE TABLE annotation (result TEXT)")
    live.execute("INSERT INTO annotation VALUES ('a mask')")
    live.commit()  # it stays open, and the row in the write-ahead log
    done = backup(settings, tmp_path / "with.tar")
    assert stat.S_IMODE((tmp_path / "with.tar").stat().st_mode) == 0o600
    assert done.secrets == (
        "data/secrets.json", "data/signing.key", "data/label-studio/label_studio.sqlite3",
    )  # fmt: skip
    names = names_in(tmp_path / "with.tar")
    assert {name for name in names if "label-studio" in name} == {
        "data/label-studio/label_studio.sqlite3",
        "data/label-studio/media/upload/1/a.png",
    }
    with tarfile.open(tmp_path / "with.tar") as tar:
        tar.extract("data/label-studio/label_studio.sqlite3", tmp_path / "out", filter="data")
    copy = sqlite3.connect(tmp_path / "out/data/label-studio/label_studio.sqlite3")
    assert copy.execute("SELECT result FROM annotation").fetchall() == [("a mask",)]
    copy.close()
    live.close()

    bare = backup(settings, tmp_path / "without.tar", secrets=False)
    assert (bare.secrets, bare.label_studio) == ((), False)
    assert not [n for n in names_in(tmp_path / "without.tar") if "secret" in n or "key" in n or "studio" in n]


def test_store_and_files_are_of_one_moment(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that publishes right after the lock was given back changes neither of them."""
    store = Store(settings.database())
    current = settings.data_dir / "projects/7/current"
    real = module.pinned

    def busy(url: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def inner() -> Any:
            with real(url) as copy:

                def late(target: Path) -> None:
                    with store.write() as session:
                        session.get_one(ProjectRecord, 7).title = "after"
                        write_atomic(current, b"gs7-r2")
                        shutil.rmtree(settings.data_dir / "projects/7/pools/gs7-r2")
                    copy(target)

                yield late

        return inner()

    monkeypatch.setattr(module, "pinned", busy)
    backup(settings, tmp_path / "one.tar")
    store.close()
    with tarfile.open(tmp_path / "one.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert (tmp_path / "out/data/projects/7/current").read_text() == "gs7-r0"
    assert (tmp_path / "out/data/projects/7/pools/gs7-r2/pool.parquet").exists()
    if (database := tmp_path / "out/store/groundswell.db").exists():
        copy = sqlite3.connect(database)
        assert copy.execute("SELECT title FROM projects").fetchall() == [("before",)]
        assert not database.with_name("groundswell.db-wal").exists()
        copy.close()
    else:
        words = ["pg_restore", "--data-only", "--table=projects", "--file=-"]
        dump = subprocess.run(
            [*words, tmp_path / "out/store/groundswell.dump"], capture_output=True, text=True, check=True
        ).stdout
        assert "\tbefore\t" in dump
        assert "\tafter\t" not in dump


def test_nobody_writes_while_the_moment_is_pinned(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of files is made under the writers' lock."""
    monkeypatch.setattr("sync.store.database._BUSY_TIMEOUT_MS", 50)
    rival = Store(settings.database())
    seen: list[str] = []
    real = module.files_below

    def listing(*given: Any) -> Any:
        try:
            with rival.write():
                seen.append("written")
        except StorageError:
            seen.append("waits")
        return real(*given)

    monkeypatch.setattr(module, "files_below", listing)
    backup(settings, tmp_path / "a.tar")
    assert seen == ["waits"]
    with rival.write():
        seen.append("written")
    rival.close()


def test_an_older_store_is_not_upgraded_by_its_backup(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.database())
    with store.write() as session:
        for name in ("jobs", "artifacts", "left_over_artifacts", "installation"):
            session.execute(text(f"DROP TABLE {name}"))
        for name in ("tasks_revision", "review_revision", "artifacts_revision", "version_wanted"):
            session.execute(text(f"ALTER TABLE projects DROP COLUMN {name}"))
        session.execute(text("ALTER TABLE annotations DROP COLUMN clicks_left"))
        session.execute(text("UPDATE groundswell_schema SET version_num = '0009'"))
    store.close()
    assert backup(settings, tmp_path / "old.tar").schema_revision == "0009"
    again = Store(settings.database(), upgrade=False)
    with again.read() as session:
        assert session.scalar(text("SELECT version_num FROM groundswell_schema")) == "0009"
    again.close()


def test_names_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_text("an older backup")
    with pytest.raises(BadInput, match="is there already"):
        backup(settings, tmp_path / "there.tar")
    with pytest.raises(BadInput, match=r"must end in \.tar"):
        backup(settings, tmp_path / "backup.zip")
    assert (tmp_path / "there.tar").read_text() == "an older backup"
    (tmp_path / "folder").mkdir()
    done = backup(settings, tmp_path / "folder")
    assert Path(done.file).parent == tmp_path / "folder"
    assert (
        default_name(module.datetime(2026, 3, 1, 2, tzinfo=module.UTC))
        == "groundswell-20260301-020000.tar.gz"
    )


def test_a_failed_backup_leaves_nothing_behind(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "_add_bytes", full)
    target = tmp_path / "backups" / "a.tar"
    with pytest.raises(StorageError, match="no space left"):
        backup(settings, target)
    assert list(target.parent.iterdir()) == []
    assert not (settings.data_dir / ".backup").exists()


def test_one_backup_at_a_time_and_leftovers_of_a_killed_one_go(settings: Settings, tmp_path: Path) -> None:
    with alone(settings.data_dir), pytest.raises(BadInput, match="under way"):
        backup(settings, tmp_path / "a.tar")
    fill(settings.data_dir, ".backup/data/left-over")
    backup(settings, tmp_path / "a.tar")
    assert not (settings.data_dir / ".backup").exists()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_without_the_programs_of_postgres_it_says_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match=r"pg_dump is not on this machine.*postgresql-client"):
        backup(settings, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_read_that_is_pinned_sees_no_later_write(database: str, tmp_path: Path) -> None:
    if not database.startswith("sqlite"):
        pytest.skip("pg_dump's snapshot is tested with the whole backup")
    store = Store(database)
    with store.write() as session, pinned(database) as copy:
        session.add(ProjectRecord(id=1, key="1.0", title="t", label_config="<View/>"))
        session.commit()
        copy(tmp_path / "copy.db")
    store.close()
    found = sqlite3.connect(tmp_path / "copy.db")
    assert found.execute("SELECT count(*) FROM projects").fetchone() == (0,)
    found.close()
