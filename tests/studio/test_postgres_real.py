"""Label Studio on Postgres with the variables of docker-compose.yml: it reads them all."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import yaml
from sqlalchemy.engine import make_url

from sync.local.label_studio_server import StudioServer
from sync.studio.client import Studio
from tests.conftest import BOXES, LOGIN, free_port

pytestmark = [pytest.mark.studio, pytest.mark.slow]

COMPOSE = Path(__file__).resolve().parents[2] / "docker-compose.yml"


def test_the_compose_files_variables_put_label_studio_on_postgres(
    studio_server: StudioServer, postgres_url: str, tmp_path: Path
) -> None:
    url = make_url(postgres_url)
    environment = yaml.safe_load(COMPOSE.read_text())["services"]["studio"]["environment"]
    told = {name: value for name, value in environment.items() if name.startswith(("POSTGRE", "DJANGO"))}
    here = {"USER": url.username, "PASSWORD": url.password, "NAME": url.database, "HOST": url.host}
    here["PORT"] = str(url.port)
    for name in told:
        if name.startswith("POSTGRE_"):
            told[name] = here.pop(name.removeprefix("POSTGRE_"))
    assert here == {}, "the compose file leaves something of the database to a default"

    server = StudioServer(tmp_path / "data", LOGIN, port=free_port())
    try:
        server.start(extra_env=told)
        Studio(server.url, LOGIN.token).create_project("on Postgres", BOXES)
    finally:
        server.stop()
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT title FROM project").fetchall() == [("on Postgres",)]
    assert list((tmp_path / "data").glob("*.sqlite3")) == []
