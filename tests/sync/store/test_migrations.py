"""Stores of earlier releases are brought up to date with their rows; those of later ones are refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, func, inspect, select, text

from ml_backend.errors import StorageError
from sync.store import migrate
from sync.store.database import Store
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    Base,
    InferenceRecord,
    LeaseRecord,
    ProjectRecord,
    QuestionRecord,
    RoundRecord,
    TaskRecord,
)

DATA = Path(__file__).parent / "data"


@pytest.fixture
def engine(database: str, tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "sub").mkdir(exist_ok=True)
    engine = create_engine(database)
    yield engine
    engine.dispose()


@pytest.fixture
def old_store(engine: Engine) -> Engine:
    """A database as the release before migrations made it, with rows in every table."""
    script = (DATA / f"first_schema.{engine.dialect.name}.sql").read_text()
    rows = (DATA / "first_rows.sql").read_text()
    with engine.begin() as connection:
        for statement in (script + rows).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    return engine


def _differences(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        options = {"version_table": migrate.VERSION_TABLE, "compare_type": False}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))


def test_the_newest_version_is_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.NEWEST


def test_an_empty_database_gets_the_tables_of_the_models(database: str, engine: Engine) -> None:
    Store(database).close()
    assert _differences(engine) == []


def test_a_store_of_the_first_release_keeps_its_rows(database: str, old_store: Engine) -> None:
    store = Store(database)
    with store.read() as session:
        project = session.get_one(ProjectRecord, 7)
        assert (project.key, project.options, project.gone_at) == ("7.1795209803", {"seed": 3}, None)
        assert [task.finished for task in session.scalars(select(TaskRecord).order_by(TaskRecord.id))] == [
            True,
            False,
        ]
        assert session.get_one(AnnotationRecord, 700).regions == [{"id": "r0", "label": "cell"}]
        assert session.get_one(RoundRecord, (7, 1)).figures == {"push": {"sent": 1}}
        assert session.get_one(LeaseRecord, "project/7").fence == 4
        for table in (QuestionRecord, AnswerRecord):
            assert session.scalar(select(func.count()).select_from(table)) == 1
    with store.write() as session:
        session.add(InferenceRecord(project_id=7, task_id=71, model_version="v", image="b.png"))
    store.close()
    assert _differences(old_store) == []
    Store(database).close()  # a second start finds nothing to do
    assert _differences(old_store) == []


def test_phases_leave_the_cluster(database: str, old_store: Engine) -> None:
    with old_store.begin() as connection:
        connection.execute(text("UPDATE questions SET cluster = -11"))  # -2 - phase 9
    store = Store(database)
    with store.read() as session:
        question = session.scalars(select(QuestionRecord)).one()
    store.close()
    assert (question.cluster, question.phase, question.certificate, question.terms) == (-1, -1, 0, "")


def test_several_workers_may_start_on_an_old_store_at_once(database: str, old_store: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        for store in pool.map(Store, [database] * 4):
            store.close()
    assert _differences(old_store) == []


def test_a_store_of_a_newer_release_is_refused_unchanged(database: str, engine: Engine) -> None:
    Store(database).close()
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StorageError, match="newer release"):
        Store(database)
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {migrate.VERSION_TABLE}")) == "9999"


_KILLED = """
import os, signal, sys
from alembic import op
from sync.store.database import Store
op.execute = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the last step of 0003
Store(sys.argv[1])
"""


def test_a_store_whose_migration_was_killed_half_way_is_as_before(database: str, old_store: Engine) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, database], check=False)
    assert done.returncode == -signal.SIGKILL
    with old_store.connect() as connection:
        assert not inspect(connection).has_table("review_tasks")
        assert not inspect(connection).has_table("inferences")
    store = Store(database)
    with store.read() as session:
        assert session.get_one(ProjectRecord, 7).key == "7.1795209803"
        assert session.scalar(select(func.count()).select_from(AnswerRecord)) == 1
    store.close()
    assert _differences(old_store) == []
