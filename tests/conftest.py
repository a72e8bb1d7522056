"""Fixtures shared by all tests: one real Label Studio and one real Chromium per process.

Tests run in several processes (pytest-xdist), each with its own servers. The database of Label Studio is made
once and copied for each server. The browser is the distribution's; none is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ml_backend.errors import GroundswellError
from sync.local.label_studio_server import Login, StudioServer, find_studio
from sync.studio.client import Studio
from sync.studio.protocol import ProjectRow
from tests.guard import ends_with_us

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.postgres import PostgresServer

# Hundreds of processes are started: without bytecode beside the sources each compiles all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Minutes of a core beside every worker that has enough masks; tests of it ask for it.
os.environ.setdefault("GROUNDSWELL_TRAIN_CLICKS", "false")
# Processes that each use all cores spin while they wait for each other: share the cores out. torch reads this
# when it is first imported, by a test or by a process that a test starts.
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if PROCESSES > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // PROCESSES)))

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REPO = Path(__file__).resolve().parents[1]
LOGIN = Login("admin@example.com", "groundswell tests", "5f3e9d2c8b7a61504f3e2d1c0b9a887766554433")
BOXES = """<View>
<RectangleLabels name="rect" toName="image"><Label value="Cat"/><Label value="Dog"/></RectangleLabels>
<Image name="image" value="$image"/>
</View>"""


_SERVERS = frozenset({"studio_server", "postgres_server", "s3_server", "ray_cluster"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a real server first: they take longest, so no process is left alone with one at the end.

    In CI a test with a real browser or real servers that failed runs once more.
    """
    real = {item.path for item in items if "studio_server" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in real)
    if os.environ.get("CI") == "true":
        # A browser or a server on a busy machine is late now and then. A second try shows whether it was
        # that; the last line counts the tests that needed it, and a real fault fails twice.
        for item in items:
            if item.get_closest_marker("browser") or _SERVERS & set(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.flaky(reruns=1))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server_version(program: Path) -> str:
    """Version of the installed server, read from its metadata (asking the program would start it)."""
    found = sorted(program.parent.parent.glob("lib/python3*/site-packages/label_studio-*.dist-info"))
    return found[-1].name.removesuffix(".dist-info") if found else "label_studio-unknown"


def _migrated(program: Path) -> Path:
    """A data directory with all migrations applied, cached per server version and login."""
    key = hashlib.sha256(repr((LOGIN.email, LOGIN.password, LOGIN.token)).encode()).hexdigest()[:8]
    cached = REPO / ".cache" / f"{_server_version(program)}-{key}"
    if not cached.exists():
        staging = cached.with_name(f".{cached.name}.{uuid.uuid4().hex[:6]}")
        with StudioServer(staging, LOGIN, port=free_port()):
            pass
        try:
            staging.rename(cached)
        except OSError:  # another run was faster
            shutil.rmtree(staging)
    return cached


@pytest.fixture(scope="session")
def studio_template() -> Path:
    """A data directory of Label Studio to copy. In CI (env CI=true) a missing server fails, else it skips."""
    try:
        program = find_studio()
    except GroundswellError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return _migrated(program)


@pytest.fixture(scope="session")
def studio_server(studio_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioServer]:
    """A running Label Studio."""
    data_dir = tmp_path_factory.mktemp("label-studio") / "data"
    shutil.copytree(studio_template, data_dir)
    files_root = tmp_path_factory.getbasetemp()
    with StudioServer(data_dir, LOGIN, port=free_port(), files_root=files_root) as server:
        assert server.process is not None
        with ends_with_us(server.process.pid):
            yield server


@pytest.fixture(scope="session")
def studio(studio_server: StudioServer) -> Studio:
    """Client of the running server as its administrator."""
    return Studio(studio_server.url, LOGIN.token)


@pytest.fixture
def studio_files(tmp_path: Path) -> Path:
    """A folder that the running server may serve as local files."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def project_factory(studio: Studio) -> Iterator[Callable[..., ProjectRow]]:
    """Makes projects on the running server and deletes them after the test."""
    made: list[int] = []

    def make(title: str = "a project", label_config: str = BOXES, **options: object) -> ProjectRow:
        row = studio.create_project(title, label_config, **options)  # type: ignore[arg-type]
        made.append(row.id)
        return row

    yield make
    for project_id in made:
        studio.delete_project(project_id)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running Postgres. In CI missing programs are a failure, elsewhere a skip."""
    from tests.postgres import PostgresServer, find_postgres

    programs = find_postgres()
    if programs is None:
        reason = "no Postgres server on this machine (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with PostgresServer(programs, free_port()) as server, ends_with_us(server.pid):
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """SQLAlchemy URL of an empty Postgres database of the test's own."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
    )
    if path is None:
        reason = "no Chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    sync_api = (
        pytest.importorskip("playwright.sync_api")
        if not os.environ.get("CI")
        else __import__("playwright.sync_api", fromlist=["sync_playwright"])
    )
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()
